"""Signing in with name and password, and out again."""

from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.accounts import names, passwords, sessions, users
from ruchu.control.accounts.lockout import Lockout
from ruchu.control.accounts.sessions import Origin
from ruchu.control.accounts.tables import SESSIONS, USERS
from ruchu.control.accounts.totp import Totp
from ruchu.control.audit.trail import DONE, REFUSED, Recording, Trail
from ruchu.control.database.database import Database
from ruchu.errors import CodeNeeded, InvalidName, NotAuthenticated
from ruchu.model.principals import Principal

Row = sa.Row[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody types: name, password, and a code if one is needed."""

    name: str
    password: str = field(repr=False)
    code: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened: its id, its secret for the browser, and whose it is."""

    session: str
    word: str = field(repr=False)
    user: str


class SigningIn:
    """The door of a server. Safe in several threads."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        trail: Trail,
        hasher: passwords.Hasher,
        lockout: Lockout,
        totp: Totp,
    ) -> None:
        self._database = database
        self._clock = clock
        self._trail = trail
        self._hasher = hasher
        self._lockout = lockout
        self._totp = totp

    def sign_in(self, credentials: Credentials, origin: Origin, replacing: str = "") -> Opened:
        """Open a session.

        It always has a new secret; the session that the browser showed (`replacing`) ends, so
        that nobody can hand somebody else a session and wait until it is signed in.

        Raises:
            NotAuthenticated: name, password or code are wrong, or the account is disabled; the
                error does not tell which.
            CodeNeeded: the password is right, and a code is needed.
            TooMany: too many attempts failed.
        """
        name = _name(credentials.name)
        self._lockout.begin(name, origin.address)
        row = self._find(name)
        kept = row.password if row is not None else None
        # Before anything else is looked at: every attempt costs this, whatever comes of it.
        right = self._hasher.verify(kept, credentials.password)
        if row is None or not right or row.disabled:
            self._note_refusal(row, origin)
            raise NotAuthenticated
        if row.totp_since is not None and not credentials.code:
            self._lockout.withdraw(name, origin.address)
            raise CodeNeeded
        outdated = self._hasher.is_outdated(row.password)
        fresh = self._hasher.hash(credentials.password) if outdated else row.password
        with self._trail.writing() as recording:
            opened = self._open(recording, row, credentials.code, origin)
            if opened is not None:
                if replacing:
                    sessions.delete_word(recording.connection, replacing)
                users.write_password(recording.connection, row.id, fresh)
        if opened is None:
            raise NotAuthenticated
        self._lockout.succeed(name, origin.address)
        return opened

    def sign_out(self, by: Principal) -> None:
        """End the session that this request came with."""
        with self._trail.writing() as recording:
            condition = SESSIONS.c.id == by.proof
            recording.connection.execute(SESSIONS.delete().where(condition))
            recording.record(by.actor, "session.close", by.name)

    def _find(self, name: str) -> Row | None:
        with self._database.reading() as connection:
            return connection.execute(sa.select(USERS).where(USERS.c.name == name)).one_or_none()

    def _note_refusal(self, row: Row | None, origin: Origin) -> None:
        # The name of nobody is not written down: it may be a password in the wrong field.
        name = row.name if row is not None else "unknown"
        facts = {"address": origin.address}
        self._trail.record(name, "session.open", name, REFUSED, facts)

    def _open(self, recording: Recording, before: Row, code: str, origin: Origin) -> Opened | None:
        """Open the session, unless the account changed since the password was compared."""
        connection = recording.connection
        row = connection.execute(sa.select(USERS).where(USERS.c.id == before.id)).one_or_none()
        way = self._way(connection, row, before, code) if row is not None else ""
        facts = {"address": origin.address, "way": way}
        if row is None or not way:
            recording.record(before.name, "session.open", before.name, REFUSED, facts)
            return None
        opened = open_session(recording, row, origin, self._clock)
        recording.record(row.name, "session.open", row.name, DONE, facts | {"id": opened.session})
        return opened

    def _way(self, connection: sa.Connection, row: Row, before: Row, code: str) -> str:
        """Return how an account proved itself: `password`, `totp`, `recovery`, or not at all."""
        if row.disabled or row.password != before.password:
            return ""
        return "password" if row.totp_since is None else self._totp.accept(connection, row, code)


def open_session(recording: Recording, row: Row, origin: Origin, clock: Clock) -> Opened:
    """Open a session of an account that has proved who it is."""
    session, word = sessions.insert(recording.connection, row.id, origin, clock)
    update = USERS.update().where(USERS.c.id == row.id)
    recording.connection.execute(update.values(signed_in=to_text(clock.now())))
    return Opened(session, word, row.id)


def _name(typed: str) -> str:
    try:
        return names.user(typed)
    except InvalidName:
        return "-"  # counted together: no account is called so
