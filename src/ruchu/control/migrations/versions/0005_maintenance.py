"""A node in maintenance gets no new tasks."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    """Add the column; no node is in maintenance."""
    column: sa.Column[bool] = sa.Column(
        "maintenance", sa.Boolean(), nullable=False, server_default=sa.false()
    )
    op.add_column("nodes", column)


def downgrade() -> None:
    """Go back by starting from the database of before the upgrade."""
    raise NotImplementedError
