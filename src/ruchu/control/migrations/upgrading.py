"""Brings the database of a server to what this release needs."""

from ruchu.control.database.database import Database
from ruchu.control.migrations import every_table


def bring_up(database: Database) -> None:
    """Make the tables that are missing."""
    every_table.METADATA.create_all(database.engine)
