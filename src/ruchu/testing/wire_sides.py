"""A server and nodes that write down what the channel tells them, for tests of the channel."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ruchu import clock
from ruchu.clock import Clock
from ruchu.errors import Refused, WireError
from ruchu.model import ids
from ruchu.model.tasks import Severity
from ruchu.wire import authority as authorities
from ruchu.wire import enrolment, messages
from ruchu.wire.authority import NODE_LIFE, Authority, Certificates
from ruchu.wire.calling import Address
from ruchu.wire.enrolment import Invitation, Joining
from ruchu.wire.identity import Identity
from ruchu.wire.links import Link

# Generous: nothing waits that long unless it is broken.
WAIT_LIMIT_S: Final = 30.0


class Told:
    """What was told, in order; a test waits for what it expects."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.all: list[Any] = []

    def tell(self, what: Any) -> None:
        """Write down."""
        with self._changed:
            self.all.append(what)
            self._changed.notify_all()

    def wait(self, wanted: Callable[[Any], bool], count: int = 1) -> list[Any]:
        """Wait until so many were told that are wanted, and return them."""

        def found() -> list[Any]:
            return [each for each in self.all if wanted(each)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, WAIT_LIMIT_S), self.all
            return found()

    def clear(self) -> None:
        """Forget all."""
        with self._changed:
            self.all.clear()


class RecordingServer:
    """A `ServerSide` with tokens and nodes in memory.

    Attributes:
        told: tuples whose first member is the name of the callback.
        tokens: valid ones, and the digest of the key that used each.
        revoked: serial numbers and nodes.
        on_received: does more when a message comes.
        on_connected: decides about a node; welcomes it if there is none.
    """

    def __init__(self, authority: Authority, time: Clock = clock.SYSTEM) -> None:
        self.authority = authority
        self.told = Told()
        self.tokens: dict[str, str | None] = {}
        self.revoked: set[str] = set()
        self.life = NODE_LIFE
        self.on_received: Callable[[Link, messages.NodeMessage], None] | None = None
        self.on_connected: Callable[[Link], messages.Welcome | messages.Refuse] | None = None
        self._nodes: dict[str, str] = {}
        self._time = time

    def invite(self, address: Address) -> Invitation:
        """Make a token."""
        token = enrolment.new_token()
        self.tokens[token] = None
        return Invitation(address, token, self.authority.fingerprint)

    def enrol(self, token: str, request: str, facts: Mapping[str, Any]) -> Certificates:
        """Take a node in."""
        key = authorities.key_digest(request)
        if token not in self.tokens or self.tokens[token] not in {None, key}:
            raise Refused("(this token is not valid)")
        node = self._nodes.setdefault(token, ids.new_id())
        certificates = self.authority.sign_node(request, node, self.life)
        self.tokens[token] = key
        self.told.tell(("enrolled", node, dict(facts)))
        return certificates

    def renew(self, node: str, request: str) -> Certificates:
        """Certify a fresh key."""
        certificates = self.authority.sign_node(request, node, self.life)
        self.told.tell(("renewed", node, certificates.serial))
        return certificates

    def admitted(self, node: str, serial: str) -> bool:
        """Tell whether a node may come in."""
        return not {node, serial} & self.revoked

    def connected(self, link: Link, hello: messages.Hello) -> messages.Welcome | messages.Refuse:
        """Welcome a node."""
        answer: messages.Welcome | messages.Refuse = messages.Welcome(
            link.version, clock.to_text(self._time.now()), 10.0
        )
        if self.on_connected is not None:
            answer = self.on_connected(link)
        self.told.tell(("connected", link.node, hello, link))
        return answer

    def received(self, link: Link, message: messages.NodeMessage) -> None:
        """Write down a message."""
        if self.on_received is not None:
            self.on_received(link, message)
        self.told.tell(("received", link.node, message))

    def disconnected(self, link: Link, why: str) -> None:
        """Write down that a node is gone."""
        self.told.tell(("disconnected", link.node, why, link))

    def alarm(
        self, code: str, severity: Severity, subject: str, text: str, facts: Mapping[str, Any]
    ) -> None:
        """Write down an alarm."""
        self.told.tell(("alarm", code, severity, subject, text, dict(facts)))

    def wait(self, name: str, *beginning: Any, count: int = 1) -> list[Any]:
        """Wait until something of this name was told that begins so; return what was."""
        wanted = (name, *beginning)
        return self.told.wait(lambda each: each[: len(wanted)] == wanted, count)


class RecordingNode:
    """A `NodeSide`.

    Attributes:
        told: tuples whose first member is the name of the callback.
        greeting: what it says first.
        on_received: does more when a message comes.
    """

    def __init__(self, greeting: messages.Hello | None = None) -> None:
        self.told = Told()
        self.greeting = greeting or messages.Hello(messages.VERSIONS, "0.1.0", "boot")
        self.on_received: Callable[[messages.ServerMessage], None] | None = None

    def hello(self) -> messages.Hello:
        """Return what is said first."""
        return self.greeting

    def connected(self, welcome: messages.Welcome) -> None:
        """Write down a welcome."""
        self.told.tell(("connected", welcome))

    def received(self, message: messages.ServerMessage) -> None:
        """Write down a message."""
        if self.on_received is not None:
            self.on_received(message)
        self.told.tell(("received", message))

    def disconnected(self, error: WireError) -> None:
        """Write down an error."""
        self.told.tell(("disconnected", error))

    def renewed(self, identity: Identity) -> None:
        """Write down a fresh identity."""
        self.told.tell(("renewed", identity))

    def wait(self, name: str, *beginning: Any, count: int = 1) -> list[Any]:
        """Wait until something of this name was told that begins so; return what was."""
        wanted = (name, *beginning)
        return self.told.wait(lambda each: each[: len(wanted)] == wanted, count)


def enrolled(server: RecordingServer, address: Address, path: Path) -> Identity:
    """Enrol a node over the wire, and save who it is."""
    identity = Joining.begin(server.invite(address)).enrol({"host": "test"})
    identity.save(path)
    return identity
