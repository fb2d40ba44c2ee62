"""The tables of starts, and of how far each schedule has been carried out."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

# One row for each start. That a lane of a policy starts once for a moment is this constraint.
STARTS = sa.Table(
    "schedule_starts",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("due", sa.Text, nullable=False),
    sa.Column("schedule", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.UniqueConstraint("policy", "lane", "due"),
    sqlite_autoincrement=True,
)

# Up to which moment a schedule of a policy has been started, skipped or satisfied by another.
PROGRESS = sa.Table(
    "schedule_progress",
    METADATA,
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("schedule", sa.Text, primary_key=True),
    sa.Column("seen", sa.Text, nullable=False),
)
