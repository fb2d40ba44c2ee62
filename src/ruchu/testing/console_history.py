"""What a server has behind it: a month of runs and points, written straight into its database.

No service writes into the past, so this does: with the same tables, the same words.
"""

import datetime
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ruchu.clock import to_text
from ruchu.control.alarms.service import AlarmService
from ruchu.control.database.database import Database
from ruchu.control.jobs.tables import RUN_EVENTS, RUNS
from ruchu.control.nodes.tables import NODES, TASKS
from ruchu.control.sites.tables import SITES
from ruchu.control.storages.tables import POINTS, STORAGE_USE, STORAGES
from ruchu.model.tasks import Severity
from ruchu.testing import console_park
from ruchu.testing.clocks import ManualClock

DAYS, POINT_DAYS, USE_DAYS = 30, 14, 75
# Older runs keep no log in the sample; nobody opens them.
DETAILED = datetime.timedelta(days=2)
_SUNDAY = 6
_WHY_FAILED = (
    "The guest agent did not answer within 60 s.",
    "The storage did not answer: connection reset by peer.",
    "Not enough room for the scratch files on the host.",
)


# A machine, its point, and why there is none.
_Done = tuple[Mapping[str, Any], Mapping[str, Any], str]


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy with what it protects.

    Attributes:
        row: as the API shows it.
        machines: that it selects.
        hours: between two starts.
    """

    row: Mapping[str, Any]
    machines: Sequence[Mapping[str, Any]]
    hours: int

    @property
    def document(self) -> Mapping[str, Any]:
        """The policy itself."""
        found: Mapping[str, Any] = self.row["policy"]
        return found


@dataclass(slots=True)
class Written:
    """Rows that are to be written."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)


