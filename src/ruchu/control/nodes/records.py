"""Nodes: the tokens they enrol with, who they are, whether they may connect."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.nodes.tables import NODE_TOKENS, NODES
from ruchu.errors import AlreadyExists, InvalidName, NotFound, Refused, Stale
from ruchu.model.ids import new_id
from ruchu.wire import enrolment

# A token is used within minutes; one that lies around must not work next month.
TOKEN_LIFE = timedelta(hours=24)
# Instead of when it enrolled: a node that was imported by name, and has not proved who it is.
EXPECTED = ""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node as it is now; see the table."""

    id: str
    name: str
    embedded: bool
    revoked: bool
    serials: Sequence[str]
    enrolled: str
    parallel: int
    last_seen: str | None
    release: str
    problem: str
    facts: Mapping[str, Any]
    load: Mapping[str, Any]
    version: int
    maintenance: bool = False


class NodeRecords:
    """The nodes of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def new_token(
        self, name: str, by: str, *, embedded: bool = False, life: timedelta = TOKEN_LIFE
    ) -> str:
        """Return a token that one node may enrol with, under a name, once.

        Raises:
            InvalidName, AlreadyExists: the name cannot be.
        """
        if not _NAME.fullmatch(name):
            raise InvalidName(f"({name[:80]!r})")
        token = enrolment.new_token()
        now = self._clock.now()
        row = {
            "hash": enrolment.token_digest(token), "name": name, "created": to_text(now), "created_by": by,
            "expires": to_text(now + life), "embedded": embedded, "used": None,
        }  # fmt: skip
        with self._database.writing() as connection:
            taken = connection.execute(
                sa.select(NODES.c.id).where(
                    NODES.c.name == name, NODES.c.revoked.is_(False), NODES.c.enrolled != EXPECTED
                )
            ).first()
            if taken is not None:
                raise AlreadyExists(f"(node {name!r})", hint="Revoke it first, or take another.")
            connection.execute(NODE_TOKENS.insert().values(row))
        return token

    def admit(self, token: str, request: str, facts: Mapping[str, Any]) -> NodeRow:
        """Use a token up; return the node, whose certificate is not known yet.

        The same token with the same certificate request again means that the answer was lost: it
        is answered as before, as long as the token is not too old.

        Raises:
            Refused: it is none, was used by another, or is too old.
        """
        now, digest = to_text(self._clock.now()), enrolment.token_digest(token)
        own = hashlib.sha256(request.encode()).hexdigest()
        with self._database.writing() as connection:
            found = connection.execute(
                sa.select(NODE_TOKENS).where(NODE_TOKENS.c.hash == digest)
            ).one_or_none()
            if found is None:
                raise Refused("(the token is not known)")
            if found.expires <= now:
                raise Refused("(the token is too old)")
            if found.used is not None:
                if found.request != own:
                    raise Refused("(the token was used before)")
                row = connection.execute(sa.select(NODES).where(NODES.c.id == found.node)).one()
                return NodeRow(**row._mapping)  # noqa: SLF001 - public in SQLAlchemy
            # A revoked node of this name gives the name up.
            connection.execute(
                NODES.update()
                .where(NODES.c.name == found.name, NODES.c.revoked)
                .values(name=NODES.c.name + "." + NODES.c.id)
            )
            values = {
                "id": new_id(), "name": found.name, "embedded": found.embedded, "revoked": False,
                "serials": [], "enrolled": now, "parallel": 2, "last_seen": None, "release": "",
                "problem": "", "facts": dict(facts), "load": {}, "version": 1,
            }  # fmt: skip
            values |= _expected(connection, found.name)
            connection.execute(NODES.delete().where(NODES.c.id == values["id"]))
            connection.execute(NODES.insert().values(values))
            connection.execute(
                NODE_TOKENS.update().where(NODE_TOKENS.c.hash == digest)
                .values(used=now, request=own, node=values["id"])
            )  # fmt: skip
        return NodeRow(**values)

    def expect(self, name: str, parallel: int) -> NodeRow:
        """Know a node by name that is yet to enrol; what refers to it does so already.

        Raises:
            InvalidName, AlreadyExists: the name cannot be.
        """
        if not _NAME.fullmatch(name):
            raise InvalidName(f"({name[:80]!r})")
        values: dict[str, Any] = {
            "id": new_id(), "name": name, "embedded": False, "revoked": False, "serials": [],
            "enrolled": EXPECTED, "parallel": parallel, "last_seen": None, "release": "",
            "problem": "", "facts": {}, "load": {}, "version": 1,
        }  # fmt: skip
        with self._database.writing() as connection:
            taken = connection.execute(sa.select(NODES.c.id).where(NODES.c.name == name)).first()
            if taken is not None:
                raise AlreadyExists(f"(node {name!r})")
            connection.execute(NODES.insert().values(values))
        return NodeRow(**values)

    def certified(self, node: str, serial: str) -> None:
        """Remember the certificate that a node was given; that of before is good until it is seen.

        Raises:
            NotFound: there is no such node.
        """
        with self._database.writing() as connection:
            row = connection.execute(
                sa.select(NODES.c.serials).where(NODES.c.id == node)
            ).one_or_none()
            if row is None:
                raise NotFound(f"(node {node[:8]!r})")
            kept = [serial, *row.serials[:1]]
            connection.execute(NODES.update().where(NODES.c.id == node).values(serials=kept))

    def admitted(self, node: str, serial: str) -> bool:
        """Tell whether a node may connect with a certificate; an older one is over from then on."""
        with self._database.reading() as connection:
            found = connection.execute(
                sa.select(NODES.c.serials, NODES.c.revoked).where(NODES.c.id == node)
            ).one_or_none()
        if found is None or found.revoked or serial not in found.serials:
            return False
        if found.serials[0] == serial and len(found.serials) > 1:
            self._update(node, serials=[serial])
        return True

    def seen(self, node: str, **values: Any) -> None:
        """Note that a node lives, and what it says of itself: `facts`, `load`, `release`."""
        self._update(node, last_seen=to_text(self._clock.now()), **values)

    def heard(self, beats: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
        """Note when nodes were heard of, and their load; one that was removed is left out."""
        with self._database.writing() as connection:
            for node, (at, load) in beats.items():
                values = {"last_seen": at, "load": dict(load)}
                connection.execute(NODES.update().where(NODES.c.id == node).values(values))

    def _update(self, node: str, **values: Any) -> None:
        with self._database.writing() as connection:
            done = connection.execute(NODES.update().where(NODES.c.id == node).values(values))
            if not done.rowcount:
                raise NotFound(f"(node {node[:8]!r})")

    def change(
        self, node: str, version: int, parallel: int | None = None, *,
        maintenance: bool | None = None,
    ) -> NodeRow:  # fmt: skip
        """Change how many tasks a node does at the same time, and whether it gets any.

        Raises:
            NotFound: there is none.
            Stale: it was changed in the meantime.
        """
        wanted = {"parallel": parallel, "maintenance": maintenance}
        values = {key: value for key, value in wanted.items() if value is not None}
        values["version"] = version + 1
        with self._database.writing() as connection:
            done = connection.execute(
                NODES.update().where(NODES.c.id == node, NODES.c.version == version).values(values)
            )
        row = self.get(node)
        if not done.rowcount:
            raise Stale(f"(node {row.name})")
        return row

    def revoke(self, node: str) -> NodeRow:
        """Never let a node connect again; return it."""
        self._update(node, revoked=True)
        return self.get(node)

    def get(self, node: str) -> NodeRow:
        """Return a node by its id or its name.

        Raises:
            NotFound: there is none.
        """
        for row in self.all():
            if node in {row.id, row.name}:
                return row
        raise NotFound(f"(node {node[:80]!r})")

    def all(self) -> list[NodeRow]:
        """Return all nodes, revoked ones too, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(NODES).order_by(NODES.c.name))
            return [NodeRow(**row._mapping) for row in rows]  # noqa: SLF001 - public in SQLAlchemy


def _expected(connection: sa.Connection, name: str) -> dict[str, Any]:
    """Return what a node takes over that was expected under a name."""
    query = sa.select(NODES.c.id, NODES.c.parallel, NODES.c.version)
    row = connection.execute(
        query.where(NODES.c.name == name, NODES.c.enrolled == EXPECTED)
    ).one_or_none()  # fmt: skip
    return dict(row._mapping) if row is not None else {}  # noqa: SLF001 - public in SQLAlchemy
