"""Arithmetic of ranges of several disks: key of the disk to ranges of it."""

from collections.abc import Iterable, Mapping

from ruchu.guests import ranges
from ruchu.guests.contract import Ranges

PerDisk = dict[str, Ranges]


def add(target: PerDisk, more: Mapping[str, Ranges]) -> None:
    """Add ranges to those of the same disk."""
    for key, what in more.items():
        target[key] = ranges.union(target[key], what) if key in target else what


def joined(many: Iterable[Mapping[str, Ranges]]) -> PerDisk:
    """Return what is in any of them."""
    listed = list(many)
    keys = {key for one in listed for key in one}
    return {key: ranges.union(*(one[key] for one in listed if key in one)) for key in keys}


def without(one: Mapping[str, Ranges], other: Mapping[str, Ranges]) -> PerDisk:
    """Return what is in the first and not in the second."""
    return {
        key: ranges.difference(what, other.get(key, ranges.empty()), _end(what))
        for key, what in one.items()
    }


def common(one: Mapping[str, Ranges], other: Mapping[str, Ranges]) -> PerDisk:
    """Return what is in both."""
    return {
        key: ranges.intersection(what, other.get(key, ranges.empty()), _end(what))
        for key, what in one.items()
    }


def _end(what: Ranges) -> int:
    return int(what[-1, 1]) if len(what) else 0
