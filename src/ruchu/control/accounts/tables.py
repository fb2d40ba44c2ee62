"""The tables of accounts."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

USERS = sa.Table(
    "accounts_users",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("display", sa.Text, nullable=False),
    sa.Column("mail", sa.Text, nullable=False),
    sa.Column("language", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False, default=False),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("signed_in", sa.Text),
    # Argon2 in its own notation; null for who signs in elsewhere, or has not chosen one yet.
    sa.Column("password", sa.Text),
    # When somebody else made a new password or authenticator possible, or gave a role.
    sa.Column("reset", sa.Text),
    # Since when a code is needed, and the step of the last one that was taken.
    sa.Column("totp_since", sa.Text),
    sa.Column("totp_step", sa.BigInteger, nullable=False, default=0),
)


def _user() -> sa.Column[str]:
    return sa.Column(
        "user", sa.ForeignKey(USERS.c.id, ondelete="CASCADE"), nullable=False, index=True
    )


GRANTS = sa.Table(
    "accounts_grants",
    METADATA,
    _user(),
    sa.Column("group", sa.Text, nullable=False, index=True),
    sa.Column("role", sa.Text, nullable=False),
    # Empty if a person gave it; else the provider whose claims gave it.
    sa.Column("source", sa.Text, nullable=False, default=""),
    sa.PrimaryKeyConstraint("user", "group", "role", "source"),
)

SESSIONS = sa.Table(
    "accounts_sessions",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    _user(),
    sa.Column("hash", sa.Text, nullable=False, unique=True),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("seen", sa.Text, nullable=False),
    sa.Column("expires", sa.Text, nullable=False, index=True),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
)

RECOVERY_CODES = sa.Table(
    "accounts_recovery_codes",
    METADATA,
    sa.Column("hash", sa.Text, primary_key=True),
    _user(),
)

TOKENS = sa.Table(
    "accounts_tokens",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    _user(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False, unique=True),
    sa.Column("rights", sa.JSON, nullable=False),
    sa.Column("groups", sa.JSON, nullable=False),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("expires", sa.Text, nullable=False),
    sa.Column("used", sa.Text),
    sa.UniqueConstraint("user", "name"),
)

LINKS = sa.Table(
    "accounts_links",
    METADATA,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("user", sa.ForeignKey(USERS.c.id, ondelete="CASCADE"), index=True),
    sa.Column("expires", sa.Text, nullable=False),
)

PROVIDERS = sa.Table(
    "accounts_oidc_providers",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("issuer", sa.Text, nullable=False),
    sa.Column("client", sa.Text, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
)

IDENTITIES = sa.Table(
    "accounts_identities",
    METADATA,
    # The issuer and not our name of it: a provider that is replaced must not inherit accounts.
    sa.Column("issuer", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    _user(),
)

GROUPS = sa.Table(
    "accounts_groups",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("bytes_max", sa.BigInteger, nullable=False, default=0),
    sa.Column("machines_max", sa.Integer, nullable=False, default=0),
    sa.Column("runs_max", sa.Integer, nullable=False, default=0),
)

MEMBERS = sa.Table(
    "accounts_members",
    METADATA,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("object", sa.Text, primary_key=True),
    sa.Column("group", sa.ForeignKey(GROUPS.c.name), nullable=False, index=True),
)
