"""Walking the whole chain: whether it is what was written."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.control.audit import records, trail
from ruchu.control.audit.anchors import Anchor, AnchorFile
from ruchu.control.audit.records import Record
from ruchu.control.audit.tables import AUDIT_RECORDS
from ruchu.control.database.database import Database
from ruchu.errors import AuditBroken, DatabaseUnusable

# Records read at a time: few megabytes, and few queries.
_PAGE = 1_000
# A crash between a record and its anchor loses one anchor, or two; more were taken away.
_UNANCHORED_MAX = 4 * trail.ANCHOR_EVERY


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the walk found.

    Attributes:
        records: how many were read.
        number: of the newest record.
        hash: of the newest record.
        anchors: how many were compared.
        broken: number of the first record that is not what was written; 0 if all are.
        reason: what is wrong; empty if nothing is.
    """

    records: int
    number: int
    hash: str
    anchors: int
    broken: int = 0
    reason: str = ""

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reason

    def document(self) -> dict[str, Any]:
        """Return it as a document."""
        return {"whole": self.whole, **asdict(self)}


def verify(database: Database, anchor_file: AnchorFile | None = None) -> Verdict:
    """Walk the chain from its beginning, up to the first record that is wrong.

    Without the file of anchors a shortened chain, or one that was wholly written anew, looks whole.

    Raises:
        ControlError: the file of anchors cannot be read.
        DatabaseUnusable: it is no database of a server.
    """
    try:
        # Read first: the chain may grow meanwhile, and then knows more than the anchors.
        anchors = anchor_file.read() if anchor_file is not None else []
    except AuditBroken as error:
        return Verdict(0, 0, records.FIRST, 0, reason=error.detail)
    expected = {anchor.number: anchor for anchor in anchors}
    head = Anchor(0, records.FIRST, "")
    count = 0
    with database.reading() as connection:
        if not sa.inspect(connection).has_table(AUDIT_RECORDS.name):
            raise DatabaseUnusable("(there is no audit trail in it)")
        for record, previous, stored in _rows(connection):
            count += 1
            reason = _fault(record, previous, stored, head)
            if not reason and record.number in expected:
                reason = _against(expected[record.number], stored)
            if reason:
                broken = min(record.number, head.number + 1)
                return Verdict(count, head.number, head.hash, len(anchors), broken, reason)
            head = Anchor(record.number, stored, record.at)
    reason = _missing(head, anchors) if anchor_file is not None else ""
    broken = head.number + 1 if reason and anchors and anchors[-1].number > head.number else 0
    return Verdict(count, head.number, head.hash, len(anchors), broken, reason)


def _rows(connection: sa.Connection) -> Iterator[tuple[Record, str, str]]:
    """Yield every record with the hashes beside it, in the order of their numbers."""
    names = Record.__slots__
    table = AUDIT_RECORDS.c
    columns = [*(table[name] for name in names), table.previous, table.hash]
    select = sa.select(*columns).order_by(table.number).limit(_PAGE)
    page = connection.execute(select).all()
    while page:
        for row in page:
            yield Record(*row[: len(names)]), row[-2], row[-1]
        page = connection.execute(select.where(table.number > page[-1].number)).all()


def _fault(record: Record, previous: str, stored: str, head: Anchor) -> str:
    """Return what is wrong with a record behind the head; empty if nothing is."""
    if record.number != head.number + 1:
        if record.number <= head.number:
            return f"record {record.number} was put in before the first"
        last = record.number - 1
        return f"record {head.number + 1} is missing" + (
            f", up to record {last}" if last > head.number + 1 else ""
        )
    if previous != head.hash:
        return f"record {record.number} does not follow the one before it"
    if record.digest(head.hash) != stored:
        return f"record {record.number} was changed"
    return ""


def _against(anchor: Anchor, stored: str) -> str:
    if anchor.hash == stored:
        return ""
    return f"record {anchor.number} is not the one that was anchored at {anchor.at}"


def _missing(head: Anchor, anchors: list[Anchor]) -> str:
    """Return what the anchors miss at the end of the chain, or the chain in its anchors."""
    newest = anchors[-1] if anchors else Anchor(0, records.FIRST, "")
    if newest.number > head.number:
        return (
            f"the chain ends with record {head.number}, "
            f"but record {newest.number} was anchored at {newest.at}"
        )
    numbers = [0, *(anchor.number for anchor in anchors), head.number]
    for before, after in itertools.pairwise(numbers):
        if after - before > _UNANCHORED_MAX:
            return f"the anchors between the records {before} and {after} are missing"
    return ""
