"""The tables of the vault."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

# Which keys this database knows, so that a wrong one is found at the start of the server.
VAULT_KEYS = sa.Table(
    "vault_keys",
    METADATA,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("since", sa.Text, nullable=False),
)

VAULT_SECRETS = sa.Table(
    "vault_secrets",
    METADATA,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("field", sa.Text, primary_key=True),
    # No key is forgotten while a secret needs it.
    sa.Column("key_id", sa.ForeignKey(VAULT_KEYS.c.key_id), nullable=False, index=True),
    sa.Column("nonce", sa.LargeBinary, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("changed", sa.Text, nullable=False),
)
