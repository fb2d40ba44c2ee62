"""The values of alarms: what was raised, what is open, who is to be told, and by which rule."""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ruchu.model.tasks import Severity

# What fits into a mail and a console; longer texts are log output that strayed.
TEXT_MAX = 4_000
SUBJECT_MAX = 300
FACTS_MAX = 16_384

_RANKS = {each: rank for rank, each in enumerate(Severity)}


def rank(severity: Severity) -> int:
    """Return how much a severity matters, as a number that can be compared."""
    return _RANKS[severity]


class Reason(enum.StrEnum):
    """Why somebody is told of an alarm."""

    RAISED = "raised"
    WORSE = "worse"  # its severity rose while it was open
    REPEATED = "repeated"  # it is still open and nobody has acknowledged it
    ESCALATED = "escalated"
    CLEARED = "cleared"
    TEST = "test"


class DeliveryState(enum.StrEnum):
    """Where a delivery stands."""

    WAITING = "waiting"
    HELD = "held"  # by quiet hours or the flood limit; leaves in a digest
    SENT = "sent"
    FAILED = "failed"  # given up
    DROPPED = "dropped"  # its channel was removed or switched off


@dataclass(frozen=True, slots=True)
class NewAlarm:
    """What somebody raised. `cleaned` has made it fit for the database."""

    code: str
    severity: Severity
    subject: str
    text: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm.

    Attributes:
        id: of this opening; the same code and subject, opened again later, has another.
        code: of `codes.TABLE`, or one that a newer node knows.
        subject: what it is about: a machine, a storage, a node.
        severity: the highest since it was opened.
        state: `open` or `cleared`.
        first_at: when it was opened, RFC 3339.
        last_at: when it was raised last.
        count: how often it was raised.
        text: details of the last time, as the raiser wrote them.
        facts: details of the last time, for machines.
        acknowledged_by: who said that they take care, or None.
        acknowledged_at: when.
        cleared_at: when it was closed, or None.
    """

    id: str
    code: str
    subject: str
    severity: Severity
    state: str
    first_at: str
    last_at: str
    count: int
    text: str
    facts: Mapping[str, Any]
    acknowledged_by: str | None
    acknowledged_at: str | None
    cleared_at: str | None

    @property
    def is_open(self) -> bool:
        """Whether it is open."""
        return self.state == "open"

    @property
    def group(self) -> str | None:
        """The resource group that it belongs to, if its raiser told."""
        group = self.facts.get("group")
        return group if isinstance(group, str) else None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Something that happened to an alarm.

    Attributes:
        at: RFC 3339.
        what: `opened`, `worse`, `acknowledged`, `escalated`, `cleared`, `sent`, `not-sent`,
            `given-up`, `dropped`.
        who: the account, the rule or the channel.
        detail: for people.
    """

    at: str
    what: str
    who: str
    detail: str


@dataclass(frozen=True, slots=True)
class QuietHours:
    """When a rule keeps still. What comes meanwhile leaves as one digest when they end.

    Attributes:
        zone: such as `Asia/Shanghai`.
        start: local time, `22:00`.
        end: local time; if it is not after `start`, it belongs to the next day.
        days: on which days they begin, Monday is 0.
        critical_passes: critical alarms are told at once.
    """

    zone: str
    start: str
    end: str
    days: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    critical_passes: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """A step of escalation.

    Attributes:
        after_min: so long after the rule told of the alarm and nobody has acknowledged it.
        channels: who is told then.
        severity: what the alarm becomes, if it is less; None leaves it.
    """

    after_min: int
    channels: tuple[str, ...]
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Which alarms go to which channels.

    Attributes:
        name: of the rule.
        channels: names of channels.
        codes: shell patterns; one has to match.
        severity: the least.
        group: a resource group, or None for all.
        subject: a shell pattern.
        quiet: or None.
        steps: of escalation, in the order of their times.
        repeat_min: tells again after so many minutes while nobody acknowledged; None: never.
        tells_cleared: tells when the alarm is over, too.
        enabled: False switches it off.
    """

    name: str
    channels: tuple[str, ...]
    codes: tuple[str, ...] = ("*",)
    severity: Severity = Severity.WARNING
    group: str | None = None
    subject: str = "*"
    quiet: QuietHours | None = None
    steps: tuple[Step, ...] = ()
    repeat_min: int | None = None
    tells_cleared: bool = True
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ChannelDefinition:
    """A way to reach people.

    Attributes:
        name: of the channel.
        kind: of `channels.building.KINDS`.
        settings: what the kind asks for, without secrets.
        language: `en` or `zh`, where a recipient has none of its own.
        hourly_max: messages an hour; what is more waits and leaves as one digest. Critical alarms
            have a budget of the same size to themselves.
        enabled: False switches it off.
    """

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    language: str = "en"
    hourly_max: int = 60
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """One channel telling of one alarm.

    Attributes:
        id: of the row.
        alarm: id.
        channel: name.
        reason: why.
        critical: whether the alarm was critical when this was written.
        state: where it stands.
        message: rows with one message leave together; also the key that receivers can use to
            notice a repeat.
        due: the next attempt, RFC 3339.
        attempts: so far.
        reached: recipients that have it already.
        error: of the last attempt.
        sent_at: when it left.
    """

    id: str
    alarm: str
    channel: str
    reason: Reason
    critical: bool
    state: DeliveryState
    message: str
    due: str
    attempts: int
    reached: tuple[str, ...]
    error: str | None
    sent_at: str | None


def cleaned(alarm: NewAlarm) -> NewAlarm:
    """Return it fit for any database: an alarm must never be lost over an odd character."""
    return NewAlarm(
        clean_text(alarm.code, SUBJECT_MAX),
        alarm.severity,
        clean_text(alarm.subject, SUBJECT_MAX),
        clean_text(alarm.text, TEXT_MAX),
        _clean_facts(alarm.facts),
    )


def clean_text(text: str, length_max: int) -> str:
    """Return a text without what PostgreSQL or UTF-8 refuse, no longer than asked for."""
    sound = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return sound if len(sound) <= length_max else sound[: length_max - 1] + "…"


def _clean_facts(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    # ASCII, so that lone surrogates of file names stay escapes and NUL can be taken out.
    text = json.dumps(_plain(facts), default=str).replace("\\u0000", "\\\\x00")
    if len(text) > FACTS_MAX:
        kept = {key: facts[key] for key in ("group",) if isinstance(facts.get(key), str)}
        return {**kept, "cut": clean_text(text, FACTS_MAX // 2)}
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


def _plain(value: Any) -> Any:
    """Return a value with texts that UTF-8 can hold, keys that JSON can hold, finite numbers."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {str(_plain(str(key))): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value - value != 0.0:
        return str(value)  # not a number, or infinite: PostgreSQL's JSON has no such numbers
    return value
