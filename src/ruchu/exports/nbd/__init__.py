"""Disks served over NBD: handshake, transmission, and the server around them."""
