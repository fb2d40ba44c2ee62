"""Lockout: whoever fails again and again waits, longer each time.

Counted for the pair of name and address (strict: that is a person who guesses), for the name
(loose: many addresses guess at one account, but nobody shall shut its owner out for long) and
for the address (loose: a company behind one). Names that do not exist are counted as those that
do. It lives in memory: a restart forgives, and costs an attacker nothing but a restart of ours.
"""

import ipaddress
import threading
from dataclasses import dataclass

from ruchu.clock import Clock
from ruchu.errors import TooMany

# Entries are some 200 bytes; when this many are there, those that matter least go.
ENTRIES_MAX = 20_000
_DROPPED_AT_ONCE = ENTRIES_MAX // 10
# Nobody who failed is remembered for longer than this after the last time.
_FORGOTTEN_AFTER_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Failures that are free, and how long is waited after more of them (doubled each time)."""

    free: int
    first_s: float
    most_s: float

    def delay_s(self, failures: int) -> float:
        """Return how long to wait after so many failures."""
        beyond = failures - self.free
        if beyond <= 0:
            return 0.0
        return min(self.most_s, self.first_s * 2.0 ** min(beyond - 1, 30))


PAIR = Rule(5, 2.0, 15 * 60.0)
NAME = Rule(20, 1.0, 60.0)
ADDRESS = Rule(50, 2.0, 15 * 60.0)

Key = tuple[str, str]


@dataclass(slots=True)
class _Entry:
    rule: Rule
    failures: int = 0
    last: float = 0.0

    def ready(self) -> float:
        """Return from when on the next attempt is allowed."""
        return self.last + self.rule.delay_s(self.failures)


class Lockout:
    """The failures of a server. Safe in several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._entries: dict[Key, _Entry] = {}

    def begin(self, name: str, address: str) -> None:
        """Count an attempt, before anything is checked: a thousand at once are a thousand.

        Raises:
            TooMany: it comes too soon after those that failed; it was not counted.
        """
        now = self._clock.monotonic()
        with self._guard:
            keys = _keys(name, address)
            found = [entry for key, _ in keys if (entry := self._entries.get(key)) is not None]
            wait_s = max((entry.ready() - now for entry in found), default=0.0)
            if wait_s > 0:
                error = TooMany(f"(failed sign-ins; {wait_s:.0f} s to go)")
                error.after_s = wait_s
                raise error
            self._make_room(len(keys), now)
            for key, rule in keys:
                entry = self._entries.setdefault(key, _Entry(rule))
                forgotten = now - entry.last > _FORGOTTEN_AFTER_S
                entry.failures = 1 if forgotten else entry.failures + 1
                entry.last = now

    def succeed(self, name: str, address: str) -> None:
        """Forget the failures of a name from an address; those of the address stay counted."""
        pair, named, addressed = _keys(name, address)
        with self._guard:
            self._entries.pop(pair[0], None)
            self._entries.pop(named[0], None)
            self._take_back(addressed[0])

    def withdraw(self, name: str, address: str) -> None:
        """Take back one attempt that was neither a success nor a failure, and no more."""
        with self._guard:
            for key, _ in _keys(name, address):
                self._take_back(key)

    def __len__(self) -> int:
        return len(self._entries)

    def _take_back(self, key: Key) -> None:
        entry = self._entries.get(key)
        if entry is not None:
            entry.failures -= 1
            if entry.failures <= 0:
                del self._entries[key]

    def _make_room(self, more: int, now: float) -> None:
        if len(self._entries) + more <= ENTRIES_MAX:
            return
        old = [k for k, e in self._entries.items() if now - e.last > _FORGOTTEN_AFTER_S]
        if len(old) < _DROPPED_AT_ONCE:
            # Few failures, long ago: an attacker cannot push out what he has earned himself.
            ranked = sorted(self._entries, key=self._rank)
            old = ranked[:_DROPPED_AT_ONCE]
        for key in old:
            del self._entries[key]

    def _rank(self, key: Key) -> tuple[int, float]:
        entry = self._entries[key]
        return max(0, entry.failures - entry.rule.free), entry.last


def _keys(name: str, address: str) -> tuple[tuple[Key, Rule], ...]:
    place = network(address)
    return ((name, place), PAIR), ((name, ""), NAME), (("", place), ADDRESS)


def network(address: str) -> str:
    """Return what an attacker has to change to count as another: of IPv6, a network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
