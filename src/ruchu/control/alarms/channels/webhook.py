"""A webhook of Ruchu's own form: JSON, signed, with a key against repeats.

Headers: `Idempotency-Key` is the same in every attempt of a message; `X-Ruchu-Timestamp` is the
moment of the attempt in seconds; `X-Ruchu-Signature` is `v1=` and the HMAC-SHA256, in hex, of the
timestamp, a dot and the body. A receiver should refuse timestamps that are minutes away.
"""

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from ruchu.control.alarms import messages
from ruchu.control.alarms.channels import http, signing
from ruchu.control.alarms.channels.http import Http, Request
from ruchu.control.alarms.messages import Message
from ruchu.errors import UsageError


class WebhookChannel:
    """A `Channel` that posts JSON."""

    def __init__(self, client: Http, url: str, key: str, authorization: str = "") -> None:
        """Take the address, the key of the signature and the header `Authorization`, both optional.

        Raises:
            UsageError: the address is none.
        """
        check_url(url)
        self._http = client
        self._url, self._key, self._authorization = url, key, authorization

    def targets(self) -> Sequence[str]:
        """Return the host; the rest of the address may be a secret."""
        return [urlsplit(self._url).hostname or ""]

    def send(self, message: Message, target: str) -> None:
        """Post a message.

        Raises:
            ChannelRefused: it was answered with a status that another attempt will not change.
            ChannelFailed: there was no answer, or the service is busy.
        """
        del target
        body = json.dumps(messages.document(message), ensure_ascii=False).encode()
        timestamp = http.seconds(message.at)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Idempotency-Key": message.id,
            "X-Ruchu-Timestamp": str(timestamp),
        }
        if self._key:
            headers["X-Ruchu-Signature"] = f"v1={signing.hook(self._key, timestamp, body)}"
        if self._authorization:
            headers["Authorization"] = self._authorization
        self._http.send(Request("POST", self._url, headers, body))


def check_url(url: str) -> None:
    """Look whether a text is an address that can be posted to.

    Raises:
        UsageError: it is not, or it holds a password.
    """
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound, parts = False, urlsplit("")
    if not sound or url != url.strip():
        raise UsageError("(the address of a channel)", hint="https://HOST/PATH")
    if parts.username or parts.password:
        raise UsageError("(a password in an address)", hint="Give it as a secret of the channel.")
