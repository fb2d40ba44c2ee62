"""Visits: who looks at a page, with which rights, in which language; and how pages are made.

A page is an async function of a `Visit` and of the parts of its address. Nothing is shown to
whoever is not signed in, and nothing is fetched but through the API with the visitor's session.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from nicegui import ui
from starlette.types import ASGIApp

from ruchu.api.identity import AGENT_MAX, COOKIE
from ruchu.control.server.services import Services
from ruchu.errors import Answered, NotAuthenticated
from ruchu.model.principals import Principal, Right
from ruchu.web import dressing
from ruchu.web.calling import Api
from ruchu.web.feed import Feed
from ruchu.web.language import Language

# A page that asks a slow node shows its frame meanwhile; what it holds comes later.
BUILD_LIMIT_S = 20.0
# How often a live page looks whether anything changed.
LIVE_S = 1.0


@dataclass(frozen=True, slots=True)
class House:
    """What every page of one server needs.

    Attributes:
        services: of the server.
        app: the application whose API answers.
        feed: what changed.
    """

    services: Services
    app: ASGIApp
    feed: Feed


@dataclass(frozen=True, slots=True)
class Visit:
    """One page that is open in one browser.

    Attributes:
        house: the server.
        api: as this visitor may use it.
        principal: who they are.
        language: theirs.
        theme: `light`, `dark` or `auto`.
        path: of the page.
        query: of its address.
    """

    house: House
    api: Api
    principal: Principal
    language: Language
    theme: str
    path: str
    query: Mapping[str, str]

    def say(self, text: str, **facts: Any) -> str:
        """Return a text in the visitor's language."""
        return self.language.say(text, **facts)

    def may(self, right: Right, group: str | None = None) -> bool:
        """Tell whether the visitor has a right: in a group; without one, in any."""
        if group is None:
            return bool(self.principal.groups(right))
        return self.principal.may(right, group)

    def may_everywhere(self, right: Right) -> bool:
        """Tell whether the visitor has a right for everything."""
        return self.principal.may(right)

    @property
    def now(self) -> datetime:
        """The moment, by the clock of the server."""
        return self.house.services.clock.now()

    def live(
        self, refresh: Callable[[], Awaitable[None]], *kinds: str, every_s: float = LIVE_S
    ) -> None:
        """Call something whenever anything happened to one of the kinds; see `Feed.mark`.

        It is called at most once in `every_s`, and never twice at the same time. A session that
        ended leads to the sign-in page.
        """
        seen = [self.house.feed.mark(kinds)]

        async def look() -> None:
            mark = self.house.feed.mark(kinds)
            if mark == seen[0]:
                return
            seen[0] = mark
            await self.guarded(refresh)

        ui.timer(every_s, look)

    async def guarded(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Call something; lead to the sign-in page if the session has ended."""
        try:
            await refresh()
        except Answered as error:
            if error.status != 401:
                raise
            ui.navigate.to(sign_in_address(self.path))


def sign_in_address(path: str) -> str:
    """Return the address of the sign-in page that leads back to a page."""
    return "/login" if path in {"/", ""} else f"/login?next={quote(path, safe='/')}"


async def enter(request: Request, house: House) -> Visit | Response:
    """Return the visit of whoever sent a request, or what leads them to the sign-in page."""
    word = request.cookies.get(COOKIE, "")
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if not word:
        return RedirectResponse(sign_in_address(path))
    try:
        principal = await asyncio.to_thread(house.services.accounts.bearer, word)
    except NotAuthenticated:
        return RedirectResponse(sign_in_address(path))
    spoken, theme = await asyncio.to_thread(dressing.choices, request, house.services)
    client = (request.client.host, request.client.port) if request.client else ("", 0)
    api = Api(house.app, word, client, request.headers.get("user-agent", "")[:AGENT_MAX])
    return Visit(house, api, principal, spoken, theme, path, dict(request.query_params))


def anonymous(house: House) -> Api:
    """Return the API as whoever is not signed in may use it."""
    return Api(house.app, "")


Builder = Callable[..., Awaitable[None]]


@dataclass(frozen=True, slots=True)
class PageOf:
    """A page of the console.

    Attributes:
        path: its address, such as `/runs/{run}`.
        title: what it is called, in English.
        need: the right that it takes in some group; None: any account.
        build: makes it.
        bare: whether it comes without the frame of the console.
    """

    path: str
    title: str
    need: Right | None
    build: Builder
    bare: bool = False


PAGES: dict[str, PageOf] = {}


def page(
    path: str, title: str, *, need: Right | None = Right.VIEW, bare: bool = False
) -> Callable[[Builder], Builder]:
    """Make an async function of a visit, and of the parts of the path, a page of the console."""

    def keep(build: Builder) -> Builder:
        PAGES[path] = PageOf(path, title, need, build, bare)
        return build

    return keep


def signature(build: Builder) -> inspect.Signature:
    """Return the signature of a page as the router sees it: a request instead of a visit."""
    parameters = list(inspect.signature(build).parameters.values())[1:]
    request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    named = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    return inspect.Signature([*named, request])
