"""What a server above may ask of one below, and the right that it takes here. Pure.

Whoever asks has that right for everything at this server: a site belongs to no group. The token of
the site narrows it once more, over there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ruchu.errors import Forbidden, UsageError
from ruchu.model.principals import Right

# A part of an address: an id, a name. Nothing that leads elsewhere.
_PART = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]{1,120}"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that is passed on."""

    method: str
    pattern: re.Pattern[str]
    right: Right


def _call(method: str, path: str, right: Right) -> Call:
    return Call(method, re.compile(path.replace("*", _PART)), right)


ALLOWED = (
    *(
        _call("GET", path, Right.VIEW)
        for path in (
            "/about", "/nodes", "/nodes/*", "/platforms", "/platforms/*", "/machines",
            "/machines/unprotected", "/storages", "/storages/*", "/points", "/points/*",
            "/policies", "/policies/*", "/policies/*/dry-run", "/runs", "/runs/*", "/runs/*/tasks",
            "/runs/*/history", "/alarms", "/alarms/count", "/alarms/past", "/alarms/*", "/alarms/*/history",
            "/freezes", "/groups",
        )
    ),
    *(
        _call("POST", path, Right.OPERATE)
        for path in (
            "/policies/*/run", "/runs/*/stop", "/runs/*/pause", "/runs/*/resume",
            "/alarms/*/acknowledge", "/storages/*/refresh", "/platforms/*/refresh",
        )
    ),
    _call("PUT", "/policies/*", Right.OPERATE),
    _call("PUT", "/points/*/star", Right.OPERATE),
    # What a run restores, or works on otherwise, is in its body.
    _call("POST", "/runs", Right.OPERATE),
)  # fmt: skip


_RUNS = "/runs"
_RESTORING = frozenset({"restore", "instant", "instant-stop", "migration", "files-return"})


def right_of(method: str, path: str, body: Any = None) -> Right:
    """Return the right that a request takes.

    Raises:
        Forbidden: it is not passed on.
    """
    for call in ALLOWED:
        if call.method == method and call.pattern.fullmatch(path):
            kind = body.get("kind") if isinstance(body, Mapping) else None
            restores = (method, path) == ("POST", _RUNS) and kind in _RESTORING
            return Right.RESTORE if restores else call.right
    hint = "Sign in at that server for it."
    raise Forbidden(f"({method[:10]} {path[:100]} is not passed on)", hint=hint)


def check_params(params: dict[str, str]) -> None:
    """Refuse parameters that are none.

    Raises:
        UsageError: they are none.
    """
    if len(params) > 20 or any(len(key) > 100 or len(text) > 1000 for key, text in params.items()):
        raise UsageError("(the parameters of the request)")
