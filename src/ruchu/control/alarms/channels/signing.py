"""Signatures, each as the public documentation of its vendor describes it. Pure.

Checked against examples that the vendors published (`tests/unit/control/test_alarm_signing.py`):
Aliyun RPC 1.0 and Tencent Cloud TC3. DingTalk and Feishu publish the rule and no worked example:
those two are built from the documentation, and not verified on the product.
"""

import base64
import datetime
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import quote

from ruchu.control.alarms.channels.http import Request


def hook(key: str, timestamp: int, body: bytes) -> str:
    """Return the signature of our own webhook: HMAC-SHA256 over `TIMESTAMP.BODY`, in hex."""
    return hmac.new(key.encode(), b"%d." % timestamp + body, hashlib.sha256).hexdigest()


def dingtalk(secret: str, timestamp_ms: int) -> str:
    """Return the signature of a DingTalk robot, before it is escaped for the address."""
    text = f"{timestamp_ms}\n{secret}"
    return _base64(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest())


def feishu(secret: str, timestamp_s: int) -> str:
    """Return the signature of a Feishu robot: here the text is the key, and nothing is signed."""
    key = f"{timestamp_s}\n{secret}"
    return _base64(hmac.new(key.encode(), b"", hashlib.sha256).digest())


def aliyun_rpc(method: str, parameters: Mapping[str, str], secret: str) -> str:
    """Return the signature of an Aliyun RPC request, version 1.0 (HMAC-SHA1)."""
    text = f"{method}&{_escaped('/')}&{_escaped(aliyun_query(parameters))}"
    digest = hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()
    return _base64(digest)


def aliyun_query(parameters: Mapping[str, str]) -> str:
    """Return parameters in the one form that Aliyun signs."""
    pairs = sorted((_escaped(name), _escaped(value)) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def aliyun_signed(
    method: str,
    parameters: Mapping[str, str],
    keys: tuple[str, str],
    when: tuple[datetime.datetime, str],
) -> dict[str, str]:
    """Return parameters with those that Aliyun asks of everybody, and their signature.

    Args:
        method: of the request.
        parameters: of the action.
        keys: id and secret of the access key.
        when: the moment, and a text that was never used before.
    """
    (key_id, secret), (moment, nonce) = keys, when
    whole = {
        **parameters,
        "AccessKeyId": key_id,
        "Format": "JSON",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": nonce,
        "SignatureVersion": "1.0",
        "Timestamp": moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {**whole, "Signature": aliyun_rpc(method, whole, secret)}


def tencent_tc3(
    request: Request, service: str, keys: tuple[str, str], moment: datetime.datetime
) -> str:
    """Return the `Authorization` of a Tencent Cloud request to `/` without a query.

    Args:
        request: with the headers `Content-Type` and `Host`, which are signed with the body.
        service: such as `sms`.
        keys: secret id and secret key.
        moment: what `X-TC-Timestamp` says.
    """
    utc = moment.astimezone(datetime.UTC)
    signed = {name.lower(): value for name, value in request.headers.items()}
    lines = [f"{name}:{signed[name].strip()}" for name in ("content-type", "host")]
    names = "content-type;host"
    digest = hashlib.sha256(request.body).hexdigest()
    canonical = "\n".join([request.method, "/", "", *lines, "", names, digest])
    scope = f"{utc:%Y-%m-%d}/{service}/tc3_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"TC3-HMAC-SHA256\n{int(utc.timestamp())}\n{scope}\n{hashed}"
    key = f"TC3{keys[1]}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    credential = f"Credential={keys[0]}/{scope}, SignedHeaders={names}"
    return f"TC3-HMAC-SHA256 {credential}, Signature={signature}"


def _escaped(text: str) -> str:
    return quote(text, safe="-_.~")


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
