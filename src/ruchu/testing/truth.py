"""Judges of bytes: reads points into plain files, and lets qemu-img compare them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from ruchu import commands
from ruchu.blocks.devices import BlockReader, BlockWriter
from ruchu.errors import CommandFailed
from ruchu.model.extents import Extent
from ruchu.units import MIB

COMPARE_LIMIT_S = 120.0
PIECE = 1 * MIB


class Addressed(Protocol):
    """A disk that other programs can read, too."""

    @property
    def uri(self) -> str:
        """Where, as qemu-img understands it."""


def save(disk: BlockReader, path: Path) -> None:
    """Write what a disk holds to a new sparse file."""
    with path.open("xb") as file:
        file.truncate(disk.size)
    apply_extents(disk, (each for each in disk.extents() if not each.reads_as_zeros), path)


def apply_extents(disk: BlockReader, extents: Iterable[Extent], path: Path) -> int:
    """Bring a file up to date in these ranges of a disk; return how many bytes they were."""
    count = 0
    with path.open("r+b") as file:
        file.truncate(disk.size)
        for extent in extents:
            count += extent.length
            for start in range(extent.start, extent.end, PIECE):
                data = bytearray(min(PIECE, extent.end - start))
                if not extent.reads_as_zeros:
                    disk.read_into(start, memoryview(data))
                file.seek(start)
                file.write(data)
    return count


def load(path: Path, sink: BlockWriter) -> None:
    """Write a file to a new disk, which reads as zeros; zeros are skipped."""
    with path.open("rb") as file:
        start = 0
        while data := file.read(PIECE):
            if data != bytes(len(data)):
                sink.write(start, memoryview(data))
            start += len(data)


def same(path: Path, other: str | Path, other_format: str = "raw") -> bool:
    """Tell whether a raw file and an image (path or URI) hold the same, as qemu-img sees it.

    Raises:
        CommandFailed: qemu-img could not compare them.
    """
    args = ["qemu-img", "compare", "-U", "-f", "raw", "-F", other_format, str(path), str(other)]
    done = commands.run(args, timeout_s=COMPARE_LIMIT_S, check=False)
    if done.status > 1:
        raise CommandFailed(f"qemu-img compare: {done.stderr}")
    return done.status == 0
