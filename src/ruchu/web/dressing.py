"""What every page wears: style, language, theme, title; and how a browser keeps the choice."""

import copy
import json

from fastapi import Request
from nicegui import ui

from ruchu import __version__
from ruchu.control.server.services import Services
from ruchu.web import language
from ruchu.web.language import Language

LANGUAGE_COOKIE, THEME_COOKIE = "ruchu_language", "ruchu_theme"
LIGHT, DARK, AUTO = "light", "dark", "auto"


def choices(request: Request, services: Services) -> tuple[Language, str]:
    """Return the language and the theme for a request of whoever it is."""
    accepted = request.headers.get("accept-language", "")
    code = language.choose(request.cookies.get(LANGUAGE_COOKIE, ""), accepted)
    theme = request.cookies.get(THEME_COOKIE, AUTO)
    zone = services.settings.get()[0].zone
    return Language(code, zone), theme if theme in {LIGHT, DARK} else AUTO


def dress(page_language: Language, theme: str, title: str) -> None:
    """Give the page that is being made its language, its theme and its title."""
    client = ui.context.client
    client.page = copy.copy(client.page)
    client.page.language = language.TAGS[page_language.code]  # type: ignore[assignment]
    client.page.dark = {LIGHT: False, DARK: True}.get(theme)
    client.page.title = title


def head() -> None:
    """Give the page that is being made the style of the console."""
    ui.add_head_html(
        f'<link rel="stylesheet" href="/_ruchu/console.css?{__version__}">'
        f'<link rel="stylesheet" href="/_ruchu/operations.css?{__version__}">'
        f'<link rel="stylesheet" href="/_ruchu/restore.css?{__version__}">'
        f'<link rel="stylesheet" href="/_ruchu/resources.css?{__version__}">'
        f'<link rel="stylesheet" href="/_ruchu/policies.css?{__version__}">'
        f'<link rel="stylesheet" href="/_ruchu/overview.css?{__version__}">'
        f'<link rel="stylesheet" href="/_ruchu/files.css?{__version__}">'
        f'<script src="/_ruchu/console.js?{__version__}"></script>'
        '<link rel="icon" href="/_ruchu/mark.svg" type="image/svg+xml">'
    )
    ui.colors(primary="#1d5fd3", secondary="#33507f", accent="#0b8577", positive="#157f46",
              negative="#c22f3d", warning="#a05f00", info="#1d5fd3", dark="#161e2e",
              dark_page="#0d131f")  # fmt: skip


def choose(cookie: str, value: str) -> None:
    """Keep a choice in the browser and show the page anew."""
    _ = ui.run_javascript(f"ruchu.choose({json.dumps(cookie)}, {json.dumps(value)})")
