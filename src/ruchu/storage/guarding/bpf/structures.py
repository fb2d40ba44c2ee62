"""What the running kernel says of its structures (BTF): where members lie, ids of functions."""

import struct
from array import array
from pathlib import Path

from ruchu.errors import GuardUnsupported

VMLINUX = Path("/sys/kernel/btf/vmlinux")
_SIZE_MAX = 64 * 1024 * 1024  # kernels have 5 to 10 MB; more is none

_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_MEMBER = struct.Struct("<III")
_MAGIC = 0xEB9F
_PARAMETER = struct.Struct("<II")
_POINTER, _STRUCT, _UNION, _FUNCTION = 2, 4, 5, 12
_MODIFIERS = {8, 9, 10, 11, 18}  # typedef, volatile, const, restrict, type tag
# Bytes after the header of a type: fixed, and for each of its members (by kind, btf.rst).
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_DEPTH_MAX = 8  # anonymous unions within structures; the kernel nests two or three


class Structures:
    """The types of the running kernel.

    Args:
        content: a BTF section, as in `/sys/kernel/btf/vmlinux`.

    Raises:
        GuardUnsupported: it is none.
    """

    def __init__(self, content: bytes) -> None:
        try:
            magic, _, _, header, types, types_len, strings, _ = _HEADER.unpack_from(content)
        except struct.error:
            raise GuardUnsupported("the kernel does not describe its structures (BTF)") from None
        if magic != _MAGIC:
            raise GuardUnsupported("the description of the kernel's structures is of another kind")
        self._content = content
        self._strings = header + strings
        self._offsets = array("I", [0])
        self._functions: dict[str, int] = {}
        self._structures: dict[str, int] = {}
        try:
            self._index(header + types, header + types + types_len)
        except (struct.error, ValueError):
            raise GuardUnsupported(
                "the description of the kernel's structures is cut off"
            ) from None

    def _index(self, start: int, end: int) -> None:
        while start < end:
            name, info, _ = _TYPE.unpack_from(self._content, start)
            kind, count = info >> 24 & 31, info & 0xFFFF
            if kind == _FUNCTION:
                self._functions.setdefault(self._text(name), len(self._offsets))
            elif kind == _STRUCT and name:
                self._structures.setdefault(self._text(name), len(self._offsets))
            self._offsets.append(start)
            start += _TYPE.size + _FIXED.get(kind, 0) + count * _EACH.get(kind, 0)

    def function(self, name: str) -> int | None:
        """Return the id of a function, None if this kernel has none of that name."""
        return self._functions.get(name)

    def arguments(self, function: int, structure: str) -> tuple[int, ...]:
        """Return which arguments of a function point to a structure, counted from 0."""
        prototype = self._type(function)[2]
        place = self._offsets[prototype]
        count = self._type(prototype)[1] & 0xFFFF
        found = []
        for number in range(count):
            _, kind = _PARAMETER.unpack_from(
                self._content, place + _TYPE.size + number * _PARAMETER.size
            )
            if self._pointed_at(kind) == structure:
                found.append(number)
        return tuple(found)

    def _pointed_at(self, at: int) -> str:
        _, info, target = self._type(self._plain(at))
        if info >> 24 & 31 != _POINTER:
            return ""
        name, info, _ = self._type(self._plain(target))
        return self._text(name) if info >> 24 & 31 == _STRUCT else ""

    def offset(self, structure: str, *path: str) -> int:
        """Return where a member lies in bytes; further names lead into structures within.

        Raises:
            GuardUnsupported: this kernel has no such member.
        """
        at = self._structures.get(structure)
        total = 0
        for member in path:
            found = self._member(at, member, _DEPTH_MAX) if at is not None else None
            if found is None:
                raise GuardUnsupported(f"this kernel has no {structure}.{'.'.join(path)}")
            bits, at = found
            total += bits // 8
        return total

    def _member(self, at: int, wanted: str, depth: int) -> tuple[int, int] | None:
        """Return the bits before a member and its type; anonymous members are looked into."""
        place = self._offsets[self._plain(at)]
        _, info, _ = _TYPE.unpack_from(self._content, place)
        if info >> 24 & 31 not in {_STRUCT, _UNION}:
            return None
        for number in range(info & 0xFFFF):
            start = place + _TYPE.size + number * _MEMBER.size
            name, kind, offset = _MEMBER.unpack_from(self._content, start)
            bits = offset & 0xFFFFFF if info >> 31 else offset
            if name and self._text(name) == wanted:
                return bits, kind
            inner = self._member(kind, wanted, depth - 1) if not name and depth else None
            if inner is not None:
                return bits + inner[0], inner[1]
        return None

    def _plain(self, at: int) -> int:
        """Follow typedefs and qualifiers."""
        for _ in range(_DEPTH_MAX):
            _, info, target = self._type(at)
            if info >> 24 & 31 not in _MODIFIERS:
                break
            at = target
        return at

    def _type(self, at: int) -> tuple[int, int, int]:
        name, info, size = _TYPE.unpack_from(self._content, self._offsets[at])
        return name, info, size

    def _text(self, offset: int) -> str:
        start = self._strings + offset
        return self._content[start : self._content.index(b"\0", start)].decode("utf-8", "replace")


def of_this_kernel(path: Path = VMLINUX) -> Structures:
    """Read what the running kernel says.

    Raises:
        GuardUnsupported: it says nothing.
    """
    try:
        with path.open("rb") as file:
            return Structures(file.read(_SIZE_MAX))
    except OSError as error:
        raise GuardUnsupported(f"{path}: {error.strerror}") from None
