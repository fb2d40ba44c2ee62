"""The server's half of the NBD messages as bytes: packing and parsing, no I/O and no state.

The protocol is doc/proto.md of github.com/NetworkBlockDevice/nbd; what both sides need is in
`nbd_messages`.
"""

import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ruchu.blocks import nbd_messages as messages
from ruchu.errors import NbdError
from ruchu.units import KIB

OPT_EXPORT_NAME: Final = 1
OPT_ABORT: Final = 2
OPT_LIST: Final = 3
OPT_INFO: Final = 6

REP_SERVER: Final = 2
REP_ERR_UNSUPPORTED: Final = messages.REP_ERROR_BIT | 1
REP_ERR_POLICY: Final = messages.REP_ERROR_BIT | 2
REP_ERR_INVALID: Final = messages.REP_ERROR_BIT | 3
REP_ERR_TLS_REQUIRED: Final = messages.REP_ERROR_BIT | 5
REP_ERR_UNKNOWN: Final = messages.REP_ERROR_BIT | 6
REP_ERR_TOO_BIG: Final = messages.REP_ERROR_BIT | 9

INFO_NAME: Final = 1
INFO_DESCRIPTION: Final = 2

EXPORT_HAS_FLAGS: Final = 1 << 0
EXPORT_FUA: Final = 1 << 3
EXPORT_DONT_FRAGMENT: Final = 1 << 7
EXPORT_CACHE: Final = 1 << 10
EXPORT_FAST_ZERO: Final = 1 << 11

CMD_CACHE: Final = 5

FLAG_FUA: Final = 1 << 0
FLAG_NO_HOLE: Final = 1 << 1
FLAG_DONT_FRAGMENT: Final = 1 << 2
FLAG_REQUEST_ONE: Final = 1 << 3
FLAG_FAST_ZERO: Final = 1 << 4

CHUNK_ERROR: Final = messages.CHUNK_ERROR_BIT | 1

# The protocol has numbers of its own; these are the ones it shares with Linux.
NOT_PERMITTED: Final = errno.EPERM
IO_ERROR: Final = errno.EIO
INVALID: Final = errno.EINVAL
NO_SPACE: Final = errno.ENOSPC
NOT_SUPPORTED: Final = errno.EOPNOTSUPP

# proto.md: names are at most 4096 bytes. A list of contexts to select holds several.
OPTION_MAX: Final = 64 * KIB
# An error is told in a sentence; proto.md lets it be 4096 bytes.
ERROR_TEXT_MAX: Final = 1 * KIB
BLOCK_MIN: Final = 1
BLOCK_PREFERRED: Final = 64 * KIB

OPTION_SIZE: Final = 16
CLIENT_FLAGS_SIZE: Final = 4
REQUEST_SIZE: Final = 28
_RESERVED_BYTES = bytes(124)

_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
REQUEST: Final = struct.Struct(">IHHQQI")
SIMPLE_REPLY: Final = struct.Struct(">IIQ")
_CHUNK = struct.Struct(">IHHQI")
# A chunk of data with the offset that is the first part of its payload.
DATA_CHUNK: Final = struct.Struct(">IHHQIQ")
_HOLE_CHUNK = struct.Struct(">IHHQIQI")


@dataclass(frozen=True, slots=True)
class InfoRequest:
    """Data of `OPT_INFO` and `OPT_GO`: which export, what the client wants to be told."""

    name: str
    wanted: frozenset[int]


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """Data of the metadata context options: which export, which contexts."""

    name: str
    queries: tuple[str, ...]


def greeting() -> bytes:
    """Return what a server says first."""
    flags = messages.HANDSHAKE_FIXED_NEWSTYLE | messages.HANDSHAKE_NO_ZEROES
    return messages.GREETING_MAGIC + struct.pack(">H", flags)


def parse_client_flags(data: bytes) -> int:
    """Return the handshake flags of the client.

    Raises:
        NbdError: it sets flags that nobody offered.
    """
    flags = int.from_bytes(data, "big")
    if flags & ~(messages.HANDSHAKE_FIXED_NEWSTYLE | messages.HANDSHAKE_NO_ZEROES):
        raise NbdError(f"client with unknown handshake flags {flags:#x}")
    return flags


