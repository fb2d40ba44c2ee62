"""Run lists: where the clusters of an attribute lie.

Source: the Linux-NTFS documentation, `Data Runs`. A run is a byte that tells the sizes of two
numbers, the number of clusters, and the distance from where the last run began; a run without
distance is a hole.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ruchu.errors import GuestDamaged

RUNS_MAX = 1 << 21
"""Windows stops at about 1.5 million fragments of a file; more is an attack."""
CLUSTERS_MAX = 1 << 50
"""No run goes on for longer: sizes in bytes stay far inside 63 bits."""

HOLE = -1
"""The place of a run that is not on the volume."""

Rows = npt.NDArray[np.int64]
"""Shape (n, 3): first byte, byte after the last, place on the volume in bytes or `HOLE`."""


def decoded(packed: bytes, cluster: int, clusters: int) -> Iterator[tuple[int, int]]:
    """Yield (clusters, first cluster or `HOLE`) of a packed run list.

    Raises:
        GuestDamaged: a run is not on the volume, has no length, or is cut off.
    """
    at, place, end = 0, 0, len(packed)
    limit = CLUSTERS_MAX // cluster
    while at < end and (sizes := packed[at]):
        middle = at + 1 + (sizes & 15)
        after = middle + (sizes >> 4)
        length = int.from_bytes(packed[at + 1 : middle], "little")
        if after > end or not 0 < length <= limit:
            raise GuestDamaged("(a run list is cut off or absurd)")
        if after == middle:
            yield length, HOLE
        else:
            place += int.from_bytes(packed[middle:after], "little", signed=True)
            if place < 0 or place + length > clusters:
                raise GuestDamaged(f"(a run of {length} clusters at {place} of {clusters})")
            yield length, place
        at = after


class RunCollector:
    """Puts the run lists of an attribute's parts together, in order."""

    def __init__(self, cluster: int, clusters: int) -> None:
        self._cluster = cluster
        self._clusters = clusters
        self._rows: list[list[int]] = []
        self._end = 0

    def add(self, first: int, packed: bytes) -> None:
        """Append the part that begins at cluster `first` of the attribute.

        Raises:
            GuestDamaged: it does not continue what is there, or makes more runs than may be.
        """
        cluster, rows, at = self._cluster, self._rows, self._end
        if first * cluster != at:
            raise GuestDamaged(f"(a run list goes on at cluster {first}, not at {at // cluster})")
        for length, place in decoded(packed, cluster, self._clusters):
            end = at + length * cluster
            where = place * cluster if place != HOLE else HOLE
            if rows and _continues(rows[-1], where):
                rows[-1][1] = end
            else:
                rows.append([at, end, where])
            at = end
        if len(rows) > RUNS_MAX or at > CLUSTERS_MAX:
            raise GuestDamaged(f"({len(rows)} runs of {at} bytes: more than may be)")
        self._end = at

    def rows(self) -> Rows:
        """Return the runs so far; those that touch on the volume are one."""
        return np.array(self._rows, np.int64).reshape(-1, 3)


def _continues(row: list[int], where: int) -> bool:
    if where == HOLE or row[2] == HOLE:
        return where == row[2]
    return row[2] + row[1] - row[0] == where


def pieces(rows: Rows, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first, after the last, place or `HOLE`) of what lies in start..end, in order."""
    first = max(int(rows[:, 0].searchsorted(start, "right")) - 1, 0)
    last = int(rows[:, 0].searchsorted(end, "left"))
    step = 4096
    for base in range(first, last, step):
        for low, high, place in rows[base : min(base + step, last)].tolist():
            begin, stop = max(low, start), min(high, end)
            if begin < stop:
                yield begin, stop, place if place == HOLE else place + begin - low
