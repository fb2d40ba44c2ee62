"""One-time links: the first administrator, and choosing a password."""

import datetime
import enum
from dataclasses import dataclass

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.accounts import proofs
from ruchu.control.accounts.tables import LINKS, USERS
from ruchu.errors import NotAuthenticated

# Somebody who installs a server finishes on the same day; a colleague may be away for some.
_LIFETIMES_H = {"first": 24, "password": 72}
_HINT = "A link works once, and for some days. Ask an administrator for another one."


class Purpose(enum.StrEnum):
    """What a link is for."""

    FIRST = "first"  # makes an administrator
    PASSWORD = "password"  # noqa: S105 - a purpose, no password


@dataclass(frozen=True, slots=True)
class Link:
    """A link that was found: what it is for, and whose account it opens."""

    hash: str
    purpose: Purpose
    user: str
    name: str


def insert(connection: sa.Connection, purpose: Purpose, user: str | None, clock: Clock) -> str:
    """Make a link in the place of earlier ones for the same; return its word."""
    word = proofs.fresh()
    same = (LINKS.c.purpose == purpose.value) & LINKS.c.user.is_not_distinct_from(user)
    connection.execute(LINKS.delete().where(same))
    expires = clock.now() + datetime.timedelta(hours=_LIFETIMES_H[purpose])
    row = {"hash": proofs.digest("link", word), "purpose": purpose.value, "user": user}
    connection.execute(LINKS.insert().values(row | {"expires": to_text(expires)}))
    return word


def find(connection: sa.Connection, word: str, clock: Clock) -> Link:
    """Return the link of a word; it stays.

    Raises:
        NotAuthenticated: there is none, it was used, or its time is over.
    """
    digest = proofs.digest("link", word)
    select = sa.select(LINKS, USERS.c.name, USERS.c.disabled).outerjoin(
        USERS, USERS.c.id == LINKS.c.user
    )
    row = connection.execute(select.where(LINKS.c.hash == digest)).one_or_none()
    if row is None or row.expires <= to_text(clock.now()) or row.disabled:
        raise NotAuthenticated("(the link)", hint=_HINT)
    assert proofs.equal(row.hash, digest)
    return Link(row.hash, Purpose(row.purpose), row.user or "", row.name or "")


def delete(connection: sa.Connection, link: Link) -> None:
    """Use a link up."""
    connection.execute(LINKS.delete().where(LINKS.c.hash == link.hash))


def sweep(connection: sa.Connection, now: str) -> int:
    """Remove the links whose time is over; return how many."""
    return connection.execute(LINKS.delete().where(LINKS.c.expires <= now)).rowcount