def parse_option(data: bytes) -> tuple[int, int]:
    """Return number and data length of an option.

    Raises:
        NbdError: wrong magic.
    """
    magic, number, length = _OPTION.unpack(data)
    if magic != messages.OPTION_MAGIC:
        raise NbdError(f"option with magic {magic!r}")
    return number, length


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    """Return a reply to an option."""
    return _OPTION_REPLY.pack(messages.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def server_data(name: str) -> bytes:
    """Return the data of `REP_SERVER`: an export in a list."""
    encoded = name.encode()
    return struct.pack(">I", len(encoded)) + encoded


def info_export(size: int, flags: int) -> bytes:
    """Return the data of `INFO_EXPORT`."""
    return struct.pack(">HQH", messages.INFO_EXPORT, size, flags)


def info_text(kind: int, text: str) -> bytes:
    """Return the data of `INFO_NAME` and `INFO_DESCRIPTION`."""
    return struct.pack(">H", kind) + text.encode()


def info_block_size() -> bytes:
    """Return the data of `INFO_BLOCK_SIZE`."""
    sizes = (BLOCK_MIN, BLOCK_PREFERRED, messages.PAYLOAD_MAX)
    return struct.pack(">HIII", messages.INFO_BLOCK_SIZE, *sizes)


def export_answer(size: int, flags: int, *, zeroes: bool) -> bytes:
    """Return the answer to `OPT_EXPORT_NAME`, which is no option reply."""
    return struct.pack(">QH", size, flags) + (_RESERVED_BYTES if zeroes else b"")


def context_reply_data(number: int, name: str) -> bytes:
    """Return the data of `REP_META_CONTEXT`."""
    return struct.pack(">I", number) + name.encode()


def parse_name(data: bytes) -> str:
    """Return an export name.

    Raises:
        NbdError: too long, or no UTF-8.
    """
    if len(data) > messages.TEXT_MAX:
        raise NbdError(f"a name of {len(data)} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise NbdError("a name that is not UTF-8") from error


def parse_info_request(data: bytes) -> InfoRequest:
    """Return what `OPT_INFO` or `OPT_GO` asks.

    Raises:
        NbdError: it contradicts itself.
    """
    name, rest = _take_text(data)
    if len(rest) < 2 or len(rest) != 2 + 2 * int.from_bytes(rest[:2], "big"):
        raise NbdError("information request that contradicts itself")
    return InfoRequest(name, frozenset(number for (number,) in struct.iter_unpack(">H", rest[2:])))


def parse_context_request(data: bytes) -> ContextRequest:
    """Return what a metadata context option asks.

    Raises:
        NbdError: it contradicts itself.
    """
    name, rest = _take_text(data)
    if len(rest) < 4:
        raise NbdError("context request without queries")
    count, rest = int.from_bytes(rest[:4], "big"), rest[4:]
    queries = []
    # Each query takes at least its length from the rest, so this ends.
    while rest:
        query, rest = _take_text(rest)
        queries.append(query)
    if len(queries) != count:
        raise NbdError(f"context request of {count} queries holds {len(queries)}")
    return ContextRequest(name, tuple(queries))


def _take_text(data: bytes) -> tuple[str, bytes]:
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 + length:
        raise NbdError("text that is longer than its message")
    return parse_name(data[4 : 4 + length]), data[4 + length :]


def simple_reply(cookie: int, error: int = 0) -> bytes:
    """Return a simple reply; the data of a read follows it."""
    return SIMPLE_REPLY.pack(messages.SIMPLE_REPLY_MAGIC, error, cookie)


def done_chunk(cookie: int) -> bytes:
    """Return the chunk that ends a reply and says nothing."""
    return _CHUNK.pack(
        messages.CHUNK_MAGIC, messages.CHUNK_DONE, messages.CHUNK_NONE, cookie, 0
    )  # fmt: skip


def data_chunk(cookie: int, start: int, length: int, *, last: bool) -> bytes:
    """Return the head of a data chunk; `length` bytes of data follow it."""
    return DATA_CHUNK.pack(
        messages.CHUNK_MAGIC, int(last), messages.CHUNK_DATA, cookie, 8 + length, start
    )


def hole_chunk(cookie: int, start: int, length: int, *, last: bool) -> bytes:
    """Return a chunk that says that a range reads as zeros."""
    return _HOLE_CHUNK.pack(
        messages.CHUNK_MAGIC, int(last), messages.CHUNK_HOLE, cookie, 12, start, length
    )


def error_chunk(cookie: int, error: int, text: str) -> bytes:
    """Return the chunk that ends a reply with an error."""
    said = text.encode()[:ERROR_TEXT_MAX].decode(errors="ignore").encode()
    head = _CHUNK.pack(
        messages.CHUNK_MAGIC, messages.CHUNK_DONE, CHUNK_ERROR, cookie, 6 + len(said)
    )
    return head + struct.pack(">IH", error, len(said)) + said


def status_chunk(
    cookie: int, context: int, descriptors: Sequence[tuple[int, int]], *, last: bool
) -> bytes:
    """Return a block status chunk of one context; a descriptor is (length, flags)."""
    numbers = [number for descriptor in descriptors for number in descriptor]
    payload = struct.pack(f">I{len(numbers)}I", context, *numbers)
    head = _CHUNK.pack(messages.CHUNK_MAGIC, int(last), messages.CHUNK_STATUS, cookie, len(payload))
    return head + payload
