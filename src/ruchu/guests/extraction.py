"""Which bytes of a guest's disks count, and which may be left out of a backup, and why.

Whatever is not understood counts. A range is left out only if every volume that has a share in it
agrees: thin volumes share blocks, and what is free in one may be in use in another. If the guest
is hibernated, no volume is asked: its memory knows more than they tell, and needs all of its swap.

That a range is left out is true at the moment of the point only. Later it may count again without
a write: a file comes back out of the recycle bin, a partition is entered into the table again. So
a point that builds on one with something left out must read what counts now and did not then.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestError, NotFound, UsageError
from ruchu.guests import ranges, volumes
from ruchu.guests.contract import Allocation, FileSystem, NodeKind, Ranges, everything
from ruchu.guests.volumes import Layout, Volume

FREE, SWAP, GAPS = "free", "swap", "gaps"
PAGEFILE, HIBERFIL, SWAPFILE, RECYCLE = "pagefile", "hiberfil", "swapfile", "recycle-bin"
REASONS = (FREE, SWAP, PAGEFILE, HIBERFIL, SWAPFILE, GAPS, RECYCLE)
# In the root of a volume of Windows, whatever the case.
_FILES = {b"pagefile.sys": PAGEFILE, b"hiberfil.sys": HIBERFIL, b"swapfile.sys": SWAPFILE}
_BINS = {b"$recycle.bin", b"recycler", b"recycled"}
_WINDOWS = {"ntfs", "fat12", "fat16", "fat32", "exfat"}
# A bin with more is left as it is: looking through it must not take longer than saving it.
BIN_ENTRIES_MAX = 200_000
BIN_DEPTH_MAX = 64
# The end of a disk is where RAID controllers and volume managers keep what they know of it.
END_KEPT = 1 << 20
# Where partitions have types, that of the partition must say so too: a signature stays behind.
_SWAP_ROLES = ("Linux swap", "LVM")
_SLEEPS = "the guest is hibernated, and its memory may know more of the volume than is in it"


@dataclass(slots=True)
class InUse:
    """What was found on one disk.

    Attributes:
        size: bytes of the disk.
        left_out: reason → ranges of bytes that need not be saved; disjoint.
        doubts: why parts count that may be free, a sentence each.
    """

    size: int
    left_out: dict[str, Ranges] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def parse_reasons(text: str) -> frozenset[str]:
    """Return the reasons that a text such as `free,swap`, `all` or `none` names.

    `all` is all but the recycle bin, which people look into after a loss.

    Raises:
        UsageError: it names something else.
    """
    words = {word.strip() for word in text.split(",") if word.strip()}
    chosen: set[str] = set()
    if "all" in words:
        chosen |= set(REASONS) - {RECYCLE}
    chosen |= words - {"all", "none"}
    if unknown := chosen - set(REASONS):
        hint = f"all, none, or some of {', '.join(REASONS)}."
        raise UsageError(f"({', '.join(sorted(unknown))})", hint=hint)
    return frozenset(chosen)


def in_use(
    disks: Mapping[str, BlockReader], reasons: frozenset[str], *, frozen: bool
) -> Mapping[str, InUse]:
    """Return for each disk of a guest what need not be saved.

    Args:
        disks: all disks of the guest by key, as they were at the moment of the point.
        reasons: what may be left out.
        frozen: the guest's file systems were frozen at that moment.

    Raises:
        RuchuError: a disk could not be read. Never raises for what is on it.
    """
    found = {key: InUse(disk.size) for key, disk in disks.items()}
    if not reasons:
        return found
    layout = volumes.discover(disks)
    for key, doubt in layout.doubts.items():
        found[key].doubts.append(f"{key}: {doubt}")
    tally = _Tally(layout, found, reasons)
    told = [(volume, _allocation(layout, volume, frozen=frozen)) for volume in layout.leaves]
    sleeps = any(allocation.suspended for _, allocation in told)
    for volume, allocation in told:
        known = bool(allocation.doubt) or not sleeps
        tally.add(volume, allocation if known else everything(volume.device.size, _SLEEPS))
    tally.settle()
    return found


def _allocation(layout: Layout, volume: Volume, *, frozen: bool) -> Allocation:
    """Return which bytes of a volume count, also by what else is known of it."""
    if doubtful := [key for key in volume.device.disks if key in layout.doubts]:
        return everything(volume.device.size, f"a part of it lies on {', '.join(doubtful)}")
    if volume.kind == "swap" and volume.role and not volume.role.startswith(_SWAP_ROLES):
        return everything(volume.device.size, f"it looks like swap space, but is {volume.role}")
    return volumes.allocation_of(volume, frozen=frozen)


class _Tally:
    """Candidates for leaving out, and what counts, gathered over all volumes."""

    def __init__(self, layout: Layout, found: Mapping[str, InUse], reasons: frozenset[str]) -> None:
        self._layout = layout
        self._found = found
        self._reasons = reasons
        self._counts: dict[str, list[Ranges]] = {key: [] for key in found}
        self._candidates: dict[str, dict[str, list[Ranges]]] = {key: {} for key in found}

    def add(self, volume: Volume, allocation: Allocation) -> None:
        """Take in one volume and which of its bytes count."""
        size = volume.device.size
        if allocation.doubt:
            self._doubt(volume, allocation.doubt)
            self._count(volume, allocation.used)
            return
        used = allocation.used
        files = self._files(volume)
        every = ranges.union(*(placed for _, placed in files)) if files else ranges.empty()
        twice = ranges.total(every) != sum(ranges.total(placed) for _, placed in files)
        if twice or len(ranges.difference(every, used, size)):
            self._doubt(volume, "its files lie where others do, or where nothing is in use")
            self._count(volume, _all_of(size))
            return
        reason = SWAP if volume.kind == "swap" else FREE
        unused = ranges.complement(used, size)
        if reason in self._reasons:
            self._offer(volume, reason, unused)
        else:
            used = _all_of(size)
        for name, placed in files:
            self._offer(volume, name, placed)
        self._count(volume, ranges.difference(used, every, size))

    def settle(self) -> None:
        """Write down what may be left out: offered by one, and counted by none."""
        for key, found in self._found.items():
            if key in self._layout.doubts:
                continue
            counted = [*self._counts[key], self._layout.structure[key]]
            offers = self._candidates[key]
            gaps = ranges.clipped(self._layout.gaps[key], 0, found.size - END_KEPT)
            for reason, rest in ((FREE, self._layout.free[key]), (GAPS, gaps)):
                if reason in self._reasons:
                    offers.setdefault(reason, []).append(rest)
                else:
                    counted.append(rest)
            taken = ranges.union(*counted)
            for reason in REASONS:
                if reason in offers:
                    offered = ranges.union(*offers[reason])
                    left_out = ranges.difference(offered, taken, found.size)
                    taken = ranges.union(taken, left_out)
                    if len(left_out):
                        found.left_out[reason] = left_out

    def _files(self, volume: Volume) -> list[tuple[str, Ranges]]:
        """Return what of a Windows volume's files may be left out."""
        wanted = self._reasons & {PAGEFILE, HIBERFIL, SWAPFILE, RECYCLE}
        if not wanted or volume.kind not in _WINDOWS:
            return []
        try:
            return _placed_files(volumes.open_file_system(volume), wanted)
        except (GuestError, NotFound) as error:
            # Files that cannot be found count; the map of the volume stands without them.
            self._doubt(volume, f"its files could not be looked at ({error.detail})")
            return []

    def _doubt(self, volume: Volume, why: str) -> None:
        for key in volume.device.disks:
            self._found[key].doubts.append(f"{volume.name}: {why}")

    def _count(self, volume: Volume, used: Ranges) -> None:
        for key, physical in volume.device.physical(used).items():
            self._counts[key].append(physical)

    def _offer(self, volume: Volume, reason: str, unused: Ranges) -> None:
        for key, physical in volume.device.physical(unused).items():
            self._candidates[key].setdefault(reason, []).append(physical)


