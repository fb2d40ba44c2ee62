"""The pages of whoever is not signed in: sign in, make the first account, choose a password."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from nicegui import ui
from nicegui.elements.mixins.value_element import ValueElement

from ruchu.errors import Answered
from ruchu.web import dressing, visiting
from ruchu.web.language import LANGUAGES, Language, later
from ruchu.web.visiting import House

# A browser that works on this answers at once; a server that hashes passwords takes its time.
_ANSWER_S = 30.0


def _safe(target: str) -> str:
    """Return where to go after signing in: an address of ours, whatever was asked for."""
    parts = urlsplit(target)
    ours = not parts.scheme and not parts.netloc and target.startswith("/")
    return target if ours and not target.startswith(("//", "/\\")) else "/"


def _card(title: str) -> Any:
    with ui.element("div").classes("r-entrance"):
        with ui.element("div").classes("r-entrance-brand"):
            ui.element("img").classes("r-mark").props('src="/_ruchu/mark.svg" alt=""')
            ui.label("Ruchu 如初").props("translate=no")
        card = ui.card().classes("r-entrance-card")
        with ui.element("div").classes("r-entrance-languages"):
            for code, name in LANGUAGES.items():
                button = ui.button(
                    name, on_click=lambda code=code: dressing.choose(dressing.LANGUAGE_COOKIE, code)
                )
                button.props(f"flat dense no-caps lang={code}").mark(f"language-{code}")
    with card:
        ui.label(title).classes("r-entrance-title").props("role=heading aria-level=1")
    return card


def _field(label: str, *, secret: bool = False, complete: str = "off") -> Any:
    field = ui.input(label, password=secret, password_toggle_button=secret)
    return field.props(f'outlined autocomplete="{complete}"').classes("r-wide")


async def _sent(method: str, path: str, body: Any) -> Any:
    """Let the browser itself make a call, so that it gets the cookie; return status and body."""
    call = f"return await ruchu.send({json.dumps(method)}, {json.dumps(path)}, {json.dumps(body)})"
    return await ui.run_javascript(call, timeout=_ANSWER_S)


class _Complaint:
    """The line that says what was wrong."""

    def __init__(self) -> None:
        self._label = ui.label("").classes("r-complaint").props("role=alert")
        self._label.set_visibility(False)

    def say(self, text: str) -> None:
        self._label.set_text(text)
        self._label.set_visibility(bool(text))


def _on_enter(fields: list[ValueElement[Any]], act: Any) -> None:
    for each in fields:
        each.on("keydown.enter", act)


async def _sign_in(request: Request, house: House, language: Language) -> None:
    """Show the sign-in page."""
    target = _safe(request.query_params.get("next", "/"))
    say = language.say
    with _card(say("Sign in")):
        name = _field(say("Name"), complete="username").props("autofocus").mark("name")
        word = _field(say("Password"), secret=True, complete="current-password").mark("password")
        code = _field(say("Code of the authenticator"), complete="one-time-code").mark("code")
        code.set_visibility(False)
        complaint = _Complaint()

        async def go() -> None:
            body = {"name": name.value or "", "password": word.value or "",
                    "code": (code.value or "").strip(), "cookie": True}  # fmt: skip
            answer = await _sent("POST", "/sessions", body)
            if answer["status"] == 201:
                ui.navigate.to(target)
                return
            if answer["body"].get("code") == "code-needed":
                code.set_visibility(True)
            if answer["body"].get("code") == "not-authenticated":
                # Which of them, nobody is told.
                asked = code.visible
                complaint.say(say("Name, password or code is not right.") if asked
                              else say("Name or password is not right."))  # fmt: skip
                return
            complaint.say(_told(answer["body"], language))

        ui.button(say("Sign in"), on_click=go).props("unelevated no-caps").classes("r-wide").mark(
            "sign-in"
        )
        _on_enter([name, word, code], go)
        ways = await visiting.anonymous(house).get("/oidc")
        for way in ways:
            title = way["title"] or way["name"]
            ui.link(say("Sign in with {provider}", provider=title), way["begin"]).classes("r-way")


async def _first(request: Request, house: House, language: Language) -> None:
    """Show the page on which the first administrator is made; the link holds a one-time word."""
    del request, house
    say = language.say
    with _card(say("Welcome. Make the first administrator.")):
        name = _field(say("Name"), complete="username").mark("name")
        name.set_value("admin")
        word = _field(say("Password"), secret=True, complete="new-password").mark("password")
        again = _field(say("Password again"), secret=True, complete="new-password").mark("again")
        complaint = _Complaint()

        async def go() -> None:
            if word.value != again.value:
                complaint.say(say("The two passwords differ."))
                return
            link = await ui.run_javascript("return location.hash.slice(1)", timeout=_ANSWER_S)
            body = {"link": link, "name": name.value or "", "password": word.value or "",
                    "language": language.code}  # fmt: skip
            answer = await _sent("POST", "/administrator", body)
            if answer["status"] == 201:
                entry = {"name": body["name"], "password": body["password"], "cookie": True}
                await _sent("POST", "/sessions", entry)
                ui.navigate.to("/guide")
                return
            complaint.say(_told(answer["body"], language))

        ui.button(say("Go on"), on_click=go).props("unelevated no-caps").classes("r-wide").mark(
            "go-on"
        )
        _on_enter([name, word, again], go)


async def _password(request: Request, house: House, language: Language) -> None:
    """Show the page on which a password is chosen with a one-time link."""
    del request, house
    say = language.say
    with _card(say("Choose a password")):
        word = _field(say("Password"), secret=True, complete="new-password").mark("password")
        again = _field(say("Password again"), secret=True, complete="new-password").mark("again")
        complaint = _Complaint()

        async def go() -> None:
            if word.value != again.value:
                complaint.say(say("The two passwords differ."))
                return
            link = await ui.run_javascript("return location.hash.slice(1)", timeout=_ANSWER_S)
            answer = await _sent("POST", "/password", {"link": link, "password": word.value or ""})
            if answer["status"] == 200:
                ui.navigate.to("/login")
                return
            complaint.say(_told(answer["body"], language))

        ui.button(say("Go on"), on_click=go).props("unelevated no-caps").classes("r-wide").mark(
            "go-on"
        )
        _on_enter([word, again], go)


def _told(problem: dict[str, Any], language: Language) -> str:
    error = Answered.of(problem)
    return " ".join(filter(None, (language.problem(error), language.hint(error))))


def register(house: House) -> None:
    """Register these pages."""
    for path, title, build in (
        ("/login", later("Sign in"), _sign_in),
        ("/first", later("First administrator"), _first),
        ("/password", later("Choose a password"), _password),
    ):
        ui.page(path)(_page(house, title, build))

    @ui.page("/entered")
    def entered() -> None:
        # The cookie of a session is sent only where a page of ours leads; another site, which just
        # signed somebody in, is none.
        ui.navigate.to("/")


def _page(
    house: House, title: str, build: Callable[[Request, House, Language], Awaitable[None]]
) -> Callable[[Request], Awaitable[None]]:
    async def show(request: Request) -> None:
        spoken, theme = await asyncio.to_thread(dressing.choices, request, house.services)
        dressing.dress(spoken, theme, f"{spoken.say(title)} · Ruchu")
        dressing.head()
        await build(request, house, spoken)

    return show
