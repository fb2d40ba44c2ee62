"""What the scheduler is given by others: policies, runs, and whom to tell."""

import datetime
import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from ruchu.model.policies import Missed
from ruchu.model.schedules import Schedule


@dataclass(frozen=True, slots=True)
class ScheduledPolicy:
    """What the scheduler needs of an enabled policy.

    Attributes:
        id: of the policy.
        schedules: when which kind of run starts.
        zone: of their dates and times.
        holidays: dates in that zone.
        missed: what becomes of missed starts.
        version: changes whenever anything in here does.
        since: when it was enabled, or its schedules changed last. A schedule that is new here
            starts from that moment on, so that a crash between the change and the first look at
            it loses no start. None means from the first look on.
    """

    id: str
    schedules: tuple[Schedule, ...]
    zone: ZoneInfo
    holidays: frozenset[datetime.date]
    missed: Missed
    version: int | str
    since: datetime.datetime | None = None


class PolicySource(Protocol):
    """Where policies come from."""

    def enabled(self) -> Iterable[ScheduledPolicy]:
        """Return all policies that start runs by schedule; called outside of transactions.

        What is missing in the answer is forgotten: a failure must raise, never shorten it.
        """


class Standing(enum.Enum):
    """Why there is no end of a last run."""

    NEVER = "never"  # there was no run
    UNDER_WAY = "under way"  # the newest run waits or works


class Runs(Protocol):
    """Where runs are kept."""

    def start(
        self,
        connection: sa.Connection,
        policy: ScheduledPolicy,
        schedule: Schedule,
        due: datetime.datetime,
    ) -> None:
        """Create a run, in a transaction that others commit or take back.

        Nothing outside of that transaction may be done here: it is called again for the same
        moment if the transaction is taken back. `due` may lie in the past.
        """

    def last_end(self, policy: str, kind: str) -> datetime.datetime | Standing:
        """Return when the newest run ended that counts for a rolling schedule of a kind.

        Called outside of transactions. It knows every run whose `start` was committed.
        """


@dataclass(frozen=True, slots=True)
class MissedStarts:
    """Starts of a schedule that nobody was there to make.

    Attributes:
        policy: id.
        schedule: whose.
        first, last: moments of the first and the last of them.
        count: how many, as far as they are counted (`starting_late.COUNTED`).
        made_up: one run makes up for all of them.
    """

    policy: str
    schedule: Schedule
    first: datetime.datetime
    last: datetime.datetime
    count: int
    made_up: bool


class Watcher(Protocol):
    """Who is told. Neither may raise."""

    def missed(self, missed: MissedStarts) -> None:
        """Take note of missed starts. Told before they are settled, so perhaps once more."""

    def failed(self, error: Exception) -> None:
        """Take note that a look at the schedules failed; it is repeated by itself.

        An `ExceptionGroup` has an error for each policy that could not be started.
        """
