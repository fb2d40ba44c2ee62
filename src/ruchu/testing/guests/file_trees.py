"""What a kernel shows of a tree of files, and what one of our readers shows of the same tree.

The kernel's side is a list that `tests/system/file_tree.c` writes; the format is described there.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ruchu import commands
from ruchu.errors import CommandFailed, GuestError
from ruchu.guests import ranges
from ruchu.guests.contract import FileSystem, NodeKind, Ranges
from ruchu.model.extents import Content

COMPILE_LIMIT_S = 120.0
_BLOCK = 65536
# Larger files are read only where they have data: as the program does.
_READ_WHOLE_MAX = 16 << 20
_ZEROS = bytes(_BLOCK)
_NOISE = b"\xa5\x5a\x00\xff" * (1 << 18)
# XFS shows root every ACL a second time, in its own form.
_ACLS_OF_XFS = {"trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"}
_KINDS = {
    NodeKind.FILE: "-",
    NodeKind.DIRECTORY: "d",
    NodeKind.SYMLINK: "l",
    NodeKind.CHARACTER_DEVICE: "c",
    NodeKind.BLOCK_DEVICE: "b",
    NodeKind.FIFO: "f",
    NodeKind.SOCKET: "s",
    NodeKind.OTHER: "?",
}


@dataclass(slots=True)
class Shown:
    """What is shown of one path; times in nanoseconds since 1970.

    Attributes:
        data: where the content is data, `(start, end)`; None of what is no file.
        xattrs: name to SHA-256 of its value.
        content: hash of the content as `file_tree.c` describes it; empty of what is no file.
    """

    kind: str
    mode: int
    owner: int
    group: int
    links: int
    size: int
    allocated: int
    modified: int
    accessed: int
    changed: int
    created: int | None
    device: tuple[int, int]
    node: int
    xattrs: dict[str, str]
    target: bytes
    content: str
    data: tuple[tuple[int, int], ...]


Tree = dict[bytes, Shown]
"""Path below the top, such as `/a/b`, to what is shown of it; the top is the empty path."""


def compiled(source: Path, target: Path) -> bytes:
    """Compile a C program that runs in any guest, and return it."""
    args = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s"]
    commands.run([*args, "-o", str(target), str(source)], timeout_s=COMPILE_LIMIT_S)
    return target.read_bytes()


def counts(text: str) -> dict[str, int]:
    """Return how many of each kind `file_tree grow` says that it made."""
    return {name: int(value) for name, _, value in (line.partition("=") for line in text.split())}


def parsed(listing: bytes) -> Tree:
    """Return what the kernel shows, from what `file_tree list` wrote.

    Raises:
        CommandFailed: the list is not whole.
    """
    body, end, _ = listing.partition(b"\nEND\n")
    if not end:
        raise CommandFailed(f"file_tree list: {len(listing)} bytes without an end")
    return dict(_line(line) for line in body.split(b"\n"))


def safe_files(listing: bytes) -> dict[bytes, str]:
    """Return name and hash of what `file_tree churn` says to be safe; the last line may be torn."""
    lines = [line.split(b"\t") for line in listing.rstrip(b"\0").split(b"\n")[:-1]]
    return {bytes.fromhex(name.decode()): digest.decode() for name, digest in lines}


def in_sectors(tree: Mapping[bytes, Shown]) -> dict[bytes, Shown]:
    """Return a tree of Btrfs with data in whole sectors: so the kernel rounds what is in an inode."""
    return {path: _in_sectors(shown) for path, shown in tree.items()}


def _in_sectors(shown: Shown) -> Shown:
    data: list[tuple[int, int]] = []
    for start, end in shown.data:
        first, last = start // 4096 * 4096, min(-(-end // 4096) * 4096, shown.size)
        if data and first <= data[-1][1]:
            first = data.pop()[0]
        data.append((first, last))
    return replace(shown, data=tuple(data))


def _line(line: bytes) -> tuple[bytes, Shown]:
    words = line.decode().split("\t")
    path, kind, mode = words[:3]
    owner, group, links, size, allocated, modified, accessed, changed = map(int, words[3:11])
    created = None if words[11] == "-" else int(words[11])
    major, _, minor = words[12].partition(":")
    pairs = (item.partition("=") for item in _items(words[14]))
    xattrs = {bytes.fromhex(name).decode(): value for name, _, value in pairs}
    for name in _ACLS_OF_XFS:
        xattrs.pop(name, None)
    data = [item.partition("-") for item in _items(words[16])]
    return _bytes(path), Shown(
        kind,
        int(mode, 8),
        owner,
        group,
        links,
        size,
        allocated,
        modified,
        accessed,
        changed,
        created,
        (int(major), int(minor)),
        int(words[13]),
        xattrs,
        _bytes(words[15]),
        words[17].strip("-"),
        tuple((int(start), int(end)) for start, _, end in data),
    )


def _items(text: str) -> list[str]:
    return [item for item in text.split(",") if item not in {"", "-"}]


def _bytes(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


def read(system: FileSystem, left_out: dict[bytes, GuestError] | None = None) -> Tree:
    """Return what one of our readers shows.

    Args:
        system: it is read from directory to directory.
        left_out: takes what could not be read, and why; without it, that is raised.

    Raises:
        GuestError: something cannot be read, and nobody takes it.
        AssertionError: what is shown contradicts itself.
    """
    tree: Tree = {}
    waiting = [(b"", system.root, NodeKind.DIRECTORY)]
    while waiting:
        path, node, kind = waiting.pop()
        try:
            if path in tree:
                raise AssertionError(f"{path!r} is named twice")
            tree[path] = found = _shown(system, node)
            if kind is not NodeKind.OTHER and _KINDS[kind] != found.kind:
                raise AssertionError(f"{path!r}: {kind} in its directory, {found.kind} itself")
            if found.kind == _KINDS[NodeKind.DIRECTORY]:
                # As far as they can be read.
                waiting.extend(
                    (path + b"/" + item.name, item.node, item.kind) for item in system.entries(node)
                )
        except GuestError as error:
            if left_out is None:
                raise
            left_out[path] = error
    return tree


def _shown(system: FileSystem, node: int) -> Shown:
    found = system.stat(node)
    is_file = found.kind is NodeKind.FILE
    data = tuple(_data(system, node, found.size)) if is_file else ()
    xattrs = system.xattrs(node)
    return Shown(
        _KINDS[found.kind],
        found.mode,
        found.owner,
        found.group,
        found.links,
        found.size,
        found.allocated,
        found.modified,
        found.accessed,
        found.changed,
        found.created,
        found.device,
        node,
        {name: hashlib.sha256(value).hexdigest() for name, value in xattrs.items()},
        system.link_target(node) if found.kind is NodeKind.SYMLINK else b"",
        _content(system, node, found.size, data) if is_file else "",
        data,
    )


def _data(system: FileSystem, node: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of data, joined where it touches."""
    first = at = 0
    for extent in system.extents(node):
        if extent.start != at:
            raise AssertionError(f"node {node}: an extent at {extent.start} follows {at}")
        at = extent.end
        if extent.content is not Content.DATA:
            if first < extent.start:
                yield first, extent.start
            first = extent.end
    if first < at:
        yield first, at
    if at != size:
        raise AssertionError(f"node {node}: extents end at {at} of {size}")


