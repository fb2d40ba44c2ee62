"""Looks at every run, raises the alarm, freezes retention, and asks a person to decide."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.alarms import codes, transactions
from ruchu.control.alarms.records import Alarm, NewAlarm
from ruchu.control.alarms.service import AlarmService
from ruchu.control.anomalies import judging
from ruchu.control.anomalies.signs import Level, Past, RunSigns, Standing, Verdict
from ruchu.control.anomalies.tables import RETENTION_FREEZES, RUN_SIGNS
from ruchu.control.database.database import Database
from ruchu.errors import NotFound
from ruchu.model import ids

SUSPICIOUS, UNUSUAL = "anomaly", "unusual-change"
NOTE_MAX = 1_000


class Decision(enum.StrEnum):
    """What a person says to a freeze."""

    KEEP = "keep"  # looked at; stays frozen
    RELEASE = "release"  # all is well: retention goes on, and what was doubted counts as usual


@dataclass(frozen=True, slots=True)
class Freeze:
    """A chain whose points retention leaves alone.

    Attributes:
        id: of the freeze.
        chain: id.
        subject: the machine, for people.
        since: RFC 3339.
        why: for people.
        active: False once it was released.
        decision: the last one, None while nobody has decided.
        decided_by: who.
        decided_at: when.
        note: theirs.
    """

    id: str
    chain: str
    subject: str
    since: str
    why: str
    active: bool
    decision: str | None
    decided_by: str | None
    decided_at: str | None
    note: str | None


class AnomalyWatch:
    """The watch of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, alarms: AlarmService) -> None:
        self._database = database
        self._clock = clock
        self._alarms = alarms

    def observe(self, run: RunSigns) -> Verdict:
        """Look at a run that has ended; once, however often it is told.

        The verdict, the freeze and the alarm are written together or not at all.

        Raises:
            DatabaseUnusable: it could not be written; tell it again.
        """
        alarms: list[Alarm] = []

        def write(connection: sa.Connection) -> Verdict:
            alarms.clear()
            known = _known(connection, run)
            if known is not None:
                return known
            verdict = judging.judge(_past(connection, run), run)
            connection.execute(RUN_SIGNS.insert().values(_row(run, verdict)))
            if verdict.level is Level.SUSPICIOUS:
                self._freeze(connection, run, verdict)
            if verdict.reasons:
                alarms.append(self._alarms.raise_within(connection, _alarm(run, verdict)))
            return verdict

        verdict = transactions.retried(self._database, write)
        for alarm in alarms:
            self._alarms.tell("alarm.raised", alarm)
        if verdict.level is Level.NORMAL:
            self._alarms.clear(UNUSUAL, run.subject)
        return verdict

    def frozen(self, chain: str) -> str | None:
        """Return why retention must leave a chain alone, or None.

        Every step that removes points asks this right before. An error is no permission.
        """
        with self._database.reading() as connection:
            row = _active(connection, chain)
        return None if row is None else f"frozen since {row.since}: {row.why}"

    def freezes(self, *, active: bool = True) -> Sequence[Freeze]:
        """Return the freezes that hold, or those that were released, the latest first."""
        query = sa.select(RETENTION_FREEZES).where(RETENTION_FREEZES.c.active == active)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(RETENTION_FREEZES.c.since.desc())).all()
        return [Freeze(**row._mapping) for row in rows]  # noqa: SLF001 - its public name

    def decide(self, chain: str, decision: Decision, who: str, note: str = "") -> None:
        """Say what becomes of a frozen chain.

        Raises:
            NotFound: it is not frozen.
        """
        subject = transactions.retried(
            self._database, lambda each: self._decide(each, chain, decision, (who, note))
        )
        if decision is Decision.RELEASE:
            self._alarms.clear(SUSPICIOUS, subject)

    def _decide(
        self,
        connection: sa.Connection,
        chain: str,
        decision: Decision,
        by: tuple[str, str],
    ) -> str:
        row = _active(connection, chain)
        if row is None:
            raise NotFound(f"(a freeze of the chain {chain})")
        values = {
            "active": decision is Decision.KEEP,
            "decision": decision.value,
            "decided_by": by[0],
            "decided_at": to_text(self._clock.now()),
            "note": by[1][:NOTE_MAX],
        }
        same = RETENTION_FREEZES.c.id == row.id
        connection.execute(RETENTION_FREEZES.update().where(same).values(values))
        if decision is Decision.RELEASE:
            doubted = (RUN_SIGNS.c.chain == chain, RUN_SIGNS.c.standing == Standing.DOUBTED)
            accept = RUN_SIGNS.update().where(*doubted)
            connection.execute(accept.values(standing=Standing.ACCEPTED))
        return str(row.subject)

    def _freeze(self, connection: sa.Connection, run: RunSigns, verdict: Verdict) -> None:
        if _active(connection, run.chain) is not None:
            return
        row = {
            "id": ids.new_id(),
            "chain": run.chain,
            "subject": run.subject,
            "since": to_text(self._clock.now()),
            "why": "; ".join(verdict.reasons),
            "active": True,
        }
        connection.execute(RETENTION_FREEZES.insert().values(row))


def _active(connection: sa.Connection, chain: str) -> sa.Row[Any] | None:
    holds = (RETENTION_FREEZES.c.chain == chain, RETENTION_FREEZES.c.active)
    return connection.execute(sa.select(RETENTION_FREEZES).where(*holds)).one_or_none()


def _known(connection: sa.Connection, run: RunSigns) -> Verdict | None:
    same = (RUN_SIGNS.c.chain == run.chain, RUN_SIGNS.c.run == run.run)
    row = connection.execute(sa.select(RUN_SIGNS).where(*same)).one_or_none()
    return None if row is None else Verdict(Level(row.level), tuple(row.reasons))


def _past(connection: sa.Connection, run: RunSigns) -> list[Past]:
    earlier = (RUN_SIGNS.c.chain == run.chain, RUN_SIGNS.c.at < run.at)
    query = sa.select(RUN_SIGNS).where(*earlier).order_by(RUN_SIGNS.c.at.desc())
    rows = connection.execute(query.limit(judging.RUNS_MAX)).all()
    return [Past(_signs(row), Standing(row.standing)) for row in reversed(rows)]


def _signs(row: sa.Row[Any]) -> RunSigns:
    names = RunSigns.__dataclass_fields__
    return RunSigns(**{name: getattr(row, name) for name in names})


def _row(run: RunSigns, verdict: Verdict) -> dict[str, Any]:
    doubted = verdict.level is Level.SUSPICIOUS
    return {
        **{name: getattr(run, name) for name in RunSigns.__dataclass_fields__},
        "level": verdict.level,
        "reasons": list(verdict.reasons),
        "standing": Standing.DOUBTED if doubted else Standing.USUAL,
    }


def _alarm(run: RunSigns, verdict: Verdict) -> NewAlarm:
    code = SUSPICIOUS if verdict.level is Level.SUSPICIOUS else UNUSUAL
    facts = {"chain": run.chain, "run": run.run, "changed_bytes": run.changed_bytes}
    text = "; ".join(verdict.reasons)
    return NewAlarm(code, codes.severity_of(code), run.subject, text, facts)
