"""Tasks: what the server orders of a node, what the node tells of it, how it ended.

Everything here is a document at heart, since it crosses the wire and lies in a database.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Outcome(enum.StrEnum):
    """How a task ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # asked to end, and cleaned up


class Severity(enum.StrEnum):
    """How much an alarm matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Order:
    """One piece of work for a node. The same order may arrive twice: it is carried out once.

    Attributes:
        task: id; the node answers with it.
        run: id of the run of a job that it belongs to.
        kind: what to do, such as `backup` (`ruchu.nodes.kinds` lists them).
        attempt: from 1; a later attempt replaces an earlier one of the same task.
        body: names and options of the work.
        secrets: passphrases and passwords by name; kept in memory only, never written or logged.
    """

    task: str
    run: str
    kind: str
    attempt: int
    body: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """What a running task tells.

    Attributes:
        task: id of its order.
        attempt: of its order.
        number: from 1, without gaps in one attempt; the server keeps what it has not seen.
        at: RFC 3339, by the clock of the node.
        name: `phase`, `progress`, `log` or `alarm`.
        body: phase: `name`. progress: `label`, `done`, `total` (bytes), `rate` (bytes a second).
            log: `level`, `text`. alarm: `code`, `severity`, `text`, `facts`.
    """

    task: str
    attempt: int
    number: int
    at: str
    name: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended.

    Attributes:
        task: id of its order.
        attempt: of its order.
        at: RFC 3339, by the clock of the node.
        outcome: how.
        result: what the work returned, such as the points that it made.
        error: `code`, `message`, `hint`, `retry`; None if it succeeded.
    """

    task: str
    attempt: int
    at: str
    outcome: Outcome
    result: Mapping[str, Any]
    error: Mapping[str, Any] | None = None
