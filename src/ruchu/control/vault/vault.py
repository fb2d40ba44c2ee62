"""The vault: secrets go in, come out, are sealed anew under another key.

AES-256-GCM with random nonces. What a secret belongs to is authenticated with it, so a row that
is copied to another owner, or to another field, does not open.
"""

import itertools
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.vault.keys import Keyring, KeySource, ServerKey, new_key
from ruchu.control.vault.tables import VAULT_KEYS, VAULT_SECRETS
from ruchu.errors import NotFound, SecretDamaged, Stale, UsageError, WrongServerKey

_NONCE_BYTES = 12
# Private keys and key files are secrets too; what is larger is no secret.
VALUE_BYTES_MAX = 64 << 10
# Sealed anew in one transaction: milliseconds, so that nobody waits.
_ROTATED_AT_ONCE = 100
# SQLSTATE of PostgreSQL: "could not serialize access".
_SERIALIZATION_FAILURE = "40001"
# A secret that is put under the old key at the same moment costs one more round.
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Owner:
    """What a secret belongs to.

    Attributes:
        kind: such as `storage` or `user`.
        id: of the owner; ids are never used again.
        field: which of its secrets, such as `passphrase`.
    """

    kind: str
    id: str
    field: str

    def bound(self, key_id: str) -> bytes:
        """Return what is authenticated along with the secret."""
        return b"ruchu vault 1\0" + json.dumps([self.kind, self.id, self.field, key_id]).encode()

    def condition(self) -> sa.ColumnElement[bool]:
        """Return the condition that finds its row."""
        row = VAULT_SECRETS.c
        return (row.kind == self.kind) & (row.owner == self.id) & (row.field == self.field)


