"""Points over all storages: found, listed, marked, deleted, compared."""

import datetime
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ruchu import clock
from ruchu.errors import NotFound, RuchuError, UsageError
from ruchu.operations.storages import Storages
from ruchu.repository import layout, marks, trash
from ruchu.repository.chains import PREFIX_MIN, Chain
from ruchu.repository.heads import Head
from ruchu.storage.contract import Storage

if TYPE_CHECKING:
    from ruchu.repository.protecting import Protection
    from ruchu.repository.repositories import Repository


@dataclass(frozen=True, slots=True)
class Found:
    """A point that was asked for: the storage it is on, its chain (open), its head."""

    storage: str
    chain: Chain
    head: Head


@dataclass(slots=True)
class Listing:
    """Points as documents, and what kept others from being listed."""

    points: list[dict[str, Any]] = field(default_factory=list)
    problems: list[RuchuError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a point lies."""

    storage: str
    chain: str
    stem: str


def find(storages: Storages, prefix: str) -> Found:
    """Return the point whose id begins with a prefix, over all storages.

    A point that was copied is on several storages: the one of role `backup` is taken.

    Raises:
        NotFound: there is none.
        UsageError: several points match, or the prefix is too short.
        RuchuError: there is none, and a storage that may have it cannot be read.
    """
    if len(prefix) < PREFIX_MIN:
        raise UsageError(f"(point {prefix!r}: at least {PREFIX_MIN} digits are needed)")
    places: list[_Place] = []
    problems: list[RuchuError] = []
    entries = storages.registry.storages()
    for entry in sorted(entries, key=lambda entry: entry.role != "backup"):
        try:
            places += _places(entry.name, storages.raw(entry), prefix)
        except RuchuError as error:
            problems.append(error)
    ids = {place.stem[11:] for place in places}
    if len(ids) > 1:
        raise UsageError(f"(point {prefix!r}: {len(ids)} match)", hint="Give more of its digits.")
    if not places:
        if problems:
            raise problems[0]
        raise NotFound(f"(point {prefix!r})", hint="See `ruchu points list`.")
    place = places[0]
    chain = storages.open(place.storage).open_chain(place.chain)
    return Found(place.storage, chain, chain.head(place.stem))


def _places(name: str, storage: Storage, prefix: str) -> Iterator[_Place]:
    """Yield the points of a storage whose ids begin with a prefix. Needs no key."""
    for chain in storage.folders(layout.CHAINS):
        stems = []
        for info in storage.list(layout.points(chain)):
            stem = layout.stem_of(info.name)
            if stem[11:].startswith(prefix):
                layout.parse_point_stem(stem)
                stems.append(stem)
        if stems:
            records = trash.read_whole(storage, chain)
            gone = {stem for record in records for stem in record.points}
            yield from (_Place(name, chain, stem) for stem in stems if stem not in gone)


def list_points(storages: Storages, storage: str | None) -> Listing:
    """Return the points of one storage, or of all of them.

    Raises:
        RuchuError: the one storage that was asked for cannot be read.
    """
    listing = Listing()
    if storage is not None:
        _list_storage(storages, storage, listing)
    else:
        for entry in storages.registry.storages():
            try:
                _list_storage(storages, entry.name, listing)
            except RuchuError as error:
                listing.problems.append(error)
    listing.points.sort(key=lambda point: (point["time"], point["sequence"]))
    return listing


def list_part(storages: Storages, storage: str, after: str, enough: int) -> tuple[Listing, str]:
    """Return the points of whole chains behind one, until there are enough of them.

    The text is the chain behind which the next part begins; empty if nothing follows.

    Raises:
        RuchuError: the storage cannot be read.
    """
    listing = Listing()
    repository = storages.open(storage)
    waiting = sorted(each for each in repository.chain_ids() if each > after)
    for number, chain in enumerate(waiting, 1):
        _list_chain(repository, storage, chain, listing)
        if len(listing.points) >= enough:
            return listing, chain if number < len(waiting) else ""
    return listing, ""


def _list_storage(storages: Storages, name: str, listing: Listing) -> None:
    repository = storages.open(name)
    for chain in repository.chain_ids():
        _list_chain(repository, name, chain, listing)


def _list_chain(repository: "Repository", name: str, chain_id: str, listing: Listing) -> None:
    try:
        chain = repository.open_chain(chain_id)
        kept = marks.all_marks(chain.storage, chain.id)
        stems = chain.stems()
    except RuchuError as error:
        listing.problems.append(error)
        return
    for stem in stems:
        try:
            head = chain.head(stem)
        except RuchuError as error:
            # A damaged head hides itself, not its neighbours.
            listing.problems.append(error)
        else:
            mark = kept.get(head.point, marks.Marks())
            listing.points.append(fields(name, chain, head, mark))


def fields(storage: str, chain: Chain, head: Head, mark: marks.Marks) -> dict[str, Any]:
    """Return a point as a line of a listing."""
    until = mark.locked_until
    return {
        "point": head.point,
        "name": chain.object.name,
        "kind": head.kind.value,
        "time": clock.to_text(head.time),
        "starred": mark.starred,
        "locked_until": clock.to_text(until) if until is not None else None,
        "storage": storage,
        "chain": chain.id,
        "sequence": head.sequence,
        "object": chain.object.kind,
        "platform": chain.object.platform,
        "parent": head.parent,
        "bytes_stored": head.facts.get("bytes_stored"),
        "bytes_read": head.facts.get("bytes_read"),
        "disks": [{"name": disk.name, "size": disk.size} for disk in head.disks],
    }


def show(storages: Storages, prefix: str) -> dict[str, Any]:
    """Return everything that a point says of itself."""
    found = find(storages, prefix)
    chain, head = found.chain, found.head
    mark = marks.all_marks(chain.storage, chain.id).get(head.point, marks.Marks())
    disks = [
        {**disk.facts, "number": disk.number, "name": disk.name, "size": disk.size}
        for disk in head.disks
    ]
    return {
        **fields(found.storage, chain, head, mark),
        "finished": clock.to_text(head.finished),
        "disks": disks,
        "attachments": sorted(head.attachments),
        "facts": head.facts,
    }


def star(storages: Storages, prefix: str, *, remove: bool) -> Found:
    """Star a point, or take its star away."""
    found = find(storages, prefix)
    chain, point = found.chain, found.head.point
    if remove:
        marks.unstar(chain.storage, chain.id, point)
    else:
        marks.star(chain.storage, chain.id, point, storages.surroundings.clock.now())
    return found


def lock(storages: Storages, prefix: str, until: datetime.datetime) -> tuple[Found, "Protection"]:
    """Lock a point until a moment; a lock only ever grows.

    Raises:
        UsageError: the moment is over.
        ChainBusy: somebody writes into the chain; nothing was locked.
    """
    from ruchu.repository import protecting

    if until <= storages.surroundings.clock.now():
        raise UsageError(f"({clock.to_text(until)} is over)")
    found = find(storages, prefix)
    with found.chain.exclusive("lock a point"):
        done = protecting.protect_point(found.chain, found.head, until, require=False)
    return found, done


def delete(
    storages: Storages, prefixes: Sequence[str], grace: datetime.timedelta
) -> list[dict[str, Any]]:
    """Delete points. All of them are found, and their chains locked, before the first one goes.

    Raises:
        PointProtected, PointInUse: one must stay; of its chain none was removed.
    """
    from ruchu.repository import merging, protecting

    by_chain: dict[tuple[str, str], list[Found]] = {}
    for found in (find(storages, prefix) for prefix in dict.fromkeys(prefixes)):
        by_chain.setdefault((found.storage, found.chain.id), []).append(found)
    done = []
    with ExitStack() as stack:
        locked = [
            (group, stack.enter_context(group[0].chain.exclusive("delete")))
            for group in by_chain.values()
        ]
        for group, held in locked:
            chain = group[0].chain
            stems = list(dict.fromkeys(found.head.stem for found in group))
            merging.delete_points(chain, held, stems, grace=grace)
            swept = merging.sweep(chain, held, grace=grace)
            protecting.release_ended(chain, chain.surroundings.clock.now())
            purged = merging.purge(chain, held)
            done.append(
                {
                    "storage": group[0].storage,
                    "chain": chain.id,
                    "points": [stem[11:] for stem in stems],
                    "bytes_trashed": swept.bytes_trashed,
                    "bytes_freed": purged.bytes_freed,
                }
            )
    return done


def diff(storages: Storages, one: str, other: str) -> dict[str, Any]:
    """Return the extents in which the disks of two points of one chain differ.

    Raises:
        UsageError: they are of different chains, which know nothing of each other's blocks.
    """
    from ruchu.repository import comparing

    first, second = find(storages, one), find(storages, other)
    if (first.storage, first.chain.id) != (second.storage, second.chain.id):
        hint = "Points of different chains can only be compared by restoring both."
        raise UsageError("(the two points are of different chains)", hint=hint)
    heads = (first.head, second.head)
    found = []
    for name in dict.fromkeys(disk.name for head in heads for disk in head.disks):
        extents = comparing.differences(first.chain, *heads, name)
        found.append(
            {
                "name": name,
                "sizes": [comparing.size_of(head, name) for head in heads],
                "bytes": sum(extent.length for extent in extents),
                "extents": [[extent.start, extent.length] for extent in extents],
            }
        )
    return {"points": [head.point for head in heads], "disks": found}
