"""Tables of revision 0001, part 3."""

import sqlalchemy as sa
from alembic import op


def create() -> None:
    """Create them."""
    _alarm_routes()
    _vault_secrets()


def _alarm_routes() -> None:
    op.create_table(
        "alarm_routes",
        sa.Column("alarm", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("since", sa.Text(), nullable=False),
        sa.Column("noticed_at", sa.Text(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["alarm"], ["alarms.id"], name=op.f("fk_alarm_routes_alarm"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("alarm", "rule", name=op.f("pk_alarm_routes")),
    )


def _vault_secrets() -> None:
    op.create_table(
        "vault_secrets",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("changed", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["key_id"], ["vault_keys.key_id"], name=op.f("fk_vault_secrets_key_id")
        ),
        sa.PrimaryKeyConstraint("kind", "owner", "field", name=op.f("pk_vault_secrets")),
    )
    op.create_index(op.f("ix_vault_secrets_key_id"), "vault_secrets", ["key_id"], unique=False)
