"""The workflows that bring back: full."""
