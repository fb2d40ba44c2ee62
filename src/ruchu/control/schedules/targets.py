"""Recovery point targets: which protected objects have no point that is young enough."""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# A clock may be corrected by seconds; a point from further ahead says nothing of its age.
CLOCK_TOLERANCE = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Miss:
    """An object that misses its target.

    Attributes:
        name: of the object, as the caller names it.
        newest: moment of its newest point, None if it has none.
        since: since when it has been too long; None if it has no point and nobody said since when
            it is protected.
    """

    name: str
    newest: datetime.datetime | None
    since: datetime.datetime | None


def misses(
    rpo: datetime.timedelta,
    points: Mapping[str, Iterable[datetime.datetime]],
    now: datetime.datetime,
    protected_since: Mapping[str, datetime.datetime] | None = None,
) -> list[Miss]:
    """Return the objects without a point younger than the target, those that miss longest first.

    Args:
        rpo: the target; zero is none.
        points: the moments of the points of each object, in any order; of an object without
            points too, or it is not looked at.
        now: aware.
        protected_since: when objects were taken into the policy. One that has no point yet is
            given the target's time from there.
    """
    if not rpo:
        return []
    began = protected_since or {}
    found = []
    for name, moments in points.items():
        newest = max((at for at in moments if at <= now + CLOCK_TOLERANCE), default=None)
        counted = began.get(name) if newest is None else newest
        since = None if counted is None else counted + rpo
        if since is None or since < now:
            found.append(Miss(name, newest, since))
    return sorted(found, key=lambda miss: (miss.since is not None, miss.since or now, miss.name))
