"""Puts the console beside the API: one process, one port, one session."""

import asyncio
import contextlib
import importlib
import os
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Any

# NiceGUI would make a folder of its own in the working directory; nothing of ours is kept there.
os.environ.setdefault("NICEGUI_STORAGE_PATH", "/nonexistent")

import nicegui
from fastapi import FastAPI, Request, Response
from nicegui import ui
from starlette.types import ASGIApp, Receive, Scope, Send

from ruchu.control.server.services import Services
from ruchu.errors import Answered
from ruchu.web import dressing, entrance, pages, shell, visiting
from ruchu.web.feed import Feed
from ruchu.web.parts import acting
from ruchu.web.visiting import House, PageOf, Visit

# A browser that was away for longer loads its page anew, and shows the truth either way.
RECONNECT_S = 5.0
# What the console does not answer: there the API says that there is nothing.
_OF_API = ("/api/", "/healthz", "/metrics")
_SOCKET = "/_nicegui_ws/"


def install(app: FastAPI, services: Services) -> None:
    """Let an application that answers the API show the console as well."""
    house = House(services, app, Feed(services.events))
    _load_pages()
    # An address without parts is meant before one with: `/policies/new`, `/policies/{policy}`.
    for each in sorted(visiting.PAGES.values(), key=lambda each: each.path.count("{")):
        _register(each, house)
    entrance.register(house)
    outside = FastAPI(openapi_url=None)
    nicegui.app.add_static_files("/_ruchu", str(resources.files("ruchu.web") / "static"))
    ui.run_with(
        outside, title="Ruchu", favicon=None, dark=None, tailwind=False,
        reconnect_timeout=RECONNECT_S, show_welcome_message=False, binding_refresh_interval=None,
    )  # fmt: skip
    app.router.default = _Either(outside, app.router.default)
    lifespan = outside.router.lifespan_context
    app.router.lifespan_context = _following(lifespan, house)


def _load_pages() -> None:
    for each in pkgutil.iter_modules(pages.__path__, f"{pages.__name__}."):
        importlib.import_module(each.name)


def _following(lifespan: Callable[[Any], Any], house: House) -> Callable[[Any], Any]:
    @contextlib.asynccontextmanager
    async def both(app: Any) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            following = asyncio.create_task(house.feed.follow())
            try:
                yield state
            finally:
                following.cancel()

    return both


class _Either:
    """Sends what the API does not know to the console, except what is the API's own."""

    def __init__(self, console: ASGIApp, api: ASGIApp) -> None:
        self._console = console
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_OF_API):
            await self._api(scope, receive, send)
        elif scope["path"].startswith(_SOCKET) and not _same_origin(scope):
            await _refuse(scope, receive, send)
        else:
            await self._console(scope, receive, send)


def _same_origin(scope: Scope) -> bool:
    """Tell whether a live line was opened by a page of ours, not of another site."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    return not origin or origin.partition("://")[2] == headers.get(b"host", b"").decode("latin-1")


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await Response(status_code=403)(scope, receive, send)


def _register(of: PageOf, house: House) -> None:
    async def show(**parts: Any) -> Response | None:
        request: Request = parts.pop("request")
        visit = await visiting.enter(request, house)
        if isinstance(visit, Response):
            return visit
        await _shown(of, visit, parts)
        return None

    show.__signature__ = visiting.signature(of.build)  # type: ignore[attr-defined]
    show.__name__ = of.build.__name__
    ui.page(of.path, response_timeout=visiting.BUILD_LIMIT_S)(show)


async def _shown(of: PageOf, visit: Visit, parts: dict[str, str]) -> None:
    dressing.dress(visit.language, visit.theme, f"{visit.say(of.title)} · Ruchu")
    ui.context.client.on_exception(lambda error: tell_failed(visit, error))
    frame = shell.bare if of.bare else shell.frame
    with frame(visit, of):
        if of.need is not None and not visit.may(of.need):
            shell.not_allowed(visit, of.need)
            return
        await _built(of.build, visit, parts)


async def _built(
    build: Callable[..., Awaitable[None]], visit: Visit, parts: dict[str, str]
) -> None:
    try:
        await build(visit, **parts)
    except Answered as error:
        if error.status == 401:
            ui.navigate.to(visiting.sign_in_address(visit.path))
            return
        shell.refused(visit, error)


def tell_failed(visit: Visit, error: Exception) -> None:
    """Tell whoever looks at a page that what they pressed failed; the log has it as well."""
    if not isinstance(error, Answered):
        acting.tell_failure(visit)
    elif error.status == 401:
        ui.navigate.to(visiting.sign_in_address(visit.path))
    else:
        acting.tell_problem(visit, error)
