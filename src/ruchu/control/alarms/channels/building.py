"""Makes a channel of its definition and its secrets. Every kind of channel is listed here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruchu.clock import Clock
from ruchu.control.alarms.channels import robots, webhook
from ruchu.control.alarms.channels.contract import Channel
from ruchu.control.alarms.channels.http import Http
from ruchu.control.alarms.channels.mail import MailChannel, Mailer, MailSettings
from ruchu.control.alarms.channels.robots import DingTalkChannel, FeishuChannel, WeComChannel
from ruchu.control.alarms.channels.sms import SmsChannel, SmsTemplate
from ruchu.control.alarms.channels.webhook import WebhookChannel
from ruchu.control.alarms.messages import Message
from ruchu.control.alarms.records import ChannelDefinition
from ruchu.errors import ChannelFailed, UsageError

Settings = Mapping[str, Any]
Secrets = Mapping[str, str]

# Shorter ones are part of ordinary words; taking them out would only garble the error.
_SECRET_MIN = 4
_HTTP = {"ca_file", "proxy"}
_SMS = {"phones", "method", "url", "query", "headers", "form", "body", "success"}
_MAIL = {"host", "port", "security", "sender", "recipients", "ca_file"}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of channel.

    Attributes:
        settings: names that a definition may hold; a secret among them is refused that way.
        needed: those of them that it must hold.
        secrets: names of its secrets, for the forms that ask for them. `sms` may have others.
        build: makes it.
    """

    settings: frozenset[str]
    needed: frozenset[str]
    secrets: tuple[str, ...]
    build: Callable[[Settings, Secrets, Clock], Channel]


def build(definition: ChannelDefinition, secrets: Secrets, clock: Clock) -> Channel:
    """Return a channel; its errors never hold one of the secrets.

    Raises:
        UsageError: the definition or the secrets cannot work.
    """
    check(definition)
    made = KINDS[definition.kind].build(definition.settings, secrets, clock)
    return _Discreet(made, secrets)


def check(definition: ChannelDefinition) -> None:
    """Look whether the settings of a channel are those of its kind.

    Raises:
        UsageError: they are not.
    """
    kind = KINDS.get(definition.kind)
    if kind is None:
        raise UsageError(f"(a channel of the kind {definition.kind})", hint=", ".join(KINDS))
    names = set(definition.settings)
    if unknown := sorted(names - kind.settings):
        hint = f"Settings: {', '.join(sorted(kind.settings))}. Secrets are given apart."
        raise UsageError(f"(the setting {unknown[0]})", hint=hint)
    if missing := sorted(kind.needed - names):
        raise UsageError(f"(the setting {missing[0]} is missing)")
    for name in ("url", "host"):
        if definition.kind != "mail" and name in names:
            webhook.check_url(str(definition.settings[name]).partition("$")[0])
    if definition.kind == "sms":
        SmsTemplate(definition.settings)


class _Discreet:
    """A `Channel` that keeps secrets out of what it reports: services like to quote them."""

    def __init__(self, inner: Channel, secrets: Secrets) -> None:
        self._inner = inner
        self._secrets = [each for each in secrets.values() if len(each) >= _SECRET_MIN]

    def targets(self) -> Sequence[str]:
        return self._inner.targets()

    def send(self, message: Message, target: str) -> None:
        try:
            self._inner.send(message, target)
        except ChannelFailed as error:
            detail = error.detail
            for secret in sorted(self._secrets, key=len, reverse=True):
                detail = detail.replace(secret, "•••")
            raise type(error)(detail, hint=error.advice) from None


def _http(settings: Settings, clock: Clock) -> Http:
    return Http(clock, ca_file=settings.get("ca_file"), proxy=settings.get("proxy"))


def _mail(settings: Settings, secrets: Secrets, clock: Clock) -> Channel:
    mailer = Mailer(mail_settings(settings, secrets), clock)
    return MailChannel(mailer, _recipients(settings["recipients"]))


def mail_settings(settings: Settings, secrets: Secrets) -> MailSettings:
    """Return how mail leaves, of the settings and secrets of a `mail` channel.

    Raises:
        UsageError: the port is none.
    """
    port = settings.get("port", 587)
    if not isinstance(port, int) or not 0 < port < 65_536:
        raise UsageError(f"(the port {port})")
    return MailSettings(
        str(settings["host"]),
        port,
        str(settings["sender"]),
        str(settings.get("security", "starttls")),
        secrets.get("user", ""),
        secrets.get("password", ""),
        settings.get("ca_file"),
    )


def _recipients(document: Any) -> dict[str, str]:
    """Return addresses with languages, of `["a@b", {"address": "c@d", "language": "zh"}]`."""
    found = {}
    for each in document if isinstance(document, Sequence) else ():
        if isinstance(each, Mapping):
            found[str(each.get("address", ""))] = str(each.get("language", ""))
        else:
            found[str(each)] = ""
    return found


def _webhook(settings: Settings, secrets: Secrets, clock: Clock) -> Channel:
    # An address that is a secret as a whole is given as one.
    url = secrets.get("url") or str(settings.get("url", ""))
    key, authorization = secrets.get("key", ""), secrets.get("authorization", "")
    return WebhookChannel(_http(settings, clock), url, key, authorization)


def _sms(settings: Settings, secrets: Secrets, clock: Clock) -> Channel:
    phones = [str(each) for each in settings["phones"]]
    return SmsChannel(_http(settings, clock), SmsTemplate(settings), phones, secrets)


def _dingtalk(settings: Settings, secrets: Secrets, clock: Clock) -> Channel:
    host = settings.get("host", robots.DINGTALK_HOST)
    token, secret = secrets.get("token", ""), secrets.get("secret", "")
    return DingTalkChannel(_http(settings, clock), host, token, secret)


def _wecom(settings: Settings, secrets: Secrets, clock: Clock) -> Channel:
    host = settings.get("host", robots.WECOM_HOST)
    return WeComChannel(_http(settings, clock), host, secrets.get("key", ""))


def _feishu(settings: Settings, secrets: Secrets, clock: Clock) -> Channel:
    host = settings.get("host", robots.FEISHU_HOST)
    token, secret = secrets.get("token", ""), secrets.get("secret", "")
    return FeishuChannel(_http(settings, clock), host, token, secret)


KINDS: Mapping[str, Kind] = {
    "mail": Kind(
        frozenset(_MAIL),
        frozenset({"host", "sender", "recipients"}),
        ("user", "password"),
        _mail,
    ),
    "webhook": Kind(
        frozenset({"url", *_HTTP}), frozenset(), ("url", "key", "authorization"), _webhook
    ),
    "sms": Kind(
        frozenset({*_SMS, "signer", "service", *_HTTP}),
        frozenset({"phones", "url"}),
        ("key_id", "key", "token"),
        _sms,
    ),
    "dingtalk": Kind(frozenset({"host", *_HTTP}), frozenset(), ("token", "secret"), _dingtalk),
    "wecom": Kind(frozenset({"host", *_HTTP}), frozenset(), ("key",), _wecom),
    "feishu": Kind(frozenset({"host", *_HTTP}), frozenset(), ("token", "secret"), _feishu),
}
