"""The server's end: the port that nodes dial, what they may ask of it, and who they are.

| request | certificate | what |
|---|---|---|
| `GET /authority` | none | the certificate of the authority, to be compared with a fingerprint |
| `POST /enrol` | none | a token and a certificate request become certificates |
| `POST /renew` | node | certificates for a fresh key |
| `GET /channel` | node | the long connection with messages (`channel`) |
| `PUT`, `GET`, `HEAD /streams/<id>` | node | bulk (`stream_serving`) |
"""

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, Self

from aiohttp import web

from ruchu.clock import Clock
from ruchu.errors import NodeAway, ProtocolViolation, Refused
from ruchu.model.tasks import Severity
from ruchu.wire import authority as authorities
from ruchu.wire import contexts, enrolment, messages, port
from ruchu.wire.authority import Authority, Certificates
from ruchu.wire.calling import Address
from ruchu.wire.channel import Channels
from ruchu.wire.contexts import Peer
from ruchu.wire.gate import Limits
from ruchu.wire.links import Link
from ruchu.wire.port import Handler, Port, Visit
from ruchu.wire.stream_serving import StreamService
from ruchu.wire.streams import StreamDesk

# The certificate of the server is issued anew when a third of its life is left.
_RENEW_AFTER: Final = 2 / 3
_CERTIFICATE_CHECK_S: Final = 3600.0


class ServerSide(Protocol):
    """What a server does with its nodes.

    Called by worker threads; for one node in order, for several at the same time. They may wait,
    but not for an answer of a node from inside `connected` (it was not welcomed yet).
    """

    def enrol(self, token: str, request: str, facts: Mapping[str, Any]) -> Certificates:
        """Take a node in.

        The same token with the same key again (`authority.key_digest`) means that the answer was
        lost: it is given again.

        Raises:
            Refused: the token is not valid, was used by another key, or has expired.
            ProtocolViolation: the certificate request is none.
        """

    def renew(self, node: str, request: str) -> Certificates:
        """Certify a fresh key of a node that was admitted.

        Raises:
            Refused: not this node.
            ProtocolViolation: the certificate request is none.
        """

    def admitted(self, node: str, serial: str) -> bool:
        """Tell whether a node may come in with this certificate; asked at every connection."""

    def connected(self, link: Link, hello: messages.Hello) -> messages.Welcome | messages.Refuse:
        """Decide about a node that said hello. What is sent on the link follows the welcome."""

    def received(self, link: Link, message: messages.NodeMessage) -> None:
        """Take in a message: not a hello, and not an answer, which goes to whoever asked."""

    def disconnected(self, link: Link, why: str) -> None:
        """Learn that a node that was welcomed is gone; nothing of this link follows."""

    def alarm(
        self, code: str, severity: Severity, subject: str, text: str, facts: Mapping[str, Any]
    ) -> None:
        """Tell people of somebody who was refused."""


