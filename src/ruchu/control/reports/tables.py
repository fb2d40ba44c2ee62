"""The table of reports: each mail once, with its text, until it has left."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

SUMMARY_MAILS = sa.Table(
    "summary_mails",
    METADATA,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("period", sa.Text, primary_key=True),
    sa.Column("recipient", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("html", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("due", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("sent_at", sa.Text),
    sa.Index("ix_summary_mails_state_due", "state", "due"),
)
