"""The database of the server: SQLite for one server, PostgreSQL for large sites."""
