"""The trash: what was removed and waits for the end of its grace period (section 11).

One record, written once, removes any number of points and packs at one stroke. The objects stay
where they are until `purge_after`; readers go on.
"""

import contextlib
import datetime
from dataclasses import dataclass

from ruchu import clock
from ruchu.errors import Damaged, ObjectMissing, UnknownFormat
from ruchu.model.ids import Entropy, is_id, new_id
from ruchu.repository import documents, layout
from ruchu.storage.contract import Storage

FORMAT = "ruchu-trash"


@dataclass(frozen=True, slots=True)
class TrashRecord:
    """Objects that go together: stems of points, ids of packs, ids of packs whose moves go."""

    id: str
    purge_after: datetime.datetime
    points: tuple[str, ...] = ()
    packs: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    reason: str = ""


def write(storage: Storage, chain: str, record: TrashRecord, now: datetime.datetime) -> None:
    """Put a record into the trash: from here on its points are deleted."""
    fields = {
        "chain": chain,
        "created": clock.to_text(now),
        "purge_after": clock.to_text(record.purge_after),
        "points": list(record.points),
        "packs": list(record.packs),
        "moved": list(record.moved),
        "reason": record.reason,
    }
    storage.put(layout.trash_record(chain, record.id), documents.sealed(FORMAT, fields))


def new_record(
    entropy: Entropy,
    purge_after: datetime.datetime,
    reason: str,
    *,
    points: tuple[str, ...] = (),
    packs: tuple[str, ...] = (),
    moved: tuple[str, ...] = (),
) -> TrashRecord:
    """Return a record with a fresh id."""
    return TrashRecord(new_id(entropy), purge_after, points, packs, moved, reason)


def read_all(storage: Storage, chain: str) -> list[TrashRecord]:
    """Return all records, sorted by id.

    Raises:
        Damaged: one is not what was written; nothing is purged then.
    """
    records = []
    for info in storage.list(layout.trash(chain)):
        stem = layout.stem_of(info.name)
        if is_id(stem) and info.name == layout.trash_record(chain, stem):
            # Purged, or taken back, since the listing: either way it says nothing any more.
            with contextlib.suppress(ObjectMissing):
                data = storage.get(info.name, documents.DOCUMENT_BYTES_MAX)
                records.append(parse(info.name, data, chain, stem))
    return sorted(records, key=lambda record: record.id)


def read_whole(storage: Storage, chain: str) -> list[TrashRecord]:
    """Return the records that can be read, for those who only look.

    One that is damaged deletes nothing any more: its points are seen again, which harms nobody, for
    `read_all` stops every purge until it is repaired or removed.
    """
    records = []
    for info in storage.list(layout.trash(chain)):
        stem = layout.stem_of(info.name)
        if is_id(stem):
            # Purged just now: nothing of it is left.
            with contextlib.suppress(ObjectMissing, Damaged, UnknownFormat):
                data = storage.get(info.name, documents.DOCUMENT_BYTES_MAX)
                records.append(parse(info.name, data, chain, stem))
    return records


def parse(name: str, data: bytes, chain: str, record: str) -> TrashRecord:
    """Return the record in a document."""
    value = documents.opened(name, data, FORMAT)
    points, packs, moved = (
        tuple(documents.field(name, value, key, list)) for key in ("points", "packs", "moved")
    )
    if value.get("chain") != chain or not all(map(is_id, packs + moved)):
        raise Damaged(f"{name}: its lists")
    for stem in points:
        layout.parse_point_stem(str(stem))
    try:
        purge_after = clock.from_text(str(value.get("purge_after")))
    except ValueError:
        raise Damaged(f"{name}: purge_after") from None
    reason = documents.field(name, value, "reason", str)
    return TrashRecord(record, purge_after, points, packs, moved, reason)
