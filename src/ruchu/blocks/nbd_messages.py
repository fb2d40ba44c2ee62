"""The messages of the NBD protocol as bytes: packing and parsing, no I/O and no state.

The protocol is doc/proto.md of github.com/NetworkBlockDevice/nbd.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ruchu.errors import NbdError
from ruchu.units import KIB, MIB

GREETING_MAGIC: Final = b"NBDMAGICIHAVEOPT"
OPTION_MAGIC: Final = b"IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
CHUNK_MAGIC: Final = 0x668E33EF

HANDSHAKE_FIXED_NEWSTYLE: Final = 1
HANDSHAKE_NO_ZEROES: Final = 2

OPT_STARTTLS: Final = 5
OPT_GO: Final = 7
OPT_STRUCTURED_REPLY: Final = 8
OPT_LIST_META_CONTEXT: Final = 9
OPT_SET_META_CONTEXT: Final = 10

REP_ACK: Final = 1
REP_INFO: Final = 3
REP_META_CONTEXT: Final = 4
REP_ERROR_BIT: Final = 1 << 31

INFO_EXPORT: Final = 0
INFO_BLOCK_SIZE: Final = 3

EXPORT_READ_ONLY: Final = 1 << 1
EXPORT_FLUSH: Final = 1 << 2
EXPORT_TRIM: Final = 1 << 5
EXPORT_WRITE_ZEROES: Final = 1 << 6
EXPORT_MULTI_CONNECTION: Final = 1 << 8

CMD_READ: Final = 0
CMD_WRITE: Final = 1
CMD_DISCONNECT: Final = 2
CMD_FLUSH: Final = 3
CMD_TRIM: Final = 4
CMD_WRITE_ZEROES: Final = 6
CMD_BLOCK_STATUS: Final = 7

CHUNK_DONE: Final = 1
CHUNK_NONE: Final = 0
CHUNK_DATA: Final = 1
CHUNK_HOLE: Final = 2
CHUNK_STATUS: Final = 5
CHUNK_ERROR_BIT: Final = 1 << 15

# What a server without stated limits takes (proto.md, "Size constraints"), and QEMU's limit.
PAYLOAD_MAX: Final = 32 * MIB
# proto.md: strings are at most 4096 bytes; error chunks carry 14 bytes more.
TEXT_MAX: Final = 4 * KIB
OPTION_REPLY_MAX: Final = 2 * TEXT_MAX
ERROR_CHUNK_MAX: Final = 2 * TEXT_MAX
# proto.md: not more than 2^20 descriptors in a block status chunk.
STATUS_CHUNK_MAX: Final = 4 + 8 * 2**20

GREETING_SIZE: Final = 18
OPTION_REPLY_SIZE: Final = 20
REPLY_MAGIC_SIZE: Final = 4
SIMPLE_REPLY_REST: Final = 12
CHUNK_REST: Final = 16

_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_CHUNK = struct.Struct(">HHQI")
_SIMPLE_REPLY = struct.Struct(">IQ")
_NAMED_ERRORS = {
    1: "not permitted (read-only export?)",
    5: "input/output error",
    12: "out of memory",
    22: "invalid request",
    28: "no space left",
    75: "request too large",
    95: "not supported",
    108: "server is shutting down",
}
_OPTION_ERRORS = {
    1: "option unknown to the server",
    2: "forbidden by the server",
    3: "invalid request",
    4: "not supported on the server's platform",
    5: "TLS required",
    6: "no such export",
    7: "server is shutting down",
    8: "block size must be requested",
    9: "too big",
}


@dataclass(frozen=True, slots=True)
class OptionReply:
    """Head of a reply to an option: which option, reply type, bytes that follow."""

    option: int
    type: int
    length: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Head of a structured reply chunk: flags, type, cookie, bytes that follow."""

    flags: int
    type: int
    cookie: int
    length: int


@dataclass(frozen=True, slots=True)
class Export:
    """What the server said of the export.

    Attributes:
        size: bytes.
        flags: transmission flags (`EXPORT_*`).
        block_min: requests must be multiples of it.
        block_preferred: a good request size.
        payload_max: the largest read or write.
        structured: whether structured replies were agreed on.
        contexts: metadata context name → id, as selected.
    """

    size: int
    flags: int
    block_min: int
    block_preferred: int
    payload_max: int
    structured: bool
    contexts: tuple[tuple[str, int], ...]

    def offers(self, flag: int) -> bool:
        """Tell whether the server set a transmission flag."""
        return bool(self.flags & flag)


def parse_greeting(data: bytes) -> int:
    """Return the handshake flags of the server's first message.

    Raises:
        NbdError: it is no newstyle NBD server.
    """
    if data[:16] != GREETING_MAGIC:
        raise NbdError("no newstyle NBD server answers")
    (flags,) = struct.unpack(">H", data[16:])
    if not flags & HANDSHAKE_FIXED_NEWSTYLE:
        raise NbdError("the server does not speak the fixed newstyle handshake")
    return int(flags)


def client_flags(server_flags: int) -> bytes:
    """Return our answer to the greeting."""
    wanted = HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES
    return struct.pack(">I", server_flags & wanted)


def option(number: int, data: bytes = b"") -> bytes:
    """Return an option request."""
    return _OPTION.pack(OPTION_MAGIC, number, len(data)) + data


