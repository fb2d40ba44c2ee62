"""What happened, as a stream: for the live pages of browsers and for whoever follows the API."""
