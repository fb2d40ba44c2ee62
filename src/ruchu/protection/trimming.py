"""Leaving out of a backup what does not count in the guest (`guests.extraction`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ruchu.blocks.devices import BlockReader
from ruchu.errors import RuchuError
from ruchu.guests import extraction, ranges
from ruchu.guests.contract import Ranges
from ruchu.guests.extraction import InUse
from ruchu.model.extents import Content, Extent
from ruchu.model.sources import Reason
from ruchu.protection import lacking


@dataclass(frozen=True, slots=True)
class Trim:
    """What of one disk is left out.

    Attributes:
        key: the disk.
        left_out: reason → ranges of whole blocks; disjoint.
        whole: all of them, joined.
        size: bytes of the disk.
        reasons: why parts were not left out, although it was asked for.
    """

    key: str
    left_out: Mapping[str, Ranges]
    whole: Ranges
    size: int
    reasons: tuple[Reason, ...] = ()

    def trimmed(self, extents: Iterable[Extent]) -> tuple[list[Extent], dict[str, int]]:
        """Return extents with zeros for what is left out, and the bytes not read, by reason.

        Args:
            extents: sorted, disjoint, whole blocks; DATA or ZERO.
        """
        listed = list(extents)
        data = _ranges(each for each in listed if not each.reads_as_zeros)
        zero = _ranges(each for each in listed if each.reads_as_zeros)
        saved = {
            reason: ranges.total(ranges.intersection(data, found, self.size))
            for reason, found in self.left_out.items()
        }
        dropped = ranges.intersection(data, self.whole, self.size)
        kept = ranges.difference(data, dropped, self.size)
        pieces = [*_extents(kept, Content.DATA)]
        pieces += _extents(ranges.union(zero, dropped), Content.ZERO)
        pieces.sort(key=lambda extent: extent.start)
        return pieces, {reason: count for reason, count in saved.items() if count}

    def lacks(self, extents: Iterable[Extent], base_lacks: Ranges, *, on_base: bool) -> Ranges:
        """Return which bytes the point will lack: left out now, and not in the base either.

        Args:
            extents: what is read or zeroed, before it is trimmed.
            base_lacks: what the base lacks.
            on_base: the blocks that are not listed are those of the base.
        """
        if not on_base:
            return self.whole
        unknown = ranges.union(base_lacks, _ranges(extents))
        return ranges.intersection(unknown, self.whole, self.size)


def survey(
    disks: Mapping[str, BlockReader], wanted: frozenset[str], block: int, *, frozen: bool
) -> dict[str, Trim]:
    """Return what may be left out of each disk of a guest; nothing is asked of the disks for none.

    Args:
        disks: the disks of the point by key.
        wanted: reasons (`extraction.REASONS`).
        block: bytes of a block of the chain: only whole ones are left out.
        frozen: the guest's file systems were frozen at the moment of the point.

    Raises:
        RuchuError: a disk could not be read.
    """
    try:
        found = extraction.in_use(disks, wanted, frozen=frozen) if wanted else {}
    except RuchuError:
        raise
    except Exception as error:  # noqa: BLE001 - a fault of ours in a reader must cost no backup
        told = f"what counts on it could not be told ({error!r})"
        found = {key: InUse(disk.size, doubts=[f"{key}: {told}"]) for key, disk in disks.items()}
    return {key: _trim(key, each, block) for key, each in found.items()}


def _trim(key: str, found: InUse, block: int) -> Trim:
    if not lacking.fits(found.size, block):
        # What a point lacks must be known, or an increment upon it may be wrong.
        reason = Reason(
            "counts-as-whole", f"{key}: the disk is too large to leave anything out", key
        )
        return Trim(key, {}, ranges.empty(), found.size, (reason,))
    # Neighbours of two reasons share a block that may go, so the sum is cut into blocks first.
    everything = ranges.union(*found.left_out.values()) if found.left_out else ranges.empty()
    whole = _whole_blocks(everything, block, found.size)
    left_out = {
        reason: ranges.intersection(each, whole, found.size)
        for reason, each in found.left_out.items()
    }
    reasons = tuple(Reason("counts-as-whole", text, key) for text in found.doubts)
    return Trim(key, left_out, whole, found.size, reasons)


def _whole_blocks(found: Ranges, block: int, size: int) -> Ranges:
    """Return the whole blocks inside ranges; the last block of a disk may be short."""
    firsts = -(-found[:, 0] // block) * block
    ends = np.where(found[:, 1] >= size, size, found[:, 1] // block * block)
    rows = np.column_stack((firsts, ends))
    return ranges.joined(rows)


def _ranges(extents: Iterable[Extent]) -> Ranges:
    return ranges.of_pairs((extent.start, extent.end) for extent in extents)


def extents_of(found: Ranges) -> list[Extent]:
    """Return ranges as extents of data."""
    return _extents(found, Content.DATA)


def _extents(found: Ranges, content: Content) -> list[Extent]:
    return [Extent(first, end - first, content) for first, end in found.tolist()]
