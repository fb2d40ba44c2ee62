"""Bytes of content: identity, compression, encryption. Knows no storage."""
