"""Lists of changed ranges that somebody else made, such as `rbd diff` or a storage array.

One range a line, `start length`, decimal bytes; sorted or not; ranges may overlap. Empty lines
and lines that begin with `#` do not count.
"""

from collections.abc import Iterable
from pathlib import Path

from ruchu.errors import NotFound, UsageError
from ruchu.model.extents import Extent

# A list longer than this describes more than any disk has blocks.
_LINES_MAX = 50_000_000
_HINT = "One range a line: `start length` in bytes, decimal, within the disk."


def read(path: Path, size: int) -> list[Extent]:
    """Return the ranges of a list, sorted and disjoint.

    Raises:
        NotFound: the file cannot be read.
        UsageError: a line is no range of a disk of `size` bytes.
    """
    try:
        with path.open(encoding="ascii", errors="replace") as lines:
            return parse(lines, size, str(path))
    except OSError as error:
        raise NotFound(f"({path}: {error.strerror})") from None


def parse(lines: Iterable[str], size: int, name: str) -> list[Extent]:
    """Return the ranges in the lines of a list, sorted and disjoint."""
    ranges: list[tuple[int, int]] = []
    for number, line in enumerate(lines, 1):
        if number > _LINES_MAX:
            raise UsageError(f"({name}: more than {_LINES_MAX} lines)", hint=_HINT)
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        start, length = _numbers(words, f"{name}, line {number}")
        if start + length > size:
            detail = f"({name}, line {number}: ends at {start + length}, the disk has {size} bytes)"
            raise UsageError(detail, hint=_HINT)
        if length:
            ranges.append((start, start + length))
    return _merged(sorted(ranges))


def _numbers(words: list[str], where: str) -> tuple[int, int]:
    if len(words) != 2 or not all(word.isdecimal() and len(word) <= 20 for word in words):
        raise UsageError(f"({where}: {' '.join(words)[:60]!r} is no range)", hint=_HINT)
    return int(words[0]), int(words[1])


def _merged(ranges: list[tuple[int, int]]) -> list[Extent]:
    merged: list[Extent] = []
    for start, end in ranges:
        if merged and start <= merged[-1].end:
            last = merged.pop()
            merged.append(Extent(last.start, max(end, last.end) - last.start))
        else:
            merged.append(Extent(start, end - start))
    return merged
