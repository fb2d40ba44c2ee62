"""What an administrator sets for the server as a whole."""
