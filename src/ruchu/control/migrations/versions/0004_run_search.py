"""Runs are searched in an index that holds all that a list is filtered by."""

from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Replace the index of the moments when runs were made."""
    columns = ["created", "id", "name", "kind", "state", "policy", "resource_group"]
    op.create_index("ix_runs_search", "runs", columns)
    op.drop_index("ix_runs_created", table_name="runs")


def downgrade() -> None:
    """Go back by starting from the database of before the upgrade."""
    raise NotImplementedError
