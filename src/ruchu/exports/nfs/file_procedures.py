"""NFS procedures on files: attributes, reading, writing, committing, and what the server can do.

READ is the path that matters: when the disk has the bytes at hand, the answer goes out at once and
without a copy of them.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from ruchu.exports.nfs import messages
from ruchu.exports.nfs.exporting import NAME_MAX
from ruchu.exports.nfs.file_io import Verifier
from ruchu.exports.nfs.messages import Refused, Status
from ruchu.exports.nfs.nodes import Directory, File, Node
from ruchu.exports.nfs.rpc import Exchange
from ruchu.exports.nfs.tree import Tree
from ruchu.exports.nfs.workers import Workers
from ruchu.exports.nfs.xdr import U32, Reader, XdrError
from ruchu.units import KIB

# Called with what was asked of and the error of the device; the client is told a status.
OnFailure = Callable[[str, Exception], None]

_OK = U32.pack(Status.OK)
_READ = struct.Struct(">I32sQI")
_READ_RESULT = struct.Struct(">III")
_WRITTEN = struct.Struct(">II")
_STATISTICS = struct.Struct(">6QI")
_SERVER = struct.Struct(">7IQ3I")
_PATHCONF = struct.Struct(">6I")
# Good sizes of requests are multiples of this.
_MULTIPLE = 4 * KIB


@dataclass(frozen=True, slots=True)
class Service:
    """What procedures work on."""

    tree: Tree
    workers: Workers
    verifier: Verifier
    on_failure: OnFailure

    def fail(self, exchange: Exchange, error: Exception) -> None:
        """Answer with the status of an error, and tell it to whoever runs the server."""
        status = messages.status_of(error)
        if not isinstance(error, Refused):
            self.on_failure(self.tree.export.path, error)
        exchange.reply(U32.pack(status) + exchange.failure)


def take_handle(reader: Reader) -> bytes:
    """Take a file handle.

    Raises:
        Refused: it cannot be one of ours.
    """
    handle = reader.opaque(messages.HANDLE_MAX)
    if len(handle) != messages.HANDLE_SIZE:
        raise Refused(Status.BADHANDLE)
    return handle


def getattr_(service: Service, exchange: Exchange) -> None:
    """GETATTR."""
    node = service.tree.node(take_handle(exchange.arguments()))
    exchange.reply(_OK + node.post_op[4:])


def setattr_(service: Service, exchange: Exchange) -> None:
    """SETATTR."""
    arguments = exchange.arguments()
    node = service.tree.node(take_handle(arguments))
    wanted = messages.read_new_attributes(arguments)
    guard = messages.read_moment(arguments) if arguments.flag() else None

    def done(_: object, error: Exception | None) -> None:
        if error is not None:
            service.fail(exchange, error)
        else:
            exchange.reply(_OK + messages.changed_only(node.post_op))

    service.workers.submit(lambda: service.tree.set_attributes(node, wanted, guard), done)


def access(service: Service, exchange: Exchange) -> None:
    """ACCESS: of the rights that were asked for, those that there are."""
    arguments = exchange.arguments()
    node = service.tree.node(take_handle(arguments))
    granted = arguments.u32() & _rights(service, node)
    exchange.reply(_OK + node.post_op + U32.pack(granted))


def _rights(service: Service, node: Node) -> int:
    rights = messages.ACCESS_READ
    if isinstance(node, Directory):
        rights |= messages.ACCESS_LOOKUP
        if service.tree.scratch is not None:
            rights |= messages.ACCESS_MODIFY | messages.ACCESS_EXTEND | messages.ACCESS_DELETE
    elif isinstance(node, File) and node.writable:
        rights |= messages.ACCESS_MODIFY | messages.ACCESS_EXTEND
    return rights


def readlink(service: Service, exchange: Exchange) -> None:
    """READLINK: nothing here is a symbolic link."""
    service.tree.node(take_handle(exchange.arguments()))
    raise Refused(Status.INVAL)


def read(service: Service, exchange: Exchange) -> None:
    """READ, at most 1 MiB and never beyond the end."""
    if len(exchange.record) < exchange.at + _READ.size:
        take_handle(exchange.arguments())
        raise XdrError("a READ that is too short")
    length, handle, start, count = _READ.unpack_from(exchange.record, exchange.at)
    if length != messages.HANDLE_SIZE:
        raise Refused(Status.BADHANDLE)
    file = service.tree.by_handle.get(handle)
    if file.__class__ is not File:
        file = service.tree.file(handle)
    size = file.attributes.size
    count = max(0, min(count, messages.TRANSFER_MAX, size - start))
    ends = start + count >= size
    data = file.io.content.peek(start, count) if count else b""
    if data is not None:
        exchange.reply(_OK + file.post_op + _READ_RESULT.pack(count, ends, count), data)
        return

    def done(found: bytearray | None, error: Exception | None) -> None:
        if found is None:
            service.fail(exchange, error or OSError("nothing was read"))
            return
        head = _OK + file.post_op + _READ_RESULT.pack(count, ends, count)
        exchange.reply(head, found)

    exchange.weight = count
    file.io.read(start, count, done)


def write(service: Service, exchange: Exchange) -> None:
    """WRITE; the answer says whether the data is durable already."""
    arguments = exchange.arguments()
    file = service.tree.file(take_handle(arguments))
    start, count, how = arguments.u64(), arguments.u32(), arguments.u32()
    data = arguments.view(messages.TRANSFER_MAX)
    _check_write(file, start, len(data), how)
    if count != len(data):
        raise Refused(Status.INVAL)
    # Taken before the write begins: if a flush fails from now on, the client sends it again.
    verifier = service.verifier.value

    def answer() -> None:
        file.written(service.tree.now())
        told = messages.FILE_SYNC if how else messages.UNSTABLE
        body = _OK + messages.changed_only(file.post_op) + _WRITTEN.pack(count, told)
        exchange.reply(body + verifier)

    def flushed(_: bytes, error: Exception | None) -> None:
        if error is not None:
            service.fail(exchange, error)
        else:
            answer()

    def written(error: Exception | None) -> None:
        if error is not None:
            service.fail(exchange, error)
        elif how == messages.UNSTABLE:
            answer()
        else:
            file.io.flush(flushed)

    if file.io.store_at_once(start, data):
        written(None)
        return
    exchange.weight = count
    file.io.write(start, bytes(data), written)


def _check_write(file: File, start: int, length: int, how: int) -> None:
    if not file.writable:
        raise Refused(Status.ROFS)
    if how > messages.FILE_SYNC:
        raise Refused(Status.INVAL)
    end_max = messages.FILE_SIZE_MAX if file.growing else file.attributes.size
    if start + length > end_max:
        raise Refused(Status.FBIG)


def commit(service: Service, exchange: Exchange) -> None:
    """COMMIT: everything that was written and answered before is durable afterwards."""
    arguments = exchange.arguments()
    file = service.tree.file(take_handle(arguments))
    arguments.u64()
    arguments.u32()

    def done(verifier: bytes, error: Exception | None) -> None:
        if error is not None:
            service.fail(exchange, error)
        else:
            exchange.reply(_OK + messages.changed_only(file.post_op) + verifier)

    file.io.flush(done)


def fsstat(service: Service, exchange: Exchange) -> None:
    """FSSTAT: the disks take what they have; scratch files may take the rest."""
    node = service.tree.node(take_handle(exchange.arguments()))
    scratch = service.tree.scratch
    files = list(service.tree.by_handle.values())
    taken = sum(file.attributes.size for file in files if file.scratch_id is None)
    room, free = (scratch.bytes_max, scratch.bytes_free) if scratch else (0, 0)
    free_entries = service.tree.free_entries()
    entries = len(files) + free_entries
    body = _STATISTICS.pack(taken + room, free, free, entries, free_entries, free_entries, 0)
    exchange.reply(_OK + node.post_op + body)


def fsinfo(service: Service, exchange: Exchange) -> None:
    """FSINFO."""
    node = service.tree.node(take_handle(exchange.arguments()))
    transfer = (messages.TRANSFER_MAX, messages.TRANSFER_MAX, _MULTIPLE)
    body = _SERVER.pack(
        *transfer,
        *transfer,
        messages.LISTING_PREFERRED,
        messages.FILE_SIZE_MAX,
        0,
        1000,  # times are kept in microseconds or better
        messages.PROPERTIES,
    )
    exchange.reply(_OK + node.post_op + body)


def pathconf(service: Service, exchange: Exchange) -> None:
    """PATHCONF: no links; long names are refused; only root changes owners; cases differ."""
    node = service.tree.node(take_handle(exchange.arguments()))
    exchange.reply(_OK + node.post_op + _PATHCONF.pack(1, NAME_MAX, 1, 1, 0, 1))


def refuse_write(service: Service, exchange: Exchange) -> None:
    """SYMLINK, MKNOD and LINK: a hypervisor needs none of them beside its disks."""
    service.tree.node(take_handle(exchange.arguments()))
    raise Refused(Status.NOTSUPP)
