"""Sealed JSON documents in one canonical form (`docs/formats/vds.md`, section 2)."""

import json
from typing import Any

from blake3 import blake3

from ruchu.chunks.keys import ChainKeys
from ruchu.errors import Damaged, UnknownFormat

VERSION = 1
# Heads hold facts for people; nothing honest comes near this.
DOCUMENT_BYTES_MAX = 4 << 20

Document = dict[str, Any]


def canonical(value: Document) -> bytes:
    """Return the one form in which a document is written."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1)
    return text.encode() + b"\n"


def sealed(kind: str, fields: Document) -> bytes:
    """Return a document of a kind with its `sum`."""
    value = {"format": kind, "version": VERSION, **fields}
    return canonical({**value, "sum": blake3(canonical(value)).hexdigest()})


def sealed_with(kind: str, fields: Document, keys: ChainKeys) -> bytes:
    """Return a document of a kind with its keyed `check`."""
    value = {"format": kind, "version": VERSION, **fields}
    return canonical({**value, "check": keys.seal(canonical(value))})


def opened(name: str, data: bytes, kind: str) -> Document:
    """Return the fields of a document that carries a `sum`.

    Raises:
        Damaged, UnknownFormat: it is not what was written, or of a later release.
    """
    value = _parsed(name, data, kind)
    seal = value.pop("sum", None)
    if seal != blake3(canonical(value)).hexdigest():
        raise Damaged(f"{name}: its sum is wrong")
    return value


def opened_with(name: str, data: bytes, kind: str, keys: ChainKeys | None) -> Document:
    """Return the fields of a document that carries a keyed `check`; without keys, unchecked."""
    value = _parsed(name, data, kind)
    seal = value.pop("check", None)
    if keys is not None and seal != keys.seal(canonical(value)):
        raise Damaged(f"{name}: its check is wrong")
    return value


def _parsed(name: str, data: bytes, kind: str) -> Document:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{name} is no JSON ({error})") from None
    if not isinstance(value, dict) or value.get("format") != kind:
        raise Damaged(f"{name} is no {kind} document")
    version = value.get("version")
    if version != VERSION or isinstance(version, bool):
        raise UnknownFormat(f"{name}: version {version!r}, known: {VERSION}")
    try:
        same = canonical(value) == data
    except (ValueError, RecursionError):
        same = False  # half a surrogate pair, or lists that are nested too deep to be written
    if not same:
        raise Damaged(f"{name} is not in its canonical form")
    return value


def field(name: str, value: Document, key: str, kind: type) -> Any:
    """Return a field of a document, or raise Damaged if it is absent or of another type."""
    found = value.get(key)
    # To Python, true and false are numbers.
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise Damaged(f"{name}: field {key!r} is missing or of another type")
    return found


def hex_field(name: str, value: Document, key: str, length: int) -> bytes:
    """Return the bytes of a hex field of a known length."""
    text = field(name, value, key, str)
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    # What Python also takes, such as capitals and spaces, is not what was written.
    if len(data) != length or data.hex() != text:
        raise Damaged(f"{name}: field {key!r} is not {length} bytes of hex")
    return data