def go_data(name: str) -> bytes:
    """Return the data of `OPT_GO`, asking for block sizes as well."""
    return _text(name) + struct.pack(">HH", 1, INFO_BLOCK_SIZE)


def context_data(name: str, queries: Sequence[str]) -> bytes:
    """Return the data of `OPT_LIST_META_CONTEXT` and `OPT_SET_META_CONTEXT`."""
    return b"".join([_text(name), struct.pack(">I", len(queries)), *map(_text, queries)])


def _text(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > TEXT_MAX:
        raise NbdError(f"a name of {len(encoded)} bytes is too long")
    return struct.pack(">I", len(encoded)) + encoded


def parse_option_reply(data: bytes, asked: int) -> OptionReply:
    """Return the head of a reply to the option `asked`.

    Raises:
        NbdError: wrong magic, another option, or an oversized reply.
    """
    magic, number, kind, length = _OPTION_REPLY.unpack(data)
    if magic != OPTION_REPLY_MAGIC:
        raise NbdError(f"option reply with magic {magic:#x}")
    if number != asked:
        raise NbdError(f"reply to option {number}, asked for {asked}")
    if length > OPTION_REPLY_MAX:
        raise NbdError(f"option reply of {length} bytes")
    return OptionReply(number, kind, length)


def option_error(kind: int, data: bytes) -> str:
    """Return what an error reply to an option means, in words."""
    number = kind & ~REP_ERROR_BIT
    said = data.decode("utf-8", "replace").strip()
    text = _OPTION_ERRORS.get(number, f"error {number}")
    return f"{text}: {said}" if said else text


def parse_info_export(data: bytes) -> tuple[int, int]:
    """Return size and transmission flags of an `INFO_EXPORT` (with its type in front).

    Raises:
        NbdError: wrong length.
    """
    if len(data) != 12:
        raise NbdError(f"export information of {len(data)} bytes")
    _, size, flags = struct.unpack(">HQH", data)
    return size, flags


def parse_info_block_size(data: bytes) -> tuple[int, int, int]:
    """Return minimum and preferred block size, and largest payload.

    Raises:
        NbdError: wrong length, or sizes that the protocol does not allow.
    """
    if len(data) != 14:
        raise NbdError(f"block size information of {len(data)} bytes")
    _, least, preferred, most = struct.unpack(">HIII", data)
    if not 1 <= least <= 64 * KIB or least & (least - 1) or preferred < least or most < preferred:
        raise NbdError(f"impossible block sizes {least}, {preferred}, {most}")
    return least, preferred, most


def parse_context(data: bytes) -> tuple[str, int]:
    """Return name and id of a metadata context.

    Raises:
        NbdError: too short, or a name that is no text.
    """
    if len(data) < 5:
        raise NbdError(f"metadata context of {len(data)} bytes")
    try:
        return data[4:].decode(), int.from_bytes(data[:4], "big")
    except UnicodeDecodeError as error:
        raise NbdError("metadata context with a name that is not UTF-8") from error


def request(command: int, cookie: int, start: int = 0, length: int = 0) -> bytes:
    """Return a request; data to write follows it."""
    return _REQUEST.pack(REQUEST_MAGIC, 0, command, cookie, start, length)


def parse_reply_magic(data: bytes, *, structured: bool) -> int:
    """Return which of the two reply kinds follows.

    Raises:
        NbdError: neither, or a structured one that was not agreed on.
    """
    magic = int.from_bytes(data, "big")
    if magic == SIMPLE_REPLY_MAGIC or (magic == CHUNK_MAGIC and structured):
        return magic
    raise NbdError(f"reply with magic {magic:#x}")


def parse_simple_reply(data: bytes) -> tuple[int, int]:
    """Return error number and cookie of a simple reply, after its magic."""
    error, cookie = _SIMPLE_REPLY.unpack(data)
    return error, cookie


def parse_chunk(data: bytes) -> Chunk:
    """Return the head of a structured reply chunk, after its magic."""
    return Chunk(*_CHUNK.unpack(data))


def parse_error_chunk(data: bytes) -> str:
    """Return what an error chunk means, in words.

    Raises:
        NbdError: the chunk contradicts itself.
    """
    if len(data) < 6:
        raise NbdError(f"error chunk of {len(data)} bytes")
    number, length = struct.unpack_from(">IH", data)
    if not number or length > len(data) - 6:
        raise NbdError("error chunk that contradicts itself")
    said = data[6 : 6 + length].decode("utf-8", "replace").strip()
    text = error_text(number)
    return f"{text}: {said}" if said else text


def error_text(number: int) -> str:
    """Return what an error number of a reply means, in words."""
    return _NAMED_ERRORS.get(number, f"error {number}")


def parse_status(data: bytes) -> tuple[int, list[tuple[int, int]]]:
    """Return context id and descriptors (length, flags) of a block status chunk.

    Raises:
        NbdError: wrong length, no descriptor, or an empty one.
    """
    if len(data) < 12 or (len(data) - 4) % 8:
        raise NbdError(f"block status of {len(data)} bytes")
    context = int.from_bytes(data[:4], "big")
    descriptors = list(struct.iter_unpack(">II", memoryview(data)[4:]))
    if not all(length for length, _ in descriptors):
        raise NbdError("block status with an empty extent")
    return context, descriptors
