"""The settings and secrets of every kind of alarm channel, as fields of a form. Pure.

What a field shows is text; `settings_of` makes of it what the API takes, `texts_of` the way back.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruchu.errors import UsageError
from ruchu.web.language import LANGUAGES, later


class Sort(enum.Enum):
    """What a field holds."""

    TEXT = enum.auto()
    NUMBER = enum.auto()
    CHOICE = enum.auto()
    LINES = enum.auto()
    PEOPLE = enum.auto()  # addresses, each perhaps with a language
    PAIRS = enum.auto()  # `name = value`
    EXPECTED = enum.auto()  # `path = value`: what an answer has to hold
    LONG = enum.auto()


@dataclass(frozen=True, slots=True)
class Field:
    """A setting.

    Attributes:
        name: of the setting.
        label, help: in English.
        sort: what it holds.
        options: of a choice.
        initial: of a new channel.
        needed: whether it must be given.
        rare: whether it hides below the others.
    """

    name: str
    label: str
    help: str = ""
    sort: Sort = Sort.TEXT
    options: tuple[str, ...] = ()
    initial: str = ""
    needed: bool = False
    rare: bool = False


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret: written, never read."""

    name: str
    label: str
    help: str = ""


KINDS: Mapping[str, str] = {
    "mail": later("Mail"),
    "webhook": later("Webhook"),
    "sms": later("SMS"),
    "dingtalk": later("DingTalk robot"),
    "wecom": later("WeCom robot"),
    "feishu": later("Feishu robot"),
}
_CA_FILE = Field("ca_file", later("File of further authorities"),
                 later("On the server; for certificates of your own."), rare=True)  # fmt: skip
_PROXY = Field("proxy", later("HTTP proxy"), "http://proxy.example.com:3128", rare=True)
_HOST = Field("host", later("Host"), later("Only for a private deployment."), rare=True)

FIELDS: Mapping[str, tuple[Field, ...]] = {
    "mail": (
        Field("host", later("Mail server"), "mail.example.com", needed=True),
        Field("port", later("Port"), sort=Sort.NUMBER, initial="587"),
        Field("security", later("Encryption"), sort=Sort.CHOICE,
              options=("starttls", "tls", "none"), initial="starttls"),
        Field("sender", later("Sender"), "ruchu@example.com", needed=True),
        Field("recipients", later("Recipients"),
              later("One a line, perhaps with a language: li@example.com zh"),
              Sort.PEOPLE, needed=True),
        _CA_FILE,
    ),
    "webhook": (
        Field("url", later("Address"),
              later("If the address itself is secret, give it below instead.")),
        _CA_FILE, _PROXY,
    ),
    "sms": (
        Field("phones", later("Phone numbers"), later("One a line: +8613800000000"), Sort.LINES,
              needed=True),
        Field("url", later("Address"), "https://sms.example.com/send", needed=True),
        Field("method", later("Method"), sort=Sort.CHOICE, options=("POST", "GET", "PUT"),
              initial="POST"),
        Field("signer", later("Signature"), sort=Sort.CHOICE,
              options=("none", "aliyun-rpc", "tencent-tc3"), initial="none"),
        Field("service", later("Service, for the signature of Tencent Cloud"), rare=True),
        Field("query", later("Query"), later("One a line: PhoneNumbers = ${phone}"), Sort.PAIRS),
        Field("headers", later("Headers"), later("One a line: X-Key = ${secrets.token}"),
              Sort.PAIRS),
        Field("form", later("Form"), later("One a line; a form or a body, not both."),
              Sort.PAIRS),
        Field("body", later("Body"), later("JSON with places such as ${phone} and ${headline}."),
              Sort.LONG),
        Field("success", later("What a good answer holds"), later("One a line: Code = OK"),
              Sort.EXPECTED),
        _CA_FILE, _PROXY,
    ),
    "dingtalk": (_HOST, _CA_FILE, _PROXY),
    "wecom": (_HOST, _CA_FILE, _PROXY),
    "feishu": (_HOST, _CA_FILE, _PROXY),
}  # fmt: skip
SECRETS: Mapping[str, tuple[Secret, ...]] = {
    "mail": (Secret("user", later("User")), Secret("password", later("Password"))),
    "webhook": (
        Secret("url", later("Secret address")),
        Secret("key", later("Key of the signature")),
        Secret("authorization", later("Header Authorization")),
    ),
    "sms": (
        Secret("key_id", later("Key ID")), Secret("key", later("Key")),
        Secret("token", later("Token")),
    ),
    "dingtalk": (
        Secret("token", later("Access token"), later("The part of the address after access_token=.")),
        Secret("secret", later("Secret of the signature")),
    ),
    "wecom": (Secret("key", later("Key"), later("The part of the address after key=.")),),
    "feishu": (
        Secret("token", later("Token"), later("The last part of the address.")),
        Secret("secret", later("Secret of the signature")),
    ),
}  # fmt: skip
_PAIR_HINT = "One a line: name = value"


