"""Robots in the groups of DingTalk, WeCom and Feishu (Lark).

Their host is a setting, for private deployments. The token is part of the address, so it is a
secret. All three answer with status 200 whatever happens, and tell by a code in the body.

Built from the public documentation of the three, not verified on the products.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from ruchu.control.alarms import messages
from ruchu.control.alarms.channels import http, signing, webhook
from ruchu.control.alarms.channels.http import Http, Request
from ruchu.control.alarms.messages import Message
from ruchu.errors import ChannelFailed, ChannelRefused, UsageError

DINGTALK_HOST = "https://oapi.dingtalk.com"
WECOM_HOST = "https://qyapi.weixin.qq.com"
FEISHU_HOST = "https://open.feishu.cn"
# Bytes of UTF-8 in a text message, as documented (DingTalk and Feishu: 20,000; with room to spare).
DINGTALK_MAX, WECOM_MAX, FEISHU_MAX = 15_000, 2_048, 15_000
# Codes that mean "too fast" or "busy": the same message is welcome later.
_BUSY = {-1, 130101, 410100, 45009, 45033, 9499, 11232, 99991400}


class _Robot:
    """What the three have in common."""

    def __init__(self, client: Http, host: str) -> None:
        webhook.check_url(host)
        self._http = client
        self._host = host.rstrip("/")

    def targets(self) -> Sequence[str]:
        """Return the one group."""
        return ["group"]

    def _post(self, path: str, body: Mapping[str, Any], code_names: Sequence[str]) -> None:
        raw = json.dumps(body, ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answer = self._http.send(Request("POST", self._host + path, headers, raw))
        check_code(answer.document(), code_names, answer.excerpt())


class DingTalkChannel(_Robot):
    """A `Channel` to a DingTalk group."""

    def __init__(self, client: Http, host: str, token: str, secret: str = "") -> None:
        """Take the access token, and the secret if the robot asks for signatures.

        Raises:
            UsageError: the host is none, or there is no token.
        """
        super().__init__(client, host)
        self._token, self._secret = _needed(token), secret

    def send(self, message: Message, target: str) -> None:
        """Post to the group.

        Raises:
            ChannelRefused: the robot does not want it.
            ChannelFailed: it could not be reached, or is busy.
        """
        del target
        query = {"access_token": self._token}
        if self._secret:
            timestamp = int(message.at.timestamp() * 1000)
            query["timestamp"] = str(timestamp)
            query["sign"] = signing.dingtalk(self._secret, timestamp)
        content = messages.short(message, message.language, DINGTALK_MAX)
        body = {"msgtype": "text", "text": {"content": content}}
        self._post(f"/robot/send?{urlencode(query)}", body, ["errcode"])


class WeComChannel(_Robot):
    """A `Channel` to a WeCom group."""

    def __init__(self, client: Http, host: str, key: str) -> None:
        """Take the key of the robot.

        Raises:
            UsageError: the host is none, or there is no key.
        """
        super().__init__(client, host)
        self._key = _needed(key)

    def send(self, message: Message, target: str) -> None:
        """Post to the group.

        Raises:
            ChannelRefused: the robot does not want it.
            ChannelFailed: it could not be reached, or is busy.
        """
        del target
        content = messages.short(message, message.language, WECOM_MAX)
        body = {"msgtype": "text", "text": {"content": content}}
        self._post(f"/cgi-bin/webhook/send?{urlencode({'key': self._key})}", body, ["errcode"])


class FeishuChannel(_Robot):
    """A `Channel` to a group of Feishu or Lark."""

    def __init__(self, client: Http, host: str, token: str, secret: str = "") -> None:
        """Take the last part of the robot's address, and the secret if it asks for signatures.

        Raises:
            UsageError: the host is none, or there is no token.
        """
        super().__init__(client, host)
        self._token, self._secret = _needed(token), secret

    def send(self, message: Message, target: str) -> None:
        """Post to the group.

        Raises:
            ChannelRefused: the robot does not want it.
            ChannelFailed: it could not be reached, or is busy.
        """
        del target
        content = messages.short(message, message.language, FEISHU_MAX)
        body: dict[str, Any] = {"msg_type": "text", "content": {"text": content}}
        if self._secret:
            timestamp = http.seconds(message.at)
            body["timestamp"] = str(timestamp)
            body["sign"] = signing.feishu(self._secret, timestamp)
        path = f"/open-apis/bot/v2/hook/{quote(self._token, safe='')}"
        self._post(path, body, ["code", "StatusCode"])


def check_code(document: Any, names: Sequence[str], excerpt: str) -> None:
    """Look for the code of success, 0, in an answer.

    Raises:
        ChannelFailed: the code means that it is busy.
        ChannelRefused: the code is another one, or there is none.
    """
    found = [document[name] for name in names if name in document] if _is_object(document) else []
    if not found:
        raise ChannelRefused(f"(an answer without a code: {excerpt})")
    code = found[0]
    if code in _BUSY:
        raise ChannelFailed(f"({excerpt})")
    if code != 0 or isinstance(code, bool):
        raise ChannelRefused(f"({excerpt})")


def _is_object(document: Any) -> bool:
    return isinstance(document, dict)


def _needed(secret: str) -> str:
    if not secret:
        raise UsageError("(the token of the robot is missing)")
    return secret
