"""Keeping what a machine wrote while it ran from a point: as a new point of the same chain."""

from ruchu.blocks import copying
from ruchu.blocks.overlay import Overlay
from ruchu.model.extents import aligned, total
from ruchu.model.sources import Kind
from ruchu.recovery.exporting import opened_cache
from ruchu.recovery.instant_records import Instant
from ruchu.recovery.running import Run
from ruchu.repository.chains import Chain
from ruchu.repository.heads import DiskEntry, Head
from ruchu.repository.writing import PointWriter


def keep(chain: Chain, head: Head, instant: Instant, run: Run) -> Head:
    """Write a new point: the old one, with what the write caches hold. The export has ended.

    The point is incremental, on the one that was run. It names no moment on the source, so the
    next backup of the machine reads everything, and stores what differs.

    Raises:
        ChainBusy: another run writes to the chain; nothing is lost, stop again later.
        CacheDamaged, CacheMismatch, Damaged, StorageError: no point was made.
    """
    clock = chain.surroundings.clock
    began = clock.monotonic()
    with chain.exclusive("keep") as lock, PointWriter(chain, lock, Kind.INCREMENTAL, head) as point:
        moved = 0
        for entry in head.disks:
            if entry.name in instant.disks:
                with opened_cache(chain, head, entry, instant.cache_of(entry.name)) as overlay:
                    moved += _copy(chain, point, entry, overlay, run)
            else:
                point.open_disk(entry.name, entry.size, on_base=True)
        for name in head.attachments:
            point.attach(name, chain.attachment(head, name))
        facts = {
            "bytes_read": moved,
            "seconds": round(clock.monotonic() - began, 3),
            "kept_from": head.point,
            "instant": instant.id,
            "consistency": "filesystem",
            "change_ref": None,
            **{key: head.facts[key] for key in _COPIED if key in head.facts},
        }
        return point.commit(clock.now(), facts)


_COPIED = ("platform", "platform_kind", "machine")


def _copy(chain: Chain, point: PointWriter, entry: DiskEntry, overlay: Overlay, run: Run) -> int:
    """Store the blocks of a disk that its cache touches."""
    target = point.open_disk(entry.name, overlay.size, on_base=True)
    extents = list(aligned(overlay.written(), chain.block_size, overlay.size))
    progress = copying.Progress(total(extents))
    run.watch(entry.name, progress)
    copying.copy(
        overlay, extents, target,
        workers=run.workers, progress=progress, cancelled=run.cancelled,
    )  # fmt: skip
    point.describe_disk(entry.name, {"read": "changes", "bytes_read": progress.data})
    return progress.data
