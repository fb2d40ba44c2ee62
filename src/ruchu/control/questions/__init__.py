"""What the server asks its nodes: machines of a platform, points and state of a storage."""
