"""Other servers: a client of their API, and servers that this one shows and steers."""
