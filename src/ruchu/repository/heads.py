"""Heads of points (`docs/formats/vds.md`, section 9)."""

import datetime
from dataclasses import dataclass, field
from typing import Any

from ruchu import clock
from ruchu.chunks.keys import ChainKeys
from ruchu.errors import Damaged
from ruchu.model.ids import is_id
from ruchu.model.sources import Kind
from ruchu.repository import documents, layout

FORMAT = "ruchu-point"


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a single chunk is: pack (hex id), offset, stored length, chunk id (hex)."""

    pack: str
    offset: int
    stored: int
    id: str

    def fields(self) -> documents.Document:
        """Return it for a document."""
        return {"pack": self.pack, "offset": self.offset, "stored": self.stored, "id": self.id}


@dataclass(frozen=True, slots=True)
class DiskEntry:
    """A disk in a head. `facts` are for people and for the next run."""

    number: int
    name: str
    size: int
    root: Reference
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Head:
    """One restore point, as committed."""

    chain: str
    point: str
    sequence: int
    kind: Kind
    parent: str | None
    time: datetime.datetime
    finished: datetime.datetime
    disks: tuple[DiskEntry, ...]
    attachments: dict[str, Reference]
    facts: dict[str, Any]

    @property
    def stem(self) -> str:
        """What the file name is made of."""
        return layout.point_stem(self.sequence, self.point)

    def disk(self, name_or_number: str) -> DiskEntry | None:
        """Return a disk by its name or its number."""
        for disk in self.disks:
            if name_or_number in {disk.name, str(disk.number)}:
                return disk
        return None


def encode(head: Head, keys: ChainKeys) -> bytes:
    """Return the document of a head."""
    disks = [
        {**d.facts, "number": d.number, "name": d.name, "size": d.size, "root": d.root.fields()}
        for d in head.disks
    ]
    fields: documents.Document = {
        "chain": head.chain,
        "point": head.point,
        "sequence": head.sequence,
        "kind": head.kind.value,
        "parent": head.parent,
        "time": clock.to_text(head.time),
        "finished": clock.to_text(head.finished),
        "disks": disks,
        "attachments": {name: ref.fields() for name, ref in head.attachments.items()},
        "facts": head.facts,
    }
    return documents.sealed_with(FORMAT, fields, keys)


def decode(name: str, data: bytes, chain: str, stem: str, keys: ChainKeys | None) -> Head:
    """Return the head in a document; its seal is checked if the keys are there.

    Raises:
        Damaged, UnknownFormat: it is not what was committed under this name.
    """
    value = documents.opened_with(name, data, FORMAT, keys)
    sequence, point = layout.parse_point_stem(stem)
    if (value.get("chain"), value.get("point"), value.get("sequence")) != (chain, point, sequence):
        raise Damaged(f"{name} is another point under this name")
    parent = value.get("parent")
    if parent is not None and not is_id(parent):
        raise Damaged(f"{name}: parent")
    try:
        kind = Kind(value.get("kind"))
        moments = [clock.from_text(str(value.get(key))) for key in ("time", "finished")]
    except ValueError as error:
        raise Damaged(f"{name}: {error}") from None
    disks = documents.field(name, value, "disks", list)
    attachments = documents.field(name, value, "attachments", dict)
    return Head(
        chain=chain,
        point=point,
        sequence=sequence,
        kind=kind,
        parent=parent,
        time=moments[0],
        finished=moments[1],
        disks=tuple(_disk(name, number, disk) for number, disk in enumerate(disks)),
        attachments={key: reference(name, ref) for key, ref in attachments.items()},
        facts=documents.field(name, value, "facts", dict),
    )


def _disk(name: str, number: int, value: object) -> DiskEntry:
    if not isinstance(value, dict) or value.get("number") != number:
        raise Damaged(f"{name}: disk {number}")
    own = {"number", "name", "size", "root"}
    size = documents.field(name, value, "size", int)
    if size < 0:
        raise Damaged(f"{name}: size of disk {number}")
    return DiskEntry(
        number=number,
        name=documents.field(name, value, "name", str),
        size=size,
        root=reference(name, value.get("root")),
        facts={key: fact for key, fact in value.items() if key not in own},
    )


def reference(name: str, value: object) -> Reference:
    """Return the reference in a document's value, checked."""
    if not isinstance(value, dict):
        raise Damaged(f"{name}: a reference is missing")
    pack = documents.hex_field(name, value, "pack", 16).hex()
    chunk = documents.hex_field(name, value, "id", 32).hex()
    offset = documents.field(name, value, "offset", int)
    stored = documents.field(name, value, "stored", int)
    if not (0 <= offset < 1 << 32 and 0 <= stored < 1 << 32):
        raise Damaged(f"{name}: a reference out of bounds")
    return Reference(pack, offset, stored, chunk)
