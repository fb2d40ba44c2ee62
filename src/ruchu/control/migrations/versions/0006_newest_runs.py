"""The newest run of a policy is found without reading its others."""

from alembic import op

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    """Replace the index of policies."""
    op.create_index("ix_runs_policy_created", "runs", ["policy", "created"])
    op.drop_index("ix_runs_policy", table_name="runs")


def downgrade() -> None:
    """Go back by starting from the database of before the upgrade."""
    raise NotImplementedError
