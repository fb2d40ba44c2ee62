"""Stars and locks of points; they live outside the heads (`docs/formats/vds.md`, section 10)."""

import contextlib
import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ruchu import clock
from ruchu.errors import Damaged, ObjectExists, ObjectMissing
from ruchu.model.ids import is_id
from ruchu.repository import documents, layout
from ruchu.storage.contract import Storage

_STAR = "ruchu-star"
_UNTIL = "ruchu-lock-until"
_STAMP = "%Y%m%dT%H%M%SZ"
_MARK = re.compile(r"([0-9a-f]{32})\.(?:(star)|lock-(\d{8}T\d{6}Z))")


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks of one point: starred, and locked until a moment (None: not locked)."""

    starred: bool = False
    locked_until: datetime.datetime | None = None

    def keeps(self, now: datetime.datetime) -> bool:
        """Tell whether the point must stay now."""
        return self.starred or (self.locked_until is not None and self.locked_until > now)


def star(storage: Storage, chain: str, point: str, now: datetime.datetime) -> None:
    """Star a point; a second time changes nothing."""
    document = documents.sealed(_STAR, {"point": point, "created": clock.to_text(now)})
    with contextlib.suppress(ObjectExists):
        storage.put(layout.star(chain, point), document)


def unstar(storage: Storage, chain: str, point: str) -> None:
    """Take the star away."""
    storage.delete(layout.star(chain, point))


def lock(
    storage: Storage, chain: str, point: str, until: datetime.datetime, now: datetime.datetime
) -> str:
    """Lock a point until a moment (whole seconds); return the name of the mark.

    A lock is never shortened: the longest counts.
    """
    stamp = until.astimezone(datetime.UTC).strftime(_STAMP)
    fields = {"point": point, "until": clock.to_text(until), "created": clock.to_text(now)}
    name = layout.lock_until(chain, point, stamp)
    with contextlib.suppress(ObjectExists):
        storage.put(name, documents.sealed(_UNTIL, fields))
    return name


@dataclass(frozen=True, slots=True)
class LockMark:
    """One lock: the name of its object, the point, the moment of its end."""

    name: str
    point: str
    until: datetime.datetime


def locks(storage: Storage, chain: str) -> Iterator[LockMark]:
    """Yield every lock of every point, ended ones among them."""
    for info in storage.list(layout.marks(chain)):
        match = _MARK.fullmatch(layout.stem_of(info.name))
        if match is not None and match[3]:
            yield LockMark(info.name, match[1], _later(None, match[3]))


def all_marks(storage: Storage, chain: str) -> dict[str, Marks]:
    """Return the marks by point id.

    The name alone counts, so a damaged mark still protects.
    """
    found: dict[str, Marks] = {}
    for info in storage.list(layout.marks(chain)):
        match = _MARK.fullmatch(layout.stem_of(info.name))
        if match is None:
            continue
        point, starred, stamp = match.groups()
        old = found.get(point, Marks())
        until = old.locked_until
        if stamp is not None:
            until = _later(until, stamp)
        found[point] = Marks(old.starred or starred is not None, until)
    return found


def _later(old: datetime.datetime | None, stamp: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.strptime(stamp, _STAMP).replace(tzinfo=datetime.UTC)
    except ValueError:
        moment = datetime.datetime.max.replace(tzinfo=datetime.UTC)
    return moment if old is None else max(old, moment)


def remove_all(storage: Storage, chain: str, point: str) -> None:
    """Remove the marks of a point that is gone."""
    for info in list(storage.list(layout.marks(chain))):
        if layout.stem_of(info.name).startswith(f"{point}."):
            with contextlib.suppress(ObjectMissing):
                storage.release(info.name)
            storage.delete(info.name)


def check(name: str, data: bytes) -> None:
    """Check one mark's bytes.

    Raises:
        Damaged: it is not what was written.
    """
    match = _MARK.fullmatch(layout.stem_of(name))
    if match is None:
        raise Damaged(f"{name} is no mark")
    value = documents.opened(name, data, _STAR if match[2] else _UNTIL)
    point = value.get("point")
    until = value.get("until")
    if not is_id(point) or point != match[1]:
        raise Damaged(f"{name} marks another point")
    if match[3] and _stamp(str(until)) != match[3]:
        raise Damaged(f"{name} says another moment")


def _stamp(text: str) -> str:
    try:
        return clock.from_text(text).strftime(_STAMP)
    except ValueError:
        return ""
