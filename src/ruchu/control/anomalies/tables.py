"""The tables of the anomaly watch."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

RUN_SIGNS = sa.Table(
    "run_signs",
    METADATA,
    sa.Column("chain", sa.Text, primary_key=True),
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("changed_bytes", sa.BigInteger, nullable=False),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    sa.Column("ratio", sa.Float),
    sa.Column("entropy", sa.Float),
    sa.Column("renamed", sa.BigInteger),
    sa.Column("removed", sa.BigInteger),
    sa.Column("level", sa.Text, nullable=False),
    sa.Column("reasons", sa.JSON, nullable=False),
    # `usual`: part of what later runs are compared with; `doubted`: not; `accepted`: by a person.
    sa.Column("standing", sa.Text, nullable=False),
    sa.Index("ix_run_signs_chain_at", "chain", "at"),
)

RETENTION_FREEZES = sa.Table(
    "retention_freezes",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("chain", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("since", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("decision", sa.Text),
    sa.Column("decided_by", sa.Text),
    sa.Column("decided_at", sa.Text),
    sa.Column("note", sa.Text),
)
sa.Index(
    "uq_retention_freezes_active",
    RETENTION_FREEZES.c.chain,
    unique=True,
    sqlite_where=RETENTION_FREEZES.c.active,
    postgresql_where=RETENTION_FREEZES.c.active,
)
