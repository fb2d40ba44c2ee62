"""What runs did, taken to where it belongs: the catalogue, the anomaly watch, the alarms."""

from collections.abc import Mapping
from typing import Any, Protocol

from ruchu.clock import Clock, to_text
from ruchu.control.jobs import runs as states
from ruchu.control.jobs.runs import RunRow
from ruchu.control.nodes.tasks import TaskRow
from ruchu.control.storages.catalogue import Catalogue
from ruchu.control.storages.storages import StorageDefinitions
from ruchu.model.tasks import Outcome, Severity


class Alarms(Protocol):
    """Tells people."""

    def raise_alarm(
        self, code: str, severity: Severity, subject: str, text: str, facts: Mapping[str, Any]
    ) -> None:
        """Open an alarm, or count the one that is open."""

    def clear(self, code: str, subject: str) -> None:
        """Close the open alarm, if there is one."""


class Watch(Protocol):
    """The anomaly watch."""

    def saved(self, machine: Mapping[str, Any]) -> None:
        """Look at what was saved of a machine, as a node tells it; the same twice counts once."""


_FAILED = {
    "backup": "backup-failed",
    "restore": "restore-failed",
    "instant": "restore-failed",
    "migration": "restore-failed",
    "copy": "copy-failed",
    "drill": "drill-failed",
}


class Results:
    """Hears of what runs did. Everything here may be told twice."""

    def __init__(
        self,
        places: tuple[StorageDefinitions, Catalogue],
        alarms: Alarms,
        watch: Watch,
        clock: Clock,
    ) -> None:
        self._storages, self._catalogue = places
        self._alarms = alarms
        self._watch = watch
        self._clock = clock

    def took(self, run: RunRow, task: TaskRow) -> None:
        """Take in the result of a task that ended."""
        result = task.result or {}
        if task.kind == "backup":
            self._backup(run, task, result)
        elif task.kind in {"merge", "delete-points"}:
            self._removed(str(task.body.get("storage", "")), result)
        elif task.kind == "evacuate":
            self._evacuated(task)
        elif task.kind == "verify" and task.outcome == Outcome.SUCCEEDED:
            self._verified(task, result)

    def _backup(self, run: RunRow, task: TaskRow, result: Mapping[str, Any]) -> None:
        platform, storage = str(task.body.get("platform", "")), str(task.body.get("storage", ""))
        made = [
            {**machine, "name": str(machine["machine"]), "platform": platform}
            for machine in result.get("machines", ())
            if machine.get("ok")
        ]
        self._catalogue.changed(storage, made, _gone(result), policy=run.policy, run=run.id)
        for point in made:
            self._watch.saved(point)
            self._alarms.clear("backup-failed", point["name"])
            self._alarms.clear("rpo-missed", point["name"])

    def _removed(self, storage: str, result: Mapping[str, Any]) -> None:
        if gone := _gone(result):
            self._catalogue.removed(storage, gone)

    def _evacuated(self, task: TaskRow) -> None:
        """Note that a storage is given up; from the beginning no backup goes there."""
        storage, to = str(task.body["storage"]), str(task.body["to"])
        done = task.outcome == Outcome.SUCCEEDED
        self._storages.learned(storage, state="evacuated" if done else "evacuating")
        if done:
            self._catalogue.copied(storage, to)

    def _verified(self, task: TaskRow, result: Mapping[str, Any]) -> None:
        storage, now = str(task.body["storage"]), to_text(self._clock.now())
        damaged = set(result.get("affected_points", ()))
        point = task.body.get("point")
        if point:
            verdict = "damaged" if damaged or not result.get("clean") else "sound"
            self._catalogue.mark(storage, str(point), verified=now, verdict=verdict)
        else:
            self._catalogue.verified(storage, result.get("covered", ()), sorted(damaged), now)
        for each in damaged:
            self._catalogue.mark(storage, each, verified=now, verdict="damaged")
        if result.get("clean"):
            self._alarms.clear("verify-failed", storage)
            return
        findings = result.get("findings", ())
        text = "; ".join(str(each.get("text")) for each in findings[:3])
        facts = {"points": sorted(damaged)[:100], "findings": len(findings)}
        self._alarms.raise_alarm("verify-failed", Severity.CRITICAL, storage, text, facts)

    def ended(self, run: RunRow) -> None:
        """Take in that a run is over."""
        code = _FAILED.get(run.kind, "run-failed")
        if run.state in {states.FAILED, states.PARTLY}:
            facts = {"run": run.id, "group": run.resource_group, "state": run.state}
            self._alarms.raise_alarm(code, Severity.ERROR, run.name, run.reason, facts)
        elif run.state == states.SUCCEEDED:
            self._alarms.clear(code, run.name)


def _gone(result: Mapping[str, Any]) -> list[str]:
    """Return the points that a result says are removed."""
    lists = [*result.get("retention", ()), *result.get("chains", ())]
    return [
        point for each in lists for point in (*each.get("remove", ()), *each.get("points", ()))
    ]  # fmt: skip
