"""For tests of the NFS server: a client that can say anything, a disk that can fail, a server."""

import asyncio
import contextlib
import ipaddress
import itertools
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final, Self

from ruchu.exports.nfs import messages, mount
from ruchu.exports.nfs.exporting import NfsExport
from ruchu.exports.nfs.server import NfsServer
from ruchu.exports.nfs.xdr import FALSE, TRUE, U32, U64, Reader, opaque
from ruchu.model.extents import Extent
from ruchu.units import KIB

PATH: Final = "/ruchu-test"
SECRET: Final = bytes(range(32))
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"),)
# A test that waits longer has found a server that hangs.
ANSWER_LIMIT_S = 60.0

NULL, GETATTR, SETATTR, LOOKUP, ACCESS, READLINK, READ, WRITE = range(8)
CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME, LINK = range(8, 16)
READDIR, READDIRPLUS, FSSTAT, FSINFO, PATHCONF, COMMIT = range(16, 22)


def new_attributes(*, mode: int | None = None, size: int | None = None) -> bytes:
    """Return a sattr3."""
    mode_part = FALSE if mode is None else TRUE + U32.pack(mode)
    size_part = FALSE if size is None else TRUE + U64.pack(size)
    return mode_part + FALSE + FALSE + size_part + FALSE + FALSE


GUARDED: Final = U32.pack(messages.GUARDED) + new_attributes()


class GatedDevice:
    """A disk in memory whose calls can be held up and made to fail.

    Attributes:
        at_hand: `peek` has the bytes.
        gate: calls that are named in `held` pass while it is set.
        held: `read`, `write` and `flush`.
        error: what is raised by those of them that are named in `failing`.
        failing: `read`, `write` and `flush`; `peek` too when it is added.
        calls: what was called, in order: name, start, first byte.
        peeks: how often `peek` was.
    """

    def __init__(self, size: int, *, at_hand: bool = True) -> None:
        self.content = bytearray(size)
        self.size = size
        self.preferred_io = 64 * KIB
        self.at_hand = at_hand
        self.gate = threading.Event()
        self.gate.set()
        self.held = {"read", "write", "flush"}
        self.error: Exception | None = None
        self.failing = {"read", "write", "flush"}
        self.calls: list[tuple[str, int, int]] = []
        self.peeks = 0
        self.called = threading.Semaphore(0)

    def peek(self, start: int, length: int) -> memoryview | None:
        """Return the bytes, if they are at hand."""
        self.peeks += 1
        if self.error is not None and "peek" in self.failing:
            raise self.error
        return memoryview(bytes(self.content[start : start + length])) if self.at_hand else None

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        self._pass("read", start, 0)
        buffer[:] = self.content[start : start + len(buffer)]

    def write(self, start: int, buffer: memoryview) -> None:
        """Store the buffer."""
        self._pass("write", start, buffer[0] if buffer else 0)
        self.content[start : start + len(buffer)] = buffer

    def flush(self) -> None:
        """Do nothing, when the gate is open."""
        self._pass("flush", 0, 0)

    def zero(self, start: int, length: int) -> None:
        """Write zeros."""
        self.content[start : start + length] = bytes(length)

    def discard(self, start: int, length: int) -> None:
        """Write zeros."""
        self.zero(start, length)

    def extents(self) -> Iterator[Extent]:
        """Say nothing: the server does not ask."""
        raise NotImplementedError

    def _pass(self, name: str, start: int, first: int) -> None:
        self.calls.append((name, start, first))
        self.called.release()
        assert name not in self.held or self.gate.wait(ANSWER_LIMIT_S)
        if self.error is not None and name in self.failing:
            raise self.error


class Refusal(Exception):
    """A call was answered with a status that is not OK; `rest` is what follows it."""

    def __init__(self, status: int, rest: bytes) -> None:
        super().__init__(str(status))
        self.status = status
        self.rest = rest


