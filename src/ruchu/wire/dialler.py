"""The node's end: one connection to the server, kept up for as long as the node lives.

It dials out only, so it works behind NAT. A line that was cut is noticed by pings within seconds;
then it dials again, with pauses that grow and jitter. What was queued and not sent is dropped: the
node keeps on disk what the server has not acknowledged, and `connected` is when it sends it again.
"""

import asyncio
import contextlib
import random
import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import aiohttp
from aiohttp import ClientWebSocketResponse, WSMsgType

from ruchu.clock import Clock
from ruchu.errors import NodeAway, ProtocolViolation, Refused, RuchuError, WireError
from ruchu.wire import authority, calling, closing, contexts, enrolment, messages
from ruchu.wire.authority import SERVER_NAME, Issued
from ruchu.wire.channel import text_of
from ruchu.wire.identity import Identity
from ruchu.wire.outbox import Outbox

_CLOSE_LIMIT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Times of a dialler, in seconds.

    Attributes:
        connect_s: for the TCP connection, TLS and the welcome.
        ping_s: between two pings; without an answer for half of that, the line is cut.
        first_s: pause after a connection was lost; doubled with each failure, with jitter.
        most_s: longest pause.
        refused_s: longest pause after a refusal; it may be taken back, so it goes on asking.
        steady_s: a connection that held so long makes the next pause a short one.
        send_s: a server that reads nothing for so long is gone.
        renewal_s: between two looks at the certificate.
    """

    connect_s: float = 20.0
    ping_s: float = 6.0
    first_s: float = 0.5
    most_s: float = 30.0
    refused_s: float = 300.0
    steady_s: float = 60.0
    send_s: float = 30.0
    renewal_s: float = 600.0


class NodeSide(Protocol):
    """What a node does with its server. Called by one worker thread, in order."""

    def hello(self) -> messages.Hello:
        """Return what this node says first, at each connection."""

    def connected(self, welcome: messages.Welcome) -> None:
        """The server welcomed this node; now is when to send again what was not acknowledged."""

    def received(self, message: messages.ServerMessage) -> None:
        """Take in a message: not a welcome, and not a refusal."""

    def disconnected(self, error: WireError) -> None:
        """There is no connection any more, or there was none; it is dialled again.

        Called after each attempt that failed: `Refused` says that the server does not want us.
        """

    def renewed(self, identity: Identity) -> None:
        """There is a fresh certificate. It was saved; streams that begin now use it."""


class Dialler:
    """Keeps one connection up. A context manager.

    Args:
        path: file of the identity; renewals are written there.
        side: what to do with messages.
        clock: tells when to renew.
        rng: for jitter.
        patience: see there.

    Raises:
        FileNotFoundError: this node was not enrolled.
        Refused: the identity cannot be used.
    """

    def __init__(
        self,
        path: Path,
        side: NodeSide,
        clock: Clock,
        rng: random.Random,
        patience: Patience | None = None,
    ) -> None:
        self.identity = Identity.load(path)
        self._path = path
        self._side = side
        self._clock = clock
        self._rng = rng
        self._patience = patience or Patience()
        self._loop = asyncio.new_event_loop()
        self._outbox: Outbox | None = None
        self._stop = asyncio.Event()
        # One thread, so that callbacks keep their order.
        self._callbacks = ThreadPoolExecutor(1, thread_name_prefix="ruchu-node")
        self._renewals = ThreadPoolExecutor(1, thread_name_prefix="ruchu-renewal")
        self._thread = threading.Thread(target=self._run, name="ruchu-dialler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._callbacks.shutdown()
        self._renewals.shutdown()

    def send(self, message: messages.NodeMessage) -> None:
        """Queue a message; waits while the server does not read. For any thread.

        It is dropped if the connection breaks first.

        Raises:
            NodeAway: there is no connection, or the server has not read for too long.
            ProtocolViolation: the message cannot be sent at all.
        """
        text = messages.encode(message)
        outbox = self._outbox
        if outbox is None:
            raise NodeAway("(the server is not connected)")
        outbox.put(text)

    # ----------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    async def _main(self) -> None:
        tasks = [asyncio.create_task(each) for each in (self._keep_up(), self._keep_renewed())]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _call(self, callback: Callable[..., Any], *arguments: Any) -> Any:
        return await self._loop.run_in_executor(self._callbacks, callback, *arguments)

    async def _keep_up(self) -> None:
        wait_s = self._patience.first_s
        while True:
            began_s = self._clock.monotonic()
            try:
                await self._connection()
                error: WireError = NodeAway("(the server closed the connection)")
            except WireError as caught:
                error = caught
            except (OSError, aiohttp.ClientError, TimeoutError) as caught:
                error = WireError(
                    f"({self.identity.address}: {str(caught) or type(caught).__name__})"
                )
            except asyncio.CancelledError:
                if closing.is_wanted():
                    raise
                error = WireError("(the line was cut)")
            except Exception as caught:  # noqa: BLE001 - the edge of the thread; it goes on
                traceback.print_exc()
                error = WireError(f"({type(caught).__name__}: {caught})")
            await self._tell(error)
            if self._clock.monotonic() - began_s >= self._patience.steady_s:
                wait_s = self._patience.first_s
            await asyncio.sleep(wait_s * self._rng.uniform(0.5, 1.0))
            refused = isinstance(error, Refused)
            most_s = self._patience.refused_s if refused else self._patience.most_s
            wait_s = min(2 * wait_s, most_s)

    async def _tell(self, error: WireError) -> None:
        try:
            await self._call(self._side.disconnected, error)
        except Exception:  # noqa: BLE001 - the edge of the thread; it goes on
            traceback.print_exc()

    async def _connection(self) -> None:
        """Dial, and speak until the connection ends.

        Raises:
            WireError: it was refused, or the server does not keep to the protocol.
            OSError: nobody answers, or the line was cut.
        """
        own = Issued(self.identity.client, self.identity.key)
        context = contexts.for_client(self.identity.authority, own)
        sockets: list[socket.socket] = []
        try:
            async with self._session(sockets) as session, self._dial(session, context) as channel:
                await self._speak(channel)
        finally:
            await closing.all_closed(sockets)

    def _session(self, sockets: list[socket.socket]) -> aiohttp.ClientSession:
        def make(address: Any) -> socket.socket:
            made = socket.socket(*address[:3])
            sockets.append(made)
            for option, level, value in calling.KEEPALIVE:
                made.setsockopt(level, option, value)
            made.setblocking(False)
            return made

        connector = aiohttp.TCPConnector(limit=1, force_close=True, socket_factory=make)
        timeout = aiohttp.ClientTimeout(total=None, connect=self._patience.connect_s)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)

    async def _speak(self, channel: ClientWebSocketResponse) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            welcome = await self._introduce(channel)
            outbox = Outbox(self._loop, self._patience.send_s)
            tasks.append(asyncio.create_task(self._write(channel, outbox)))
            self._outbox = outbox
            await self._call(self._side.connected, welcome)
            tasks.append(asyncio.create_task(self._read(channel)))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            if self._outbox is not None:
                self._outbox.close()
                self._outbox = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _dial(self, session: aiohttp.ClientSession, context: Any) -> Any:
        try:
            async with asyncio.timeout(self._patience.connect_s):
                channel = await session.ws_connect(
                    f"https://{self.identity.address}/channel",
                    ssl=context,
                    server_hostname=SERVER_NAME,
                    heartbeat=self._patience.ping_s,
                    max_msg_size=messages.FRAME_BYTES_MAX + 1,
                    timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_LIMIT_S),
                )
        except aiohttp.WSServerHandshakeError as error:
            text = f"({self.identity.address} answers {error.status})"
            if error.status == 403:
                raise Refused(text) from None
            raise WireError(text) from None
        except aiohttp.ClientConnectorCertificateError as error:
            calling.fail(error.certificate_error, str(self.identity.address))
        except aiohttp.ClientSSLError as error:
            calling.fail(error.os_error, str(self.identity.address))
        try:
            yield channel
        finally:
            with contextlib.suppress(aiohttp.ClientError):
                await closing.politely(channel.close(), _CLOSE_LIMIT_S)

    async def _introduce(self, channel: ClientWebSocketResponse) -> messages.Welcome:
        hello = await self._call(self._side.hello)
        async with asyncio.timeout(self._patience.connect_s):
            await channel.send_str(messages.encode(hello))
            message = await self._next(channel)
        if isinstance(message, messages.Refuse):
            raise Refused(f"({message.text})", hint="The server says why; it is asked again.")
        if not isinstance(message, messages.Welcome):
            raise ProtocolViolation("(a server welcomes or refuses first)")
        messages.agree([message.version])
        return message

    async def _next(self, channel: ClientWebSocketResponse) -> messages.Message:
        received = await channel.receive()
        if received.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED}:
            raise ConnectionResetError(_why(channel, received.extra))
        return messages.decode(text_of(received))

    async def _read(self, channel: ClientWebSocketResponse) -> None:
        while True:
            message = await self._next(channel)
            if isinstance(message, messages.Refuse):
                raise Refused(f"({message.text})")
            if isinstance(message, messages.Welcome | messages.NodeMessage):
                raise ProtocolViolation("(this is not a message of a server that welcomed us)")
            await self._call(self._side.received, message)

    async def _write(self, channel: ClientWebSocketResponse, outbox: Outbox) -> None:
        while True:
            text = await outbox.get()
            async with asyncio.timeout(self._patience.send_s):
                await channel.send_str(text)

    # ------------------------------------------------------------------------------- renewal

    async def _keep_renewed(self) -> None:
        while True:
            life = authority.life_of(self.identity.client)
            if life.passed(self._clock.now()) >= enrolment.RENEW_AFTER:
                try:
                    await self._renew()
                except RuchuError as error:
                    # There is time for many attempts yet; that it fails is told each time.
                    await self._tell(WireError(f"(the certificate was not renewed: {error})"))
                except Exception:  # noqa: BLE001 - the edge of the thread; it goes on
                    traceback.print_exc()
            await asyncio.sleep(self._patience.renewal_s * self._rng.uniform(0.5, 1.0))

    async def _renew(self) -> None:
        renewed = await self._loop.run_in_executor(self._renewals, self._fresh)
        self.identity = renewed
        await self._call(self._side.renewed, renewed)

    def _fresh(self) -> Identity:
        renewed = enrolment.renew(self.identity)
        renewed.save(self._path)
        return renewed


def _why(channel: ClientWebSocketResponse, reason: Any) -> str:
    said = reason if isinstance(reason, str) and reason else "the server closed the connection"
    return f"{said} (code {channel.close_code})"
