"""Policies as documents: what the API, policy files and the database hold; checked when read."""

import dataclasses
import datetime
import enum
import re
import zoneinfo
from collections.abc import Mapping
from typing import Any

from ruchu.errors import InvalidName, UsageError
from ruchu.model import schedules
from ruchu.model.policies import Missed, OnLostNode, Policy, Retention, Retrying, Selection, Window

_NAME = re.compile(r"[^\s/\\][^/\\\x00-\x1f]{0,98}[^\s/\\]|[^\s/\\]")
# Lists that people write by hand; longer ones are made by a rule.
ITEMS_MAX = 5000
PRIORITIES = range(1, 10)
PARALLEL_MAX = 64
RPO_MINUTES_MAX = 366 * 24 * 60
_OPTIONS = {"snapshots", "quiesce", "leave_out", "level", "disks", "grace_days"}
_DAY_MINUTES = 24 * 60


def to_document(policy: Policy) -> dict[str, Any]:
    """Return a policy as a document."""
    document: dict[str, Any] = _plain(policy)
    return document


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; `dataclasses.asdict` copies, which takes twice as long."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if dataclasses.is_dataclass(value):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def from_document(document: Mapping[str, Any]) -> Policy:
    """Return the policy of a document.

    Raises:
        InvalidName, UsageError: something in it cannot be; the message says which field.
    """
    fields = _known(Policy, document, "policy")
    values: dict[str, Any] = {**fields}
    values["name"] = check_name(str(fields.get("name", "")))
    values["selection"] = _selection(fields.get("selection"))
    values["schedules"] = tuple(_schedule(each) for each in _list(fields, "schedules"))
    values["windows"] = tuple(_window(each) for each in _list(fields, "windows"))
    values["retention"] = Retention(**_numbers(Retention, fields.get("retention") or {}))
    values["retrying"] = Retrying(**_numbers(Retrying, fields.get("retrying") or {}))
    values["missed"] = _enum(Missed, fields.get("missed", Missed.ONCE))
    values["on_lost_node"] = _enum(OnLostNode, fields.get("on_lost_node", OnLostNode.WAIT))
    values["options"] = _options(fields.get("options") or {})
    for key in ("holidays", "nodes", "before", "after"):
        values[key] = _texts(fields, key)
    policy = Policy(**values)
    _check(policy)
    return policy


def check_name(name: str) -> str:
    """Return a name that people can read and files can hold.

    Raises:
        InvalidName: it is none.
    """
    if not _NAME.fullmatch(name) or not name.isprintable() or name in {".", ".."}:
        hint = "1 to 100 printable characters, without slashes, not beginning or ending in space."
        raise InvalidName(f"({name[:120]!r})", hint=hint)
    return name


def _check(policy: Policy) -> None:
    if not policy.storage:
        raise UsageError("(policy: it names no storage)")
    try:
        zoneinfo.ZoneInfo(policy.zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = "Such as Asia/Shanghai or UTC."
        raise UsageError(f"(policy: time zone {policy.zone[:60]!r})", hint=hint) from None
    if policy.priority not in PRIORITIES:
        raise UsageError("(policy: priority)", hint="1 (first) to 9.")
    if not 1 <= policy.parallel <= PARALLEL_MAX:
        raise UsageError("(policy: parallel)", hint=f"1 to {PARALLEL_MAX}.")
    if not 0 <= policy.rpo_minutes <= RPO_MINUTES_MAX:
        raise UsageError("(policy: rpo_minutes)", hint=f"0 to {RPO_MINUTES_MAX}.")
    for day in policy.holidays:
        try:
            datetime.date.fromisoformat(day)
        except ValueError:
            raise UsageError(
                f"(policy: holiday {day[:20]!r})", hint="Such as 2027-02-06."
            ) from None
    if policy.after_policy == policy.name:
        raise UsageError("(policy: it waits for itself)")


def _known(kind: type, value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"({what} is no object)")
    names = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(value) - names)
    if unknown:
        raise UsageError(f"({what}: {', '.join(unknown)[:200]})", hint=f"Known: {sorted(names)}.")
    return dict(value)


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key) or ()
    if not isinstance(found, list | tuple) or len(found) > ITEMS_MAX:
        raise UsageError(f"({key} is no list, or too long a one)")
    return list(found)


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = _list(value, key)
    if not all(isinstance(each, str) for each in found):
        raise UsageError(f"({key} holds what is no text)")
    return tuple(found)


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or set(value) - _OPTIONS:
        raise UsageError("(policy: options)", hint=f"One of: {', '.join(sorted(_OPTIONS))}.")
    return dict(value)


def _selection(value: Any) -> Selection:
    fields = _known(Selection, value if value is not None else {}, "selection")
    platform = fields.pop("platform", "")
    if not isinstance(platform, str) or not platform:
        raise UsageError("(selection: it names no platform)")
    return Selection(platform, **{key: _texts(fields, key) for key in fields})


def _schedule(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError("(schedules holds what is no object)")
    return schedules.to_document(schedules.from_document(value))


def _window(value: Any) -> Window:
    fields = _known(Window, value, "window")
    days = fields.pop("days", ()) or ()
    numbers = _numbers(Window, fields)
    window = Window(tuple(int(day) for day in days), **numbers)
    if not all(0 <= day <= 6 for day in window.days):
        raise UsageError("(window: days)", hint="0 (Monday) to 6 (Sunday).")
    if not (0 <= window.begin < _DAY_MINUTES and 0 <= window.end <= _DAY_MINUTES):
        raise UsageError("(window: begin, end)", hint="Minutes since midnight.")
    if window.bytes_per_s < 0:
        raise UsageError("(window: bytes_per_s)")
    return window


def _numbers(kind: type, value: Any) -> dict[str, int]:
    fields = _known(kind, value, kind.__name__.lower())
    for key, each in fields.items():
        if isinstance(each, bool) or not isinstance(each, int) or each < 0:
            raise UsageError(f"({kind.__name__.lower()}: {key} is no whole number from 0)")
    return fields


def _enum(kind: Any, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(each.value for each in kind)
        raise UsageError(f"({str(value)[:40]!r})", hint=f"One of: {names}.") from None
