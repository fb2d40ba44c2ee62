"""Calls and replies of ONC RPC version 2 (RFC 5531) as bytes, without I/O.

A call becomes an `Exchange`, which is answered exactly once, at once or later. Programs are
tables of procedures; what is not in them is refused as the RFC says.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from ruchu.exports.nfs.records import LAST_FRAGMENT, BrokenRecord
from ruchu.exports.nfs.xdr import PADDING, Reader, XdrError

Buffer = bytes | bytearray | memoryview

_CALL = 0
_REPLY = 1
_RPC_VERSION = 2
_ACCEPTED, _DENIED = 0, 1
_RPC_MISMATCH, _AUTH_ERROR = 0, 1
SUCCESS: Final = 0
PROG_UNAVAIL: Final = 1
PROG_MISMATCH: Final = 2
PROC_UNAVAIL: Final = 3
GARBAGE_ARGS: Final = 4
AUTH_BADCRED: Final = 1

AUTH_NONE: Final = 0
AUTH_SYS: Final = 1
# RFC 5531, section 8.2: the body of credentials and verifiers is at most 400 bytes.
AUTH_BODY_MAX: Final = 400

_HEAD = struct.Struct(">6I")
_AUTH = struct.Struct(">II")
_ANSWER = struct.Struct(">7I")
_MISMATCH = struct.Struct(">II")
_DENIED_MISMATCH = struct.Struct(">7I")
_DENIED_AUTH = struct.Struct(">6I")


class Answers(Protocol):
    """Where answers go: a connection."""

    def send(self, exchange: "Exchange", parts: tuple[Buffer, ...]) -> None:
        """Send a whole record, given in parts."""


class Exchange:
    """One call, and the way to answer it.

    Attributes:
        record: the call as it came; it is good only until the procedure returns.
        at: where in `record` the arguments begin.
        failure: what follows the status when the answer is a refusal.
        weight: bytes that the call keeps in memory until it is answered.
    """

    __slots__ = ("answers", "at", "failure", "record", "weight", "xid")

    def __init__(self, xid: int, record: memoryview, at: int, answers: Answers) -> None:
        self.xid = xid
        self.record = record
        self.at = at
        self.answers = answers
        self.failure = b""
        self.weight = 0

    def arguments(self) -> Reader:
        """Return a reader of the arguments."""
        return Reader(self.record, self.at)

    def reply(self, body: bytes, data: Buffer = b"") -> None:
        """Answer with a result; `data` is its last part, sent without a copy, and padded."""
        size = len(data)
        padding = -size & 3
        mark = LAST_FRAGMENT | (24 + len(body) + size + padding)
        head = _ANSWER.pack(mark, self.xid, _REPLY, _ACCEPTED, AUTH_NONE, 0, SUCCESS) + body
        if padding:
            self.answers.send(self, (head, data, PADDING[padding]))
        else:
            self.answers.send(self, (head, data) if size else (head,))

    def reject(self, status: int, body: bytes = b"") -> None:
        """Answer that the call was understood by RPC, and yet cannot be carried out."""
        mark = LAST_FRAGMENT | (24 + len(body))
        head = _ANSWER.pack(mark, self.xid, _REPLY, _ACCEPTED, AUTH_NONE, 0, status)
        self.answers.send(self, (head + body,))

    def deny_version(self) -> None:
        """Answer that only RPC version 2 is spoken here."""
        fields = (LAST_FRAGMENT | 24, self.xid, _REPLY, _DENIED, _RPC_MISMATCH)
        self.answers.send(self, (_DENIED_MISMATCH.pack(*fields, _RPC_VERSION, _RPC_VERSION),))

    def deny_credentials(self) -> None:
        """Answer that these credentials are not taken."""
        fields = (LAST_FRAGMENT | 20, self.xid, _REPLY, _DENIED, _AUTH_ERROR, AUTH_BADCRED)
        self.answers.send(self, (_DENIED_AUTH.pack(*fields),))


Procedure = Callable[[Exchange], None]
# Number of the program -> version -> number of the procedure -> what carries it out.
Programs = Mapping[int, Mapping[int, Mapping[int, Procedure]]]


def dispatch(programs: Programs, record: memoryview, answers: Answers) -> Exchange:
    """Carry out a call, or refuse it; return it, answered or not.

    Raises:
        BrokenRecord: it is no call.
    """
    try:
        xid, kind, rpc_version, program, version, procedure = _HEAD.unpack_from(record)
    except struct.error as error:
        raise BrokenRecord("a record that is too short for a call") from error
    if kind != _CALL:
        raise BrokenRecord("a client sent a reply")
    exchange = Exchange(xid, record, _HEAD.size, answers)
    if rpc_version != _RPC_VERSION:
        exchange.deny_version()
        return exchange
    try:
        if not _skip_authentication(exchange):
            exchange.deny_credentials()
        elif carry_out := _find(programs, program, version, procedure, exchange):
            carry_out(exchange)
    except (XdrError, struct.error):
        exchange.reject(GARBAGE_ARGS)
    return exchange


def _skip_authentication(exchange: Exchange) -> bool:
    """Move on to the arguments; return whether credentials and verifier are acceptable.

    Who the caller says to be is of no interest: AUTH_SYS proves nothing.
    """
    at = exchange.at
    flavor, length = _AUTH.unpack_from(exchange.record, at)
    at += 8 + (length + 3 & ~3)
    _, verifier_length = _AUTH.unpack_from(exchange.record, at)
    at += 8 + (verifier_length + 3 & ~3)
    exchange.at = at
    if length > AUTH_BODY_MAX or verifier_length > AUTH_BODY_MAX:
        return False
    return flavor in {AUTH_NONE, AUTH_SYS}


def _find(
    programs: Programs, program: int, version: int, procedure: int, exchange: Exchange
) -> Procedure | None:
    versions = programs.get(program)
    if versions is None:
        exchange.reject(PROG_UNAVAIL)
        return None
    procedures = versions.get(version)
    if procedures is None:
        exchange.reject(PROG_MISMATCH, _MISMATCH.pack(min(versions), max(versions)))
        return None
    found = procedures.get(procedure)
    if found is None:
        exchange.reject(PROC_UNAVAIL)
    return found


def null(exchange: Exchange) -> None:
    """Answer procedure 0, which every program has and which does nothing."""
    exchange.reply(b"")
