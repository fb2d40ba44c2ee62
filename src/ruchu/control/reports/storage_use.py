"""How full storages are, were, and will be."""

import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ruchu.clock import Clock
from ruchu.control.database.database import Database
from ruchu.control.reports import forecast as forecasts
from ruchu.control.reports.forecast import Forecast
from ruchu.control.reports.keeping import Kept
from ruchu.control.storages.storages import StorageDefinitions, StorageRow
from ruchu.control.storages.tables import STORAGE_USE

# They are looked at every five minutes.
GOOD_S = 30.0


@dataclass(frozen=True, slots=True)
class StorageUse:
    """A storage, and how full it is.

    Attributes:
        row: the storage.
        used: bytes that are taken; of a storage without a size, those of its points.
        stored: bytes that its points added, as they were looked at last.
        daily: bytes taken at the end of each day, oldest first.
        forecast: when it will be full.
    """

    row: StorageRow
    used: int
    stored: int
    daily: Mapping[datetime.date, int]
    forecast: Forecast


class StorageUses:
    """The use of all storages. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, storages: StorageDefinitions) -> None:
        self._database = database
        self._clock = clock
        self._storages = storages
        self._kept: Kept[Sequence[StorageUse]] = Kept(clock, GOOD_S)

    def all(self, groups: tuple[str, ...] | None) -> list[StorageUse]:
        """Return the use of the storages of some groups, by name; None is all groups."""
        found = self._kept.get(None, self._made)
        return [each for each in found if groups is None or each.row.resource_group in groups]

    def _made(self) -> Sequence[StorageUse]:
        since = self._clock.now().date() - datetime.timedelta(days=forecasts.DAYS_USED)
        query = sa.select(STORAGE_USE).where(STORAGE_USE.c.day >= since.isoformat())
        days: defaultdict[str, list[sa.Row[tuple[object, ...]]]] = defaultdict(list)
        with self._database.reading() as connection:
            for row in connection.execute(query.order_by(STORAGE_USE.c.day)):
                days[row.storage].append(row)
        return [_use(row, days[row.id]) for row in self._storages.all()]


def _use(row: StorageRow, days: Sequence[sa.Row[tuple[object, ...]]]) -> StorageUse:
    size = row.size or 0
    daily = {
        datetime.date.fromisoformat(each.day): max(0, size - each.free) if size else each.stored
        for each in days
    }
    stored = days[-1].stored if days else 0
    used = max(0, size - (row.free or 0)) if size else stored
    return StorageUse(row, used, stored, daily, forecasts.forecast(daily, size))
