"""Restoring in full: one disk into a file or onto a device, or a whole machine."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ruchu.blocks import copying
from ruchu.blocks.devices import BlockWriter
from ruchu.blocks.files import FileWriter
from ruchu.errors import Damaged, NotFound, UsageError
from ruchu.model import configurations
from ruchu.model.machines import MachineSpec, Placement
from ruchu.platforms.contract import Platform, SinkDisk
from ruchu.recovery.running import Run, leased
from ruchu.repository.chains import Chain
from ruchu.repository.heads import DiskEntry, Head


@dataclass(frozen=True, slots=True)
class ImageRestored:
    """What a restore of a disk did: bytes of the disk, of them read from the storage, time."""

    size: int
    bytes: int
    seconds: float
    leased: bool


@dataclass(frozen=True, slots=True)
class MachineRestored:
    """What a restore of a machine did; `machine` is its id on the platform."""

    machine: str
    disks: tuple[str, ...]
    size: int
    bytes: int
    seconds: float
    leased: bool


def restore_image(
    chain: Chain,
    head: Head,
    disk: str,
    target: Path,
    *,
    overwrite: bool = False,
    run: Run | None = None,
) -> ImageRestored:
    """Restore one disk of a point into a raw image or onto a block device.

    Args:
        chain: the chain of the point.
        head: the point.
        disk: name or number of the disk.
        target: a new file, or a device at least as large as the disk.
        overwrite: the target may exist.
        run: how.

    Raises:
        NotFound: the point has no such disk, or was deleted.
        AlreadyExists: the target exists, and `overwrite` was not given.
        Damaged: the backup is; a new file is not left behind half written.
    """
    run = run or Run()
    clock = chain.surroundings.clock
    began = clock.monotonic()
    entry = head.disk(disk)
    if entry is None:
        names = ", ".join(f"{each.number} ({each.name})" for each in head.disks)
        raise NotFound(f"(disk {disk!r} of point {head.point[:8]}; there are: {names or 'none'})")
    with (
        leased(chain, head, "restore") as is_leased,
        FileWriter(target, entry.size, overwrite=overwrite) as writer,
    ):
        progress = _copy(chain, head, entry, writer, run, fresh=writer.fresh)
        writer.finish()
    return ImageRestored(entry.size, progress.data, clock.monotonic() - began, is_leased)


def _copy(
    chain: Chain, head: Head, entry: DiskEntry, target: BlockWriter, run: Run, *, fresh: bool
) -> copying.Progress:
    """Copy a disk; a fresh target reads as zeros already, so only data is written."""
    disk = chain.disk(head, entry)
    extents = [each for each in disk.extents() if not (fresh and each.reads_as_zeros)]
    progress = copying.Progress(sum(extent.length for extent in extents))
    run.watch(entry.name, progress)
    return copying.copy(
        disk, extents, target,
        workers=run.workers, progress=progress, cancelled=run.cancelled,
    )  # fmt: skip


def machine_of(chain: Chain, head: Head) -> MachineSpec:
    """Return the machine that a point holds, with the disks that it holds of it.

    Raises:
        UsageError: it holds no machine.
        Damaged: its description is not what was written.
    """
    if configurations.SPEC not in head.attachments:
        hint = "Restore its disk: `ruchu restore image POINT TARGET`."
        raise UsageError(f"(point {head.point[:8]} holds no machine)", hint=hint)
    texts = {
        name: chain.attachment(head, name) if name in head.attachments else b""
        for name in (configurations.SPEC, configurations.NATIVE, configurations.NVRAM)
    }
    try:
        spec = configurations.from_document(
            json.loads(texts[configurations.SPEC]),
            texts[configurations.NATIVE].decode(),
            texts[configurations.NVRAM],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"machine.json of point {head.point[:8]}: {error}") from None
    saved = {disk.name for disk in head.disks}
    return replace(spec, disks=tuple(disk for disk in spec.disks if disk.key in saved))


def restore_machine(
    platform: Platform,
    chain: Chain,
    head: Head,
    placement: Placement,
    run: Run | None = None,
) -> MachineRestored:
    """Restore a machine of a point on a platform; a failure leaves nothing behind there.

    Raises:
        UsageError, NotFound: the point holds no machine, or not all the disks asked for.
        AlreadyExists: a machine of that name or identity exists, and may not be replaced.
        PlatformError, Damaged: it could not be restored.
    """
    run = run or Run()
    clock = chain.surroundings.clock
    began = clock.monotonic()
    spec = machine_of(chain, head)
    missing = set(placement.disks) - {disk.key for disk in spec.disks}
    if missing:
        raise NotFound(f"(disks {', '.join(sorted(missing))} of point {head.point[:8]})")
    with (
        leased(chain, head, "restore") as is_leased,
        platform.restore(spec, placement) as session,
    ):
        pairs = _paired(head, session.sinks)
        moved = [_copy(chain, head, entry, sink, run, fresh=True).data for entry, sink in pairs]
        machine = session.finish()
    return MachineRestored(
        machine=machine,
        disks=tuple(entry.name for entry, _ in pairs),
        size=sum(entry.size for entry, _ in pairs),
        bytes=sum(moved),
        seconds=clock.monotonic() - began,
        leased=is_leased,
    )


def _paired(head: Head, sinks: Sequence[SinkDisk]) -> list[tuple[DiskEntry, SinkDisk]]:
    entries = {entry.name: entry for entry in head.disks}
    return [(entries[sink.key], sink) for sink in sinks]