class Listener:
    """The port of a server. A context manager.

    Args:
        listen: address; port 0 takes any that is free.
        authority: issues the certificate of the server.
        names: host names and addresses of the server, for its certificate.
        side: what to do with nodes.
        clock: for certificates and limits by minute.
        limits: see there.

    Attributes:
        desk: streams that this server expects or offers.
    """

    def __init__(
        self,
        listen: Address,
        authority: Authority,
        names: Iterable[str],
        side: ServerSide,
        clock: Clock,
        limits: Limits | None = None,
    ) -> None:
        self.desk = StreamDesk()
        self._authority = authority
        self._names = tuple(names)
        self._side = side
        self._clock = clock
        self._issued = authority.issue_server(self._names)
        self._context = contexts.for_server(self._issued, authority.certificate)
        limits = limits or Limits()
        self._port = Port(listen, self._context, self._answer, limits, clock, side.alarm)
        self._channels = Channels(self._port, side)
        self._port.serve_streams(StreamService(self._port, self.desk, self._admit_now).serve)
        self._answers: dict[tuple[str, str], Handler] = {
            ("GET", "/authority"): self._tell_authority,
            ("POST", "/enrol"): self._enrol,
            ("POST", "/renew"): self._renew,
            ("GET", "/channel"): self._channel,
        }

    def __enter__(self) -> Self:
        self._port.open()
        self._port.loop.call_soon_threadsafe(self._port.begin, self._keep_certificate())
        return self

    def __exit__(self, *_: object) -> None:
        self._port.close()

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._port.address

    def link(self, node: str) -> Link:
        """Return the connection of a node. For any thread.

        Raises:
            NodeAway: it is not connected.
        """
        found = self._channels.links.get(node)
        if found is None:
            raise NodeAway
        return found

    def drop(self, node: str, why: str) -> None:
        """Cut every connection of a node at once: it was revoked. For any thread."""
        found = self._channels.links.get(node)
        if found is not None:
            found.why = found.why or why
        self._port.loop.call_soon_threadsafe(self._port.drop, node)

    async def _keep_certificate(self) -> None:
        while True:
            await asyncio.sleep(_CERTIFICATE_CHECK_S)
            self.renew_certificate()

    def renew_certificate(self) -> bool:
        """Issue the certificate of the server anew if it is time; tell whether it was."""
        life = authorities.life_of(self._issued.certificate)
        if life.passed(self._clock.now()) < _RENEW_AFTER:
            return False
        self._issued = self._authority.issue_server(self._names)
        contexts.load(self._context, self._issued)
        return True

    # ------------------------------------------------------------------------------- requests

    async def _answer(self, request: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        path = request.rel_url.raw_path
        answer = self._answers.get((request.method, path))
        if answer is None:
            self._port.report("wire-request", visit, f"{visit.host} asks for what is not here.")
            return web.json_response({"text": "there is no such thing here"}, status=404)
        return await answer(request, visit)

    async def _tell_authority(self, _: web.BaseRequest, __: Visit) -> web.StreamResponse:
        return web.json_response({"authority": self._authority.certificate})

    async def _channel(self, request: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        return await self._channels.serve(request, visit, await self._admit(visit))

    async def _admit(self, visit: Visit) -> Peer:
        await self._port.run(self._admit_now, visit)
        assert visit.peer is not None
        return visit.peer

    def _admit_now(self, visit: Visit) -> None:
        if visit.peer is None:
            text = f"{visit.host} came without the certificate of a node."
            self._port.tell("wire-certificate", visit, text)
            raise Refused("(no certificate was shown)")
        if not self._side.admitted(visit.peer.node, visit.peer.serial):
            text = f"{visit.host} came with a certificate that was revoked."
            self._port.tell("wire-revoked", visit, text)
            raise Refused("(this node was removed from the server)")

    async def _enrol(self, request: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        if not self._port.gate.may_enrol(visit.counted):
            text = f"{visit.host} tries one token after the other."
            self._port.report("wire-token-flood", visit, text)
            return web.json_response({"text": "too many tokens; wait a minute"}, status=429)
        try:
            async with asyncio.timeout(self._port.limits.body_s):
                document = await self._document(request)
                certificates = await self._port.run(
                    self._side.enrol,
                    _text(document, "token"),
                    _text(document, "request"),
                    _object(document, "facts"),
                )
        except Refused:
            self._port.gate.enrolment_failed(visit.counted)
            text = f"{visit.host} tried to enrol with a token that is not valid."
            self._port.report("wire-token", visit, text)
            raise
        except ProtocolViolation as error:
            self._port.gate.enrolment_failed(visit.counted)
            self._broke(visit, error)
            raise
        return web.json_response(enrolment.to_document(certificates))

    async def _renew(self, request: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        peer = await self._admit(visit)
        try:
            async with asyncio.timeout(self._port.limits.body_s):
                document = await self._document(request)
                wanted = _text(document, "request")
                certificates = await self._port.run(self._side.renew, peer.node, wanted)
        except ProtocolViolation as error:
            self._broke(visit, error)
            raise
        assert certificates.node == peer.node
        return web.json_response(enrolment.to_document(certificates))

    def _broke(self, visit: Visit, error: ProtocolViolation) -> None:
        text = f"{visit.host} does not keep to the protocol {error.detail}."
        self._port.report("wire-protocol", visit, text)

    async def _document(self, request: web.BaseRequest) -> dict[str, Any]:
        content = await port.body_of(request, self._port.limits.body_bytes)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise ProtocolViolation("(the body is no document)")
        return document


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or len(value) > authorities.REQUEST_LENGTH_MAX:
        raise ProtocolViolation(f"({name} is missing, or too long)")
    return value


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    if not isinstance(value, dict):
        raise ProtocolViolation(f"({name} is missing)")
    return value
