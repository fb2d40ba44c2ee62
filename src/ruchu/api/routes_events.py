"""What happens, as it happens: server-sent events."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from ruchu.api import paging, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.control.events.stream import Event
from ruchu.control.server.services import Services
from ruchu.errors import TooMany
from ruchu.model.principals import Right

router = APIRouter(tags=["events"])
# A proxy in between closes what is silent for longer.
_KEEPALIVE_S = 15.0
_POLL_S = 0.25
# Then the browser comes again, and shows once more who it is: a session that ended sees no more.
LASTS_S = 60.0
RETRY_MS = 1000
# Each polls; more pages than that are not looked at.
STREAMS_MAX = 500


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        **problems.responses(),
        200: {
            "description": "a stream of events, for a minute",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
    },
)
def follow_events(
    request: Request,
    services: ServicesOf,
    by: By,
    after: Annotated[
        int, Query(ge=-1, le=paging.NUMBER_MAX, description="a number; -1 is from now on")
    ] = -1,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
    once: Annotated[bool, Query(description="end when all that is known was told")] = False,
) -> StreamingResponse:
    """Follow what happens, for a minute; a browser reconnects by itself and goes on where it was.

    Whoever does not see every group is told that something of a kind changed, and not what.
    """
    number = services.events.last if after < 0 else after
    if last_event_id and last_event_id.isascii() and last_event_id.isdigit():
        number = min(int(last_event_id), paging.NUMBER_MAX)
    if not request.app.state.streams.take():
        raise TooMany(f"({STREAMS_MAX} pages follow the events)")
    stream = _stream(request, services, number, _Wish(once, by.may(Right.VIEW)))
    return StreamingResponse(stream, media_type="text/event-stream",
                             headers={"Cache-Control": "no-store"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Wish:
    """How a stream is: whether it ends when all is told, and whether it tells everything."""

    once: bool
    whole: bool


class Streams:
    """Counts the streams that are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0

    def take(self) -> bool:
        """Count one more; False if there are too many."""
        with self._lock:
            if self._open >= STREAMS_MAX:
                return False
            self._open += 1
            return True

    def leave(self) -> None:
        """Count one less."""
        with self._lock:
            self._open -= 1


async def _stream(
    request: Request, services: Services, number: int, wish: _Wish
) -> AsyncIterator[str]:
    try:
        yield f"retry: {RETRY_MS}\n\n"
        async for text in _told(request, services, number, wish):
            yield text
    finally:
        request.app.state.streams.leave()


async def _told(
    request: Request, services: Services, number: int, wish: _Wish
) -> AsyncIterator[str]:
    silent_s = 0.0
    ends = services.clock.monotonic() + LASTS_S
    while services.clock.monotonic() < ends and not await request.is_disconnected():
        found = []
        if services.events.last > number:
            found = list(await asyncio.to_thread(services.events.after, number))
        for event in found:
            number = event.number
            yield _text(event, whole=wish.whole)
        if not found:
            if wish.once:
                return
            await asyncio.sleep(_POLL_S)
            silent_s += _POLL_S
            if silent_s >= _KEEPALIVE_S:
                silent_s = 0.0
                yield ": here\n\n"


def _text(event: Event, *, whole: bool) -> str:
    told = {"at": event.at}
    if whole:
        told |= {"subject": event.subject, **event.body}
    data = json.dumps(told, ensure_ascii=False)
    return f"id: {event.number}\nevent: {event.name}\ndata: {data}\n\n"
