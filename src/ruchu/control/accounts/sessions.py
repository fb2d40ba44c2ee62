"""Sessions: who is signed in, since when, from where."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ruchu.clock import Clock, from_text, to_text
from ruchu.control.accounts import proofs, rights
from ruchu.control.accounts.tables import SESSIONS, USERS
from ruchu.control.audit.trail import Trail
from ruchu.control.database.database import Database
from ruchu.errors import NotAuthenticated, NotFound
from ruchu.model.ids import is_id, new_id
from ruchu.model.principals import Principal, Right, Via

# NIST SP 800-63B, level 2: 30 minutes without a request, 12 hours at most.
IDLE = datetime.timedelta(minutes=30)
LIFETIME = datetime.timedelta(hours=12)
# A page asks every few seconds; that it was here is written this often.
_SEEN_EVERY = datetime.timedelta(minutes=1)
# Browsers and devices of one person; the oldest session makes room.
PER_USER_MAX = 20
_AGENT_MAX = 200


@dataclass(frozen=True, slots=True)
class Session:
    """A session, as its owner sees it; its secret is known to the browser only."""

    id: str
    user: str
    created: str
    seen: str
    expires: str
    address: str
    agent: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from: the address, and what the browser says it is."""

    address: str
    agent: str = ""


class Sessions:
    """The sessions of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, trail: Trail) -> None:
        self._database = database
        self._clock = clock
        self._trail = trail

    def authenticate(self, word: str) -> Principal:
        """Return who is behind the secret of a session.

        Raises:
            NotAuthenticated: there is no such session, its time is over, or the account is
                disabled.
        """
        digest = proofs.digest("session", word)
        now = self._clock.now()
        with self._database.reading() as connection:
            select = sa.select(SESSIONS, USERS.c.name, USERS.c.disabled).join(USERS)
            row = connection.execute(select.where(SESSIONS.c.hash == digest)).one_or_none()
            if row is None or row.disabled or _is_over(row.seen, row.expires, now):
                raise NotAuthenticated("(the session)")
            grants = rights.of_user(connection, row.user)
        assert proofs.equal(row.hash, digest)
        if now - from_text(row.seen) >= _SEEN_EVERY:
            with self._trail.writing() as recording:
                update = SESSIONS.update().where(SESSIONS.c.id == row.id)
                recording.connection.execute(update.values(seen=to_text(now)))
        return Principal(row.user, row.name, grants, Via.SESSION, proof=row.id)

    def list(self, by: Principal, user: str = "") -> Sequence[Session]:
        """Return the live sessions of an account, the newest first; one's own without a name.

        Raises:
            Forbidden: it is another's, and they may not.
        """
        owner = user or by.user
        if owner != by.user:
            by.demand(Right.ACCOUNTS)
        columns = [SESSIONS.c[name] for name in Session.__slots__]
        select = sa.select(*columns).where(SESSIONS.c.user == owner)
        now = self._clock.now()
        with self._database.reading() as connection:
            rows = connection.execute(select.order_by(SESSIONS.c.created.desc())).all()
        return [Session(*row) for row in rows if not _is_over(row.seen, row.expires, now)]

    def revoke(self, by: Principal, session: str) -> None:
        """End a session; everybody may end their own.

        Raises:
            NotFound: there is none of this id, or it is another's, and they may not.
        """
        if not is_id(session):
            raise NotFound("(the session)")
        with self._trail.writing() as recording:
            select = sa.select(SESSIONS.c.user, USERS.c.name).join(USERS)
            row = recording.connection.execute(select.where(SESSIONS.c.id == session)).one_or_none()
            if row is None or (row.user != by.user and not by.may(Right.ACCOUNTS)):
                raise NotFound("(the session)")
            recording.connection.execute(SESSIONS.delete().where(SESSIONS.c.id == session))
            recording.record(by.actor, "session.close", row.name, facts={"session_id": session})

    def sweep(self) -> int:
        """Remove the sessions whose time is over; return how many. To be called now and then."""
        now = self._clock.now()
        over = (SESSIONS.c.expires <= to_text(now)) | (SESSIONS.c.seen <= to_text(now - IDLE))
        with self._trail.writing() as recording:
            return recording.connection.execute(SESSIONS.delete().where(over)).rowcount


def insert(connection: sa.Connection, user: str, origin: Origin, clock: Clock) -> tuple[str, str]:
    """Open a session; return its id and its secret, which is new whatever the browser had."""
    word = proofs.fresh()
    now = clock.now()
    row = {
        "id": new_id(),
        "user": user,
        "hash": proofs.digest("session", word),
        "created": to_text(now),
        "seen": to_text(now),
        "expires": to_text(now + LIFETIME),
        "address": origin.address[:_AGENT_MAX],
        "agent": _printable(origin.agent),
    }
    newest = sa.select(SESSIONS.c.id).where(SESSIONS.c.user == user)
    ids = connection.execute(newest.order_by(SESSIONS.c.created.desc(), SESSIONS.c.id)).scalars()
    for old in ids.all()[PER_USER_MAX - 1 :]:
        connection.execute(SESSIONS.delete().where(SESSIONS.c.id == old))
    connection.execute(SESSIONS.insert().values(row))
    return str(row["id"]), word


def delete_all(connection: sa.Connection, user: str, but: str = "") -> None:
    """End the sessions of an account, but for one."""
    condition = (SESSIONS.c.user == user) & (SESSIONS.c.id != but)
    connection.execute(SESSIONS.delete().where(condition))


def delete_word(connection: sa.Connection, word: str) -> None:
    """End the session of a secret, if there is one."""
    digest = proofs.digest("session", word)
    connection.execute(SESSIONS.delete().where(SESSIONS.c.hash == digest))


def _is_over(seen: str, expires: str, now: datetime.datetime) -> bool:
    return expires <= to_text(now) or seen <= to_text(now - IDLE)


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))[:_AGENT_MAX]
