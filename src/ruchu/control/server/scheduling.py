"""Policies and runs, as the scheduler asks for them; and who is told of what was missed."""

import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from ruchu.clock import from_text, to_text
from ruchu.control.alarms.contract import Alarms
from ruchu.control.jobs import runs as states
from ruchu.control.jobs.runs import NewRun, Runs
from ruchu.control.policies.policies import Policies, PolicyRow
from ruchu.control.schedules import preview
from ruchu.control.schedules.contract import MissedStarts, ScheduledPolicy, Standing
from ruchu.errors import NotFound
from ruchu.model import schedules
from ruchu.model.schedules import Schedule
from ruchu.model.tasks import Severity

BACKUP_KINDS = ("full", "incremental", "differential")


def scheduled(row: PolicyRow) -> ScheduledPolicy:
    """Return a policy as the scheduler sees it."""
    policy = row.policy
    return ScheduledPolicy(
        id=row.id,
        schedules=tuple(schedules.from_document(each) for each in policy.schedules),
        zone=ZoneInfo(policy.zone),
        holidays=frozenset(datetime.date.fromisoformat(day) for day in policy.holidays),
        missed=policy.missed,
        version=row.version,
        since=from_text(row.changed),
    )


def next_starts(row: PolicyRow, now: datetime.datetime, count: int) -> Sequence[dict[str, Any]]:
    """Return the next starts of a policy: when, and which kind."""
    return [
        {"at": to_text(due.at), "kind": due.schedule.kind,
         "satisfies": [each.kind for each in due.satisfied]}
        for due in preview.next_starts(scheduled(row), now, count)
    ]  # fmt: skip


class ScheduledRuns:
    """Policies, runs and news for the scheduler. Safe in several threads."""

    def __init__(self, policies: Policies, runs: Runs, alarms: Alarms) -> None:
        self._policies = policies
        self._runs = runs
        self._alarms = alarms
        self._rows: dict[str, PolicyRow] = {}
        self.tell: Callable[[str], None] = print

    def enabled(self) -> Iterable[ScheduledPolicy]:
        """Return all policies that start runs by schedule."""
        rows = [row for row in self._policies.all() if row.policy.enabled]
        self._rows = {row.id: row for row in rows}
        return [scheduled(row) for row in rows if row.policy.schedules]

    def start(
        self, connection: sa.Connection, policy: ScheduledPolicy, schedule: Schedule,
        due: datetime.datetime,
    ) -> None:  # fmt: skip
        """Create a run in the scheduler's transaction."""
        row = self._rows[policy.id]
        body = {
            "policy": row.document,
            "kind": schedule.kind,
            "nodes": list(row.policy.nodes),
        }
        kind = "backup" if schedule.kind in BACKUP_KINDS else schedule.kind
        new = NewRun(
            kind, row.policy.name, body, row.id, "schedule", to_text(due),
            row.policy.priority, row.policy.group,
        )  # fmt: skip
        self._runs.add(connection, new)

    def last_end(self, policy: str, kind: str) -> datetime.datetime | Standing:
        """Return when the newest run of a policy and kind ended."""
        found = self._runs.newest(policy, kind)
        if found is None:
            return Standing.NEVER
        if found.state not in states.OVER or found.ended is None:
            return Standing.UNDER_WAY
        return from_text(found.ended)

    def missed(self, missed: MissedStarts) -> None:
        """Tell people of missed starts."""
        try:
            name = self._policies.get(missed.policy).policy.name
        except NotFound:
            return
        follows = "One run makes up for them." if missed.made_up else "They are left out."
        text = (
            f"{missed.count} starts ({missed.schedule.kind}) from {missed.first:%Y-%m-%d %H:%M} "
            f"to {missed.last:%Y-%m-%d %H:%M} UTC were not made. {follows}"
        )
        facts = {"count": missed.count, "kind": missed.schedule.kind}
        self._alarms.raise_alarm("missed-run", Severity.ERROR, name, text, facts)

    def failed(self, error: Exception) -> None:
        """Take note that a look at the schedules failed."""
        self.tell(f"scheduler: {error!r}")
