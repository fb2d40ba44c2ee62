"""Every figure of a server, put together: the overview, and the tables of reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruchu.clock import Clock
from ruchu.control.database.database import Database
from ruchu.control.inventory.inventory import Inventory
from ruchu.control.policies.policies import Policies, PolicyRow
from ruchu.control.reports.overview import OpenAlarms, Overviews, Sources
from ruchu.control.reports.run_figures import RunFigures
from ruchu.control.reports.standing import Coverage, Standings
from ruchu.control.reports.storage_use import StorageUses
from ruchu.control.reports.tabling import ReportTables
from ruchu.control.reports.under_way import Progress
from ruchu.control.settings.settings import Settings
from ruchu.control.storages.catalogue import Catalogue
from ruchu.control.storages.storages import StorageDefinitions


@dataclass(frozen=True, slots=True)
class Known:
    """The services that figures come from; see their classes."""

    inventory: Inventory
    policies: Policies
    storages: StorageDefinitions
    catalogue: Catalogue
    settings: Settings
    alarms: OpenAlarms
    next_starts: Callable[[PolicyRow, int], Sequence[Mapping[str, Any]]]


@dataclass(slots=True)
class Figures:
    """The figures of a server. Safe in several threads.

    Attributes:
        standings: how each machine stands.
        progress: what runs now.
        overviews: everything that a dashboard shows.
        tables: the tables of reports.
    """

    database: Database
    clock: Clock
    known: Known
    standings: Standings = field(init=False)
    progress: Progress = field(init=False)
    overviews: Overviews = field(init=False)
    tables: ReportTables = field(init=False)

    def __post_init__(self) -> None:
        """Put them together."""
        database, clock, known = self.database, self.clock, self.known
        coverage = Coverage(known.inventory, known.policies)
        self.standings = Standings(coverage, known.catalogue, clock)
        self.progress = Progress(database, clock)
        uses = StorageUses(database, clock, known.storages)
        sources = Sources(
            self.standings, RunFigures(database, clock, known.settings), uses, self.progress,
            known.alarms, known.policies.all, known.inventory.platforms, known.next_starts,
        )  # fmt: skip
        self.overviews = Overviews(database, clock, sources)
        self.tables = ReportTables(database, clock, self.standings, uses)
