"""The long connections of nodes, on the loop of the listener."""

import asyncio
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import WSMessage, WSMsgType, web

from ruchu.errors import ProtocolViolation, Refused, RuchuError
from ruchu.wire import closing, messages, port
from ruchu.wire.contexts import Peer
from ruchu.wire.links import Link
from ruchu.wire.port import Port, Visit

# Frames that were read and not handled yet, of one node: two of the largest. Then it is not read
# from, and has to wait.
_INBOX_BYTES_MAX: Final = 16 << 20
_Gone = Callable[[], object]
# Of somebody who should close as well.
_CLOSE_LIMIT_S: Final = 2.0


class Side(Protocol):
    """The part of a `ServerSide` that speaks with nodes."""

    def connected(self, link: Link, hello: messages.Hello) -> messages.Welcome | messages.Refuse:
        """Decide about a node that said hello."""

    def received(self, link: Link, message: messages.NodeMessage) -> None:
        """Take in a message."""

    def disconnected(self, link: Link, why: str) -> None:
        """Learn that a node is gone."""


class _Inbox:
    """Messages that wait for their turn, bounded by their size."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, messages.NodeMessage]] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def put(self, size: int, message: messages.NodeMessage) -> None:
        await self._room.wait()
        self._waiting.append((size, message))
        self._bytes += size
        self._filled.set()
        if self._bytes >= _INBOX_BYTES_MAX:
            self._room.clear()

    async def get(self) -> messages.NodeMessage:
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        size, message = self._waiting.popleft()
        self._bytes -= size
        if self._bytes < _INBOX_BYTES_MAX:
            self._room.set()
        return message


class Channels:
    """Serves `GET /channel`.

    Attributes:
        links: of the nodes that are connected, by id. Read by any thread.
    """

    def __init__(self, port_: Port, side: Side) -> None:
        self.links: dict[str, Link] = {}
        self._present: dict[str, Link] = {}
        self._port = port_
        self._side = side

    async def serve(self, request: web.BaseRequest, visit: Visit, peer: Peer) -> web.StreamResponse:
        """Speak with a node until one of both ends it."""
        limits = self._port.limits
        socket = web.WebSocketResponse(
            timeout=_CLOSE_LIMIT_S, compress=False, max_msg_size=messages.FRAME_BYTES_MAX + 1
        )
        if not socket.can_prepare(request):
            self._broke(visit, ProtocolViolation("(the channel is a WebSocket)"))
            return port.refusal(ProtocolViolation("(the channel is a WebSocket)"))
        await socket.prepare(request)
        link = Link(peer.node, peer.serial, self._port.loop, limits.send_s)
        session = _Session(self._port, self._side, link, socket, visit)
        session.gone = lambda: self.links.pop(link.node, None)
        try:
            hello = await session.hello()
        except (ProtocolViolation, TimeoutError) as error:
            self._broke(visit, error)
            await socket.close()
            return socket
        try:
            link.version = messages.agree(hello.versions)
        except Refused as error:
            text = f"Node {peer.node} cannot be talked to {error.detail}. {error.advice}"
            self._port.report("wire-incompatible", visit, text, release=hello.release)
            await session.refuse(messages.Refuse("incompatible", f"{error} {error.advice}"))
            return socket
        link.release = hello.release
        await self._take_over(link)
        try:
            await session.run(hello)
        except ProtocolViolation as error:
            self._broke(visit, error)
        finally:
            self.links.pop(link.node, None)
            del self._present[link.node]
            link.ended.set()
        return socket

    async def _take_over(self, link: Link) -> None:
        """Become the one connection of this node: what came before is over, for the side as well.

        A line that was cut is noticed by the node first; the old connection is still open here.
        """
        while (old := self._present.get(link.node)) is not None:
            old.end("replaced by a new connection of this node")
            await old.ended.wait()
        self._present[link.node] = self.links[link.node] = link

    def _broke(self, visit: Visit, error: Exception) -> None:
        if isinstance(error, ProtocolViolation):
            text = f"{visit.host} does not keep to the protocol {error.detail}."
            self._port.report("wire-protocol", visit, text)
        else:
            text = f"{visit.host} opens channels and says nothing."
            self._port.report("wire-slow", visit, text)


class _Session:
    """One connection: three tasks read, hand over, and send; the first that ends ends all."""

    def __init__(
        self, port_: Port, side: Side, link: Link, socket: web.WebSocketResponse, visit: Visit
    ) -> None:
        self._port = port_
        self._side = side
        self._link = link
        self._socket = socket
        self._visit = visit
        self._inbox = _Inbox()
        self.gone: _Gone = lambda: None

    async def hello(self) -> messages.Hello:
        received = await self._socket.receive(self._port.limits.hello_s)
        if received.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED}:
            raise ConnectionResetError
        found = messages.decode(text_of(received))
        if not isinstance(found, messages.Hello):
            raise ProtocolViolation("(a node says hello first)")
        return found

    async def refuse(self, refusal: messages.Refuse) -> None:
        async with asyncio.timeout(self._port.limits.send_s):
            await self._socket.send_str(messages.encode(refusal))
            await self._socket.close()

    async def run(self, hello: messages.Hello) -> None:
        link = self._link
        try:
            welcome = await self._port.run(self._side.connected, link, hello)
        except Exception as error:  # noqa: BLE001 - the edge of a request
            link.why = _unexpected(error)
            link.forget()
            await self._cut()
            return
        if isinstance(welcome, messages.Refuse):
            link.why = welcome.text
            link.forget()
            await self.refuse(welcome)
            return
        try:
            await self._together(welcome)
        finally:
            await self._gone()

    async def _together(self, welcome: messages.Welcome) -> None:
        tasks = [
            asyncio.create_task(each)
            for each in (self._read(), self._hand_over(), self._write(welcome), self._until_cut())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self._link.end(_end_of(next(iter(done))))
        finally:
            # A callback that runs is waited for: `disconnected` comes after it.
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, ProtocolViolation):
                raise result

    async def _read(self) -> None:
        while True:
            try:
                received = await self._socket.receive(self._port.limits.silence_s)
            except TimeoutError:
                silence_s = self._port.limits.silence_s
                raise ConnectionAbortedError(f"silent for {silence_s:.0f} s") from None
            if received.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED}:
                return
            text = text_of(received)
            message = messages.decode(text)
            if isinstance(message, messages.Answer):
                self._link.answered(message)
            elif isinstance(message, messages.Hello | messages.ServerMessage):
                raise ProtocolViolation("(this is not a message of a node that was welcomed)")
            else:
                await self._inbox.put(len(text), message)

    async def _hand_over(self) -> None:
        while True:
            message = await self._inbox.get()
            work = asyncio.ensure_future(self._port.run(self._side.received, self._link, message))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise
            except Exception as error:  # noqa: BLE001 - the edge of a request
                raise ConnectionAbortedError(_unexpected(error)) from None

    async def _write(self, welcome: messages.Welcome) -> None:
        text = messages.encode(welcome)
        while True:
            try:
                async with asyncio.timeout(self._port.limits.send_s):
                    await self._socket.send_str(text)
            except TimeoutError:
                raise ConnectionAbortedError("it does not read") from None
            text = await self._link.outbox.get()

    async def _until_cut(self) -> None:
        await self._link.cut.wait()
        raise ConnectionAbortedError(self._link.why)

    async def _gone(self) -> None:
        # Nobody finds it any more when the side hears of its end.
        self.gone()
        self._link.forget()
        await self._cut()
        try:
            await self._port.run(self._side.disconnected, self._link, self._link.why)
        except Exception as error:  # noqa: BLE001 - the edge of a request
            self._link.why = _unexpected(error)

    async def _cut(self) -> None:
        """Close in good manners, and in any case."""
        try:
            ending = self._socket.close(message=_reason(self._link.why))
            await closing.politely(ending, _CLOSE_LIMIT_S)
        finally:
            if self._visit.transport is not None:
                self._visit.transport.abort()


def _unexpected(error: Exception) -> str:
    """Return what the other side may know of a failure of ours; the rest is in the log."""
    if isinstance(error, RuchuError):
        return str(error)
    traceback.print_exception(error)
    return "the server failed; its log says how"


def _end_of(task: asyncio.Task[None]) -> str:
    if task.cancelled():
        return "the line was cut"
    return str(task.exception() or "the node closed the connection")


def _reason(text: str) -> bytes:
    """Return a text in the 123 bytes that a closing frame bears, in whole characters."""
    return text.encode()[:120].decode(errors="ignore").encode()


def text_of(received: WSMessage) -> str:
    """Return the text of a frame.

    Raises:
        ProtocolViolation: it is no text, or too large.
    """
    if received.type is WSMsgType.TEXT:
        return str(received.data)
    if received.type is WSMsgType.ERROR:
        raise ProtocolViolation(f"({received.data})")
    raise ProtocolViolation("(a frame that is no text)")
