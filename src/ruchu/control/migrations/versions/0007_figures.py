"""How runs ended, and the newest point of each machine, are looked up in indexes alone."""

from alembic import op

revision, down_revision = "0007", "0006"


def upgrade() -> None:
    """Create the indexes."""
    op.create_index("ix_runs_ended", "runs", ["ended", "kind", "state", "resource_group", "policy"])
    op.create_index("ix_points_platform_name_time", "points", ["platform", "name", "time"])


def downgrade() -> None:
    """Go back by starting from the database of before the upgrade."""
    raise NotImplementedError