def _all_of(size: int) -> Ranges:
    return ranges.of_pairs([(0, size)])


def _placed_files(system: FileSystem, wanted: frozenset[str]) -> list[tuple[str, Ranges]]:
    """Return reason and place of files whose content does not count."""
    found: list[tuple[str, Ranges]] = []
    for entry in system.entries(system.root):
        name = entry.name.lower()
        if _FILES.get(name) in wanted and entry.kind is NodeKind.FILE:
            placed = _once(system, entry.node)
            if placed is not None:
                found.append((_FILES[name], placed))
        if name in _BINS and RECYCLE in wanted and entry.kind is NodeKind.DIRECTORY:
            found += [(RECYCLE, placed) for placed in _binned(system, entry.node)]
    return found


def _once(system: FileSystem, node: int) -> Ranges | None:
    """Return where a file lies; None if it has another name elsewhere, or this cannot be said."""
    return system.placed(node) if system.stat(node).links <= 1 else None


def _binned(system: FileSystem, node: int) -> list[Ranges]:
    """Return where the files of a recycle bin lie; nothing if it is larger than it should be."""
    found: list[Ranges] = []
    waiting = [(node, 0)]
    seen = {node}
    while waiting:
        directory, depth = waiting.pop()
        for entry in system.entries(directory):
            if entry.node in seen:
                continue
            seen.add(entry.node)
            if len(seen) > BIN_ENTRIES_MAX or depth > BIN_DEPTH_MAX:
                return []
            if entry.kind is NodeKind.DIRECTORY:
                waiting.append((entry.node, depth + 1))
            elif entry.kind is NodeKind.FILE:
                placed = _once(system, entry.node)
                if placed is not None:
                    found.append(placed)
    return found
