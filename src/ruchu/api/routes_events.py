"""What happens, as it happens: server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from ruchu.api import problems
from ruchu.api.identity import By, ServicesOf
from ruchu.control.events.stream import Event
from ruchu.control.server.services import Services
from ruchu.model.principals import Right

router = APIRouter(tags=["events"])
# A proxy in between closes what is silent for longer.
_KEEPALIVE_S = 15.0
_POLL_S = 0.25


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        **problems.responses(),
        200: {"description": "a stream that does not end", "content": {"text/event-stream": {}}},
    },
)
def follow(
    request: Request,
    services: ServicesOf,
    by: By,
    after: Annotated[int, Query(ge=-1, description="a number; -1 is from now on")] = -1,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
    once: Annotated[bool, Query(description="end when all that is known was told")] = False,
) -> StreamingResponse:
    """Follow what happens; a browser that reconnects goes on where it was."""
    by.demand(Right.VIEW)
    number = services.events.last if after < 0 else after
    if last_event_id and last_event_id.isascii() and last_event_id.isdigit():
        number = int(last_event_id)
    stream = _stream(request, services, number, once=once)
    return StreamingResponse(stream, media_type="text/event-stream",
                             headers={"Cache-Control": "no-store"})  # fmt: skip


async def _stream(
    request: Request, services: Services, number: int, *, once: bool
) -> AsyncIterator[str]:
    silent_s = 0.0
    while not await request.is_disconnected():
        found = []
        if services.events.last > number:
            found = list(await asyncio.to_thread(services.events.after, number))
        for event in found:
            number = event.number
            yield _text(event)
        if not found:
            if once:
                return
            await asyncio.sleep(_POLL_S)
            silent_s += _POLL_S
            if silent_s >= _KEEPALIVE_S:
                silent_s = 0.0
                yield ": here\n\n"


def _text(event: Event) -> str:
    data = json.dumps({"at": event.at, "subject": event.subject, **event.body}, ensure_ascii=False)
    return f"id: {event.number}\nevent: {event.name}\ndata: {data}\n\n"
