"""Other servers that this one shows and steers: attached, looked at, asked."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.alarms.contract import Alarms
from ruchu.control.database.database import Database
from ruchu.control.events.stream import Events
from ruchu.control.sites import allowed
from ruchu.control.sites.client import Client, Server
from ruchu.control.sites.tables import SITES
from ruchu.control.vault.vault import Owner, Vault
from ruchu.errors import (
    AlreadyExists,
    ControlError,
    Forbidden,
    InvalidName,
    NotAuthenticated,
    NotFound,
    RuchuError,
)
from ruchu.model.ids import new_id
from ruchu.model.principals import Principal
from ruchu.model.tasks import Severity

# One server shows an organisation, not the world; each costs a few requests a minute.
SITES_MAX = 100
LOOK_EVERY_S = 60.0
LOOK_LIMIT_S = 10.0
AT_ONCE = 8
# Machines that are counted one by one; more are shown as "more than".
MACHINES_MAX = 20_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class SiteRow:
    """A server below, as it was seen last; see the table."""

    id: str
    name: str
    url: str
    seen: str | None
    problem: str
    summary: Mapping[str, Any]


class Sites:
    """The servers below. Safe in several threads."""

    def __init__(
        self, database: Database, clock: Clock, events: Events, vault: Vault, alarms: Alarms
    ) -> None:
        self._database = database
        self._clock = clock
        self._events = events
        self._vault = vault
        self._alarms = alarms

    def all(self) -> list[SiteRow]:
        """Return all of them, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(SITES).order_by(SITES.c.name)).all()
        return [_row(row) for row in rows]

    def get(self, name: str) -> SiteRow:
        """Return one by its id or name.

        Raises:
            NotFound: there is none.
        """
        return _row(self._found(name))

    def _found(self, name: str) -> sa.Row[tuple[Any, ...]]:
        query = sa.select(SITES).where(sa.or_(SITES.c.id == name, SITES.c.name == name))
        with self._database.reading() as connection:
            found = connection.execute(query).first()
        if found is None:
            raise NotFound(f"(the site {name[:80]!r})")
        return found

    def attach(self, name: str, server: Server) -> SiteRow:
        """Show a server from now on; it must answer, and take the token.

        Raises:
            InvalidName, AlreadyExists: the name cannot be, or there are too many.
            RuchuError: the server does not answer, or refuses.
        """
        if not _NAME.fullmatch(name):
            raise InvalidName(f"({name[:80]!r})")
        summary = _summary(server)
        row: dict[str, Any] = {
            "id": new_id(), "name": name, "url": server.url, "trusted": server.trusted,
            "seen": to_text(self._clock.now()), "problem": "", "summary": summary,
        }  # fmt: skip
        with self._database.writing() as connection:
            names = connection.execute(sa.select(SITES.c.name)).scalars().all()
            if name in names or len(names) >= SITES_MAX:
                raise AlreadyExists(f"(the site {name}, or {SITES_MAX} of them)")
            connection.execute(SITES.insert().values(row))
            self._vault.put(Owner("site", row["id"], "token"), server.token, connection)
        self._events.publish("site", row["id"], {"name": name})
        return self.get(row["id"])

    def detach(self, name: str) -> SiteRow:
        """Show a server no more; nothing changes over there.

        Raises:
            NotFound: there is none.
        """
        row = self.get(name)
        with self._database.writing() as connection:
            connection.execute(SITES.delete().where(SITES.c.id == row.id))
            self._vault.delete_all("site", row.id, connection)
        self._alarms.clear("site-away", row.name)
        self._events.publish("site.removed", row.id, {"name": row.name})
        return row

    def look(self, name: str) -> SiteRow:
        """Bring what is known of a server up to date; one that is away stays as it was seen."""
        row = self._found(name)
        values: dict[str, Any]
        try:
            values = {"summary": _summary(self._server(row), LOOK_LIMIT_S), "problem": "",
                      "seen": to_text(self._clock.now())}  # fmt: skip
        except RuchuError as error:
            values = {"problem": str(error)[:500]}
        with self._database.writing() as connection:
            connection.execute(SITES.update().where(SITES.c.id == row.id).values(values))
        if values["problem"]:
            text = f"{row.url}: {values['problem']}"
            self._alarms.raise_alarm("site-away", Severity.ERROR, row.name, text, {})
        else:
            self._alarms.clear("site-away", row.name)
        if values["problem"] != row.problem or "summary" in values:
            self._events.publish("site", row.id, {"name": row.name, "problem": values["problem"]})
        return self.get(row.id)

    def call(
        self, by: Principal, name: str, request: tuple[str, str], *, body: Any,
        params: dict[str, str], version: int | None = None,
    ) -> Any:  # fmt: skip
        """Pass a request (method and path) on to a server, and return what it answers.

        Raises:
            Forbidden: they may not, or it is not passed on.
            RuchuError: what the server answered.
        """
        method, path = request
        by.demand(allowed.right_of(method, path, body))
        allowed.check_params(params)
        row = self._found(name)
        with Client(self._server(row)) as client:
            try:
                return client.call(method, path, body=body, params=params, version=version)
            except (NotAuthenticated, Forbidden) as error:
                # It is our token that was refused, not the person who asks.
                hint = "Attach the site again with a token that may do this."
                raise ControlError(f"(site {row.name} refuses: {error})", hint=hint) from None

    def _server(self, row: sa.Row[tuple[Any, ...]]) -> Server:
        token = self._vault.get(Owner("site", row.id, "token"))
        return Server(row.url, token, row.trusted)


