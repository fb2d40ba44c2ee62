"""Arithmetic of byte ranges: sorted, disjoint rows of (first, after the last)."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ruchu.guests.contract import Ranges


def empty() -> Ranges:
    """Return no range."""
    return np.zeros((0, 2), np.int64)


def of_pairs(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Return ranges from (first, after the last) in any order; they may overlap."""
    listed = list(pairs)
    return joined(np.array(listed, np.int64).reshape(-1, 2))


def joined(rows: npt.NDArray[np.int64]) -> Ranges:
    """Return rows sorted, with those that overlap or touch made one, empty ones dropped."""
    rows = rows[rows[:, 1] > rows[:, 0]]
    if not len(rows):
        return empty()
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    reach = np.maximum.accumulate(rows[:, 1])
    starts = np.flatnonzero(np.concatenate(([True], rows[1:, 0] > reach[:-1])))
    ends = np.concatenate((starts[1:], [len(rows)])) - 1
    return np.column_stack((rows[starts, 0], reach[ends]))


def of_bits(bits: npt.NDArray[np.uint8 | np.bool_], unit: int, start: int = 0) -> Ranges:
    """Return the ranges of set flags (one element a flag), each `unit` bytes, from `start` on."""
    padded = np.zeros(len(bits) + 2, np.int8)
    padded[1:-1] = bits != 0
    edges = np.diff(padded)
    firsts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return (np.column_stack((firsts, ends)) * unit + start).astype(np.int64)


def union(*many: Ranges) -> Ranges:
    """Return what is in any of them."""
    return joined(np.concatenate(many)) if many else empty()


def complement(ranges: Ranges, size: int) -> Ranges:
    """Return what of 0..size is not in them."""
    edges = np.concatenate(([0], ranges.reshape(-1), [size])).reshape(-1, 2)
    clipped = np.clip(edges, 0, size)
    return clipped[clipped[:, 1] > clipped[:, 0]]


def intersection(one: Ranges, other: Ranges, size: int) -> Ranges:
    """Return what is in both, of a volume of `size` bytes."""
    return complement(union(complement(one, size), complement(other, size)), size)


def difference(one: Ranges, other: Ranges, size: int) -> Ranges:
    """Return what is in the first and not in the second."""
    return complement(union(complement(one, size), other), size)


def clipped(ranges: Ranges, first: int, end: int) -> Ranges:
    """Return what lies in first..end."""
    cut = np.clip(ranges, first, end)
    return cut[cut[:, 1] > cut[:, 0]]


def total(ranges: Ranges) -> int:
    """Return how many bytes they are."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())
