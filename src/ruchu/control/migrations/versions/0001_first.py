"""The first tables."""

from ruchu.control.migrations.first import tables_1, tables_2, tables_3

revision, down_revision = "0001", None


def upgrade() -> None:
    """Create every table."""
    tables_1.create()
    tables_2.create()
    tables_3.create()


def downgrade() -> None:
    """Nothing is below this: start from the database of before."""
    raise NotImplementedError
