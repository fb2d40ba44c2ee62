"""One record of the trail: its canonical form, its hash, and what never gets into it. Pure.

The hash of a record is SHA-256 over the hash of the one before (32 bytes; zeros before the first)
and the canonical JSON of the record: its fields sorted by name, no blanks, ASCII only.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FIRST = "0" * 64
"""Stands for the hash of the record before the first."""

# A name is a line on a page; more is an attack on whoever reads it.
_TEXT_MAX = 300
# What somebody has to read in a record; more belongs into the history of the run.
_FACT_TEXT_MAX = 2_000
_FACT_ITEMS_MAX = 100
_FACT_DEPTH_MAX = 6
FACTS_BYTES_MAX = 16 << 10
# Beyond 64 bits other programs read another number than we wrote.
_INTEGER_MAX = 1 << 63

REDACTED = "[redacted]"
_SECRET_WORDS = frozenset({
    "authorization", "cookie", "credential", "credentials", "key", "keys", "nonce", "otp",
    "passcode", "passphrase", "passphrases", "passwd", "password", "passwords", "pin", "private",
    "pwd", "recovery", "secret", "secrets", "seed", "signature", "token", "tokens", "totp",
    "verifier",
})  # fmt: skip
# Says of a secret what anybody may know: `token_id`, `key_count`.
_HARMLESS_ENDS = frozenset({"id", "count", "name", "prefix", "expires", "changed"})
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
# The password of an address, and our own tokens (`ruchu_…`), wherever they stand.
_USER_INFO = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
_OUR_TOKENS = re.compile(r"\bruchu_[A-Za-z0-9]+_[\w-]{8,}")


@dataclass(frozen=True, slots=True)
class Record:
    """A record.

    Attributes:
        number: from 1, without gaps.
        at: RFC 3339, by the clock of the server.
        actor: who: name of an account, `local`, or a part of the server.
        action: what, such as `session.open`.
        subject: what it was done to.
        outcome: `done`, `refused`, `failed` or `requested`.
        facts: details as canonical JSON, without secrets.
    """

    number: int
    at: str
    actor: str
    action: str
    subject: str
    outcome: str
    facts: str

    def digest(self, previous: str) -> str:
        """Return the hash of the record behind another one's hash."""
        return hashlib.sha256(
            bytes.fromhex(previous) + canonical(asdict(self)).encode()
        ).hexdigest()

    def document(self) -> dict[str, Any]:
        """Return it for people and programs, the facts as a mapping."""
        return {**asdict(self), "facts": json.loads(self.facts)}


def canonical(value: Any) -> str:
    """Return JSON of which there is only one for a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def text(value: str) -> str:
    """Return a name as it may stand in a record: printable, and of some length."""
    clean = "".join(letter if letter.isprintable() else "\ufffd" for letter in value)
    return _scrubbed(clean if len(clean) <= _TEXT_MAX else clean[: _TEXT_MAX - 1] + "…")


def facts(values: Mapping[str, Any]) -> str:
    """Return details as canonical JSON: without secrets, and cut where they are too large."""
    kept = canonical(_plain(values, 0))
    if len(kept) <= FACTS_BYTES_MAX:
        return kept
    whole = hashlib.sha256(kept.encode()).hexdigest()
    return canonical({"cut": True, "bytes": len(kept), "sha256": whole})


def is_secret(name: str) -> bool:
    """Tell whether a field of this name holds a secret."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if not words or words[-1] in _HARMLESS_ENDS:
        return False
    return bool(_SECRET_WORDS & set(words)) or "".join(words) in _SECRET_WORDS


def _plain(value: Any, depth: int) -> Any:
    """Return a value in the types of JSON, limited in depth, length and number."""
    if depth > _FACT_DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return _plain_mapping(value, depth)
    if isinstance(value, set | frozenset):
        return _plain_list(sorted(value, key=str), depth)
    if isinstance(value, list | tuple):
        return _plain_list(value, depth)
    return _plain_leaf(value)


def _plain_leaf(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < _INTEGER_MAX else "[a very large number]"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"  # keys and contents are bytes
    return _scrubbed(str(value))[:_FACT_TEXT_MAX]


def _plain_list(value: Sequence[Any], depth: int) -> list[Any]:
    plain = [_plain(item, depth + 1) for item in value[:_FACT_ITEMS_MAX]]
    return [*plain, f"… {len(value)} in all"] if len(value) > _FACT_ITEMS_MAX else plain


def _plain_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, item in list(value.items())[:_FACT_ITEMS_MAX]:
        if is_secret(str(name)) or _is_code(str(name), item):
            kept[text(str(name))] = REDACTED
        else:
            kept[text(str(name))] = _plain(item, depth + 1)
    return kept


def _is_code(name: str, value: Any) -> bool:
    """Tell a code of an authenticator, which has digits, from the code of an error."""
    return "code" in _WORDS.findall(name.lower()) and any(map(str.isdigit, str(value)))


def _scrubbed(value: str) -> str:
    return _OUR_TOKENS.sub(REDACTED, _USER_INFO.sub(rf"\1:{REDACTED}@", value))
