"""Who may come in: how many connections, how many wrong tokens, and what is told of the rest.

Pure but for the clock that is handed in. Used by the loop of one listener only.
"""

import ipaddress
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from ruchu.clock import Clock

MINUTE_S: Final = 60.0
# Addresses that are remembered; more than that come at once in an attack only, and the oldest of
# them are forgotten first.
ADDRESSES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a listener.

    Attributes:
        connections: in all: 250 nodes, with three streams for each.
        per_address: 50 nodes behind one NAT, with three streams for each and some that come back.
        handshake_s: from the connection to the end of the TLS handshake.
        request_s: from then to the end of the header of the request.
        body_s: for the body of an enrolment or a renewal, and for its answer.
        body_bytes: of that body.
        header_bytes: of one line of a header.
        hello_s: from the opening of the channel to the first message.
        silence_s: without any message; a node sends a heartbeat every 10 s or so.
        send_s: for a side that does not read.
        failed_enrolments: of one address in a minute.
    """

    connections: int = 1000
    per_address: int = 250
    handshake_s: float = 10.0
    request_s: float = 10.0
    body_s: float = 30.0
    body_bytes: int = 64 << 10
    header_bytes: int = 4 << 10
    hello_s: float = 10.0
    silence_s: float = 60.0
    send_s: float = 30.0
    failed_enrolments: int = 5


def address_key(host: str) -> str:
    """Return what counts as one address: in IPv6, the network that one customer is given."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Gate:
    """Counts, by address."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return self._open.total()

    def enter(self, address: str) -> bool:
        """Count a connection; False if there are too many, and then it was not counted."""
        if self.open >= self._limits.connections:
            return False
        if self._open[address] >= self._limits.per_address:
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count a connection that was counted, no more."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def may_enrol(self, address: str) -> bool:
        """Tell whether an address may try a token (now)."""
        failed = self._failed.get(address, deque())
        since = self._clock.monotonic() - MINUTE_S
        while failed and failed[0] <= since:
            failed.popleft()
        return len(failed) < self._limits.failed_enrolments

    def enrolment_failed(self, address: str) -> None:
        """Remember a token that was not valid."""
        self._failed.setdefault(address, deque()).append(self._clock.monotonic())
        self._failed.move_to_end(address)
        if len(self._failed) > ADDRESSES_MAX:
            self._failed.popitem(last=False)

    def is_news(self, code: str, address: str) -> bool:
        """Tell whether an alarm is due: one of a kind for each address and minute."""
        now = self._clock.monotonic()
        told = self._told.get((code, address))
        if told is not None and now - told < MINUTE_S:
            return False
        self._told[code, address] = now
        self._told.move_to_end((code, address))
        if len(self._told) > ADDRESSES_MAX:
            self._told.popitem(last=False)
        return True
