"""What a server does by itself now and then: looks, warns, cleans up."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa

from ruchu.clock import from_text, to_text
from ruchu.control.alarms import codes, records
from ruchu.control.jobs.tables import RUN_EVENTS, RUNS
from ruchu.control.policies import selecting
from ruchu.control.repeats.tables import REPEATS
from ruchu.control.schedules import targets
from ruchu.control.server import node_checks
from ruchu.control.server.services import Services
from ruchu.control.server.telling import Reporting
from ruchu.control.storages.storages import StorageRow
from ruchu.errors import RuchuError, WireError
from ruchu.model.tasks import Severity

ROUND_S = 15.0
# How long the log of a run is kept; the run itself stays as long as anything refers to it.
HISTORY_KEPT = timedelta(days=90)
REPEATS_KEPT = timedelta(hours=24)
# How long an alarm of one moment stays open that nobody acknowledges and that is not critical.
MOMENTS_KEPT = timedelta(hours=24)
_RPO = "rpo-missed"


class Housekeeping:
    """A thread with chores, each with a pace of its own; one that fails waits for its next turn."""

    def __init__(self, services: Services, tell: Callable[[str], None]) -> None:
        self._services = services
        self._tell = tell
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ruchu-house", daemon=True)
        self._chores: tuple[tuple[timedelta, Callable[[], None]], ...] = (
            (timedelta(minutes=1), self.look_at_targets),
            (timedelta(minutes=1), services.coverage.refresh),
            (timedelta(minutes=1), self.end_moments),
            (timedelta(minutes=1), self.look_at_nodes),
            (timedelta(minutes=5), self.look_at_storages),
            (timedelta(minutes=10), self.look_at_platforms),
            (timedelta(minutes=15), self.reap),
            (timedelta(minutes=15), self.sweep),
            (timedelta(minutes=5), self.report),
        )
        self._due: dict[int, datetime] = {}
        self._reporting = Reporting(services)

    def begin(self) -> None:
        """Do the chores from now on."""
        self._thread.start()

    def close(self) -> None:
        """Do no more."""
        self._end.set()
        self._thread.join()

    def round(self) -> None:
        """Do every chore whose time has come."""
        now = self._services.clock.now()
        for number, (pace, chore) in enumerate(self._chores):
            if self._due.setdefault(number, now) > now:
                continue
            self._due[number] = now + pace
            try:
                chore()
            except Exception as error:  # noqa: BLE001 - the edge of the thread: it is told
                self._tell(f"{chore.__name__}: {error!r}")

    def _work(self) -> None:
        while not self._end.wait(ROUND_S):
            self.round()

    # Chores.

    def look_at_targets(self) -> None:
        """Warn of machines that have no point as young as their policy asks for."""
        services = self._services
        newest = services.catalogue.newest()
        now = services.clock.now()
        # A look a minute at hundreds of policies: what they share is read once.
        alarmed = {each.subject: each.text for each in services.alarms.open_alarms()
                   if each.code == _RPO}  # fmt: skip
        wanted = [row for row in services.policies.all()
                  if row.policy.enabled and row.policy.rpo_minutes]  # fmt: skip
        platforms = {row.policy.selection.platform for row in wanted}
        known = [each for name in platforms for each in services.inventory.machines(name)]
        chosen = selecting.each_selected({row.id: row.policy.selection for row in wanted}, known)
        for row in wanted:
            policy = row.policy
            points = {}
            for machine in chosen[row.id]:
                moment = newest.get((machine.platform, machine.name))
                points[machine.name] = [from_text(moment)] if moment else []
            since = dict.fromkeys(points, from_text(row.created))
            rpo = timedelta(minutes=policy.rpo_minutes)
            missed = targets.misses(rpo, points, now, since)
            fine = points.keys() - {each.name for each in missed}
            for name in [each for each in fine if alarmed and _subject(each) in alarmed]:
                services.alarms.clear(_RPO, name)
            for found in missed:
                last = f"{found.newest:%Y-%m-%d %H:%M} UTC" if found.newest else "never"
                text = f"Policy {policy.name} asks for {policy.rpo_minutes} minutes; last: {last}."
                if alarmed.get(_subject(found.name)) == text:
                    continue  # it was said; thousands may miss theirs while a storage is away
                facts = {"policy": policy.name, "group": policy.group}
                services.alarms.raise_alarm(_RPO, Severity.ERROR, found.name, text, facts)

    def look_at_nodes(self) -> None:
        """Warn of nodes with a wrong clock, or whose certificate ends before they come back."""
        node_checks.look(self._services)

    def end_moments(self) -> None:
        """Close alarms of what happened once: a person knows, or it did not come again."""
        services = self._services
        old = to_text(services.clock.now() - MOMENTS_KEPT)
        for alarm in services.alarms.open_alarms():
            if not codes.is_moment(alarm.code):
                continue
            forgotten = alarm.severity is not Severity.CRITICAL and alarm.last_at < old
            if forgotten or alarm.acknowledged_by is not None:
                services.alarms.clear(alarm.code, alarm.subject)

    def look_at_storages(self) -> None:
        """Look whether storages are there, and how full they are."""
        for row in self._services.storages.all():
            try:
                found = self._services.asker.look(row)
            except WireError as error:
                self._storage_is_gone(row, str(error))
                continue
            if found.problem:
                self._storage_is_gone(found, found.problem)
            else:
                self._services.alarms.clear("storage-gone", row.name)
                self._storage_is_full(found)

    def _storage_is_gone(self, row: StorageRow, why: str) -> None:
        facts = {"group": row.resource_group}
        self._services.alarms.raise_alarm("storage-gone", Severity.ERROR, row.name, why, facts)

    def _storage_is_full(self, row: StorageRow) -> None:
        alarms, used = self._services.alarms, row.used_percent
        if used is None or used < row.warn_percent:
            alarms.clear("storage-threshold", row.name)
            alarms.clear("storage-full", row.name)
            return
        stop = used >= row.stop_percent
        code, severity = (
            ("storage-full", Severity.CRITICAL) if stop else ("storage-threshold", Severity.WARNING)
        )
        text = f"{used:g} % are used; {row.free} bytes are free."
        facts = {"group": row.resource_group, "percent": used}
        alarms.raise_alarm(code, severity, row.name, text, facts)

    def look_at_platforms(self) -> None:
        """List the machines of each platform anew."""
        for row in self._services.inventory.platforms():
            try:
                self._services.asker.refresh(row)
            except RuchuError as error:
                facts = {"group": row.resource_group}
                self._services.alarms.raise_alarm(
                    "platform-gone", Severity.ERROR, row.name, str(error), facts
                )
            else:
                self._services.alarms.clear("platform-gone", row.name)

    def reap(self) -> None:
        """Remove what dead runs left on platforms, and say so."""
        services = self._services
        pairs = {
            (row.policy.storage, row.policy.selection.platform) for row in services.policies.all()
        }
        for storage, platform in sorted(pairs):
            try:
                cleaned = services.asker.reap(
                    services.storages.get(storage), services.inventory.platform(platform)
                )
            except RuchuError as error:
                self._tell(f"reap {storage} {platform}: {error}")
                continue
            for machine, what in cleaned.items():
                text = f"A run that died had left it; it was removed: {'; '.join(what)[:500]}"
                services.alarms.raise_alarm("snapshot-leaked", Severity.INFO, machine, text, {})

    def report(self) -> None:
        """Write and send the summary reports that are due."""
        self._reporting.round()

    def sweep(self) -> None:
        """Forget what nobody needs any more."""
        services = self._services
        services.accounts.sessions.sweep()
        services.accounts.entering.sweep()
        services.approvals.expire()
        services.trail.anchors()
        now = services.clock.now()
        old, repeats = to_text(now - HISTORY_KEPT), to_text(now - REPEATS_KEPT)
        ended = sa.select(RUNS.c.id).where(RUNS.c.ended < old)
        with services.database.writing() as connection:
            connection.execute(RUN_EVENTS.delete().where(RUN_EVENTS.c.run.in_(ended)))
            connection.execute(REPEATS.delete().where(REPEATS.c.at < repeats))


def _subject(name: str) -> str:
    """Return the name of a machine as alarms keep it."""
    return records.clean_text(name, records.SUBJECT_MAX)
