"""Changes what this host knows of a storage; forgets it; destroys it."""

import contextlib
from dataclasses import replace
from typing import Any

from ruchu.errors import Damaged, NotFound, PointInUse, PointProtected, RuchuError, UsageError
from ruchu.operations import storage_room
from ruchu.operations.registry import StorageEntry
from ruchu.operations.storages import EVACUATED, Storages
from ruchu.repository import layout, locking, marks
from ruchu.repository.repositories import Repository
from ruchu.storage.contract import MARKER, Storage

_EVACUATE_HINT = (
    "`ruchu storage evacuate` moves them; --force leaves them there, for `ruchu storage adopt`."
)


def remove(
    storages: Storages, name: str, *, force: bool = False, destroy: str | None = None
) -> dict[str, Any]:
    """Forget a storage; what lies in it stays, unless it is to be destroyed.

    Args:
        storages: the storages of this host.
        name: which.
        force: also if it holds points that were not evacuated, or cannot be looked at.
        destroy: its name once more, typed by a person: everything in it is deleted.

    Raises:
        UsageError: it holds points, or the name that was typed is another.
        PointInUse: a point of it is being read; neither force nor a typed name changes that.
        PointProtected: a point of it is locked until a date, so it cannot be destroyed.
    """
    entry = storages.registry.storage(name)
    if destroy is not None and destroy != name:
        raise UsageError(f"({destroy!r} was typed, the storage is {name!r})")
    deleted = 0
    try:
        repository = storages.open(name)
    except RuchuError:
        if not force or destroy is not None:
            raise
    else:
        _require_unused(repository)
        if destroy is not None:
            deleted = _destroy(storages, repository)
        elif not force and entry.state != EVACUATED and repository.chain_ids():
            count = len(repository.chain_ids())
            raise UsageError(f"({name!r} holds the points of {count} objects)", hint=_EVACUATE_HINT)
        repository.storage.close()
    _leave(storages, entry, force=force)
    storages.registry.remove_storage(name)
    return {"storage": name, "destroyed": destroy is not None, "objects_deleted": deleted}


def _leave(storages: Storages, entry: StorageEntry, *, force: bool) -> None:
    try:
        storages.places.leave(storages.place_of(entry))
    except NotFound:
        if not force:  # the file with its credentials is gone: nothing of it is mounted by us then
            raise


def _require_unused(repository: Repository) -> None:
    """Refuse while a point is read or a chain is written."""
    for chain in repository.chain_ids():
        storage = repository.storage
        leases = locking.active_leases(storage, chain, _forgetful(repository))
        if leases:
            first = next(iter(leases.values()))
            raise PointInUse(locking.describe(first))
        points = {stem[11:] for stem in repository.open_chain(chain).stems()}
        for point, why in repository.surroundings.needed().items():
            if point in points:
                raise PointInUse(f"{why} needs point {point[:8]}")


def _forgetful(repository: Repository) -> Any:
    """Return the surroundings without what this host needs: that is looked at by point."""
    return replace(repository.surroundings, needed=dict)


def _destroy(storages: Storages, repository: Repository) -> int:
    storage, now = repository.storage, storages.surroundings.clock.now()
    for chain in repository.chain_ids():
        for point, found in marks.all_marks(storage, chain).items():
            if found.locked_until is not None and found.locked_until > now:
                until = found.locked_until.date()
                raise PointProtected(f"(point {point[:8]} is locked until {until})")
    with contextlib.ExitStack() as locks:
        for chain in repository.chain_ids():
            locks.enter_context(
                locking.exclusive(storage, chain, "destruction", storages.surroundings)
            )
        # The keys first: from then on nothing in it can be read, whatever happens next.
        order = sorted(storage.list(""), key=lambda info: _turn(info.name))
        names = [info.name for info in order if not _is_lock(info.name)]
        for each in names:
            _delete(storage, each)
    rest = sorted((info.name for info in storage.list("")), key=_turn)
    for each in rest:
        _delete(storage, each)
    if any(True for _ in storage.list("")):
        raise Damaged("objects came while the storage was destroyed; run it again")
    return len(names)


def _turn(name: str) -> tuple[int, str]:
    """Return when an object goes: keys first, the marker of the storage last."""
    if name.startswith(f"{layout.KEYS}/"):
        return 0, name
    return (2 if name == MARKER else 1), name


def _is_lock(name: str) -> bool:
    return "/locks/" in name or name == MARKER


def _delete(storage: Storage, name: str) -> None:
    with contextlib.suppress(RuchuError):
        if storage.is_protected(name):
            storage.release(name)
    storage.delete(name)


def set_up(
    storages: Storages,
    name: str,
    *,
    limits: tuple[str | None, str | None] = (None, None),
    active: bool = False,
    credentials: str | None = None,
) -> StorageEntry:
    """Change the limits or the credentials of a storage, or take back backups to it.

    Raises:
        UsageError: a limit is none.
    """
    entry = storages.registry.storage(name)
    warn, stop = limits
    if warn is not None:
        entry = replace(entry, warn=storage_room.check(warn))
    if stop is not None:
        entry = replace(entry, stop=storage_room.check(stop))
    if credentials is not None:
        entry = replace(entry, credentials=credentials)
    if active:
        entry = replace(entry, state="")
    storages.registry.put_storage(entry, replace=True)
    return entry
