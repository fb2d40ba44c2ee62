"""NFS procedures on names: looking up, listing, making, removing, renaming."""

from collections.abc import Callable
from typing import Any, Final

from ruchu.exports.nfs import messages
from ruchu.exports.nfs.exporting import PATH_MAX
from ruchu.exports.nfs.file_procedures import Service, take_handle
from ruchu.exports.nfs.messages import NewAttributes, Refused, Status
from ruchu.exports.nfs.nodes import Directory, Node
from ruchu.exports.nfs.rpc import Exchange
from ruchu.exports.nfs.tree import Creation
from ruchu.exports.nfs.xdr import FALSE, TRUE, U32, U64, Reader, opaque

# Longer than a name may be, so that a name that is too long is told apart from garbage.
_NAME_LIMIT = PATH_MAX
# What a client may ask for in one listing; more is never sent.
LISTING_MAX: Final = messages.TRANSFER_MAX
_OK = U32.pack(Status.OK)
_ENDED = FALSE + TRUE
_MORE = FALSE + FALSE


def lookup(service: Service, exchange: Exchange) -> None:
    """LOOKUP."""
    arguments = exchange.arguments()
    directory = service.tree.directory(take_handle(arguments))
    try:
        node = service.tree.lookup(directory, arguments.opaque(_NAME_LIMIT))
    except Refused as refusal:
        # With the attributes of the directory a client may remember that the name is not there.
        exchange.reply(U32.pack(refusal.status) + directory.post_op)
        return
    exchange.reply(_OK + opaque(node.handle) + node.post_op + directory.post_op)


def create(service: Service, exchange: Exchange) -> None:
    """CREATE."""
    arguments = exchange.arguments()
    directory, name = _place(service, arguments)
    how = arguments.u32()
    if how == messages.EXCLUSIVE:
        creation = Creation(how, NewAttributes(), arguments.fixed(messages.VERIFIER_SIZE))
    elif how in {messages.UNCHECKED, messages.GUARDED}:
        creation = Creation(how, messages.read_new_attributes(arguments))
    else:
        raise Refused(Status.INVAL)
    _create(service, exchange, directory, name, creation)


def mkdir(service: Service, exchange: Exchange) -> None:
    """MKDIR."""
    arguments = exchange.arguments()
    directory, name = _place(service, arguments)
    wanted = messages.read_new_attributes(arguments)
    creation = Creation(messages.GUARDED, wanted, directory=True)
    _create(service, exchange, directory, name, creation)


def _create(
    service: Service, exchange: Exchange, directory: Directory, name: bytes, creation: Creation
) -> None:
    def answer(node: Node) -> bytes:
        return messages.created(node.handle, node.post_op, directory.post_op)

    _later(service, exchange, lambda: service.tree.create(directory, name, creation), answer)


def remove(service: Service, exchange: Exchange) -> None:
    """REMOVE."""
    _remove(service, exchange, directories=False)


def rmdir(service: Service, exchange: Exchange) -> None:
    """RMDIR."""
    _remove(service, exchange, directories=True)


def _remove(service: Service, exchange: Exchange, *, directories: bool) -> None:
    directory, name = _place(service, exchange.arguments())
    _later(
        service,
        exchange,
        lambda: service.tree.remove(directory, name, directories=directories),
        lambda _: _OK + messages.changed_only(directory.post_op),
    )


def rename(service: Service, exchange: Exchange) -> None:
    """RENAME."""
    arguments = exchange.arguments()
    source, name = _place(service, arguments)
    target, new_name = _place(service, arguments)
    _later(
        service,
        exchange,
        lambda: service.tree.rename(source, name, target, new_name),
        lambda _: (
            _OK + messages.changed_only(source.post_op) + messages.changed_only(target.post_op)
        ),
    )


def readdir(service: Service, exchange: Exchange) -> None:
    """READDIR."""
    arguments = exchange.arguments()
    directory = service.tree.directory(take_handle(arguments))
    after = _take_cookie(service, arguments)
    limit = min(arguments.u32(), LISTING_MAX)

    def pack(cookie: int, name: bytes, node: Node) -> tuple[bytes, int]:
        packed = TRUE + _file_id(node) + opaque(name) + U64.pack(cookie)
        return packed, 0

    _list(service, exchange, directory, after, pack, (limit, limit))


def readdirplus(service: Service, exchange: Exchange) -> None:
    """READDIRPLUS: with handles and attributes."""
    arguments = exchange.arguments()
    directory = service.tree.directory(take_handle(arguments))
    after = _take_cookie(service, arguments)
    name_limit = arguments.u32()
    limit = min(arguments.u32(), LISTING_MAX)

    def pack(cookie: int, name: bytes, node: Node) -> tuple[bytes, int]:
        bare = TRUE + _file_id(node) + opaque(name) + U64.pack(cookie)
        return bare + node.post_op + TRUE + opaque(node.handle), len(bare)

    _list(service, exchange, directory, after, pack, (limit, name_limit))


def _list(
    service: Service,
    exchange: Exchange,
    directory: Directory,
    after: int,
    pack: Callable[[int, bytes, Node], tuple[bytes, int]],
    limits: tuple[int, int],
) -> None:
    """Answer with as many entries as the limits allow: of all bytes, and of those of names."""
    head = _OK + directory.post_op + service.tree.cookie_verifier
    room, name_room = limits[0] - len(head) - len(_ENDED), limits[1]
    parts = [head]
    end = _ENDED
    for cookie, name, node in directory.listing(after):
        packed, bare = pack(cookie, name, node)
        if len(packed) > room or bare > name_room:
            if len(parts) == 1:
                raise Refused(Status.TOOSMALL)
            end = _MORE
            break
        parts.append(packed)
        room -= len(packed)
        name_room -= bare
    exchange.reply(b"".join(parts) + end)


def _take_cookie(service: Service, arguments: Reader) -> int:
    cookie = arguments.u64()
    verifier = arguments.fixed(messages.VERIFIER_SIZE)
    if cookie and verifier != service.tree.cookie_verifier:
        raise Refused(Status.BAD_COOKIE)
    return cookie


def _place(service: Service, arguments: Reader) -> tuple[Directory, bytes]:
    directory = service.tree.directory(take_handle(arguments))
    return directory, arguments.opaque(_NAME_LIMIT)


def _file_id(node: Node) -> bytes:
    return U64.pack(node.attributes.file_id)


def _later(
    service: Service,
    exchange: Exchange,
    work: Callable[[], Any],
    answer: Callable[[Any], bytes],
) -> None:
    """Work in a thread, then answer."""

    def done(result: object, error: Exception | None) -> None:
        if error is not None:
            service.fail(exchange, error)
        else:
            exchange.reply(answer(result))

    service.workers.submit(work, done)
