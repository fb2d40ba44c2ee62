"""Who did what, when, and how it went: a chain of records in which a change shows."""
