"""What a policy will start next, without starting it."""

import datetime
import itertools

from ruchu.control.schedules import starting
from ruchu.control.schedules.contract import ScheduledPolicy
from ruchu.control.schedules.starting import Due

_NEVER = datetime.datetime.max.replace(tzinfo=datetime.UTC)


def next_starts(policy: ScheduledPolicy, now: datetime.datetime, count: int = 10) -> list[Due]:
    """Return the next starts of a policy, at most so many, each with its kind.

    Rolling schedules are shown as if a run ended now and every run took no time.
    """
    found = starting.starts(policy.schedules, policy.zone, policy.holidays, now, _NEVER)
    return list(itertools.islice(found, count))
