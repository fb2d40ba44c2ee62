"""The transmission phase: requests of one connection, answered.

One thread receives requests. It answers by itself what needs no waiting: reads that the device has
at hand, and writes. Everything else goes to the pool, so that several requests of a connection are
decoded at a time; what the pool made is sent by a second thread, so that a client that does not
read its replies holds up nobody but itself.

The protocol is doc/proto.md of github.com/NetworkBlockDevice/nbd ("Transmission phase").
"""

import errno
import functools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_server_messages as replies
from ruchu.blocks.nbd import STATE_HOLE, STATE_ZERO
from ruchu.errors import NbdError, RuchuError, StorageFull
from ruchu.exports.nbd.channels import Channel, Part
from ruchu.exports.nbd.gathering import Write, runs_of
from ruchu.exports.nbd.handshake import ALLOCATION_ID, Agreed
from ruchu.exports.nbd.inbox import INBOX_BYTES, Inbox
from ruchu.exports.nbd.pieces import Piece, chunks_of
from ruchu.exports.nbd.workers import Budget, Pool
from ruchu.model.extents import Content
from ruchu.units import KIB, MIB

# Data to write is handed to the device in pieces that end at multiples of it: this bounds memory
# whatever is sent, and no block of a device is cut in two.
WRITE_PIECE: Final = 1 * MIB
# A write up to here is received whole, and stored with those beside it: a quarter of the inbox.
GATHERED_WRITE_MAX: Final = INBOX_BYTES // 4
GATHERED_MAX: Final = 256
# Answers of small reads and writes go out together; what is large goes at once.
COLLECTED_MAX: Final = 64 * KIB
# A reader that has caught up waits so long for what is read ahead of it; decoding takes some 2 ms.
COMING_S: Final = 0.02
IMPATIENT_REQUESTS: Final = 256
# A prefetch is a hint; more would push what is used out of the cache.
PREFETCH_MAX: Final = 32 * MIB
# An answer to a block status query: 32 KiB; the client asks again behind it.
DESCRIPTORS_MAX: Final = 4096
# What a request takes beside its data.
REQUEST_COST: Final = 4 * KIB
STATUS_COST: Final = 512 * KIB

_ALLOWED_FLAGS: Final = {
    messages.CMD_READ: replies.FLAG_DONT_FRAGMENT,
    messages.CMD_WRITE: replies.FLAG_FUA,
    messages.CMD_FLUSH: 0,
    messages.CMD_TRIM: replies.FLAG_FUA,
    replies.CMD_CACHE: 0,
    messages.CMD_WRITE_ZEROES: replies.FLAG_FUA | replies.FLAG_NO_HOLE | replies.FLAG_FAST_ZERO,
    messages.CMD_BLOCK_STATUS: replies.FLAG_REQUEST_ONE,
}
_STATES: Final = {
    Content.DATA: 0,
    Content.ZERO: STATE_ZERO,
    Content.HOLE: STATE_HOLE | STATE_ZERO,
}
_CHANGING: Final = {messages.CMD_WRITE, messages.CMD_TRIM, messages.CMD_WRITE_ZEROES}
# proto.md: what would grow the disk fails for want of room.
_GROWING: Final = {messages.CMD_WRITE, messages.CMD_WRITE_ZEROES}

