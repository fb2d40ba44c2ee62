"""Definitions that came from a file remember from which, and how they were applied."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "definitions_owned",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("applied", sa.JSON(), nullable=False),
        sa.Column("resolved", sa.JSON(), nullable=False),
        sa.Column("digests", sa.JSON(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_definitions_owned"),
    )
    op.create_index("ix_definitions_owned_owner", "definitions_owned", ["owner"])


def downgrade() -> None:
    """Go back by starting from the database of before the upgrade."""
    raise NotImplementedError
