"""Writes an initramfs (cpio, `newc` format) and finds what belongs into it.

The format is the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import lzma
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_HEADER = "070701" + "{:08X}" * 13
_DIRECTORY = 0o040755
_FILE = 0o100000
_LINK = 0o120777
_CONSOLE = 0o020600
# Directories that hold shared libraries in Debian, before and after the /usr merge.
_LIBRARY_PATHS = (
    "lib/x86_64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "lib64",
    "usr/lib64",
)
_DT_NEEDED = 1
_SECTION_DYNAMIC = 6


class Archive:
    """A cpio archive in memory; parents of an entry are made as needed."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def add_file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Add a regular file."""
        self._add(name, _FILE | (0o755 if executable else 0o644), data)

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, _LINK, target.encode())

    def add_directory(self, name: str) -> None:
        """Add a directory; a second time is no error."""
        if name not in self._names:
            self._add(name, _DIRECTORY, b"")

    def finish(self) -> bytes:
        """Return the archive, with /dev/console in it."""
        self._add("dev/console", _CONSOLE, b"", major=5, minor=1)
        self._entry("TRAILER!!!", 0, b"", 0, 0)
        return b"".join(self._parts)

    def _add(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        parent = name.rpartition("/")[0]
        if parent:
            self.add_directory(parent)
        self._names.add(name)
        self._entry(name, mode, data, major, minor)

    def _entry(self, name: str, mode: int, data: bytes, major: int, minor: int) -> None:
        encoded = name.encode() + b"\0"
        links = 2 if mode == _DIRECTORY else 1
        fields = (len(self._parts) + 1, mode, 0, 0, links, 0, len(data), 0, 0, major, minor)
        header = _HEADER.format(*fields, len(encoded), 0).encode()
        padding = b"\0" * (-(len(header) + len(encoded)) % 4)
        self._parts.append(header + encoded + padding + data + b"\0" * (-len(data) % 4))


def needed_libraries(binary: bytes) -> list[str]:
    """Return the sonames that a 64-bit little-endian ELF file is linked with."""
    (offset,) = struct.unpack_from("<Q", binary, 0x28)
    size, count = struct.unpack_from("<HH", binary, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", binary, offset + i * size) for i in range(count)]
    names: list[str] = []
    for section in sections:
        if section[1] != _SECTION_DYNAMIC:
            continue
        strings = sections[section[6]][4]
        for tag, value in struct.iter_unpack("<QQ", binary[section[4] : section[4] + section[5]]):
            if tag == _DT_NEEDED:
                end = binary.index(b"\0", strings + value)
                names.append(binary[strings + value : end].decode())
    return names


def library_closure(root: Path, program: Path) -> Mapping[str, bytes]:
    """Return soname → content of all libraries that a program needs, found below `root`.

    Raises:
        FileNotFoundError: a library is in none of the library directories.
    """
    found: dict[str, bytes] = {}
    waiting = needed_libraries(program.read_bytes())
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = _library(root, name).read_bytes()
        waiting += needed_libraries(found[name])
    return found


def _library(root: Path, name: str) -> Path:
    for directory in _LIBRARY_PATHS:
        path = root / directory / name
        if path.exists():
            return path
    raise FileNotFoundError(name)


def module_closure(tree: Path, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of kernel modules, each after those that it depends on.

    `tree` is lib/modules/<version>. A name that is no module there is built in, and left out.
    """
    paths = {_module_name(path): path for path in tree.rglob("*.ko*")}
    done: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in paths:
            return
        done.add(name)
        content = _module_content(paths[name])
        for other in _module_depends(content):
            yield from visit(other)
        yield name, content

    for name in wanted:
        yield from visit(name)


def _module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _module_content(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _module_depends(content: bytes) -> list[str]:
    # The .modinfo section holds NUL-separated `key=value` texts.
    mark = content.find(b"\0depends=")
    if mark < 0:
        return []
    start = mark + len(b"\0depends=")
    text = content[start : content.index(b"\0", start)].decode()
    return [name.replace("-", "_") for name in text.split(",") if name]
