"""What to start of what is due: pure rules over the moments since the last look."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ruchu.control.schedules import starting
from ruchu.control.schedules.contract import MissedStarts, ScheduledPolicy
from ruchu.model.policies import Missed
from ruchu.model.schedule_rules import Rolling
from ruchu.model.schedules import Schedule

# A server that is restarted or a database that is slow takes less: such a start is late, not
# missed.
GRACE = datetime.timedelta(minutes=5)
# After a long time away, more missed starts are not counted one by one: a look stays short.
COUNTED = 100
# Where the last of very many moments is looked for: in ever larger spans before now.
_SPANS_DAYS = (1 / 24, 1, 32, 366)


@dataclass(frozen=True, slots=True)
class Ready:
    """The moments of a schedule that are due and not settled yet.

    Attributes:
        schedule: whose.
        first, last: the first and the last of them.
        missed: how many of them are older than `GRACE`, up to `COUNTED`.
        missed_last: the last of those, as far as they are counted.
    """

    schedule: Schedule
    first: datetime.datetime
    last: datetime.datetime
    missed: int = 0
    missed_last: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of all that is due in a policy.

    Attributes:
        starts: schedules that start a run, with the moment that it stands for; one in each lane.
        missed: what to tell.
        seen: up to which moment each schedule, by its key, is settled then.
    """

    starts: tuple[tuple[Schedule, datetime.datetime], ...]
    missed: tuple[MissedStarts, ...]
    seen: Mapping[str, datetime.datetime]


def ready(
    policy: ScheduledPolicy, schedule: Schedule, seen: datetime.datetime, now: datetime.datetime
) -> Ready | None:
    """Return what is due of a schedule after `seen` and up to now; not for rolling ones."""
    first = starting.following(schedule, seen, policy.zone, policy.holidays)
    if first is None or first > now:
        return None
    last, missed, missed_last = first, 0, None
    moment: datetime.datetime | None = first
    while moment is not None and moment <= now:
        if missed == COUNTED:
            last = _latest(policy, schedule, moment, now)
            missed_last = last if is_missed(last, now) else missed_last
            break
        last = moment
        if is_missed(moment, now):
            missed, missed_last = missed + 1, moment
        moment = starting.following(schedule, moment, policy.zone, policy.holidays)
    return Ready(schedule, first, last, missed, missed_last)


def is_missed(due: datetime.datetime, now: datetime.datetime) -> bool:
    """Tell whether a moment is so long ago that its start was missed."""
    return now - due > GRACE


def _latest(
    policy: ScheduledPolicy, schedule: Schedule, known: datetime.datetime, now: datetime.datetime
) -> datetime.datetime:
    """Return the last start up to now, of which there is one that is known."""
    last = known
    for days in _SPANS_DAYS:
        after = max(known, now - datetime.timedelta(days=days))
        moment = starting.following(schedule, after, policy.zone, policy.holidays)
        while moment is not None and moment <= now:
            last = moment
            moment = starting.following(schedule, moment, policy.zone, policy.holidays)
        if last > known or after == known:
            break
    return last


def decide(policy: ScheduledPolicy, due: Sequence[Ready], now: datetime.datetime) -> Decision:
    """Return what to start, and what is settled by it."""
    lanes: dict[str, list[Ready]] = {}
    for each in due:
        lanes.setdefault(each.schedule.lane, []).append(each)
    starts: list[tuple[Schedule, datetime.datetime]] = []
    missed: list[MissedStarts] = []
    for competing in lanes.values():
        winner = _winner(competing, policy.missed, now)
        if winner is not None:
            starts.append((winner.schedule, winner.last))
        made_up = policy.missed is Missed.ONCE
        missed += [_told(policy.id, each, made_up=made_up) for each in competing if each.missed]
    return Decision(tuple(starts), tuple(missed), {each.schedule.key: each.last for each in due})


def _winner(competing: Sequence[Ready], missed: Missed, now: datetime.datetime) -> Ready | None:
    """Return the strongest that may start; of equal ones that with the latest moment."""
    if missed is Missed.SKIP:
        competing = [
            each
            for each in competing
            # What comes after the end of a run would never come again if it were left out.
            if isinstance(each.schedule.rule, Rolling) or not is_missed(each.last, now)
        ]
    return min(competing, key=lambda each: (each.schedule.weakness, now - each.last), default=None)


def _told(policy: str, ready: Ready, *, made_up: bool) -> MissedStarts:
    last = ready.missed_last or ready.first
    return MissedStarts(policy, ready.schedule, ready.first, last, ready.missed, made_up)