def _content(system: FileSystem, node: int, size: int, data: tuple[tuple[int, int], ...]) -> str:
    """Hash the blocks that are not all zeros; what was not filled does not pass for zeros."""
    digest = hashlib.sha256()
    for number in _blocks(size, data):
        start = number * _BLOCK
        buffer = bytearray(b"\xa5" * min(_BLOCK, size - start))
        system.read_into(node, start, memoryview(buffer))
        if buffer != _ZEROS[: len(buffer)]:
            digest.update(number.to_bytes(8, "little"))
            digest.update(buffer)
    return digest.hexdigest()


def _blocks(size: int, data: tuple[tuple[int, int], ...]) -> Iterator[int]:
    if size <= _READ_WHOLE_MAX:
        yield from range(-(-size // _BLOCK))
        return
    following = 0
    for start, end in data:
        first = max(following, start // _BLOCK)
        following = max(first, -(-end // _BLOCK))
        yield from range(first, following)


def only_mapped(image: Path, used: Ranges) -> Path:
    """Return a copy of the bytes that count, with noise in the place of all others."""
    copy = image.with_suffix(".copy")
    size = image.stat().st_size
    with image.open("rb") as source, copy.open("wb") as sink:
        for start, length in _pieces(ranges.complement(used, size)):
            sink.seek(start)
            sink.write(_NOISE[:length])
        for start, length in _pieces(used):
            source.seek(start)
            sink.seek(start)
            sink.write(source.read(length))
        sink.truncate(size)
    return copy


def _pieces(parts: Ranges) -> Iterator[tuple[int, int]]:
    """Yield start and length of pieces that are not larger than the noise."""
    for first, end in parts.tolist():
        for start in range(first, end, len(_NOISE)):
            yield start, min(len(_NOISE), end - start)


def differences(
    ours: Mapping[bytes, Shown], kernels: Mapping[bytes, Shown], *, ignoring: frozenset[str]
) -> list[str]:
    """Return what differs between two trees, a sentence each; `ignoring` names attributes.

    Nodes need not have the same number: but two paths are one node here if they are one there.
    """
    found = [f"only the kernel shows {path!r}" for path in kernels.keys() - ours.keys()]
    found += [f"only we show {path!r}" for path in ours.keys() - kernels.keys()]
    names = [name for name in Shown.__slots__ if name not in ignoring | {"node"}]
    both = sorted(ours.keys() & kernels.keys())
    for path, name in itertools.product(both, names):
        mine, theirs = getattr(ours[path], name), getattr(kernels[path], name)
        if mine != theirs:
            found.append(f"{path[-80:]!r} {name}: {mine!r}, the kernel shows {theirs!r}")
    if "node" not in ignoring:
        pairs = {(ours[path].node, kernels[path].node) for path in both}
        mine, theirs = {one for one, _ in pairs}, {two for _, two in pairs}
        if not len(pairs) == len(mine) == len(theirs):
            found.append("hard links are not the same")
    return found
