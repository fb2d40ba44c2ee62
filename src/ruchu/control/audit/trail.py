"""The audit trail: writing it, searching it.

The chain is also the lock of everything that is recorded with its change: `Trail.writing` lets in
one writer at a time, so what it reads stands still until it is done. These acts are rare, and
short; runs and events do not pass here.
"""

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.audit import records
from ruchu.control.audit.anchors import Anchor, AnchorFile
from ruchu.control.audit.records import Record
from ruchu.control.audit.tables import AUDIT_RECORDS
from ruchu.control.database.database import Database

DONE, REFUSED, FAILED, REQUESTED = "done", "refused", "failed", "requested"
# So many records may be lost without an anchor knowing of them.
ANCHOR_EVERY = 64
# A page that a browser still shows at once.
PAGE_MAX = 500


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; empty fields take everything.

    Attributes:
        actor, subject, outcome: exactly these.
        action: its beginning, such as `session.`.
        since, until: moments; from and including, up to and excluding.
        before: only records of a lower number; for the next page. 0 begins with the newest.
        text: somewhere in actor, action or subject.
    """

    actor: str = ""
    action: str = ""
    subject: str = ""
    outcome: str = ""
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    before: int = 0
    text: str = ""


class Recording:
    """A transaction that is recorded. Use it in the thread that opened it.

    Attributes:
        connection: for the changes that belong to the records.
    """

    def __init__(self, connection: sa.Connection, at: str) -> None:
        self.connection = connection
        self._at = at
        self._head: Anchor | None = None
        self.added: list[Anchor] = []

    def record(
        self,
        actor: str,
        action: str,
        subject: str,
        outcome: str = DONE,
        facts: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a record, which stands if the transaction does; return its number."""
        head = self._head or _head(self.connection)
        names = (records.text(actor), records.text(action), records.text(subject))
        kept = records.facts(facts or {})
        record = Record(head.number + 1, self._at, *names, records.text(outcome), kept)
        digest = record.digest(head.hash)
        row = {name: getattr(record, name) for name in Record.__slots__}
        self.connection.execute(
            AUDIT_RECORDS.insert().values(row | {"previous": head.hash, "hash": digest})
        )
        self._head = Anchor(record.number, digest, self._at)
        self.added.append(self._head)
        return record.number


class Trail:
    """The audit trail of a server. Safe in several threads and processes.

    Never call it while holding a transaction of one's own: SQLite has one writer.
    """

    def __init__(self, database: Database, clock: Clock, anchors: AnchorFile | None = None) -> None:
        self._database = database
        self._clock = clock
        self._anchors = anchors

    def record(
        self,
        actor: str,
        action: str,
        subject: str,
        outcome: str = DONE,
        facts: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a record and return its number. Secrets among the facts are left out.

        Raises:
            ControlError: it was recorded, but the file of anchors cannot be written.
        """
        with self.writing() as recording:
            return recording.record(actor, action, subject, outcome, facts)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Recording]:
        """Yield a transaction in which changes and their records take effect together.

        Nobody else is in one at the same time.

        Raises:
            ControlError: it took effect, but the file of anchors cannot be written.
        """
        with self._database.writing() as connection:
            if not self._database.is_sqlite:
                # Before anything else: PostgreSQL takes its snapshot with the first query, and
                # that must show what the writer before us did.
                name = AUDIT_RECORDS.name
                connection.execute(sa.text(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"))
            recording = Recording(connection, to_text(self._clock.now()))
            yield recording
        for head in recording.added:
            if self._anchors is not None and (head.number == 1 or not head.number % ANCHOR_EVERY):
                self._anchors.append(head)

    def anchors(self) -> Anchor:
        """Return the head of the chain, and write it to the file of anchors if it moved.

        To be called now and then (the server does every ten minutes).

        Raises:
            ControlError: the file cannot be written.
        """
        with self._database.reading() as connection:
            head = _head(connection)
        if self._anchors is not None and head.number:
            self._anchors.append(head)
        return head

    def search(self, query: Search, limit: int = 100) -> Sequence[Record]:
        """Return records, newest first; the lowest number is the next page's `before`."""
        table = AUDIT_RECORDS.c
        select = sa.select(*(table[name] for name in Record.__slots__))
        for column in ("actor", "subject", "outcome"):
            if wanted := getattr(query, column):
                select = select.where(table[column] == records.text(wanted))
        if query.action:
            select = select.where(table.action.startswith(query.action, autoescape=True))
        if query.text:
            columns = (table.actor, table.action, table.subject)
            wanted = records.text(query.text)
            select = select.where(
                sa.or_(*(each.icontains(wanted, autoescape=True) for each in columns))
            )
        if query.since is not None:
            select = select.where(table.at >= to_text(query.since))
        if query.until is not None:
            select = select.where(table.at < to_text(query.until))
        if query.before:
            select = select.where(table.number < query.before)
        select = select.order_by(table.number.desc()).limit(max(1, min(limit, PAGE_MAX)))
        with self._database.reading() as connection:
            return [Record(*row) for row in connection.execute(select)]


def _head(connection: sa.Connection) -> Anchor:
    table = AUDIT_RECORDS.c
    newest = sa.select(table.number, table.hash, table.at).order_by(table.number.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return Anchor(*row) if row is not None else Anchor(0, records.FIRST, "")