class History:
    """Makes up what has happened until a moment."""

    def __init__(self, now: datetime.datetime, rng: random.Random, node: str) -> None:
        self.rows = Written()
        self._now = now
        self._rng = rng
        self._node = node
        self._chains: dict[str, tuple[str, int]] = {}

    def backups(self, kept: Kept) -> None:
        """Add the runs of a policy."""
        begin = self._now.replace(minute=0, second=0, microsecond=0)
        step = datetime.timedelta(hours=kept.hours)
        days = DAYS if kept.hours >= 24 else 2
        due = begin - datetime.timedelta(hours=begin.hour - 17 if kept.hours >= 24 else 0)
        while due > self._now - datetime.timedelta(minutes=30):
            due -= step
        starts = []
        while due > self._now - datetime.timedelta(days=days):
            starts.append(due)
            due -= step
        for at in reversed(starts):
            self._backup(kept, at)

    def _backup(self, kept: Kept, due: datetime.datetime) -> None:
        run, kind = self._id(), "full" if due.weekday() == _SUNDAY else "incremental"
        begun = due + datetime.timedelta(seconds=self._rng.uniform(0.3, 2.0))
        ended = begun
        made: list[_Done] = []
        failed: list[_Done] = []
        for machine in kept.machines:
            point = self._point(kept, machine, begun, kind)
            seconds = 40 + point["bytes_read"] / (900 << 20)
            over = begun + datetime.timedelta(seconds=seconds)
            ended = max(ended, over)
            why = self._rng.choice(_WHY_FAILED) if self._rng.random() < 0.012 else ""
            (failed if why else made).append((machine, point, why))
            if due > self._now - datetime.timedelta(days=POINT_DAYS) and not why:
                self.rows.points.append({**point, "policy": kept.row["id"], "run": run})
            if due > self._now - DETAILED:
                self._task(run, (machine, point, why), (begun, over))
        state = "succeeded" if not failed else "partly" if made else "failed"
        summary = {
            "tasks": len(kept.machines), "succeeded": len(made), "failed": len(failed),
            "points": [point["id"] for _, point, _ in made],
            "bytes_read": sum(point["bytes_read"] for _, point, _ in made),
            "bytes_full": sum(point["bytes_read"] for _, point, _ in made
                              if point["kind"] == "full"),
            "bytes_stored": sum(point["bytes_stored"] for _, point, _ in made),
        }  # fmt: skip
        reason = "; ".join(f"{machine['name']}: {why}" for machine, _, why in failed)
        body = {"kind": kind, "policy": dict(kept.document)}
        self._run(run, ("backup", kept.document["name"], kept.row["id"], "schedule"),
                  (due, begun, ended), (state, reason), body, summary)  # fmt: skip

    def _point(
        self, kept: Kept, machine: Mapping[str, Any], at: datetime.datetime, kind: str
    ) -> dict[str, Any]:
        name = str(machine["name"])
        chain, sequence = self._chains.get(name, ("", 0))
        if not chain or kind == "full":
            chain, sequence, kind = self._id(), 0, "full"
        self._chains[name] = chain, sequence + 1
        read, stored = console_park.changed_bytes(machine, kind, self._rng)
        made = console_park.point(machine, str(kept.document["storage"]), at)
        verified = self._rng.random() < 0.4
        return {
            **made, "id": self._id(), "chain": chain, "sequence": sequence, "kind": kind,
            "platform": kept.document["selection"]["platform"], "bytes_read": read,
            "bytes_stored": stored, "starred": self._rng.random() < 0.03,
            "locked_until": to_text(self._now + datetime.timedelta(days=20))
            if kind == "full" and self._rng.random() < 0.3 else None,
            "verified": to_text(at + datetime.timedelta(hours=5)) if verified else None,
            "verdict": "sound" if verified else "",
        }  # fmt: skip

    def _task(
        self, run: str, done: _Done,
        span: tuple[datetime.datetime, datetime.datetime],
    ) -> None:  # fmt: skip
        (machine, point, why), (begun, over) = done, span
        task, seconds = self._id(), round((over - begun).total_seconds(), 1)
        error = {"code": "guest-agent", "message": why, "hint": "", "retry": True} if why else None
        fields = {key: point[key] for key in ("kind", "bytes_read", "bytes_stored", "time")}
        result = {"machines": [{**fields, "machine": machine["name"], "ok": not why,
                                "point": point["id"], "seconds": seconds,
                                "consistency": "file-system", "frozen_s": 0.21}]}  # fmt: skip
        self.rows.tasks.append({
            "id": task, "run": run, "kind": "backup", "label": machine["name"], "state": "ended",
            "node": self._node, "body": {"storage": point["storage"]}, "secrets": [], "nodes": [],
            "limits": {}, "created": to_text(begun), "sent": to_text(begun),
            "ended": to_text(over), "phase": "retention",
            "progress": {"label": "vda", "done": point["bytes_read"], "total": point["bytes_read"],
                         "rate": round(point["bytes_read"] / seconds, 1)},
            "outcome": "failed" if why else "succeeded", "result": None if why else result,
            "error": error,
        })  # fmt: skip
        self._events(run, task, begun, [("phase", {"name": "copy"})])
        text = f"{machine['name']}: {why}" if why else f"{machine['name']}: vda was read"
        level = "error" if why else "info"
        self._events(run, task, over, [("log", {"level": level, "text": text})])

    def single(
        self, kind: str, name: str, body: Mapping[str, Any], ago_h: float, state: str
    ) -> str:
        """Add a run of one task that a person started; return its id."""
        run, task = self._id(), self._id()
        begun = self._now - datetime.timedelta(hours=ago_h)
        ended = begun + datetime.timedelta(minutes=self._rng.uniform(3, 25))
        reason = {"failed": "The host has too little memory.", "stopped": "stopped"}.get(state, "")
        summary = {"tasks": 1, "succeeded": int(state == "succeeded"), "points": [],
                   "failed": int(state == "failed"), "bytes_read": 0, "bytes_stored": 0}  # fmt: skip
        self._run(run, (kind, name, None, "li.na"), (begun, begun, ended), (state, reason), body,
                  summary)  # fmt: skip
        total = self._rng.randrange(20, 90) << 30
        self.rows.tasks.append({
            "id": task, "run": run, "kind": kind, "label": name, "state": "ended",
            "node": self._node, "body": dict(body), "secrets": [], "nodes": [], "limits": {},
            "created": to_text(begun), "sent": to_text(begun), "ended": to_text(ended),
            "phase": "verify" if kind == "verify" else "restore",
            "progress": {"label": "vda", "done": total, "total": total, "rate": 410.0 * (1 << 20)},
            "outcome": state if state in {"failed", "stopped"} else "succeeded",
            "result": {"clean": True, "findings": [], "affected_points": []}
            if kind == "verify" else {},
            "error": {"code": "no-room", "message": reason, "hint": "", "retry": True}
            if state == "failed" else None,
        })  # fmt: skip
        self._events(run, task, begun, [("phase", {"name": "restore"})])
        return run

    def _run(
        self, run: str, what: tuple[str, str, str | None, str],
        span: tuple[datetime.datetime, datetime.datetime, datetime.datetime],
        outcome: tuple[str, str], body: Mapping[str, Any], summary: Mapping[str, Any],
    ) -> None:  # fmt: skip
        (kind, name, policy, by), (due, begun, ended) = what, span
        state, reason = outcome
        self.rows.runs.append({
            "id": run, "kind": kind, "name": name, "policy": policy, "started_by": by,
            "due": to_text(due) if by == "schedule" else None, "resource_group": "default",
            "state": state, "reason": reason, "body": dict(body), "attempt": 1,
            "created": to_text(due), "started": to_text(begun), "ended": to_text(ended),
            "summary": dict(summary),
        })  # fmt: skip
        if due > self._now - DETAILED:
            self._events(run, None, due, [("queued", {"by": by, "due": to_text(due)})])
            self._events(run, None, begun, [("running", {})])
            self._events(run, None, ended, [(state, {"reason": reason} if reason else {})])

    def _events(
        self, run: str, task: str | None, at: datetime.datetime,
        told: Iterable[tuple[str, Mapping[str, Any]]],
    ) -> None:  # fmt: skip
        self.rows.events += [
            {"run": run, "task": task, "at": to_text(at), "name": name, "body": dict(body)}
            for name, body in told
        ]

    def _id(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"


def write(database: Database, rows: Written) -> None:
    """Write a history down."""
    rows.events.sort(key=lambda row: row["at"])
    with database.writing() as connection:
        for table, found in ((RUNS, rows.runs), (TASKS, rows.tasks), (RUN_EVENTS, rows.events),
                             (POINTS, rows.points)):  # fmt: skip
            for at in range(0, len(found), 500):
                connection.execute(table.insert(), found[at : at + 500])


def use(database: Database, now: datetime.datetime, rng: random.Random) -> None:
    """Write down how storages have filled, day by day."""
    with database.writing() as connection:
        for row in connection.execute(sa.select(STORAGES)).all():
            share = 1 - row.free / row.size
            connection.execute(STORAGE_USE.delete().where(STORAGE_USE.c.storage == row.id))
            connection.execute(STORAGE_USE.insert(), list(_days(row, share, now, rng)))


def _days(
    row: Any, share: float, now: datetime.datetime, rng: random.Random
) -> Iterator[dict[str, Any]]:
    for ago in range(USE_DAYS, -1, -1):
        used = row.size * share * (1 - 0.004 * ago + rng.uniform(-0.003, 0.003) * (ago > 0))
        day = now - datetime.timedelta(days=ago)
        yield {"storage": row.id, "day": f"{day:%Y-%m-%d}", "free": int(row.size - used),
               "stored": int(used * 0.97)}  # fmt: skip


def marks(database: Database, now: datetime.datetime, machines: Sequence[str]) -> None:
    """Damage a point, and forget the young ones of the last machine: its target is missed."""
    late = machines[-1]
    with database.writing() as connection:
        first = connection.execute(
            sa.select(POINTS.c.id).where(POINTS.c.name == machines[0]).order_by(POINTS.c.time)
        ).scalars().first()  # fmt: skip
        values = {"verdict": "damaged", "verified": to_text(now)}
        connection.execute(POINTS.update().where(POINTS.c.id == first).values(values))
        young = to_text(now - datetime.timedelta(hours=6))
        connection.execute(POINTS.delete().where(POINTS.c.name == late, POINTS.c.time > young))


_ALARMS: Sequence[tuple[float, str, Severity, str, str, str]] = (
    (70.0, "storage-threshold", Severity.WARNING, "offsite", "86 % are used.", "open"),
    (52.0, "platform-gone", Severity.ERROR, "kvm-shanghai", "Connection timed out.", "cleared"),
    (31.0, "backup-failed", Severity.ERROR, "gitlab-01",
     "The guest agent did not answer within 60 s.", "known"),
    (9.5, "verify-failed", Severity.CRITICAL, "main",
     "Chunk 7f31… of erp-db-01 cannot be read.", "open"),
    (5.0, "missed-run", Severity.ERROR, "web-hourly", "No node was there at 09:00.", "cleared"),
    (1.2, "unprotected", Severity.WARNING, "test-02", "Seen for 3 days.", "open"),
)  # fmt: skip


def alarms(database: Database, now: datetime.datetime) -> None:
    """Raise alarms of the last days; some were dealt with."""
    for hours, code, severity, subject, text, outcome in _ALARMS:
        clock = ManualClock(now - datetime.timedelta(hours=hours))
        service = AlarmService(database, clock)
        service.raise_alarm(code, severity, subject, text, {"group": "default"})
        clock.move(datetime.timedelta(minutes=40))
        if outcome == "cleared":
            service.clear(code, subject)
        if outcome == "known":
            (found,) = [each for each in service.open_alarms() if each.subject == subject]
            service.acknowledge(found.id, "li.na", "Agent is being updated.")


def absent(database: Database, now: datetime.datetime) -> None:
    """Know a node that is gone, one that has yet to come, and a site that does not answer."""
    ago = to_text(now - datetime.timedelta(hours=3))
    node = {"embedded": False, "revoked": False, "serials": [], "parallel": 2, "problem": "",
            "release": "0.1.0", "facts": {"host": "backup.gz.example.com", "cores": 8}, "load": {},
            "version": 1}  # fmt: skip
    gone = {"id": console_park.identity("gone"), "name": "node-guangzhou", "last_seen": ago,
            "enrolled": to_text(now - datetime.timedelta(days=90))}  # fmt: skip
    to_come: dict[str, Any] = {"id": console_park.identity("to come"), "name": "node-chengdu", "last_seen": None,
               "enrolled": "", "facts": {}, "release": ""}  # fmt: skip
    site = {
        "id": console_park.identity("site"), "name": "guangzhou", "trusted": "", "seen": ago,
        "url": "https://127.0.0.1:9", "problem": "It does not answer.",
        "summary": {"version": "0.1.0", "nodes": {"online": 2}, "runs": {"succeeded": 88},
                    "storages": [], "alarms": {"warning": 1}, "machines": 42, "unprotected": 3},
    }  # fmt: skip
    with database.writing() as connection:
        connection.execute(NODES.insert(), [{**node, **gone}, {**node, **to_come}])
        connection.execute(SITES.insert().values(site))
