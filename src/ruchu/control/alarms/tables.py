"""The tables of alarms. No secret lies in any of them."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

ALARMS = sa.Table(
    "alarms",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("first_at", sa.Text, nullable=False),
    sa.Column("last_at", sa.Text, nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("acknowledged_at", sa.Text),
    sa.Column("cleared_at", sa.Text),
    sa.Index("ix_alarms_state_last_at", "state", "last_at"),
)
# The same alarm is open once at most: this is what makes deduplication exact.
sa.Index(
    "uq_alarms_open",
    ALARMS.c.code,
    ALARMS.c.subject,
    unique=True,
    sqlite_where=ALARMS.c.state == "open",
    postgresql_where=ALARMS.c.state == "open",
)


def _alarm() -> sa.Column[str]:
    key = sa.ForeignKey("alarms.id", ondelete="CASCADE")
    return sa.Column("alarm", sa.Text, key, nullable=False, index=True)


HISTORY = sa.Table(
    "alarm_history",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    _alarm(),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

# How far a rule has come with an alarm: when it began to wait, the last notice, steps taken.
ROUTES = sa.Table(
    "alarm_routes",
    METADATA,
    sa.Column("alarm", sa.Text, sa.ForeignKey("alarms.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("rule", sa.Text, primary_key=True),
    sa.Column("since", sa.Text, nullable=False),
    sa.Column("noticed_at", sa.Text, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
)

RULES = sa.Table(
    "alarm_rules",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
)

CHANNELS = sa.Table(
    "alarm_channels",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("hourly_max", sa.Integer, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
)

# One row says: this channel must tell of this alarm. Rows with one `message` leave together.
DELIVERIES = sa.Table(
    "alarm_deliveries",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    _alarm(),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("critical", sa.Boolean, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("created_at", sa.Text, nullable=False),
    sa.Column("due", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("reached", sa.JSON, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("sent_at", sa.Text),
    sa.Index("ix_alarm_deliveries_state_due", "state", "due"),
    sa.Index("ix_alarm_deliveries_channel_sent_at", "channel", "sent_at"),
    sqlite_autoincrement=True,
)
