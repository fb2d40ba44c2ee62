"""The client's side of the NBD protocol as generators, without I/O.

Each function here yields steps and gets their results; whoever drives it owns the socket:

    Send(buffers)     send them all                 → b""
    Receive(count)    receive exactly that much     → the bytes
    Fill(view)        receive exactly into the view → b""
    StartTls()        do the TLS handshake          → b""

So a test plays the server with a list of bytes, and buffers are filled without a copy.
A violation of the protocol raises NbdError; the connection is of no use after that.
A request that the server refuses raises RequestRefused, after its reply was read whole.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from ruchu.blocks import nbd_messages as messages
from ruchu.errors import NbdError

BASE_ALLOCATION = "base:allocation"
# One cookie at a time is in flight; any value that is not zero finds mixed-up replies.
COOKIE = 0x52756368
# A server that sends more replies to one option, or chunks to one request, is broken: a read of
# 32 MiB in 512-byte pieces is 65536 chunks.
OPTION_REPLIES_MAX = 1024
CHUNKS_MAX = 2 * 65536


@dataclass(frozen=True, slots=True)
class Send:
    """Send these buffers one after the other."""

    buffers: tuple[bytes | memoryview, ...]


@dataclass(frozen=True, slots=True)
class Receive:
    """Receive exactly `count` bytes."""

    count: int


@dataclass(frozen=True, slots=True)
class Fill:
    """Receive exactly as many bytes as the view is long, into it."""

    view: memoryview


@dataclass(frozen=True, slots=True)
class StartTls:
    """Upgrade the connection to TLS."""


Step = Send | Receive | Fill | StartTls


class RequestRefused(NbdError):
    """The NBD server refused a request."""

    code = "nbd-refused"


@dataclass(slots=True)
class _Negotiated:
    size: int | None = None
    flags: int = 0
    blocks: tuple[int, int, int] | None = None
    structured: bool = False
    contexts: list[tuple[str, int]] = field(default_factory=list)


def negotiate(
    export: str, contexts: Sequence[str] = (), *, tls: bool = False
) -> Generator[Step, bytes, messages.Export]:
    """Do the handshake and enter the transmission phase.

    Args:
        export: name of the export.
        contexts: metadata contexts to select; those that the server lacks are left out.
        tls: upgrade to TLS first; a server that will not is refused.
    """
    done = _Negotiated()
    done.structured = yield from _greet(tls=tls)
    if contexts and done.structured:
        done.contexts = yield from _contexts(messages.OPT_SET_META_CONTEXT, export, contexts)
    yield from _go(export, done)
    return _finished(done)


def list_contexts(
    export: str, queries: Sequence[str] = (), *, tls: bool = False
) -> Generator[Step, bytes, list[str]]:
    """Do the handshake and return the metadata contexts that the server offers."""
    if not (yield from _greet(tls=tls)):
        return []
    found = yield from _contexts(messages.OPT_LIST_META_CONTEXT, export, queries)
    return [name for name, _ in found]


def _greet(*, tls: bool) -> Generator[Step, bytes, bool]:
    """Open the handshake; return whether structured replies were agreed on."""
    flags = messages.parse_greeting((yield Receive(messages.GREETING_SIZE)))
    yield Send((messages.client_flags(flags),))
    if tls:
        error = yield from _simple_option(messages.OPT_STARTTLS)
        if error:
            raise NbdError(f"TLS is wanted, but: {error}")
        yield StartTls()
    return not (yield from _simple_option(messages.OPT_STRUCTURED_REPLY))


def read(export: messages.Export, start: int, view: memoryview) -> Generator[Step, bytes, None]:
    """Fill the view with the bytes at `start`. Structured or simple replies, in any order."""
    yield Send((messages.request(messages.CMD_READ, COOKIE, start, len(view)),))
    reply = _ReadReply(start, view)
    yield from _reply(export, reply)
    reply.check_complete()


def command(
    export: messages.Export, number: int, start: int = 0, length: int = 0
) -> Generator[Step, bytes, None]:
    """Send a command without payload: flush, trim, write zeroes."""
    yield Send((messages.request(number, COOKIE, start, length),))
    yield from _reply(export, _PlainReply())


def write(export: messages.Export, start: int, view: memoryview) -> Generator[Step, bytes, None]:
    """Write the view at `start`."""
    yield Send((messages.request(messages.CMD_WRITE, COOKIE, start, len(view)), view))
    yield from _reply(export, _PlainReply())


def block_status(
    export: messages.Export, start: int, length: int
) -> Generator[Step, bytes, dict[str, list[tuple[int, int]]]]:
    """Return context name → descriptors (length, flags) that begin at `start`.

    A server may answer for less than was asked, or for more; there is at least one descriptor
    for each selected context.
    """
    yield Send((messages.request(messages.CMD_BLOCK_STATUS, COOKIE, start, length),))
    reply = _StatusReply({number: name for name, number in export.contexts})
    yield from _reply(export, reply)
    return reply.finished()


def disconnect() -> Generator[Step, bytes, None]:
    """Say goodbye; there is no reply."""
    yield Send((messages.request(messages.CMD_DISCONNECT, COOKIE),))


def _simple_option(number: int) -> Generator[Step, bytes, str]:
    """Send an option that is only acknowledged; return the error in words, empty if none."""
    yield Send((messages.option(number),))
    head, data = yield from _option_reply(number)
    if head.type == messages.REP_ACK:
        return ""
    if head.type & messages.REP_ERROR_BIT:
        return messages.option_error(head.type, data)
    raise NbdError(f"reply of type {head.type} to option {number}")


def _option_reply(number: int) -> Generator[Step, bytes, tuple[messages.OptionReply, bytes]]:
    head = messages.parse_option_reply((yield Receive(messages.OPTION_REPLY_SIZE)), number)
    data = (yield Receive(head.length)) if head.length else b""
    return head, data


def _contexts(
    number: int, export: str, queries: Sequence[str]
) -> Generator[Step, bytes, list[tuple[str, int]]]:
    yield Send((messages.option(number, messages.context_data(export, queries)),))
    found: list[tuple[str, int]] = []
    for _ in range(OPTION_REPLIES_MAX):
        head, data = yield from _option_reply(number)
        if head.type == messages.REP_ACK:
            return found
        if head.type & messages.REP_ERROR_BIT:
            return []
        if head.type != messages.REP_META_CONTEXT:
            raise NbdError(f"reply of type {head.type} to option {number}")
        found.append(messages.parse_context(data))
    raise NbdError(f"more than {OPTION_REPLIES_MAX} metadata contexts")


def _go(export: str, done: _Negotiated) -> Generator[Step, bytes, None]:
    yield Send((messages.option(messages.OPT_GO, messages.go_data(export)),))
    for _ in range(OPTION_REPLIES_MAX):
        head, data = yield from _option_reply(messages.OPT_GO)
        if head.type == messages.REP_ACK:
            return
        if head.type & messages.REP_ERROR_BIT:
            raise NbdError(f"export {export!r}: {messages.option_error(head.type, data)}")
        if head.type != messages.REP_INFO or len(data) < 2:
            raise NbdError(f"reply of type {head.type} to the choice of the export")
        kind = int.from_bytes(data[:2], "big")
        if kind == messages.INFO_EXPORT:
            done.size, done.flags = messages.parse_info_export(data)
        elif kind == messages.INFO_BLOCK_SIZE:
            done.blocks = messages.parse_info_block_size(data)
    raise NbdError(f"more than {OPTION_REPLIES_MAX} replies to the choice of the export")


def _finished(done: _Negotiated) -> messages.Export:
    if done.size is None:
        raise NbdError("the server did not tell the size of the export")
    # A server that states no sizes takes 1 byte to 32 MiB and likes 4 KiB (proto.md).
    least, preferred, most = done.blocks or (1, 4096, messages.PAYLOAD_MAX)
    return messages.Export(
        size=done.size,
        flags=done.flags,
        block_min=least,
        block_preferred=preferred,
        payload_max=min(most, messages.PAYLOAD_MAX),
        structured=done.structured,
        contexts=tuple(done.contexts),
    )


class _PlainReply:
    """A reply that carries nothing but success."""

    def chunk(self, head: messages.Chunk) -> Generator[Step, bytes, None]:
        yield from ()
        raise NbdError(f"unexpected chunk of type {head.type}")

    def simple(self) -> Generator[Step, bytes, None]:
        yield from ()


class _ReadReply:
    """A reply to a read: data and holes in any order, without overlap, covering all."""

    def __init__(self, start: int, view: memoryview) -> None:
        self._start = start
        self._view = view
        self._ranges: list[tuple[int, int]] = []

    def chunk(self, head: messages.Chunk) -> Generator[Step, bytes, None]:
        if head.type == messages.CHUNK_DATA:
            if head.length < 9:
                raise NbdError(f"data chunk of {head.length} bytes")
            offset = int.from_bytes((yield Receive(8)), "big")
            yield Fill(self._claim(offset, head.length - 8))
        elif head.type == messages.CHUNK_HOLE:
            if head.length != 12:
                raise NbdError(f"hole chunk of {head.length} bytes")
            data = yield Receive(12)
            target = self._claim(int.from_bytes(data[:8], "big"), int.from_bytes(data[8:], "big"))
            target[:] = bytes(len(target))
        else:
            raise NbdError(f"chunk of type {head.type} in reply to a read")

    def simple(self) -> Generator[Step, bytes, None]:
        yield Fill(self._claim(self._start, len(self._view)))

    def check_complete(self) -> None:
        covered = sum(length for _, length in self._ranges)
        if covered != len(self._view):
            raise NbdError(f"{covered} of {len(self._view)} bytes were sent")

    def _claim(self, offset: int, length: int) -> memoryview:
        start = offset - self._start
        if start < 0 or length <= 0 or start + length > len(self._view):
            raise NbdError(f"{length} bytes at {offset}, which were not asked for")
        for other, other_length in self._ranges:
            if start < other + other_length and other < start + length:
                raise NbdError(f"bytes at {offset} were sent twice")
        if self._ranges and sum(self._ranges[-1]) == start:
            # Chunks mostly come in order; joining them keeps the list, and the check, short.
            first, joined = self._ranges.pop()
            self._ranges.append((first, joined + length))
        else:
            self._ranges.append((start, length))
        return self._view[start : start + length]


class _StatusReply:
    """A reply to a block status request: one chunk for each context."""

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self._found: dict[str, list[tuple[int, int]]] = {}

    def chunk(self, head: messages.Chunk) -> Generator[Step, bytes, None]:
        if head.type != messages.CHUNK_STATUS or head.length > messages.STATUS_CHUNK_MAX:
            raise NbdError(f"chunk of type {head.type} in reply to a block status request")
        number, descriptors = messages.parse_status((yield Receive(head.length)))
        name = self._names.get(number)
        if name is None or name in self._found:
            raise NbdError(f"block status for context {number}, not asked for or sent twice")
        self._found[name] = descriptors

    def simple(self) -> Generator[Step, bytes, None]:
        yield from ()
        raise NbdError("a simple reply to a block status request")

    def finished(self) -> dict[str, list[tuple[int, int]]]:
        if len(self._found) != len(self._names):
            raise NbdError("block status is missing for a context")
        return self._found


def _reply(
    export: messages.Export, reply: _PlainReply | _ReadReply | _StatusReply
) -> Generator[Step, bytes, None]:
    """Read one whole reply, then raise if it was an error."""
    refused = ""
    for _ in range(CHUNKS_MAX):
        magic = messages.parse_reply_magic(
            (yield Receive(messages.REPLY_MAGIC_SIZE)), structured=export.structured
        )
        if magic == messages.SIMPLE_REPLY_MAGIC:
            refused = yield from _simple_reply(export, reply)
            break
        head = messages.parse_chunk((yield Receive(messages.CHUNK_REST)))
        _check_cookie(head.cookie)
        if head.type & messages.CHUNK_ERROR_BIT:
            if head.length > messages.ERROR_CHUNK_MAX:
                raise NbdError(f"error chunk of {head.length} bytes")
            error = messages.parse_error_chunk((yield Receive(head.length)))
            refused = refused or error
        elif head.type != messages.CHUNK_NONE:
            yield from reply.chunk(head)
        elif head.length or not head.flags & messages.CHUNK_DONE:
            raise NbdError("an empty chunk that is not empty or not the last")
        if head.flags & messages.CHUNK_DONE:
            break
    else:
        raise NbdError(f"more than {CHUNKS_MAX} chunks in one reply")
    if refused:
        raise RequestRefused(refused)


def _simple_reply(
    export: messages.Export, reply: _PlainReply | _ReadReply | _StatusReply
) -> Generator[Step, bytes, str]:
    error, cookie = messages.parse_simple_reply((yield Receive(messages.SIMPLE_REPLY_REST)))
    _check_cookie(cookie)
    if error:
        return messages.error_text(error)
    if export.structured and isinstance(reply, _ReadReply):
        raise NbdError("a simple reply to a read, though structured ones were agreed on")
    yield from reply.simple()
    return ""


def _check_cookie(cookie: int) -> None:
    if cookie != COOKIE:
        raise NbdError(f"reply to another request ({cookie:#x})")
