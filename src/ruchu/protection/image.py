"""Backing up a disk image or a block device of this host."""

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruchu.blocks.files import FileReader
from ruchu.errors import NotFound, Unsupported
from ruchu.model.extents import Extent
from ruchu.model.sources import Kind, Reason
from ruchu.protection import bases, change_lists, plans
from ruchu.protection.running import Run
from ruchu.protection.sampling import Sample
from ruchu.repository.chains import Chain, ProtectedObject
from ruchu.repository.heads import Head
from ruchu.repository.repositories import Repository
from ruchu.repository.writing import PointWriter

OBJECT_KIND = "image"
DISK = "disk0"
# Formats whose bytes are not those that a guest sees, by how they begin.
_FORMATS = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "VMDK",
    b"COWD": "VMDK",
    b"# Disk DescriptorFile": "VMDK",
    b"vhdxfile": "VHDX",
    b"conectix": "VHD",
}
_MAGIC_BYTES = 32


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
    """

    head: Head
    size: int
    bytes_read: int
    bytes_stored: int
    seconds: float
    reasons: tuple[Reason, ...]
    sample: Sample | None
    source_changed: bool


def back_up_image(
    repository: Repository,
    name: str,
    path: Path,
    kind: Kind,
    changes: Path | None = None,
    run: Run | None = None,
) -> BackupResult:
    """Back up a raw image or a block device; it is opened read-only.

    Args:
        repository: where to.
        name: the protected object, under which later runs find the chain again.
        path: the image or device.
        kind: a run without a base becomes a full.
        changes: list of the ranges that changed since the base (`change_lists`); only these are
            read. For a differential it must be relative to the last full.
        run: how.

    Raises:
        NotFound, UsageError: there is no such image, or the change list is wrong.
        Unsupported: the image has a format of its own.
        ChainBusy: another run backs up the same object.
        Cancelled, Incomplete, StorageError: no point was made.
    """
    run = run or Run()
    clock = repository.surroundings.clock
    began = clock.monotonic()
    refuse_formats(path)
    with FileReader(path) as source:
        listed = change_lists.read(changes, source.size) if changes is not None else None
        chain = _chain(repository, name, source.size)
        with chain.exclusive("backup") as lock:
            base = bases.choose(chain, kind)
            with PointWriter(chain, lock, base.kind, base.head, level=run.level) as writer:
                result = _save(source, chain, writer, listed, run, base.reasons)
    return replace(result, seconds=clock.monotonic() - began)


def _save(
    source: FileReader,
    chain: Chain,
    writer: PointWriter,
    listed: list[Extent] | None,
    run: Run,
    reasons: tuple[Reason, ...],
) -> BackupResult:
    """Copy the image and commit the point."""
    clock = chain.surroundings.clock
    began, time, before = clock.monotonic(), clock.now(), _state(source.path)
    plan = plans.everything()
    if listed is not None:
        plan = plans.changes_only(source, listed, chain, writer, DISK, run)
    names = (DISK, source.path.name)
    progress = plans.carry_out(plan, source, chain, writer, names, run)
    after = _state(source.path)
    changed = after != before or after not in {(), (*after[:2], source.size, *after[3:])}
    reasons += plan.reasons
    writer.describe_disk(DISK, {**plan.facts(), "degraded": plans.reason_fields(reasons)})
    seconds = clock.monotonic() - began
    facts = _facts(source.path, progress.data, seconds, source_changed=changed)
    head = writer.commit(time, facts)
    return BackupResult(
        head=head,
        size=source.size,
        bytes_read=progress.data,
        bytes_stored=writer.bytes_stored,
        seconds=seconds,
        reasons=reasons,
        sample=plan.sample,
        source_changed=changed,
    )


def refuse_formats(path: Path) -> None:
    """Refuse a file of a format whose bytes are not those of the disk in it.

    A device is taken as it is: what a guest wrote at its start must not decide.

    Raises:
        NotFound: it cannot be read.
        Unsupported: it is such a file.
    """
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            front = file.read(_MAGIC_BYTES)
    except OSError as error:
        raise NotFound(f"({path}: {error.strerror})") from None
    for magic, name in _FORMATS.items():
        if front.startswith(magic):
            hint = (
                f"Convert it (`qemu-img convert -O raw`), attach it (`qemu-nbd --read-only`) and "
                f"back up the device, or back up the machine: `ruchu backup vm`. It is {name}."
            )
            raise Unsupported(f"({path} is a {name} image, not a raw one)", hint=hint)


def _chain(repository: Repository, name: str, size: int) -> Chain:
    what = ProtectedObject(OBJECT_KIND, name)
    return repository.find_chain(what) or repository.create_chain(what, size)


def _state(path: Path) -> tuple[int, ...]:
    """Return what tells a changed file from an unchanged one; nothing does so for a device."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _facts(path: Path, bytes_read: int, seconds: float, *, source_changed: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "bytes_read": bytes_read,
        "seconds": round(seconds, 3),
        "source": os.fspath(path),
        "device": path.is_block_device(),
    }
    if source_changed:
        facts["source_changed"] = True
    return facts
