"""What every request passes: size, rate, characters, headers."""

import ipaddress
import threading
from collections import OrderedDict
from http import HTTPStatus

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ruchu.api import problems, repeating
from ruchu.clock import Clock
from ruchu.control.server.services import Services

# Definitions of thousands of machines; nobody sends more.
BODY_BYTES_MAX = 4 << 20
# A person with a browser, or a script in a loop; what comes faster is a mistake or an attack.
RATE_PER_S, BURST = 50.0, 200.0
CLIENTS_MAX = 10_000
# A key of a scope that no request from a network has: calls of the console are not counted.
INSIDE = "ruchu.inside"
# One customer of a provider has all addresses of such a network.
_IPV6_PREFIX = 64
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def install(app: FastAPI, services: Services) -> None:
    """Let every request of an application pass through here."""
    app.add_middleware(
        repeating.Repeats, database=services.database, clock=services.clock,
        known=services.accounts.bearer,
    )  # fmt: skip
    app.add_middleware(Shield, clock=services.clock)


class Rate:
    """A bucket for each client; the ones that were quiet for longest are forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> bool:
        """Count a request; False if there are too many."""
        name, now = network(client), self._clock.monotonic()
        with self._lock:
            left, then = self._buckets.pop(name, (BURST, now))
            left = min(BURST, left + (now - then) * RATE_PER_S)
            allowed = left >= 1
            self._buckets[name] = (left - allowed, now)
            if len(self._buckets) > CLIENTS_MAX:
                self._buckets.popitem(last=False)
        return allowed


def network(client: str) -> str:
    """Return what an address is counted by: itself, or its network where one has many."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 4:
        return client
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))


class TooLarge(HTTPException):
    """The request is too large."""

    def __init__(self) -> None:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        super().__init__(status, f"The request is larger than {BODY_BYTES_MAX} bytes.")


class Shield:
    """Refuses what is too large or too much; adds headers to what is answered."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._rate = Rate(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, _headed(send))
            return
        try:
            await self._app(scope, _limited(receive), _headed(send))
        except TooLarge as error:
            # Nothing was answered: whoever reads the body does so before.
            await problems.of_http(error)(scope, receive, _headed(send))

    def _refused(self, scope: Scope) -> ASGIApp | None:
        client = scope.get("client")
        if INSIDE not in scope and not self._rate.take(client[0] if client else ""):
            return problems.answer(
                HTTPStatus.TOO_MANY_REQUESTS, "too-fast", "Too many requests.", retry=True,
                headers={"Retry-After": "1"},
            )  # fmt: skip
        if _length(scope) > BODY_BYTES_MAX:
            return problems.of_http(TooLarge())
        # PostgreSQL keeps no NUL, and no name of anything here has one.
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            return problems.answer(
                HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", "(a NUL in the address)"
            )
        return None


def _limited(receive: Receive) -> Receive:
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > BODY_BYTES_MAX:
            raise TooLarge
        return message

    return limited


def _headed(send: Send) -> Send:
    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = {name.lower() for name, _ in message.get("headers", ())}
            added = [pair for pair in _HEADERS if pair[0] not in known]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return headed


def _length(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0