class Client:
    """Calls one at a time, and takes answers as bytes."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=ANSWER_LIMIT_S)
        self._xids = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def post(self, program: int, procedure: int, arguments: bytes = b"", version: int = 3) -> int:
        """Send a call, and return its number."""
        xid = next(self._xids)
        self.send(header(xid, program, procedure, version) + arguments)
        return xid

    def send(self, record: bytes) -> None:
        """Send a record in one fragment."""
        self.socket.sendall(U32.pack(1 << 31 | len(record)) + record)

    def receive(self) -> bytes:
        """Return the next record; empty when the server closed."""
        try:
            head = self._exactly(4)
            return self._exactly(int.from_bytes(head, "big") & 0x7FFFFFFF) if head else b""
        except ConnectionError:
            return b""

    def answer(self) -> tuple[int, Reader, bytes]:
        """Return number, a reader of the results, and the results of the next accepted call."""
        record = self.receive()
        xid, kind, accepted, _, _, status = struct.unpack_from(">6I", record)
        assert (kind, accepted, status) == (1, 0, 0), record[:24].hex()
        return xid, Reader(memoryview(record), 24), record[24:]

    def call(self, procedure: int, arguments: bytes = b"") -> Reader:
        """Call NFS, and return what follows the status.

        Raises:
            Refusal: the status is not OK.
        """
        self.post(messages.PROGRAM, procedure, arguments)
        _, reader, results = self.answer()
        status = reader.u32()
        if status:
            raise Refusal(status, results[4:])
        return reader

    def mount(self, path: str = PATH) -> bytes:
        """Return the handle of the exported directory."""
        self.post(mount.PROGRAM, 1, opaque(path.encode()))
        _, reader, results = self.answer()
        if status := reader.u32():
            raise Refusal(status, results[4:])
        return reader.opaque(64)

    def lookup(self, directory: bytes, name: str) -> bytes:
        """Return the handle of a name."""
        return self.call(LOOKUP, opaque(directory) + opaque(name.encode())).opaque(64)

    def read(self, handle: bytes, start: int, count: int) -> tuple[bytes, bool]:
        """Return bytes, and whether the file ends there."""
        reader = self.call(READ, opaque(handle) + U64.pack(start) + U32.pack(count))
        attributes(reader)
        length, ends = reader.u32(), reader.flag()
        data = reader.opaque(messages.TRANSFER_MAX)
        assert len(data) == length
        return data, ends

    def write(self, handle: bytes, start: int, data: bytes, how: int = 0) -> tuple[int, bytes]:
        """Write, and return how durable it is, and the verifier."""
        reader = self.call(WRITE, write_arguments(handle, start, data, how))
        assert not reader.flag()
        attributes(reader)
        assert reader.u32() == len(data)
        return reader.u32(), reader.fixed(8)

    def commit(self, handle: bytes) -> bytes:
        """Return the verifier."""
        reader = self.call(COMMIT, opaque(handle) + U64.pack(0) + U32.pack(0))
        assert not reader.flag()
        attributes(reader)
        return reader.fixed(8)

    def create(self, directory: bytes, name: str, how: bytes = GUARDED) -> bytes:
        """Make a file and return its handle; GUARDED, unless `how` says otherwise."""
        reader = self.call(CREATE, opaque(directory) + opaque(name.encode()) + how)
        assert reader.flag()
        return reader.opaque(64)

    def names(self, directory: bytes, count: int = 4096) -> list[str]:
        """Return all names of a directory, in as many calls as that takes."""
        found, cookie, verifier = [], 0, bytes(8)
        while True:
            where = U64.pack(cookie) + verifier + U32.pack(count)
            reader = self.call(READDIR, opaque(directory) + where)
            attributes(reader)
            verifier = reader.fixed(8)
            while reader.flag():
                reader.u64()
                found.append(reader.opaque(255).decode())
                cookie = reader.u64()
            if reader.flag():
                return found

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count and (part := self.socket.recv(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts) if not count else b""


def header(xid: int, program: int, procedure: int, version: int = 3) -> bytes:
    """Return the beginning of a call with AUTH_SYS credentials."""
    credentials = opaque(U32.pack(0) + opaque(b"host") + U32.pack(0) * 3)
    head = struct.pack(">6I", xid, 0, 2, program, version, procedure)
    return head + U32.pack(1) + credentials + bytes(8)


def write_arguments(handle: bytes, start: int, data: bytes, how: int) -> bytes:
    """Return the arguments of WRITE."""
    numbers = U64.pack(start) + U32.pack(len(data)) + U32.pack(how)
    return opaque(handle) + numbers + opaque(data)


def attributes(reader: Reader, *, bare: bool = False) -> dict[str, int]:
    """Take a post_op_attr (or a fattr3) that must be there, and return parts of it by name."""
    assert bare or reader.flag()
    names = ("kind", "mode", "links", "owner", "group", "size", "used", "device")
    wide = {"size", "used", "device"}
    found = {name: reader.u64() if name in wide else reader.u32() for name in names}
    found["filesystem"], found["file_id"] = reader.u64(), reader.u64()
    for name in ("accessed", "modified", "changed"):
        found[name] = messages.read_moment(reader)
    return found


class RunningServer:
    """A server in a thread of its own, with an event loop of its own.

    Attributes:
        address: where it listens.
        failures: what it told of errors of devices.
        crashes: exceptions that should not be.
    """

    def __init__(self, export: NfsExport, host: str = "127.0.0.1", port: int = 0) -> None:
        self.address = (host, 0)
        self.failures: list[Exception] = []
        self.crashes: list[object] = []
        self._export = export
        self._wanted = (host, port)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._started.wait(ANSWER_LIMIT_S)
        if not self.address[1]:
            self.stop()

    def stop(self) -> None:
        """Close it, and raise what it raised."""
        if not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it ended between the two
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(ANSWER_LIMIT_S)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - `stop` raises it where a test sees it
            self._error = error
        finally:
            self._loop.close()
            self._started.set()

    async def _serve(self) -> None:
        self._loop.set_exception_handler(lambda _, context: self.crashes.append(context))
        server = NfsServer(self._export, on_failure=lambda _, error: self.failures.append(error))
        async with server:
            self.address = (await server.start(*self._wanted))[0]
            self._started.set()
            await self._stop.wait()


@contextlib.contextmanager
def serving(export: NfsExport) -> Iterator[RunningServer]:
    """Serve for the time of a test; at the end nothing may have crashed."""
    server = RunningServer(export)
    try:
        yield server
    finally:
        server.stop()
    assert server.crashes == []