class Vault:
    """The secrets of a server. Safe in several threads.

    A `connection` lets a secret change together with the row that it belongs to.
    """

    def __init__(self, database: Database, source: KeySource, clock: Clock) -> None:
        """Open it; the first time, the key is made.

        Raises:
            WrongServerKey: the key is not the one that the database knows, or is not there.
        """
        self._database = database
        self._source = source
        self._clock = clock
        known = self._known_keys()
        keyring = source.load()
        if keyring is None:
            if known:
                raise WrongServerKey(f"({source.path} is not there)")
            keyring = source.make()
        lacking = known - {key.id for key in keyring.keys}
        if lacking:
            raise WrongServerKey(f"(the key {min(lacking)} is lacking)")
        self._keyring: Keyring = keyring
        self._remember(keyring.current)

    def __repr__(self) -> str:
        return f"<Vault under the key {self._keyring.current.id}>"

    def put(self, owner: Owner, value: str, connection: sa.Connection | None = None) -> None:
        """Keep a secret in the place of what was there.

        Raises:
            UsageError: it is too large.
            Stale: the key was rotated at this very moment.
        """
        plain = value.encode()
        if len(plain) > VALUE_BYTES_MAX:
            raise UsageError(f"(the secret {owner.field} is too large)")
        if connection is not None:
            self._replace(connection, owner, plain)
            return
        for attempt in itertools.count(1):
            try:
                with self._database.writing() as own:
                    self._replace(own, owner, plain)
            except Stale:
                if attempt == _ATTEMPTS:
                    raise
            else:
                return

    def get(self, owner: Owner, connection: sa.Connection | None = None) -> str:
        """Return a secret.

        Raises:
            NotFound: there is none.
            SecretDamaged: it was changed, or belongs to another owner.
            WrongServerKey: it was sealed under a key that is not there.
        """
        select = sa.select(VAULT_SECRETS).where(owner.condition())
        if connection is None:
            with self._database.reading() as own:
                row = own.execute(select).one_or_none()
        else:
            row = connection.execute(select).one_or_none()
        if row is None:
            raise NotFound(f"(the secret {owner.field} of the {owner.kind} {owner.id})")
        return self._opened(owner, row).decode()

    def get_all(self, kind: str, owner: str) -> Mapping[str, str]:
        """Return all secrets of an owner by field.

        Raises:
            SecretDamaged: one was changed, or belongs to another owner.
            WrongServerKey: one was sealed under a key that is not there.
        """
        condition = (VAULT_SECRETS.c.kind == kind) & (VAULT_SECRETS.c.owner == owner)
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(VAULT_SECRETS).where(condition)).all()
        return {
            row.field: self._opened(Owner(kind, owner, row.field), row).decode() for row in rows
        }

    def delete(self, owner: Owner, connection: sa.Connection | None = None) -> bool:
        """Forget a secret; tell whether there was one."""
        return self._delete(owner.condition(), connection)

    def delete_all(self, kind: str, owner: str, connection: sa.Connection | None = None) -> bool:
        """Forget all secrets of an owner; tell whether there were any."""
        condition = (VAULT_SECRETS.c.kind == kind) & (VAULT_SECRETS.c.owner == owner)
        return self._delete(condition, connection)

    def rotate(self) -> str:
        """Seal everything under a fresh key, forget the old ones, return the id of the new one.

        Interrupted at any moment it loses nothing; the next call completes it.

        Raises:
            WrongServerKey: the key comes from elsewhere, or its file cannot be written.
            SecretDamaged: a secret does not open.
            Stale: secrets were put all the time; nothing is lost, and the next call completes it.
        """
        fresh = new_key()
        # Durable first: from here on rows may need it.
        together = Keyring((fresh, *self._keyring.keys))
        self._source.save(together)
        self._remember(fresh)
        self._keyring = together
        # The database forgets first: it must never know a key that is nowhere.
        attempts = itertools.count(1)
        while not self._forget_others(fresh):
            if next(attempts) > _ATTEMPTS:
                raise Stale("(secrets change all the time)")
        alone = Keyring((fresh,))
        self._source.save(alone)
        self._keyring = alone
        return fresh.id

    def _forget_others(self, key: ServerKey) -> bool:
        """Seal everything anew; tell whether no row came in under an old key meanwhile."""
        try:
            self.reseal()
            with self._database.writing() as connection:
                connection.execute(VAULT_KEYS.delete().where(VAULT_KEYS.c.key_id != key.id))
        except sa.exc.DBAPIError as error:
            if not _is_collision(error):
                raise
            return False  # a secret was being put at the same moment
        return True

    def reseal(self) -> int:
        """Seal what lies under old keys under the current one; return how many secrets.

        Raises:
            SecretDamaged: one does not open.
        """
        count = 0
        while page := self._sealed_under_others():
            for row in page:
                self._reseal_one(row)
            count += len(page)
        return count

    def _sealed_under_others(self) -> Sequence[sa.Row[tuple[object, ...]]]:
        other = VAULT_SECRETS.c.key_id != self._keyring.current.id
        with self._database.reading() as connection:
            select = sa.select(VAULT_SECRETS).where(other).limit(_ROTATED_AT_ONCE)
            return connection.execute(select).all()

    def _reseal_one(self, row: sa.Row[tuple[object, ...]]) -> None:
        owner = Owner(row.kind, row.owner, row.field)
        fresh = self._sealed(owner, self._opened(owner, row))
        # Not over a secret that was put there in the meantime.
        same = owner.condition() & (VAULT_SECRETS.c.nonce == row.nonce)
        with self._database.writing() as connection:
            connection.execute(VAULT_SECRETS.update().where(same).values(fresh))

    def _sealed(self, owner: Owner, plain: bytes) -> dict[str, object]:
        key = self._keyring.current
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(key.value).encrypt(nonce, plain, owner.bound(key.id))
        changed = to_text(self._clock.now())
        return {"key_id": key.id, "nonce": nonce, "sealed": sealed, "changed": changed}

    def _opened(self, owner: Owner, row: sa.Row[tuple[object, ...]]) -> bytes:
        key = self._keyring.find(row.key_id)
        if key is None:
            raise WrongServerKey(f"(the key {row.key_id} is lacking)")
        try:
            return AESGCM(key.value).decrypt(row.nonce, row.sealed, owner.bound(key.id))
        except (InvalidTag, ValueError):
            named = f"({owner.field} of the {owner.kind} {owner.id})"
            raise SecretDamaged(named) from None

    def _replace(self, connection: sa.Connection, owner: Owner, plain: bytes) -> None:
        row = {"kind": owner.kind, "owner": owner.id, "field": owner.field}
        connection.execute(VAULT_SECRETS.delete().where(owner.condition()))
        try:
            connection.execute(VAULT_SECRETS.insert().values(row | self._sealed(owner, plain)))
        except sa.exc.DBAPIError as error:
            if not _is_collision(error):
                raise
            raise Stale("(the key of the server)", hint="Do it again.") from None

    def _delete(self, condition: sa.ColumnElement[bool], connection: sa.Connection | None) -> bool:
        delete = VAULT_SECRETS.delete().where(condition)
        if connection is not None:
            return connection.execute(delete).rowcount > 0
        with self._database.writing() as own:
            return own.execute(delete).rowcount > 0

    def _known_keys(self) -> set[str]:
        with self._database.reading() as connection:
            return set(connection.execute(sa.select(VAULT_KEYS.c.key_id)).scalars())

    def _remember(self, key: ServerKey) -> None:
        with self._database.writing() as connection:
            select = sa.select(VAULT_KEYS.c.key_id).where(VAULT_KEYS.c.key_id == key.id)
            if connection.execute(select).one_or_none() is None:
                row = {"key_id": key.id, "since": to_text(self._clock.now())}
                connection.execute(VAULT_KEYS.insert().values(row))


def _is_collision(error: sa.exc.DBAPIError) -> bool:
    """Tell whether somebody else was faster: a key that is gone, a row that was changed."""
    state = getattr(error.orig, "sqlstate", None)
    return isinstance(error, sa.exc.IntegrityError) or state == _SERIALIZATION_FAILURE
