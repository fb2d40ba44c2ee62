"""Serves the application: HTTPS with a certificate of the server's own, or one that is given."""

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from ruchu.api import application
from ruchu.api.patience import PatientProtocol
from ruchu.clock import Clock
from ruchu.control.server import plane
from ruchu.control.server.plane import Plane, Settings
from ruchu.control.server.services import Services
from ruchu.errors import UsageError
from ruchu.wire.calling import Address

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Requests that are under way when the server ends.
_GRACE_S = 5
# The first line and the headers of a request; what is longer is answered with 400.
HEADERS_BYTES_MAX = 32 << 10
# Far above what people and scripts open, far below what the process may open: then 503.
CONNECTIONS_MAX = 2000
KEEP_ALIVE_S = 15


@dataclass(frozen=True, slots=True)
class Face:
    """Where and how browsers are answered.

    Attributes:
        address: port 0 takes any that is free.
        certificate, key: files for HTTPS; None: on addresses that others reach, a certificate of
            the server's own authority.
        plain: HTTP although others can reach it, since a proxy in front speaks HTTPS.
    """

    address: Address
    certificate: Path | None = None
    key: Path | None = None
    plain: bool = False

    @property
    def secure(self) -> bool:
        """Whether it speaks HTTPS."""
        if self.certificate is not None:
            return True
        return not self.plain and self.address.host not in LOOPBACK


def address_of(text: str) -> Address:
    """Return the address that a text such as `127.0.0.1:8443` or `[::1]:0` names.

    Raises:
        UsageError: it names none.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"(address {text[:80]!r})", hint="HOST:PORT, such as 127.0.0.1:8443.")
    return Address(host, int(port))


class _Server(uvicorn.Server):
    """Uvicorn that says when it answers, and leaves signals to us."""

    def __init__(self, config: uvicorn.Config, answers: Callable[[Address], None]) -> None:
        super().__init__(config)
        self._answers = answers

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._answers(Address(host, port))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them as they are."""
        yield


Dress = Callable[[FastAPI, Services], None]
"""Adds to the application what is not the API: the console."""


def serve(
    settings: Settings, face: Face, clock: Clock,
    tell: tuple[Callable[[str], None], Callable[[str], None]], dress: Dress | None = None,
) -> None:  # fmt: skip
    """Run a server until SIGTERM; `tell` prints answers and news.

    Raises:
        RuchuError: it cannot be.
    """
    line, note = tell
    with plane.running(settings, clock) as found, tempfile.TemporaryDirectory() as scratch:
        app = application.create(found.services, note)
        if dress is not None:
            dress(app, found.services)

        def answers(address: Address) -> None:
            line(json.dumps(_first_line(found, face, address)))

        server = _Server(_config(app, face, found, Path(scratch)), answers)

        def end(number: int, frame: FrameType | None) -> None:
            del number, frame
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, end)
        server.run()
    # Attempts that are under way wait in threads that nothing ends; after the next start they go
    # on where they are, as after any other end.
    os._exit(0)


def _config(app: Any, face: Face, found: Plane, scratch: Path) -> uvicorn.Config:
    options: dict[str, Any] = {}
    if face.secure:
        certificate, key = face.certificate, face.key
        if certificate is None:
            issued = found.services.authority.issue_server((face.address.host, "localhost"))
            certificate, key = scratch / "certificate.pem", scratch / "key.pem"
            key.touch(mode=0o600)
            key.write_text(issued.key)
            certificate.write_text(issued.certificate)
        options = {"ssl_certfile": str(certificate), "ssl_keyfile": str(key) if key else None}
    return uvicorn.Config(
        app, host=face.address.host, port=face.address.port, log_level="warning",
        access_log=False, timeout_graceful_shutdown=_GRACE_S, server_header=False,
        http=PatientProtocol, loop="asyncio", h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
        limit_concurrency=CONNECTIONS_MAX, timeout_keep_alive=KEEP_ALIVE_S,
        # What a proxy says of its client is believed only if there is one.
        proxy_headers=face.plain, **options,
    )  # fmt: skip


def _first_line(found: Plane, face: Face, address: Address) -> dict[str, Any]:
    url = f"{'https' if face.secure else 'http'}://{address}"
    fingerprint = found.services.authority.fingerprint
    line: dict[str, Any] = {
        "url": url, "nodes": str(found.nodes_at), "fingerprint": fingerprint,
    }  # fmt: skip
    if found.first_link is not None:
        line["link"] = f"{url}/first#{found.first_link}"
    return line
