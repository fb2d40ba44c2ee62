"""Messages to phones, by the HTTP interface of whoever sends them.

There are as many interfaces as senders, so the request is a template: address, query, headers and
body with placeholders (`templates`), a signature, and what the answer has to hold.
"""

import json
import secrets as randomness
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from ruchu.control.alarms import codes, messages
from ruchu.control.alarms.channels import http, signing, webhook
from ruchu.control.alarms.channels.http import Http, Request
from ruchu.control.alarms.channels.templates import Place, Template
from ruchu.control.alarms.messages import Message
from ruchu.errors import ChannelRefused, UsageError

PHONES_MAX = 50
SIGNERS = ("none", "aliyun-rpc", "tencent-tc3")
METHODS = ("GET", "POST", "PUT")
# A message to a phone; longer ones are cut by the sender anyway, or cost as several.
TEXT_MAX = 500


@dataclass(frozen=True, slots=True)
class Expected:
    """What an answer has to hold.

    Attributes:
        path: names and positions with dots: `Response.SendStatusSet.0.Code`.
        equals: the value there.
    """

    path: str
    equals: str | int


class SmsTemplate:
    """How a message is asked for."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Read the settings.

        They are `method`, `url`, `query`, `headers`, `form` or `body`, `success`, `signer` and
        `service`.

        Raises:
            UsageError: they cannot work.
        """
        self.method = str(settings.get("method", "POST"))
        self.signer = str(settings.get("signer", "none"))
        self.service = str(settings.get("service", ""))
        if self.method not in METHODS or self.signer not in SIGNERS:
            raise UsageError(f"({self.method} signed by {self.signer})")
        address = str(settings.get("url", ""))
        webhook.check_url(address.partition("$")[0])
        self.url = Template(address, Place.URL)
        self.query = _templates(settings.get("query", {}), Place.PLAIN)
        self.headers = _templates(settings.get("headers", {}), Place.HEADER)
        self.form = _templates(settings.get("form", {}), Place.PLAIN)
        self.body = Template(str(settings.get("body", "")), Place.JSON)
        self.success = [_expected(each) for each in settings.get("success", [])]
        if settings.get("form") and settings.get("body"):
            raise UsageError("(a form and a body)", hint="Give one of them.")

    def request(self, values: Mapping[str, str | int]) -> Request:
        """Return the request, not signed yet.

        Raises:
            UsageError: a value is missing, or the body is no JSON with it.
        """
        query = {name: each.render(values) for name, each in self.query.items()}
        headers = {name: each.render(values) for name, each in self.headers.items()}
        url = self.url.render(values)
        if query:
            url += ("&" if "?" in url else "?") + urlencode(query)
        if self.form:
            form = {name: each.render(values) for name, each in self.form.items()}
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
            return Request(self.method, url, headers, urlencode(form).encode())
        body = self.body.render(values)
        if body:
            _check_json(body)
            headers.setdefault("Content-Type", "application/json; charset=utf-8")
        return Request(self.method, url, headers, body.encode())


class SmsChannel:
    """A `Channel` to phones."""

    def __init__(
        self,
        client: Http,
        template: SmsTemplate,
        phones: Sequence[str],
        secrets: Mapping[str, str],
    ) -> None:
        """Take the numbers, and the secrets that the template or the signature needs.

        Raises:
            UsageError: there are no or too many numbers, or a secret is missing.
        """
        if not 1 <= len(phones) <= PHONES_MAX:
            raise UsageError(f"({len(phones)} phone numbers)", hint=f"1 to {PHONES_MAX}.")
        if template.signer != "none" and not {"key_id", "key"} <= set(secrets):
            raise UsageError("(the secrets key_id and key of the channel are missing)")
        self._http = client
        self._template = template
        self._phones = phones
        self._secrets = secrets

    def targets(self) -> Sequence[str]:
        """Return the numbers."""
        return self._phones

    def send(self, message: Message, target: str) -> None:
        """Ask for a message to one phone.

        Raises:
            ChannelRefused: the sender does not want it.
            ChannelFailed: it could not be reached, or is busy.
        """
        named = {f"secrets.{name}": value for name, value in self._secrets.items()}
        request = self._template.request({**values(message, target), **named})
        answer = self._http.send(self._signed(request, message))
        for each in self._template.success:
            if _at(answer.document(), each.path) != each.equals:
                raise ChannelRefused(f"({answer.excerpt()})")

    def _signed(self, request: Request, message: Message) -> Request:
        keys = (self._secrets.get("key_id", ""), self._secrets.get("key", ""))
        if self._template.signer == "aliyun-rpc":
            return _aliyun(request, keys, message)
        if self._template.signer == "tencent-tc3":
            return _tencent(request, keys, message, self._template.service)
        return request


def values(message: Message, phone: str) -> dict[str, str | int]:
    """Return what the placeholders stand for."""
    language = message.language
    first = message.items[0].alarm
    return {
        "phone": phone,
        "title": messages.title(message, language),
        "headline": codes.headline(first.code, first.subject, first.facts, language),
        "subject": first.subject,
        "text": messages.fit(messages.text(message, language), TEXT_MAX),
        "severity": messages.words(language)[message.severity],
        "level": message.severity.value,
        "code": first.code,
        "count": first.count,
        "alarms": len(message.items),
        "time": first.last_at[:19].replace("T", " "),
        "timestamp": http.seconds(message.at),
        "id": message.id,
        "language": language,
    }


def _aliyun(request: Request, keys: tuple[str, str], message: Message) -> Request:
    address, _, query = request.url.partition("?")
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    when = (message.at, randomness.token_hex(16))
    signed = signing.aliyun_signed(request.method, parameters, keys, when)
    return Request(
        request.method, f"{address}?{signing.aliyun_query(signed)}", request.headers, b""
    )


def _tencent(request: Request, keys: tuple[str, str], message: Message, service: str) -> Request:
    timestamp = str(http.seconds(message.at))
    host = urlsplit(request.url).netloc
    headers = {**request.headers, "Host": host, "X-TC-Timestamp": timestamp}
    whole = Request(request.method, request.url, headers, request.body)
    headers["Authorization"] = signing.tencent_tc3(whole, service, keys, message.at)
    return Request(request.method, request.url, headers, request.body)


def _templates(texts: Mapping[str, Any], place: Place) -> dict[str, Template]:
    if not isinstance(texts, Mapping):
        raise UsageError("(names with templates are expected)")
    return {str(name): Template(str(text), place) for name, text in texts.items()}


def _expected(document: Any) -> Expected:
    if not isinstance(document, Mapping) or set(document) != {"path", "equals"}:
        raise UsageError("(what the answer has to hold)", hint='{"path": "Code", "equals": "OK"}')
    return Expected(str(document["path"]), document["equals"])


def _check_json(body: str) -> None:
    try:
        json.loads(body)
    except ValueError as error:
        raise UsageError(f"(the body of the template is no JSON: {error})") from None


def _at(document: Any, path: str) -> Any:
    """Return what lies at a path, None if nothing does."""
    for part in path.split("."):
        if isinstance(document, dict):
            document = document.get(part)
        elif isinstance(document, list) and part.isdigit() and int(part) < len(document):
            document = document[int(part)]
        else:
            return None
    return document
