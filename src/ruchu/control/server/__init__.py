"""The server as a whole: its state directory, its services put together, their life."""
