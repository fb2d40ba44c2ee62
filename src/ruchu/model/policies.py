"""Policies: what is protected, where to, when, how, and how long points stay."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Missed(enum.StrEnum):
    """What becomes of starts that were due while nobody was there to start them."""

    ONCE = "once"  # one run makes up for all of them
    SKIP = "skip"


class OnLostNode(enum.StrEnum):
    """What becomes of the work of a node that is lost."""

    WAIT = "wait"  # the same node goes on when it returns
    MOVE = "move"  # another node that reaches platform and storage takes over


@dataclass(frozen=True, slots=True)
class Selection:
    """Machines of a platform: those that any rule takes, without those that any rule leaves.

    Attributes:
        platform: name of the platform.
        machines: ids or names.
        patterns: shell patterns of names, such as `web-*`.
        tags, folders, hosts: a machine that has one of them.
        excluded: ids, names or shell patterns of names; they win.
    """

    platform: str
    machines: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """Hours in which work may start and run, and how fast.

    Attributes:
        days: 0 is Monday; empty means every day.
        begin, end: minutes since midnight; an end before the begin is on the next day.
        bytes_per_s: limit of the transfer; 0 is none.
    """

    days: tuple[int, ...] = ()
    begin: int = 0
    end: int = 24 * 60
    bytes_per_s: int = 0


@dataclass(frozen=True, slots=True)
class Retention:
    """Rules that keep points; 0 turns one off (`ruchu.protection.retention.Policy`)."""

    count: int = 0
    days: int = 0
    chains: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True, slots=True)
class Retrying:
    """How often a failed run is tried again, and after how many seconds (doubled each time)."""

    attempts: int = 3
    first_s: int = 60
    most_s: int = 3600


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy.

    Attributes:
        name: unique, for people and files.
        selection: what is protected.
        storage: name of the storage that points go to.
        schedules: documents of `ruchu.model.schedules`, each with the `kind` of the run it starts.
        zone: IANA time zone of the schedules and windows.
        holidays: dates (`2027-02-06`) on which no schedule starts that minds them.
        missed: what becomes of missed starts.
        windows: when it may run; empty is always. A run that is due outside waits for the next.
        retention: how long points stay.
        retrying: what happens after a failure.
        on_lost_node: what becomes of its work on a node that is lost.
        nodes: names of the nodes that may do it; empty means any that reaches both ends.
        priority: from 1 (first) to 9.
        parallel: machines at the same time.
        options: of the backup: `snapshots`, `quiesce`, `leave_out`, `level`, `disks`.
        before, after: commands (lists of words) on the node, before and after a run.
        after_policy: name of a policy; a run waits until the run of that one which was due last
            has ended.
        rpo_minutes: no protected machine may be without a point for longer; 0 is no target.
        enabled: schedules start runs.
        group: resource group.
    """

    name: str
    selection: Selection
    storage: str
    schedules: tuple[Mapping[str, Any], ...] = ()
    zone: str = "UTC"
    holidays: tuple[str, ...] = ()
    missed: Missed = Missed.ONCE
    windows: tuple[Window, ...] = ()
    retention: Retention = Retention()
    retrying: Retrying = Retrying()
    on_lost_node: OnLostNode = OnLostNode.WAIT
    nodes: tuple[str, ...] = ()
    priority: int = 5
    parallel: int = 2
    options: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    after_policy: str = ""
    rpo_minutes: int = 0
    enabled: bool = True
    group: str = "default"
