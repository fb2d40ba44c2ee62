"""One client: receives calls, sends answers, and stops receiving when too much is under way."""

import asyncio
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from ruchu.exports.nfs import rpc
from ruchu.exports.nfs.records import BrokenRecord, RecordBuffer
from ruchu.exports.nfs.rpc import Buffer, Exchange, Programs
from ruchu.units import KIB, MIB

# A Linux client has up to 128 calls under way, QEMU 64.
EXCHANGES_MAX: Final = 128
# Of all clients together: data of calls that wait for a device. One call more may begin.
BYTES_MAX: Final = 64 * MIB
# Answers are collected up to here while calls are carried out, then sent together.
COLLECTED_MAX: Final = 256 * KIB
# What the kernel does not take is kept; above this no further call is carried out.
UNSENT_MAX: Final = 1 * MIB
# The kernel takes at most 1024 parts in one call (UIO_MAXIOV).
_PARTS_MAX = 1024
# A client that vanished is noticed within two minutes, and its connection given to another.
_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 60,
    socket.TCP_KEEPINTVL: 15,
    socket.TCP_KEEPCNT: 4,
}


class Budget:
    """Bytes under way in the whole server, and who waits until there are fewer."""

    def __init__(self) -> None:
        self._bytes = 0
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def spent(self) -> bool:
        """Whether nothing more may begin."""
        return self._bytes >= BYTES_MAX

    def take(self, count: int) -> None:
        """Note that a call keeps so many bytes."""
        self._bytes += count

    def give_back(self, count: int) -> None:
        """Note that it no longer does."""
        self._bytes -= count
        while self._waiting and not self.spent:
            self._waiting.popleft()()

    def wait(self, proceed: Callable[[], None]) -> None:
        """Call `proceed` once, when there is room again."""
        self._waiting.append(proceed)


class Connection(asyncio.BufferedProtocol):
    """A TCP connection of a client.

    Args:
        programs: what it may call.
        budget: shared by all connections.
        admit: called with the connection, its address and port; False closes it at once.
        gone: called when it is closed, if it was admitted.
        crashed: told about an exception that should not be; the connection is closed.
    """

    def __init__(
        self,
        programs: Programs,
        budget: Budget,
        admit: Callable[["Connection", str, int], bool],
        gone: Callable[["Connection"], None],
        crashed: Callable[[Exception], None],
    ) -> None:
        self._programs = programs
        self._budget = budget
        self._admit = admit
        self._gone = gone
        self._crashed = crashed
        self._records = RecordBuffer()
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        self._admitted = False
        self._outstanding = 0
        self._unsent = False
        self._processing = False
        self._waits_for_budget = False
        self._collected: list[Buffer] = []
        self._collected_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the client, or close."""
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        if not peer or not self._admit(self, peer[0], peer[1]):
            transport.abort()
            return
        self._admitted = True
        self._transport = transport
        connected = transport.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
        self._descriptor = connected.fileno()
        transport.set_write_buffer_limits(high=UNSENT_MAX)

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the client; what it asked for and is under way still happens."""
        del error
        self._transport = None
        self._collected.clear()
        if self._admitted:
            self._gone(self)

    def close(self) -> None:
        """Close at once; answers that are not sent are lost, and clients ask again elsewhere."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive."""
        del sizehint
        return self._records.space()

    def buffer_updated(self, nbytes: int) -> None:
        """Carry out the calls that have come."""
        self._records.received(nbytes)
        self._process()

    def eof_received(self) -> bool:
        """Close as well: a client that sends nothing more takes no answers either."""
        return False

    def pause_writing(self) -> None:
        """Carry out no more calls: the client takes no answers."""
        self._unsent = True

    def resume_writing(self) -> None:
        """Go on."""
        self._unsent = False
        self._process()

    def send(self, exchange: Exchange, parts: tuple[Buffer, ...]) -> None:
        """Send an answer, together with others if more calls are being carried out."""
        self._outstanding -= 1
        if exchange.weight:
            self._budget.give_back(exchange.weight)
        if self._transport is None:
            return
        self._collected += parts
        self._collected_bytes += sum(map(len, parts))
        if not self._processing:
            self._process()
        elif self._collected_bytes >= COLLECTED_MAX:
            self._send_collected()

    def _process(self) -> None:
        """Carry out calls while that is allowed, and send what there is to send."""
        if self._processing or self._transport is None:
            return
        self._processing = True
        try:
            self._carry_out_calls()
        except BrokenRecord:
            self.close()
        except Exception as error:  # noqa: BLE001 - a client is closed, the server goes on
            self._crashed(error)
            self.close()
        finally:
            self._processing = False
        self._send_collected()
        self._throttle()

    def _carry_out_calls(self) -> None:
        while not self._is_full():
            record = self._records.next_record()
            if record is None:
                return
            self._outstanding += 1
            exchange = rpc.dispatch(self._programs, record, self)
            if exchange.weight:
                self._budget.take(exchange.weight)

    def _is_full(self) -> bool:
        return self._unsent or self._outstanding >= EXCHANGES_MAX or self._budget.spent

    def _throttle(self) -> None:
        """Receive only while calls may be carried out."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self._is_full():
            transport.resume_reading()
            return
        transport.pause_reading()
        if self._budget.spent and not self._waits_for_budget:
            self._waits_for_budget = True
            self._budget.wait(self._go_on)

    def _go_on(self) -> None:
        self._waits_for_budget = False
        self._process()

    def _send_collected(self) -> None:
        """Send without a copy as much as the kernel takes; leave the rest to the transport."""
        parts, self._collected, self._collected_bytes = self._collected, [], 0
        transport = self._transport
        if not parts or transport is None or transport.is_closing():
            return
        if not transport.get_write_buffer_size():
            try:
                sent = os.writev(self._descriptor, parts[:_PARTS_MAX])
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            parts = _behind(parts, sent)
        if parts:
            transport.writelines(parts)


def _behind(parts: list[Buffer], sent: int) -> list[Buffer]:
    """Return what is left of the parts when so many bytes are gone."""
    ends = list(itertools.accumulate(map(len, parts)))
    if sent == ends[-1]:
        return []
    first = next(index for index, end in enumerate(ends) if end > sent)
    begin = sent - (ends[first] - len(parts[first]))
    return [memoryview(parts[first])[begin:], *parts[first + 1 :]]
