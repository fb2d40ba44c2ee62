"""The console: pages in a browser over the same services as the API, with the user's own rights."""
