"""Ids: 16 random bytes, written as 32 lower-case hex digits."""

import os
import re
from collections.abc import Callable

Entropy = Callable[[int], bytes]
"""A source of random bytes; `os.urandom` outside of tests."""

ID_BYTES = 16
_ID = re.compile(r"[0-9a-f]{32}")


def new_id(entropy: Entropy = os.urandom) -> str:
    """Return a fresh id."""
    return entropy(ID_BYTES).hex()


def is_id(text: object) -> bool:
    """Tell whether a text from outside is an id, and so safe as a part of a name."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None
