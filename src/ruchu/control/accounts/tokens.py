"""Tokens of the API: for programs, narrower than whoever made them."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, from_text, to_text
from ruchu.control.accounts import names, proofs, rights, users
from ruchu.control.accounts.tables import TOKENS, USERS
from ruchu.control.audit.trail import Trail
from ruchu.control.database.database import Database
from ruchu.errors import AlreadyExists, Forbidden, NotAuthenticated, NotFound, UsageError
from ruchu.model.ids import is_id, new_id
from ruchu.model.principals import ALL_GROUPS, Limits, Principal, Right, Via

# What every token begins with, so that a scanner of source code finds one that got lost.
MARK = "ruchu"
_PREFIX_HEX = 8
# A token that nobody renews within two years belongs to nobody.
LIFETIME_MAX = datetime.timedelta(days=730)
PER_USER_MAX = 50
_GROUPS_MAX = 100
_USED_EVERY = datetime.timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Token:
    """A token, as its owner sees it. `prefix` is how it begins; the rest is not known here."""

    id: str
    user: str
    name: str
    prefix: str
    rights: tuple[Right, ...]
    groups: tuple[str, ...]
    created: str
    expires: str
    used: str | None


@dataclass(frozen=True, slots=True)
class NewToken:
    """What a token is to be: its name, what it may do and where, until when."""

    name: str
    rights: frozenset[Right]
    groups: frozenset[str]
    lifetime: datetime.timedelta


@dataclass(frozen=True, slots=True)
class Made:
    """A token that was made; its word is shown once."""

    id: str
    word: str = field(repr=False)


class Tokens:
    """The API tokens of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, trail: Trail) -> None:
        self._database = database
        self._clock = clock
        self._trail = trail

    def create(self, by: Principal, wanted: NewToken) -> Made:
        """Make a token of one's own.

        Raises:
            Forbidden: it is no person, or the token would have a right that they have not.
            AlreadyExists: one of this name exists, or there are too many.
            UsageError: the name, the groups or the time are not allowed.
        """
        by.demand_person()
        _check(by, wanted)
        now = self._clock.now()
        prefix = f"{MARK}_{new_id()[:_PREFIX_HEX]}"
        word = f"{prefix}_{proofs.fresh()}"
        row = {
            "id": new_id(),
            "user": by.user,
            "name": names.title(wanted.name),
            "prefix": prefix,
            "hash": proofs.digest("token", word),
            "rights": sorted(right.value for right in wanted.rights),
            "groups": sorted(wanted.groups),
            "created": to_text(now),
            "expires": to_text(now + wanted.lifetime),
        }
        facts = {name: row[name] for name in ("id", "name", "rights", "groups", "expires")}
        with self._trail.writing() as recording:
            self._insert(recording.connection, row)
            recording.record(by.actor, "token.create", by.name, facts=facts)
        return Made(str(row["id"]), word)

    def authenticate(self, word: str) -> Principal:
        """Return who is behind a token.

        Raises:
            NotAuthenticated: there is no such token, its time is over, or the account is
                disabled.
        """
        digest = proofs.digest("token", word)
        now = self._clock.now()
        select = sa.select(TOKENS, USERS.c.name.label("owner"), USERS.c.disabled).join(USERS)
        with self._database.reading() as connection:
            row = connection.execute(select.where(TOKENS.c.hash == digest)).one_or_none()
            if row is None or row.disabled or row.expires <= to_text(now):
                raise NotAuthenticated("(the token)")
            grants = rights.of_user(connection, row.user)
        assert proofs.equal(row.hash, digest)
        if row.used is None or now - from_text(row.used) >= _USED_EVERY:
            with self._trail.writing() as recording:
                update = TOKENS.update().where(TOKENS.c.id == row.id)
                recording.connection.execute(update.values(used=to_text(now)))
        limits = Limits(frozenset(map(Right, row.rights)), frozenset(row.groups))
        return Principal(row.user, row.owner, grants, Via.TOKEN, row.id, limits)

    def list(self, by: Principal, user: str = "") -> Sequence[Token]:
        """Return the tokens of an account; one's own without a name.

        Raises:
            Forbidden: they are another's, and they may not.
        """
        owner = user or by.user
        if owner != by.user:
            by.demand(Right.ACCOUNTS)
        columns = [TOKENS.c[name] for name in Token.__slots__]
        select = sa.select(*columns).where(TOKENS.c.user == owner).order_by(TOKENS.c.name)
        with self._database.reading() as connection:
            rows = connection.execute(select).all()
        return [_token(row) for row in rows]

    def revoke(self, by: Principal, token: str) -> None:
        """End a token; everybody may end their own.

        Raises:
            NotFound: there is none of this id.
        """
        if not is_id(token):
            raise NotFound("(the token)")
        with self._trail.writing() as recording:
            connection = recording.connection
            row = connection.execute(sa.select(TOKENS).where(TOKENS.c.id == token)).one_or_none()
            if row is None or (row.user != by.user and not by.may(Right.ACCOUNTS)):
                raise NotFound("(the token)")
            owner = users.row(connection, row.user).name
            connection.execute(TOKENS.delete().where(TOKENS.c.id == token))
            facts = {"id": token, "name": row.name}
            recording.record(by.actor, "token.revoke", owner, facts=facts)

    def _insert(self, connection: sa.Connection, row: dict[str, Any]) -> None:
        taken = connection.execute(
            sa.select(TOKENS.c.name).where(TOKENS.c.user == row["user"])
        ).scalars().all()  # fmt: skip
        if row["name"] in taken:
            raise AlreadyExists(f"(the token {row['name']})")
        if len(taken) >= PER_USER_MAX:
            raise AlreadyExists(f"({PER_USER_MAX} tokens)", hint="Revoke those of no use.")
        connection.execute(TOKENS.insert().values(row))


def _check(by: Principal, wanted: NewToken) -> None:
    if not wanted.rights or not 0 < len(wanted.groups) <= _GROUPS_MAX or not wanted.name.strip():
        raise UsageError("(a token has a name, rights and groups)")
    if not datetime.timedelta() < wanted.lifetime <= LIFETIME_MAX:
        raise UsageError(f"(a token lives up to {LIFETIME_MAX.days} days)")
    for group in wanted.groups:
        names.group_or_all(group)
        for right in wanted.rights:
            # All groups of theirs, if they have the right in any; later the owner is asked again.
            held = by.groups(right) if group == ALL_GROUPS else by.may(right, group)
            if not held:
                raise Forbidden(f"(a token with the right {right} in {group})")


def _token(row: sa.Row[tuple[Any, ...]]) -> Token:
    values = row._asdict()
    values["rights"] = tuple(map(Right, values["rights"]))
    values["groups"] = tuple(values["groups"])
    return Token(**values)
