"""What a summary report is made of; plain values that the caller gathers."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ruchu.control.alarms.records import Alarm


@dataclass(frozen=True, slots=True)
class TroubledRun:
    """A run that failed, or did not start.

    Attributes:
        policy: name.
        subject: the machine.
        at: when it began or should have, RFC 3339.
        reason: for people.
    """

    policy: str
    subject: str
    at: str
    reason: str


@dataclass(frozen=True, slots=True)
class StorageUse:
    """How full a storage is.

    Attributes:
        name: of the storage.
        used_bytes: now.
        capacity_bytes: of its file system or quota; 0 if it has none.
        daily: the figure at the end of each day, of as many days as are known; any order.
    """

    name: str
    used_bytes: int
    capacity_bytes: int
    daily: Mapping[datetime.date, int]


@dataclass(frozen=True, slots=True)
class SummaryFacts:
    """What happened within a period.

    Attributes:
        server: its name.
        outcomes: how many runs ended how: `succeeded`, `failed`, `stopped`.
        failed: those that failed.
        missed: those that did not start.
        unprotected: machines that no policy covers.
        protected: how many machines are covered.
        storages: all of them.
        alarms: that are open now.
    """

    server: str
    outcomes: Mapping[str, int]
    failed: Sequence[TroubledRun]
    missed: Sequence[TroubledRun]
    unprotected: Sequence[str]
    protected: int
    storages: Sequence[StorageUse]
    alarms: Sequence[Alarm]
