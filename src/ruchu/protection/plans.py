"""What to read of a disk: what a list of changes says, if it can be trusted, or all of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruchu.blocks import copying
from ruchu.blocks.devices import BlockReader
from ruchu.errors import Damaged
from ruchu.guests import ranges
from ruchu.guests.contract import Ranges
from ruchu.model.extents import Extent, aligned, total
from ruchu.model.sources import Reason
from ruchu.protection import lacking, sampling, trimming
from ruchu.protection.running import Run
from ruchu.protection.sampling import Sample
from ruchu.protection.trimming import Trim
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
        base_lacks: what the base lacks of the disk, if it is built upon.
    """

    extents: list[Extent] | None
    on_base: bool
    reasons: tuple[Reason, ...] = ()
    sample: Sample | None = None
    base_lacks: Ranges = field(default_factory=ranges.empty)

    def facts(self) -> dict[str, Any]:
        """Return it for the disk in the head."""
        facts: dict[str, Any] = {"read": "changes" if self.on_base else "all"}
        if self.sample is not None:
            facts["sample"] = self.sample.facts()
        return facts


def everything(*reasons: Reason) -> Plan:
    """Return the plan to read all that is allocated."""
    return Plan(None, on_base=False, reasons=reasons)


@dataclass(frozen=True, slots=True)
class Job:
    """One disk that goes into a point.

    Attributes:
        source: the disk.
        chain: where the point goes.
        writer: the point being written; it knows the base.
        disk: name of the disk in the point.
        trim: what is left out of it; None for nothing.
    """

    source: BlockReader
    chain: Chain
    writer: PointWriter
    disk: str
    trim: Trim | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What was done with one disk: the copy, and by reason the bytes that were left out of it."""

    progress: copying.Progress
    left_out: Mapping[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return it for the disk in the head."""
        facts: dict[str, Any] = {"bytes_read": self.progress.data}
        if self.left_out:
            facts["left_out"] = dict(self.left_out)
        return facts


def changes_only(job: Job, changes: Iterable[Extent], run: Run) -> Plan:
    """Return the plan to read what changed since the base, or everything if that will not do.

    Args:
        job: the disk.
        changes: sorted extents.
        run: how many unchanged blocks to cross-check.
    """
    source, disk, writer, block = job.source, job.disk, job.writer, job.chain.block_size
    if writer.base is None:
        # A full reads everything, whatever is known.
        return everything()
    entry, base_map = writer.base.disk(disk), writer.base_map(disk, source.size)
    if entry is None or entry.name != disk or base_map is None:
        return everything(_no_base(disk, known=entry is not None and entry.name == disk))
    try:
        lacks = lacking.of_point(job.chain, writer.base, disk)
    except Damaged as error:
        return everything(Reason("left-out-unknown", str(error), disk))
    listed = list(changes)
    if base_map.size < source.size:
        listed.append(Extent(base_map.size, source.size - base_map.size))
        listed.sort(key=lambda extent: extent.start)
    # What the base lacks and counts now is read, whether it changed or not.
    whole = job.trim.whole if job.trim is not None else ranges.empty()
    counts_again = ranges.difference(lacks, whole, source.size)
    listed += trimming.extents_of(counts_again)
    listed.sort(key=lambda extent: extent.start)
    blocks = list(aligned(listed, block, source.size))
    base_disk = job.chain.disk(writer.base, entry)
    # The base says nothing of what it lacks; everything else must be as it was.
    looked = sorted([*blocks, *trimming.extents_of(lacks)], key=lambda extent: extent.start)
    looked = list(aligned(looked, block, source.size))
    sample = sampling.check(source, base_disk, looked, block, (run.choose, run.sample))
    if sample.differs_at is not None:
        text = f"the map of changes leaves out a change at byte {sample.differs_at}"
        reason = Reason("sample-mismatch", text, disk)
        return Plan(None, on_base=False, reasons=(reason,), sample=sample)
    return Plan(blocks, on_base=True, sample=sample, base_lacks=lacks)


def _no_base(disk: str, *, known: bool) -> Reason:
    if known:
        return Reason("disk-resized", "the disk is smaller than in the base", disk)
    return Reason("disk-new", "the base does not have this disk", disk)


def carry_out(plan: Plan, job: Job, label: str, run: Run) -> Done:
    """Copy what a plan says into the point; `label` is the name of its progress."""
    target = job.writer.open_disk(job.disk, job.source.size, on_base=plan.on_base)
    extents = plan.extents
    if extents is None:
        extents = list(aligned(job.source.extents(), job.chain.block_size, job.source.size))
    left_out: dict[str, int] = {}
    lacks = ranges.empty()
    if job.trim is not None:
        lacks = job.trim.lacks(extents, plan.base_lacks, on_base=plan.on_base)
        extents, left_out = job.trim.trimmed(extents)
    progress = copying.Progress(total(extents))
    run.watch(label, progress)
    copying.copy(
        job.source, extents, target,
        workers=run.workers, progress=progress, cancelled=run.cancelled,
    )  # fmt: skip
    if len(lacks):
        content = lacking.encode(lacks, job.source.size, job.chain.block_size)
        job.writer.attach(lacking.PREFIX + job.disk, content)
    return Done(progress, left_out)


def reason_fields(reasons: Iterable[Reason]) -> list[dict[str, str]]:
    """Return reasons for a document."""
    return [{"code": reason.code, "text": reason.text, "disk": reason.disk} for reason in reasons]
