"""Which rules want an alarm, and what has to leave when. Pure."""

import datetime
import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ruchu.control.alarms import quiet, records
from ruchu.control.alarms.records import Alarm, Rule
from ruchu.model.tasks import Severity

CHANNEL_FAILED = "channel-failed"


@dataclass(frozen=True, slots=True)
class Plan:
    """When a channel has to tell.

    Attributes:
        due: the moment.
        held: whether quiet hours made it wait, so that it leaves in their digest.
    """

    due: datetime.datetime
    held: bool


def matching(rules: Iterable[Rule], alarm: Alarm) -> list[Rule]:
    """Return the rules that want an alarm."""
    return [each for each in rules if each.enabled and matches(each, alarm)]


def matches(rule: Rule, alarm: Alarm) -> bool:
    """Tell whether a rule wants an alarm."""
    return (
        records.rank(alarm.severity) >= records.rank(rule.severity)
        and any(fnmatch.fnmatchcase(alarm.code, pattern) for pattern in rule.codes)
        and fnmatch.fnmatchcase(alarm.subject, rule.subject)
        and (rule.group is None or rule.group == alarm.group)
    )


def moment_for(rule: Rule, severity: Severity, now: datetime.datetime) -> Plan:
    """Return when a rule lets an alarm of a severity be told."""
    if rule.quiet is None or (rule.quiet.critical_passes and severity is Severity.CRITICAL):
        return Plan(now, held=False)
    end = quiet.until(rule.quiet, now)
    return Plan(now, held=False) if end is None else Plan(end, held=True)


def allowed(alarm: Alarm, channels: Iterable[str], enabled: Sequence[str]) -> list[str]:
    """Return those of the channels that can be told of an alarm, each once.

    A channel that fails cannot tell of its own failure. If that leaves none, all others tell.
    """
    if alarm.code != CHANNEL_FAILED:
        return [each for each in dict.fromkeys(channels) if each in enabled]
    others = [each for each in enabled if each != alarm.subject]
    wanted = [each for each in dict.fromkeys(channels) if each in others]
    return wanted or others


def earliest(plans: Iterable[Plan]) -> Plan:
    """Return the plan that tells first: where two rules differ, nobody waits for the quiet one."""
    return min(plans, key=lambda each: (each.due, each.held))
