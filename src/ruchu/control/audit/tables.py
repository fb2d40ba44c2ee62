"""The table of the audit trail."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

AUDIT_RECORDS = sa.Table(
    "audit_records",
    METADATA,
    # From 1, without gaps; given by us, since a sequence of the database leaves some.
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False, index=True),
    sa.Column("action", sa.Text, nullable=False, index=True),
    sa.Column("subject", sa.Text, nullable=False, index=True),
    sa.Column("outcome", sa.Text, nullable=False),
    # Text and not JSON: what was hashed has to come back letter by letter.
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)