def settings_of(kind: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a channel, of what its fields show; empty ones are left out.

    Raises:
        UsageError: a field cannot be read.
    """
    found = {}
    for each in FIELDS[kind]:
        text = (texts.get(each.name) or "").strip()
        if text:
            found[each.name] = _read(each, text)
    return found


def texts_of(kind: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what fields show of settings; of a new channel what is usual."""
    if not settings:
        return {each.name: each.initial for each in FIELDS[kind]}
    return {each.name: _written(each, settings.get(each.name)) for each in FIELDS[kind]}


def told(kind: str, settings: Mapping[str, Any]) -> str:
    """Return in a line whom a channel reaches."""
    if kind == "mail":
        return ", ".join(_people(settings.get("recipients") or ())).replace("\n", ", ")
    if kind == "sms":
        return ", ".join(map(str, settings.get("phones") or ()))
    return str(settings.get("url") or settings.get("host") or "")


def _read(field: Field, text: str) -> Any:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    match field.sort:
        case Sort.NUMBER:
            if not text.isascii() or not text.isdigit():
                raise UsageError(f"({field.name}: {text[:40]!r} is no number)")
            found: Any = int(text)
        case Sort.LINES:
            found = [part.strip() for line in lines for part in line.split(",") if part.strip()]
        case Sort.PEOPLE:
            found = [_person(part) for line in lines for part in line.split(",") if part.strip()]
        case Sort.PAIRS:
            found = dict(_pair(line) for line in lines)
        case Sort.EXPECTED:
            found = [{"path": path, "equals": _value(value)} for path, value in map(_pair, lines)]
        case _:
            found = text
    return found


def _written(field: Field, value: Any) -> str:
    if value is None:
        return ""
    match field.sort:
        case Sort.LINES:
            lines = [str(each) for each in value]
        case Sort.PEOPLE:
            lines = _people(value)
        case Sort.PAIRS:
            lines = [f"{name} = {text}" for name, text in value.items()]
        case Sort.EXPECTED:
            lines = [f"{each['path']} = {_shown(each['equals'])}" for each in value]
        case _:
            lines = [str(value)]
    return "\n".join(lines)


def _person(text: str) -> Any:
    address, _, language = text.strip().partition(" ")
    if not language.strip():
        return address
    if language.strip() not in LANGUAGES:
        raise UsageError(f"(the language {language.strip()[:20]!r})", hint=", ".join(LANGUAGES))
    return {"address": address, "language": language.strip()}


def _people(value: Any) -> list[str]:
    return [f"{each['address']} {each.get('language', '')}".strip() if isinstance(each, Mapping)
            else str(each) for each in value]  # fmt: skip


def _pair(line: str) -> tuple[str, str]:
    name, equals, value = line.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"({line[:60]!r})", hint=_PAIR_HINT)
    return name.strip(), value.strip()


def _value(text: str) -> str | int:
    """Return a number for digits; a text in quotes stays a text."""
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    return int(text) if text.isascii() and text.removeprefix("-").isdigit() else text


def _shown(value: Any) -> str:
    digits = isinstance(value, str) and value.removeprefix("-").isdigit()
    return f'"{value}"' if digits else str(value)
