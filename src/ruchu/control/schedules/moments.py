"""From local times to moments, where clocks are put forward and back."""

import datetime

_SECOND = datetime.timedelta(seconds=1)
_MIDNIGHT = datetime.time()


def first(local: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """Return the first moment, in UTC, at which a clock in a zone shows a local time or a later.

    A time that is left out in spring gives the moment after the gap, one that comes twice in
    autumn its first. A later local time never gives an earlier moment.
    """
    moment = local.replace(tzinfo=zone, fold=0).astimezone(datetime.UTC)
    if _shown(moment, zone) == local:
        return moment
    # In a gap, the two readings of the local time lie on both sides of the change.
    before = local.replace(tzinfo=zone, fold=1).astimezone(datetime.UTC)
    while moment - before > _SECOND:
        middle = before + (moment - before) // _SECOND // 2 * _SECOND
        if _shown(middle, zone) < local:
            before = middle
        else:
            moment = middle
    return moment


def day(date: datetime.date, zone: datetime.tzinfo) -> datetime.datetime:
    """Return the moment at which a local day begins, which is where the one before it ends."""
    return first(datetime.datetime.combine(date, _MIDNIGHT), zone)


def _shown(moment: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)
