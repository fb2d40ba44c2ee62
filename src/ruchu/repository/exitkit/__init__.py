"""The exit kit: what lies in every storage, so that it can be read without Ruchu."""
