"""The table of servers that this one shows and steers."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

SITES = sa.Table(
    "sites",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("url", sa.Text, nullable=False),
    # Certificates (PEM) that vouch for it; empty: those of this host.
    sa.Column("trusted", sa.Text, nullable=False),
    sa.Column("seen", sa.Text),
    sa.Column("problem", sa.Text, nullable=False),
    # What it was like when it was seen last.
    sa.Column("summary", sa.JSON, nullable=False),
)