def _row(row: sa.Row[tuple[Any, ...]]) -> SiteRow:
    return SiteRow(row.id, row.name, row.url, row.seen, row.problem, row.summary)


def _summary(server: Server, limit_s: float = LOOK_LIMIT_S) -> dict[str, Any]:
    """Ask a server how it is.

    Raises:
        RuchuError: it does not answer, or refuses.
    """
    with Client(server, limit_s) as client:
        about = client.get("/about")
        nodes, storages = client.get("/nodes"), client.get("/storages")
        runs, alarms = client.get("/runs", limit=100)["items"], client.get("/alarms")
        machines = len(client.pages("/machines", MACHINES_MAX))
        unprotected = len(client.pages("/machines/unprotected", MACHINES_MAX))
    return {
        "version": about["version"],
        "nodes": Counter(each["state"] for each in nodes),
        "storages": [{key: each[key] for key in ("name", "free", "size", "problem")}
                     for each in storages],
        "runs": Counter(each["state"] for each in runs),
        "alarms": Counter(each["severity"] for each in alarms),
        "machines": machines,
        "unprotected": unprotected,
    }  # fmt: skip


class SiteWatch:
    """A thread that looks at every server below now and then."""

    def __init__(self, sites: Sites, tell: Callable[[str], None]) -> None:
        self._sites = sites
        self._tell = tell
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ruchu-sites", daemon=True)

    def begin(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        self._thread.join()

    def round(self) -> None:
        """Look at all of them once, some at the same time."""
        names = [row.id for row in self._sites.all()]
        if names:
            with ThreadPoolExecutor(min(AT_ONCE, len(names)), "ruchu-site") as pool:
                list(pool.map(self._look, names))

    def _look(self, name: str) -> None:
        try:
            self._sites.look(name)
        except NotFound:
            return  # it was detached meanwhile
        except Exception as error:  # noqa: BLE001 - the edge of the thread: it is told
            self._tell(f"site {name}: {error!r}")

    def _work(self) -> None:
        while not self._end.wait(LOOK_EVERY_S):
            try:
                self.round()
            except Exception as error:  # noqa: BLE001 - the edge of the thread: it is told
                self._tell(f"sites: {error!r}")
