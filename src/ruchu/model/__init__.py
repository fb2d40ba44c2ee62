"""Nouns, frozen. No input or output."""
