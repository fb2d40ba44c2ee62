"""The tables as a whole, and how the database of an earlier release becomes one of this."""
