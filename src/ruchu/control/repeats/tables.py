"""The table of requests that may be sent twice, and how they were answered."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

REPEATS = sa.Table(
    "repeats",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False, index=True),
)
