"""What to read of a disk: what a list of changes says, if it can be trusted, or all of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ruchu.blocks import copying
from ruchu.blocks.devices import BlockReader
from ruchu.model.extents import Extent, aligned, total
from ruchu.model.sources import Reason
from ruchu.protection import sampling
from ruchu.protection.running import Run
from ruchu.protection.sampling import Sample
from ruchu.repository.chains import Chain
from ruchu.repository.writing import PointWriter


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read of a disk.

    Attributes:
        extents: whole blocks, sorted; None: everything that the source says is allocated.
        on_base: the other blocks are those of the base; otherwise they are zeros.
        reasons: why all is read although changes were given.
        sample: the cross-check of the blocks that are not read; None if there was none.
    """

    extents: list[Extent] | None
    on_base: bool
    reasons: tuple[Reason, ...] = ()
    sample: Sample | None = None

    def facts(self) -> dict[str, Any]:
        """Return it for the disk in the head."""
        facts: dict[str, Any] = {"read": "changes" if self.on_base else "all"}
        if self.sample is not None:
            facts["sample"] = self.sample.facts()
        return facts


def everything(*reasons: Reason) -> Plan:
    """Return the plan to read all that is allocated."""
    return Plan(None, on_base=False, reasons=reasons)


def changes_only(
    source: BlockReader,
    changes: Iterable[Extent],
    chain: Chain,
    writer: PointWriter,
    disk: str,
    run: Run,
) -> Plan:
    """Return the plan to read what changed since the base, or everything if that will not do.

    Args:
        source: the disk.
        changes: sorted extents.
        chain: where the base is.
        writer: the point being written; it knows the base.
        disk: name of the disk in the point.
        run: how many unchanged blocks to cross-check.
    """
    if writer.base is None:
        # A full reads everything, whatever is known.
        return everything()
    entry = writer.base.disk(disk)
    base_map = writer.base_map(disk, source.size)
    if entry is None or entry.name != disk:
        return everything(Reason("disk-new", "the base does not have this disk", disk))
    if base_map is None:
        return everything(Reason("disk-resized", "the disk is smaller than in the base", disk))
    listed = list(changes)
    if base_map.size < source.size:
        listed.append(Extent(base_map.size, source.size - base_map.size))
        listed.sort(key=lambda extent: extent.start)
    blocks = list(aligned(listed, chain.block_size, source.size))
    base_disk = chain.disk(writer.base, entry)
    draw = (run.choose, run.sample)
    sample = sampling.check(source, base_disk, blocks, chain.block_size, draw)
    if sample.differs_at is not None:
        text = f"the map of changes leaves out a change at byte {sample.differs_at}"
        reason = Reason("sample-mismatch", text, disk)
        return Plan(None, on_base=False, reasons=(reason,), sample=sample)
    return Plan(blocks, on_base=True, sample=sample)


def carry_out(
    plan: Plan, source: BlockReader, chain: Chain, writer: PointWriter, names: tuple[str, str],
    run: Run,
) -> copying.Progress:  # fmt: skip
    """Copy what a plan says into the point; `names` are those of the disk and of its progress."""
    disk, label = names
    target = writer.open_disk(disk, source.size, on_base=plan.on_base)
    extents = plan.extents
    if extents is None:
        extents = list(aligned(source.extents(), chain.block_size, source.size))
    progress = copying.Progress(total(extents))
    run.watch(label, progress)
    return copying.copy(
        source, extents, target,
        workers=run.workers, progress=progress, cancelled=run.cancelled,
    )  # fmt: skip


def reason_fields(reasons: Iterable[Reason]) -> list[dict[str, str]]:
    """Return reasons for a document."""
    return [{"code": reason.code, "text": reason.text, "disk": reason.disk} for reason in reasons]