Failures = Callable[[str, Exception], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A request, without the data that may follow it."""

    flags: int
    command: int
    cookie: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Resources:
    """What connections share: threads, memory, and who is told of errors of a device."""

    pool: Pool
    budget: Budget
    connection_bytes_max: int
    failures: Failures


@dataclass(frozen=True, slots=True)
class _Failure:
    number: int
    text: str


class Transmission:
    """The requests of one connection."""

    def __init__(self, channel: Channel, agreed: Agreed, resources: Resources) -> None:
        self._channel = channel
        self._agreed = agreed
        self._export = agreed.export
        self._resources = resources
        self._own_budget = Budget(resources.connection_bytes_max)
        self._answers: queue.SimpleQueue[tuple[list[Piece], int] | None] = queue.SimpleQueue()
        self._sender: threading.Thread | None = None
        self._structured = agreed.structured
        self._inbox = Inbox(channel)
        self._buffer: memoryview | None = None
        self._gathered: list[Write] = []
        self._impatient = 0
        self._collected: list[Part] = []
        self._collected_bytes = 0
        self._broken = False
        self._commands: dict[int, Callable[[Request], list[Piece] | _Failure]] = {
            messages.CMD_READ: self._read,
            messages.CMD_FLUSH: self._flush,
            messages.CMD_TRIM: self._trim,
            replies.CMD_CACHE: self._prefetch,
            messages.CMD_WRITE_ZEROES: self._write_zeroes,
            messages.CMD_BLOCK_STATUS: self._block_status,
        }

    def run(self) -> None:
        """Serve until the client leaves; what it asked for before is done and answered.

        Raises:
            OSError: the client is gone or stalled.
            NbdError: it broke the protocol.
        """
        try:
            self._receive_requests()
        finally:
            self._own_budget.wait_until_unused()
            if self._sender is not None:
                self._answers.put(None)
                self._sender.join()

    def _receive_requests(self) -> None:
        inbox, unpack = self._inbox, replies.REQUEST.unpack_from
        buffer, size = inbox.buffer, self._export.size
        gathers = self._export.write is not None
        while True:
            if inbox.end - inbox.at < replies.REQUEST_SIZE:
                self._settle()
                if not inbox.wait(replies.REQUEST_SIZE):
                    return
            magic, flags, command, cookie, start, length = unpack(buffer, inbox.at)
            if magic != messages.REQUEST_MAGIC:
                self._settle()
                raise NbdError(f"request with magic {magic:#x}")
            # The paths that must be short: a read of what the device has at hand, a small write.
            if not flags and length and start + length <= size:
                if command == messages.CMD_READ:
                    if self._read_at_once(cookie, start, length):
                        inbox.at += replies.REQUEST_SIZE
                        continue
                elif command == messages.CMD_WRITE and gathers and length <= GATHERED_WRITE_MAX:
                    self._gather(cookie, start, length)
                    continue
            self._settle()
            inbox.at += replies.REQUEST_SIZE
            if command == messages.CMD_DISCONNECT:
                return
            self._handle(Request(flags, command, cookie, start, length))

    def _read_at_once(self, cookie: int, start: int, length: int) -> bool:
        """Answer a read of what the device has at hand; return whether it had."""
        if length > messages.PAYLOAD_MAX:
            return False
        try:
            data = self._export.peek(start, length) or self._coming(start, length)
        except Exception:  # noqa: BLE001 - the pool meets it again, and answers it
            return False
        if data is None:
            return False
        if self._structured:
            head = replies.DATA_CHUNK.pack(messages.CHUNK_MAGIC, 1, 1, cookie, 8 + length, start)
        else:
            head = replies.SIMPLE_REPLY.pack(messages.SIMPLE_REPLY_MAGIC, 0, cookie)
        self._collected += (head, data)
        self._collected_bytes += length
        if self._collected_bytes >= COLLECTED_MAX:
            self._send_collected()
        return True

    def _coming(self, start: int, length: int) -> memoryview | None:
        """Return what is just being read ahead, in less time than others take to be woken for it.

        The requests behind it wait as well; so this is not tried for a while if it takes longer.
        """
        if self._export.peek_coming is None:
            return None
        if self._impatient:
            self._impatient -= 1
            return None
        self._settle()
        try:
            return self._export.peek_coming(start, length, COMING_S)
        except TimeoutError:
            self._impatient = IMPATIENT_REQUESTS
            return None

    def _gather(self, cookie: int, start: int, length: int) -> None:
        """Take a small write; it is stored with those that came with it."""
        inbox = self._inbox
        whole = replies.REQUEST_SIZE + length
        if inbox.end - inbox.at < whole:
            self._settle()
            inbox.wait(whole)
        begin = inbox.at + replies.REQUEST_SIZE
        inbox.at += whole
        self._gathered.append((start, cookie, inbox.buffer[begin : begin + length]))
        if len(self._gathered) >= GATHERED_MAX:
            self._store_gathered()

    def _settle(self) -> None:
        """Store and answer what was taken; to be done before this thread waits for anything."""
        if self._gathered:
            self._store_gathered()
        if self._collected:
            self._send_collected()

    def _store_gathered(self) -> None:
        """Store writes that came together, and collect the answers."""
        writes, self._gathered = self._gathered, []
        try:
            if self._stored_together(writes):
                done = replies.done_chunk if self._structured else replies.simple_reply
                self._collected.append(b"".join([done(cookie) for _, cookie, _ in writes]))
                return
            failures = [self._store(start, data) for start, _, data in writes]
        finally:
            self._export.allocation.changed()
        for (start, cookie, data), failure in zip(writes, failures, strict=True):
            request = Request(0, messages.CMD_WRITE, cookie, start, len(data))
            pieces = self._done(request) if failure is None else self._failed(request, failure)
            self._collected += (head for head, _ in pieces)

    def _stored_together(self, writes: list[Write]) -> bool:
        """Store writes, those that meet on the disk in one; False: each is to be tried by itself."""
        if len(writes) == 1 or self._export.write_parts is None:
            return False
        runs = runs_of(writes)
        try:
            for start, parts in runs:
                self._export.write_parts(start, parts)
        except Exception:  # noqa: BLE001 - each by itself meets it again, and answers it
            return False
        return bool(runs)

    def _send_collected(self) -> None:
        collected, self._collected, self._collected_bytes = self._collected, [], 0
        self._channel.send_all(collected)

    def _handle(self, request: Request) -> None:
        failure = self._refusal(request)
        if request.command == messages.CMD_WRITE:
            self._take_write(request, failure)
        elif failure is not None:
            self._send(self._failed(request, failure))
        else:
            self._hand_over(request, self._commands[request.command])

    def _refusal(self, request: Request) -> _Failure | None:
        """Return why a request cannot be carried out, whatever the device says."""
        command, end = request.command, request.start + request.length
        allowed = _ALLOWED_FLAGS.get(command)
        if allowed is None or request.flags & ~allowed:
            return _Failure(replies.INVALID, f"command {command} with flags {request.flags:#x}")
        if command in _CHANGING and not self._export.writable:
            return _Failure(replies.NOT_PERMITTED, "the export is read-only")
        if end > self._export.size and command != messages.CMD_FLUSH:
            number = replies.NO_SPACE if command in _GROWING else replies.INVALID
            return _Failure(number, f"the disk ends at {self._export.size}")
        moves_data = command in {messages.CMD_READ, messages.CMD_WRITE}
        if moves_data and request.length > messages.PAYLOAD_MAX:
            return _Failure(replies.INVALID, f"more than {messages.PAYLOAD_MAX} bytes")
        return self._refusal_of_state(request)

    def _refusal_of_state(self, request: Request) -> _Failure | None:
        if request.command == messages.CMD_TRIM and self._export.discard is None:
            return _Failure(replies.INVALID, "trim was not offered")
        if request.command == messages.CMD_BLOCK_STATUS:
            if not self._agreed.allocation:
                return _Failure(replies.INVALID, "no metadata context was selected")
            if not request.length:
                return _Failure(replies.INVALID, "a block status of nothing")
        if request.flags & replies.FLAG_FAST_ZERO and (
            self._export.discard is None or request.flags & replies.FLAG_NO_HOLE
        ):
            return _Failure(replies.NOT_SUPPORTED, "zeros that are stored are written")
        return None

    # ------------------------------------------------------------------------------- by the pool

    def _hand_over(
        self, request: Request, action: Callable[[Request], "list[Piece] | _Failure"]
    ) -> None:
        """Have a request carried out by the pool; wait first if too much is in flight."""
        cost = REQUEST_COST
        if request.command == messages.CMD_READ:
            cost += request.length
        elif request.command == messages.CMD_BLOCK_STATUS:
            cost += STATUS_COST
        elif request.command == replies.CMD_CACHE:
            cost += WRITE_PIECE
        if self._sender is None:
            self._sender = threading.Thread(
                target=self._send_answers, name="nbd-sender", daemon=True
            )
            self._sender.start()
        self._own_budget.take(cost)
        self._resources.budget.take(cost)
        self._resources.pool.submit(functools.partial(self._carry_out, request, action, cost))

    def _carry_out(
        self,
        request: Request,
        action: Callable[[Request], "list[Piece] | _Failure"],
        cost: int,
    ) -> None:
        pieces: list[Piece] = []
        try:
            if not self._broken:
                done = self._attempt(request, action)
                pieces = self._failed(request, done) if isinstance(done, _Failure) else done
        finally:
            self._answer(pieces, cost)

    def _answer(self, pieces: list[Piece], cost: int) -> None:
        """Send what takes no waiting, such as that a flush is done; leave the rest to the sender."""
        if len(pieces) == 1 and not pieces[0][1] and self._channel.send_at_once(pieces[0][0]):
            self._resources.budget.give_back(cost)
            self._own_budget.give_back(cost)
        else:
            self._answers.put((pieces, cost))

    def _attempt(
        self, request: Request, action: Callable[[Request], "list[Piece] | _Failure"]
    ) -> "list[Piece] | _Failure":
        try:
            return action(request)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: the client is told
            return self._told(error)

    def _told(self, error: Exception) -> _Failure:
        self._resources.failures(self._export.name, error)
        full = isinstance(error, StorageFull) or (
            isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}
        )
        if isinstance(error, MemoryError):
            return _Failure(errno.ENOMEM, "out of memory")
        if not isinstance(error, RuchuError | OSError):
            # A defect of ours: the client gets an error, and we get the traceback.
            thread = threading.current_thread()
            details = (type(error), error, error.__traceback__, thread)
            threading.excepthook(threading.ExceptHookArgs(details))
        return _Failure(replies.NO_SPACE if full else replies.IO_ERROR, str(error))

    def _read(self, request: Request) -> "list[Piece] | _Failure":
        start, length, cookie = request.start, request.length, request.cookie
        buffer = bytearray(length)
        self._export.device.read_into(start, memoryview(buffer))
        if not self._agreed.structured:
            return [(replies.simple_reply(cookie), buffer)]
        if not length:
            return [(replies.done_chunk(cookie), b"")]
        if request.flags & replies.FLAG_DONT_FRAGMENT:
            return [(replies.data_chunk(cookie, start, length, last=True), buffer)]
        return chunks_of(cookie, start, buffer)

    def _flush(self, request: Request) -> "list[Piece] | _Failure":
        if self._export.flush is not None:
            self._export.flush()
        return self._done(request)

    def _trim(self, request: Request) -> "list[Piece] | _Failure":
        assert self._export.discard is not None
        try:
            self._export.discard(request.start, request.length)
        finally:
            self._export.allocation.changed()
        return self._flush(request) if request.flags & replies.FLAG_FUA else self._done(request)

    def _write_zeroes(self, request: Request) -> "list[Piece] | _Failure":
        zero = self._export.zero
        # What was discarded reads as zeros too, and takes no room.
        if self._export.discard is not None and not request.flags & replies.FLAG_NO_HOLE:
            zero = self._export.discard
        assert zero is not None
        try:
            zero(request.start, request.length)
        finally:
            self._export.allocation.changed()
        return self._flush(request) if request.flags & replies.FLAG_FUA else self._done(request)

    def _prefetch(self, request: Request) -> "list[Piece] | _Failure":
        end = request.start + min(request.length, PREFETCH_MAX)
        buffer = memoryview(bytearray(min(request.length, WRITE_PIECE)))
        at = request.start
        while at < end:
            count = min(end - at, len(buffer))
            if self._export.peek(at, count) is None:
                self._export.device.read_into(at, buffer[:count])
            at += count
        return self._done(request)

    def _block_status(self, request: Request) -> "list[Piece] | _Failure":
        most = 1 if request.flags & replies.FLAG_REQUEST_ONE else DESCRIPTORS_MAX
        told = self._export.allocation.status(request.start, request.length, most)
        found = [(length, _STATES[content]) for length, content in told]
        return [(replies.status_chunk(request.cookie, ALLOCATION_ID, found, last=True), b"")]

    # ---------------------------------------------------------------------------- by this thread

    def _take_write(self, request: Request, failure: _Failure | None) -> None:
        """Receive the data of a write, and store it if nothing speaks against it."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(WRITE_PIECE))
        at, end = request.start, request.start + request.length
        try:
            while at < end:
                piece = self._buffer[: min(end, (at // WRITE_PIECE + 1) * WRITE_PIECE) - at]
                self._inbox.fill(piece)
                failure = failure or self._store(at, piece)
                at += len(piece)
        finally:
            # Also when the client died in the middle: what came before is stored.
            self._export.allocation.changed()
        if failure is not None:
            self._send(self._failed(request, failure))
        elif request.flags & replies.FLAG_FUA:
            self._hand_over(request, self._flush)
        else:
            self._send(self._done(request))

    def _store(self, start: int, data: memoryview) -> _Failure | None:
        assert self._export.write is not None
        try:
            self._export.write(start, data)
        except Exception as error:  # noqa: BLE001 - the boundary of a request: the client is told
            return self._told(error)
        return None

    def _done(self, request: Request) -> list[Piece]:
        if self._agreed.structured:
            return [(replies.done_chunk(request.cookie), b"")]
        return [(replies.simple_reply(request.cookie), b"")]

    def _failed(self, request: Request, failure: _Failure) -> list[Piece]:
        if self._agreed.structured:
            chunk = replies.error_chunk(request.cookie, failure.number, failure.text)
            return [(chunk, b"")]
        return [(replies.simple_reply(request.cookie, failure.number), b"")]

    def _send(self, pieces: list[Piece]) -> None:
        for head, data in pieces:
            self._channel.send(head, data)

    # -------------------------------------------------------------------------- by the sender

    def _send_answers(self) -> None:
        while (answer := self._answers.get()) is not None:
            pieces, cost = answer
            try:
                if not self._broken:
                    self._send(pieces)
            except OSError:
                # The receiving thread finds that the client is gone, and says so.
                self._broken = True
                self._channel.abort()
            finally:
                del answer, pieces
                self._resources.budget.give_back(cost)
                self._own_budget.give_back(cost)
