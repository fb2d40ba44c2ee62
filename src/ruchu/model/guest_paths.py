"""Paths inside a guest as they are named outside: bytes, which need not be text, by a key."""

import base64
import binascii

from ruchu.errors import UsageError


def key_of(path: bytes) -> str:
    """Return the key of a path: its bytes in base64 for addresses, without padding."""
    return base64.urlsafe_b64encode(path).decode().rstrip("=")


def path_of(key: str) -> bytes:
    """Return the path of a key.

    Raises:
        UsageError: it is none.
    """
    try:
        found = base64.b64decode(key + "=" * (-len(key) % 4), b"-_", validate=True)
    except (ValueError, binascii.Error):
        found = b""
    # A path has one key, so that a key stands for nothing but what is shown for it.
    if key_of(found) != key:
        raise UsageError(f"(the key {key[:80]!a})")
    return found


def text_of_key(key: str) -> str:
    """Return the path of a key for people.

    Raises:
        UsageError: it is none.
    """
    return sound(path_of(key).decode("utf-8", "backslashreplace"))


def sound(text: str) -> str:
    """Return a text without what no line and no database takes: NUL, and halves of characters."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
