"""The revisions of the database, in their order. A revision that was released never changes."""
