"""The table of definitions that belong to a file."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

# What was last applied from a file: who owns it, how it was then, without secrets.
OWNED = sa.Table(
    "definitions_owned",
    METADATA,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False, index=True),
    sa.Column("applied", sa.JSON, nullable=False),
    # What became of fields that nodes complete, such as the location of a disk.
    sa.Column("resolved", sa.JSON, nullable=False),
    # A keyed digest of each secret that was applied, by field.
    sa.Column("digests", sa.JSON, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
)
