"""Finds out what the place of a storage can do."""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruchu.errors import ImmutableNotApplied, ObjectExists, StorageError, StorageRefused
from ruchu.operations import storage_places
from ruchu.operations.storage_places import Preparation
from ruchu.operations.storages import Storages
from ruchu.storage.directory import DirectoryStorage
from ruchu.storage.mounting import mounts


def probe(storages: Storages, name: str) -> dict[str, Any]:
    """Find out anew what the place of a storage can do, and remember it.

    Raises:
        StorageRefused: it lacks what a storage cannot do without.
    """
    entry = storages.registry.storage(name)
    storage = storages.raw(entry)
    place = storages.place_of(entry)
    found: dict[str, Any]
    if entry.place.scheme == "s3":
        wanted = Preparation(one_writer=bool(entry.writer))
        found = storage_places.probe_bucket(place, wanted, known=True)
        storages.registry.put_storage(replace(entry, probe=found), replace=True)
    else:
        found = directory(storages.places.directory(place))
    storage.close()
    return {"storage": name, "location": str(entry.place), **found}


def directory(path: Path) -> dict[str, Any]:
    """Try what a storage needs in a directory. Leaves nothing behind.

    Raises:
        StorageError: not even a file can be made there.
        StorageRefused: of two writers of one name, both win.
    """
    try:
        place = tempfile.mkdtemp(prefix=".ruchu-probe-", dir=path)
    except OSError as error:
        raise StorageError(f"({path}: {error.strerror})") from None
    try:
        storage = DirectoryStorage(place, reserve_bytes=0)
        storage.put("object", b"content")
        try:
            storage.put("object", b"other")
        except ObjectExists:
            pass
        else:
            raise StorageRefused(f"({path}: a name can be taken twice)")
        immutable = _can_protect(storage)
        storage.close()
    finally:
        shutil.rmtree(place)
    return {"file_system": _file_system(path), "immutable": immutable}


def _can_protect(storage: DirectoryStorage) -> bool:
    try:
        storage.protect("object")
    except ImmutableNotApplied:
        return False
    storage.release("object")
    return True


def _file_system(path: Path) -> str:
    """Return the kind of the file system that a directory is on."""
    real = os.path.realpath(path)
    above = [m for m in mounts.table() if os.path.commonpath([real, m.point]) == m.point]
    return max(above, key=lambda mount: len(mount.point)).kind if above else ""
