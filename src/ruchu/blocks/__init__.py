"""Block devices: protocols, the copy loop, and sources and targets that need no platform."""
