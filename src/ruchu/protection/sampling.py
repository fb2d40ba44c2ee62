"""Cross-check of blocks that a change map says are unchanged.

A map that forgot a change would make every later point wrong, and nothing else would notice. So a
few of the blocks that were not to be read are read all the same, and compared with the base.
"""

import bisect
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ruchu.blocks.devices import BlockReader
from ruchu.model.extents import Extent

# Shares of the unchanged blocks for which the chance of an oversight is stated.
_SHARES = (0.01, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a cross-check found: blocks compared, out of how many, and where the first differs."""

    blocks: int
    unchanged: int
    differs_at: int | None = None

    def unseen(self, share: float) -> float:
        """Return the chance that a map wrong in this share of the unchanged blocks passed."""
        return (1.0 - share) ** self.blocks if self.blocks < self.unchanged else 0.0

    def facts(self) -> dict[str, Any]:
        """Return it for a head: `unseen` maps a share of wrong blocks to the chance."""
        return {
            "blocks": self.blocks,
            "unchanged": self.unchanged,
            "unseen": {f"{share:g}": round(self.unseen(share), 6) for share in _SHARES},
        }


def check(
    source: BlockReader,
    base: BlockReader,
    changed: Sequence[Extent],
    block: int,
    run: tuple[random.Random, int],
) -> Sample:
    """Compare a sample of the unchanged blocks of a disk with those of its base.

    Args:
        source: the disk now.
        base: the disk of the point that `changed` is relative to; it may be smaller.
        changed: sorted, disjoint extents of whole blocks.
        block: bytes of a block.
        run: what chooses, and how many blocks to compare.
    """
    choose, count = run
    gaps = _gaps(changed, block, source.size)
    # ends[i]: unchanged blocks up to the end of gap i.
    ends = list(itertools.accumulate(last - first for first, last in gaps))
    unchanged = ends[-1] if ends else 0
    picked = sorted(choose.sample(range(unchanged), min(count, unchanged)))
    for rank in picked:
        gap = bisect.bisect_right(ends, rank)
        number = gaps[gap][1] - (ends[gap] - rank)
        if not _same(source, base, number * block, block):
            return Sample(len(picked), unchanged, number * block)
    return Sample(len(picked), unchanged)


def _gaps(changed: Sequence[Extent], block: int, size: int) -> list[tuple[int, int]]:
    """Return first and last (exclusive) block of each gap between extents."""
    gaps = []
    at = 0
    for extent in changed:
        if extent.start // block > at:
            gaps.append((at, extent.start // block))
        at = -(-extent.end // block)
    if at * block < size:
        gaps.append((at, -(-size // block)))
    return gaps


def _same(source: BlockReader, base: BlockReader, start: int, block: int) -> bool:
    length = min(block, source.size - start)
    now, before = bytearray(length), bytearray(length)
    source.read_into(start, memoryview(now))
    known = min(length, base.size - start)
    if known > 0:
        base.read_into(start, memoryview(before)[:known])
    return now == before
