"""Backing up a disk image or a block device of this host."""

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruchu.blocks.devices import BlockReader
from ruchu.blocks.files import FileReader
from ruchu.blocks.formats import opening
from ruchu.errors import NotFound
from ruchu.model.extents import Extent
from ruchu.model.sources import Kind, Reason
from ruchu.protection import bases, change_lists, plans, trimming
from ruchu.protection.running import Run
from ruchu.protection.sampling import Sample
from ruchu.repository.chains import Chain, ProtectedObject
from ruchu.repository.heads import Head
from ruchu.repository.repositories import Repository
from ruchu.repository.writing import PointWriter

OBJECT_KIND = "image"
DISK = "disk0"


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a backup of an image did.

    Attributes:
        head: the point as committed.
        size: bytes of the image.
        bytes_read: bytes read to be backed up.
        bytes_stored: bytes added to the storage.
        seconds: how long it took.
        reasons: why it is not what was asked for, if it is not.
        sample: the cross-check of blocks that the change list leaves out; None without a list.
        source_changed: the image changed while it was read.
        left_out: by reason, bytes that were not saved because they do not count.
        image_format: format of the image that the disk was read out of; "raw" for none.
    """

    head: Head
    size: int
    bytes_read: int
    bytes_stored: int
    seconds: float
    reasons: tuple[Reason, ...]
    sample: Sample | None
    source_changed: bool
    left_out: Mapping[str, int]
    image_format: str


@dataclass(frozen=True, slots=True)
class _Source:
    """What is backed up: the disk, and the files or the device that it lies in."""

    disk: BlockReader
    path: Path
    image_format: str
    files: tuple[Path, ...]
    before: tuple[tuple[int, ...], ...]

    def changed(self) -> bool:
        """Tell whether a file is not what it was before it was opened."""
        return _states(self.files) != self.before


def back_up_image(
    repository: Repository,
    name: str,
    path: Path,
    kind: Kind,
    changes: Path | None = None,
    run: Run | None = None,
) -> BackupResult:
    """Back up the disk in an image, or a block device; it is opened read-only.

    What is stored is what a guest sees, whatever the format of the image (`blocks.formats`).

    Args:
        repository: where to.
        name: the protected object, under which later runs find the chain again.
        path: the image or device.
        kind: a run without a base becomes a full.
        changes: list of the ranges of the disk that changed since the base (`change_lists`); only
            these are read. For a differential it must be relative to the last full.
        run: how.

    Raises:
        NotFound, UsageError: there is no such image, or the change list is wrong.
        Unsupported: the image needs another one, or something that is not known here.
        ImageDamaged: the image contradicts itself.
        ChainBusy: another run backs up the same object.
        Cancelled, Incomplete, StorageError: no point was made.
    """
    files = opening.files_of(path)
    before = _states(files)
    with contextlib.ExitStack() as stack:
        with FileReader(path) as file:
            found = opening.format_of(file) if path.is_file() else opening.RAW
        disk = stack.enter_context(opening.open_image(path))
        source = _Source(disk, path, found, files, before)
        return _back_up(repository, name, source, (kind, changes), run or Run())


def back_up_bytes(
    repository: Repository,
    name: str,
    path: Path,
    kind: Kind,
    changes: Path | None = None,
    run: Run | None = None,
) -> BackupResult:
    """Back up a file or a block device byte for byte, whatever format it may have.

    Arguments and errors are those of `back_up_image`.
    """
    before = _states((path,))
    with FileReader(path) as disk:
        source = _Source(disk, path, opening.RAW, (path,), before)
        return _back_up(repository, name, source, (kind, changes), run or Run())


def _back_up(
    repository: Repository,
    name: str,
    source: _Source,
    request: tuple[Kind, Path | None],
    run: Run,
) -> BackupResult:
    clock = repository.surroundings.clock
    began = clock.monotonic()
    kind, changes = request
    size = source.disk.size
    listed = change_lists.read(changes, size) if changes is not None else None
    chain = _chain(repository, name, size)
    with chain.exclusive("backup") as lock:
        base = bases.choose(chain, kind)
        with PointWriter(chain, lock, base.kind, base.head, level=run.level) as writer:
            result = _save(source, chain, writer, listed, run, base.reasons)
    return replace(result, seconds=clock.monotonic() - began)


def _save(
    source: _Source,
    chain: Chain,
    writer: PointWriter,
    listed: list[Extent] | None,
    run: Run,
    reasons: tuple[Reason, ...],
) -> BackupResult:
    """Copy the image and commit the point."""
    clock = chain.surroundings.clock
    began, time = clock.monotonic(), clock.now()
    trims = trimming.survey({DISK: source.disk}, run.leave_out, chain.block_size, frozen=False)
    job = plans.Job(source.disk, chain, writer, DISK, trims.get(DISK))
    plan = plans.everything()
    if listed is not None:
        plan = plans.changes_only(job, listed, run)
    done = plans.carry_out(plan, job, source.path.name, run)
    changed = source.changed()
    reasons += plan.reasons + (job.trim.reasons if job.trim is not None else ())
    degraded = {"degraded": plans.reason_fields(reasons)}
    writer.describe_disk(DISK, {**plan.facts(), **done.facts(), **degraded})
    seconds = clock.monotonic() - began
    facts = _facts(source, done.progress.data, seconds, source_changed=changed)
    head = writer.commit(time, facts)
    return BackupResult(
        head=head,
        size=source.disk.size,
        bytes_read=done.progress.data,
        bytes_stored=writer.bytes_stored,
        seconds=seconds,
        reasons=reasons,
        sample=plan.sample,
        left_out=done.left_out,
        source_changed=changed,
        image_format=source.image_format,
    )


def _chain(repository: Repository, name: str, size: int) -> Chain:
    what = ProtectedObject(OBJECT_KIND, name)
    return repository.find_chain(what) or repository.create_chain(what, size)


def _states(paths: tuple[Path, ...]) -> tuple[tuple[int, ...], ...]:
    """Return what tells changed files from unchanged ones; nothing does so for a device."""
    return tuple(_state(path) for path in paths)


def _state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise NotFound(f"({path}: {error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _facts(
    source: _Source, bytes_read: int, seconds: float, *, source_changed: bool
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "bytes_read": bytes_read,
        "seconds": round(seconds, 3),
        "source": os.fspath(source.path),
        "device": source.path.is_block_device(),
    }
    if source.image_format != opening.RAW:
        facts["format"] = source.image_format
    if source_changed:
        facts["source_changed"] = True
    return facts
