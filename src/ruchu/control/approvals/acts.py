"""Acts that destroy: what they are, and the hash that stands for exactly one of them. Pure."""

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruchu.errors import UsageError
from ruchu.model.principals import ALL_GROUPS

# What somebody can read before agreeing; more points than that are named by their number.
LOSSES_MAX = 1_000
_BYTES_MAX = 256 << 10


class Kind(enum.StrEnum):
    """What takes four eyes."""

    DELETE_POINTS = "delete-points"
    REMOVE_STORAGE = "remove-storage"
    SHORTEN_RETENTION = "shorten-retention"
    REMOVE_USER = "remove-user"
    RELEASE_PROTECTION = "release-protection"
    FOUR_EYES_OFF = "four-eyes-off"


@dataclass(frozen=True, slots=True)
class Act:
    """Something that destroys.

    Attributes:
        kind: what.
        subject: name of what it is done to.
        arguments: everything that decides what happens; JSON.
        losses: what will be lost, a line each, for the person who decides.
        group: resource group; all of them for what belongs to none.
    """

    kind: Kind
    subject: str
    arguments: Mapping[str, Any]
    losses: tuple[str, ...]
    group: str = ALL_GROUPS

    def check(self) -> None:
        """Refuse an act that nobody could judge.

        Raises:
            UsageError: it does not say what is lost, or is too large.
        """
        if not self.losses or len(self.losses) > LOSSES_MAX:
            raise UsageError(f"(an act names its losses, up to {LOSSES_MAX})")
        if len(canonical(dict(self.arguments))) + len(canonical(self.losses)) > _BYTES_MAX:
            raise UsageError("(the act is too large)")

    def digest(self) -> str:
        """Return the hash of everything that a person agrees to."""
        shown = [self.kind.value, self.subject, self.group, dict(self.arguments), [*self.losses]]
        return hashlib.sha256(b"ruchu act\0" + canonical(shown).encode()).hexdigest()


def canonical(value: Any) -> str:
    """Return JSON of which there is only one for a value.

    Raises:
        UsageError: it cannot be written as JSON.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError):
        raise UsageError("(the arguments of the act)") from None
