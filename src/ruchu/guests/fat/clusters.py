"""Clusters, and the table that says which one follows which. FAT and exFAT share it."""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.errors import GuestDamaged

FIRST = 2
"""Number of the first cluster of the heap."""

Run = tuple[int, int]
"""First cluster, and how many lie one after the other."""


@dataclass(frozen=True, slots=True)
class Heap:
    """Where clusters lie: positions in bytes of the volume."""

    start: int
    cluster: int
    count: int

    def position(self, number: int, count: int = 1) -> int:
        """Return where a cluster begins.

        Raises:
            GuestDamaged: it, or one of the `count` from there on, does not exist.
        """
        if not FIRST <= number <= number + count <= self.count + FIRST:
            raise GuestDamaged(f"cluster {number} of {self.count}")
        return self.start + (number - FIRST) * self.cluster

    @property
    def end(self) -> int:
        """First byte after the last cluster."""
        return self.start + self.count * self.cluster


class Chains:
    """The table of successors, index by cluster number. Never changes; safe in threads."""

    def __init__(self, successors: npt.NDArray[np.uint32], end_mark: int) -> None:
        """Take the table; numbers from `end_mark` on end a chain."""
        self.successors = successors
        self._end_mark = end_mark

    @functools.cached_property
    def _breaks(self) -> npt.NDArray[np.int64]:
        """Clusters whose successor is not the next one."""
        following = np.arange(1, len(self.successors) + 1, dtype=np.uint32)
        return np.flatnonzero(self.successors != following)

    def runs(self, first: int, most: int) -> list[Run]:
        """Return the chain from a cluster on, `most` clusters of it at most.

        Raises:
            GuestDamaged: it leads out of the table, or in a circle.
        """
        found: list[Run] = []
        table, breaks = self.successors, self._breaks
        total, at = 0, first
        while total < most:
            if not FIRST <= at < len(table):
                raise GuestDamaged(f"a chain of clusters leads to {at}")
            index = int(np.searchsorted(breaks, at))
            last = int(breaks[index]) if index < len(breaks) else len(table) - 1
            count = min(last - at + 1, most - total)
            found.append((at, count))
            total += count
            if total >= len(table):
                raise GuestDamaged(f"the chain from cluster {first} leads in a circle")
            at = int(table[last])
            if at >= self._end_mark:
                break
        return found
