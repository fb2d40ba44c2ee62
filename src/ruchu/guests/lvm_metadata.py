"""The metadata of LVM2: label and header of a physical volume, metadata area, its text.

Sources: lvm2 `lib/label/label.h`, `lib/format_text/layout.h`, `man 5 lvm.conf`, `man 8 pvcreate`,
`man 8 vgcfgbackup`. A metadata area is a ring buffer of texts; its header names the one in force.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ruchu.errors import GuestDamaged
from ruchu.guests.volume_reading import VolumeReader

Value = int | float | str | list["Value"] | dict[str, "Value"]
Section = dict[str, Value]

SECTOR = 512
_LABEL_SECTORS = 4
_LABEL = struct.Struct("<8sQII8s")
_AREA = struct.Struct("<QQ")
_AREAS_MAX = 16
_MDA_HEADER = struct.Struct("<I16sIQQ")
_MDA_MAGIC = b" LVM2 x[5A%r0N*>"
_MDA_HEADER_BYTES = 512
_LOCATION = struct.Struct("<QQII")
_IGNORED = 1
# The largest metadata area that anybody is told to make is 128 MiB; texts are far smaller.
_TEXT_MAX = 32 << 20
_DEPTH_MAX = 12
_FIRST_CRC = 0xF597A6CF
# The blanks before a token are an atomic group: else many of them cost exponential time.
_TOKEN = re.compile(
    r"""(?>(?:\s+|\#[^\n]*)*)(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>[+-]?\d+(?:\.\d+)?)"""
    r"""|(?P<name>[A-Za-z0-9_.+@/-]+)|(?P<mark>[={}\[\],])|(?P<end>\Z))""",
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PhysicalVolume:
    """What a physical volume says of itself; positions in bytes of its volume.

    Attributes:
        uuid: without dashes.
        size: bytes that it spans, as it was made.
        data: where extents may lie: (start, length); length 0 is up to the end.
        areas: metadata areas: (start, length).
        boot: areas kept for a boot loader.
        texts: metadata of its group, read from each area that is not ignored.
        faults: why an area could not be read.
    """

    uuid: str
    size: int
    data: tuple[tuple[int, int], ...]
    areas: tuple[tuple[int, int], ...]
    boot: tuple[tuple[int, int], ...]
    texts: tuple[str, ...]
    faults: tuple[str, ...]


def read_physical_volume(volume: VolumeReader) -> PhysicalVolume:
    """Read label, header and metadata of a physical volume.

    Raises:
        GuestDamaged: there is no label, or it or the header contradicts itself.
    """
    header = _labelled(volume)
    uuid = header[:32].decode("ascii", "replace")
    size = int.from_bytes(header[32:40], "little")
    try:
        data, at = _area_list(header, 40)
        areas, at = _area_list(header, at)
        boot: list[tuple[int, int]] = []
        if int.from_bytes(header[at : at + 4], "little"):
            boot, _ = _area_list(header, at + 8)
    except struct.error:
        raise GuestDamaged("the header of the physical volume has no end") from None
    texts, faults = [], []
    for start, length in areas:
        if start + length > volume.size:
            raise GuestDamaged(f"a metadata area of {length} bytes at {start}")
        try:
            if text := _area_text(volume, start, length):
                texts.append(text)
        except GuestDamaged as error:
            faults.append(error.detail)
    return PhysicalVolume(
        uuid, size, tuple(data), tuple(areas), tuple(boot), tuple(texts), tuple(faults)
    )


def checksum(data: bytes) -> int:
    """Return LVM's CRC-32, which starts from a number of its own and is not inverted."""
    return zlib.crc32(data, _FIRST_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _labelled(volume: VolumeReader) -> bytes:
    for number in range(_LABEL_SECTORS):
        sector = volume.read(number * SECTOR, SECTOR)
        magic, own, crc, offset, kind = _LABEL.unpack_from(sector)
        if magic != b"LABELONE":
            continue
        if own != number or checksum(sector[20:]) != crc:
            raise GuestDamaged("the label of the physical volume is damaged")
        if kind != b"LVM2 001" or not _LABEL.size <= offset <= SECTOR - 40:
            raise GuestDamaged(f"a label of an unknown kind {kind!r}")
        return sector[offset:]
    raise GuestDamaged("no LVM label")


def _area_list(header: bytes, at: int) -> tuple[list[tuple[int, int]], int]:
    found: list[tuple[int, int]] = []
    while True:
        start, length = _AREA.unpack_from(header, at)
        at += _AREA.size
        if not start:
            return found, at
        if len(found) >= _AREAS_MAX or max(start, length) > 1 << 60:
            raise GuestDamaged("the header of the physical volume names impossible areas")
        found.append((start, length))


def _area_text(volume: VolumeReader, start: int, length: int) -> str:
    """Return the text in force of a metadata area; empty if it holds none."""
    header = volume.read(start, _MDA_HEADER_BYTES)
    crc, magic, version, own, size = _MDA_HEADER.unpack_from(header)
    if magic != _MDA_MAGIC or version != 1 or checksum(header[4:]) != crc:
        raise GuestDamaged("the header of the metadata area is damaged")
    if own != start or size > length:
        raise GuestDamaged("the header of the metadata area is that of another one")
    offset, count, crc, flags = _LOCATION.unpack_from(header, _MDA_HEADER.size)
    if not offset or flags & _IGNORED:
        return ""
    if not _MDA_HEADER_BYTES <= offset < size or not 0 < count <= min(size, _TEXT_MAX):
        raise GuestDamaged(f"metadata of {count} bytes at {offset} of an area of {size}")
    head = min(count, size - offset)
    text = volume.read(start + offset, head)
    if head < count:
        text += volume.read(start + _MDA_HEADER_BYTES, count - head)
    if checksum(text) != crc:
        raise GuestDamaged("the metadata does not match its checksum")
    return text.rstrip(b"\0").decode("utf-8", "surrogateescape")


# --------------------------------------------------------------------------------------- the text


def parse(text: str) -> Section:
    """Return the metadata text as sections (dicts), lists, numbers and texts.

    Raises:
        GuestDamaged: it is not such a text.
    """
    tokens = _tokens(text)
    found = _section(tokens, 0, top=True)
    if len(found) == 0:
        raise GuestDamaged("the metadata is empty")
    return found


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None:
            raise GuestDamaged(f"metadata that makes no sense: {text[at : at + 20]!r}")
        at = match.end()
        kind = match.lastgroup or ""
        yield kind, match[kind]
        if kind == "end":
            return


def _section(tokens: Iterator[tuple[str, str]], depth: int, *, top: bool = False) -> Section:
    if depth > _DEPTH_MAX:
        raise GuestDamaged("the sections of the metadata are nested too deeply")
    found: Section = {}
    while True:
        kind, word = next(tokens)
        if ((kind, word) == ("mark", "}") and not top) or (kind == "end" and top):
            return found
        # A name may look like a number to the tokeniser, such as a group called 2024.
        if kind not in {"name", "number", "text"} or word in found:
            raise GuestDamaged(f"metadata with an impossible name {word!r}")
        if kind == "number":
            word, (kind, mark) = _numeric_name(tokens, word)
        else:
            kind, mark = next(tokens)
        if mark == "{" and kind == "mark":
            found[word] = _section(tokens, depth + 1)
        elif mark == "=" and kind == "mark":
            found[word] = _value(tokens, next(tokens))
        else:
            raise GuestDamaged(f"metadata without a value of {word!r}")


def _numeric_name(tokens: Iterator[tuple[str, str]], word: str) -> tuple[str, tuple[str, str]]:
    """Return a name that begins with digits, such as `2024db`, and the token after it."""
    token = next(tokens)
    if token[0] == "name":
        return word + token[1], next(tokens)
    return word, token


def _value(tokens: Iterator[tuple[str, str]], token: tuple[str, str]) -> Value:
    kind, word = token
    if kind == "text":
        return _ESCAPED.sub(r"\1", word[1:-1])
    if kind == "number":
        # A longer number is no count of anything, and would only cost time.
        if len(word) > 24:
            raise GuestDamaged("the metadata has an absurd number")
        return float(word) if "." in word else int(word)
    if token != ("mark", "["):
        raise GuestDamaged(f"metadata with an impossible value {word!r}")
    return list(_list_items(tokens))


def _list_items(tokens: Iterator[tuple[str, str]]) -> Iterator[Value]:
    token = next(tokens)
    while token != ("mark", "]"):
        if token == ("mark", "["):
            raise GuestDamaged("the metadata has a list in a list")
        yield _value(tokens, token)
        token = next(tokens)
        if token == ("mark", ","):
            token = next(tokens)


# ------------------------------------------------------------------------------ typed look-ups


def section(holder: Mapping[str, Value], name: str) -> Section:
    """Return a section of a section; an empty one if it is not there.

    Raises:
        GuestDamaged: it is something else.
    """
    value = holder.get(name, {})
    if not isinstance(value, dict):
        raise GuestDamaged(f"{name!r} of the metadata is not a section")
    return value


def number(holder: Mapping[str, Value], name: str, most: int = 1 << 48) -> int:
    """Return a number of a section, which is 0 to `most`.

    Raises:
        GuestDamaged: it is missing, or cannot be.
    """
    value = holder.get(name)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise GuestDamaged(f"{name!r} of the metadata is {value!r}")
    return value


def text(holder: Mapping[str, Value], name: str) -> str:
    """Return a text of a section; empty if it is missing.

    Raises:
        GuestDamaged: it is something else.
    """
    value = holder.get(name, "")
    if not isinstance(value, str):
        raise GuestDamaged(f"{name!r} of the metadata is {value!r}")
    return value


def items(holder: Mapping[str, Value], name: str) -> list[Value]:
    """Return a list of a section; empty if it is missing.

    Raises:
        GuestDamaged: it is something else.
    """
    value = holder.get(name, [])
    if not isinstance(value, list):
        raise GuestDamaged(f"{name!r} of the metadata is not a list")
    return value
