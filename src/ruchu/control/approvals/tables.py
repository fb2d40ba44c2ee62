"""The tables of approvals."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

APPROVALS = sa.Table(
    "approvals",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("group", sa.Text, nullable=False),
    # Text and not JSON: it has to come back letter by letter for its hash.
    sa.Column("arguments", sa.Text, nullable=False),
    sa.Column("losses", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False, index=True),
    # Ids and not references: a request outlives the account.
    sa.Column("requester", sa.Text, nullable=False),
    sa.Column("requester_name", sa.Text, nullable=False),
    sa.Column("requested", sa.Text, nullable=False, index=True),
    sa.Column("expires", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("decider", sa.Text, nullable=False, default=""),
    sa.Column("decider_name", sa.Text, nullable=False, default=""),
    sa.Column("decided", sa.Text),
    sa.Column("remark", sa.Text, nullable=False, default=""),
    sa.Column("result", sa.Text),
)

APPROVAL_SETTINGS = sa.Table(
    "approval_settings",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
