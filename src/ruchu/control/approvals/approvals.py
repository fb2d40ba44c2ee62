"""Requests: entered, approved or refused by somebody else, carried out once."""

import datetime
import enum
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.accounts import proofs
from ruchu.control.approvals import acts, approvers
from ruchu.control.approvals.acts import Act, Kind
from ruchu.control.approvals.tables import APPROVAL_SETTINGS, APPROVALS
from ruchu.control.audit.trail import DONE, FAILED, REFUSED, REQUESTED, Recording, Trail
from ruchu.control.database.database import Database
from ruchu.errors import Forbidden, NeedsApproval, NotFound, RuchuError, Stale, TooMany, UsageError
from ruchu.model.ids import is_id, new_id
from ruchu.model.principals import Principal, Right

# A weekend: who decides on Monday, decides on what was true on Friday.
LIFETIME = datetime.timedelta(hours=72)
# More that wait are not decided by reading them.
WAITING_MAX = 200
PAGE_MAX = 200
_REMARK_MAX = 500
_FOUR_EYES = "four_eyes"

Handler = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""Carries an act out: gets the id of the request and its arguments, returns what came of it.

After a crash it is called again with the same id, and then must not do it a second time: it gives
the id to what it starts (a run is started once for an id), or looks whether it is done.
"""


class State(enum.StrEnum):
    """Where a request stands."""

    WAITING = "waiting"
    RUNNING = "running"  # approved, and being carried out
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        id: of the request.
        act: what was asked for.
        digest: hash of the act; whoever approves says it back.
        requester, requester_name: who asked.
        requested, expires: moments.
        state: where it stands.
        decider, decider_name, decided: who decided, and when.
        remark: what they wrote.
        result: what came of it; the error if it failed.
    """

    id: str
    act: Act
    digest: str
    requester: str
    requester_name: str
    requested: str
    expires: str
    state: State
    decider: str
    decider_name: str
    decided: str | None
    remark: str
    result: Mapping[str, Any] | None


class Approvals:
    """The requests of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, trail: Trail) -> None:
        self._database = database
        self._clock = clock
        self._trail = trail
        self._handlers: dict[Kind, Handler] = {Kind.FOUR_EYES_OFF: self._turn_off}
        self._running: set[str] = set()
        self._guard = threading.Lock()

    def register(self, kind: Kind, handler: Handler) -> None:
        """Say what carries out the acts of a kind."""
        assert kind not in self._handlers
        self._handlers[kind] = handler

    def four_eyes(self) -> bool:
        """Tell whether acts that destroy wait for a second person."""
        with self._database.reading() as connection:
            return _is_on(connection)

    def turn_on(self, by: Principal) -> None:
        """From now on, let acts that destroy wait for a second person.

        Raises:
            Forbidden: they may not.
            UsageError: there is nobody else who could approve.
        """
        by.demand(Right.CONFIGURE)
        with self._trail.writing() as recording:
            connection = recording.connection
            if len(approvers.ids(connection)) < 2:
                raise UsageError("(four eyes take two people)", hint=approvers.HOW_TO_GET_ONE)
            connection.execute(APPROVAL_SETTINGS.delete().where(_setting()))
            row = {"name": _FOUR_EYES, "value": "on"}
            connection.execute(APPROVAL_SETTINGS.insert().values(row))
            recording.record(by.actor, "four-eyes.on", "")

    def turn_off(self, by: Principal) -> Mapping[str, Any]:
        """Let acts that destroy happen at once; that itself takes four eyes.

        Raises:
            Forbidden: they may not.
            NeedsApproval: it is on, so it was entered as a request.
        """
        by.demand(Right.CONFIGURE)
        losses = ("From then on one person alone can delete backups.",)
        return self.carry_out(Act(Kind.FOUR_EYES_OFF, "this server", {}, losses), by)

    def carry_out(self, act: Act, by: Principal) -> Mapping[str, Any]:
        """Carry an act out at once; or enter it as a request, if four eyes are on.

        The caller has seen to it that they have the right for the act itself.

        Raises:
            NeedsApproval: it was entered as a request, whose id is `error.request`.
            TooMany: too many requests wait.
            UsageError: the act is not complete.
            RuchuError: it was carried out, and failed.
        """
        act.check()
        self._handler(act.kind)
        with self._trail.writing() as recording:
            entered = self._enter(recording, act, by) if _is_on(recording.connection) else ""
            if not entered:
                recording.record(by.actor, f"act.{act.kind}", act.subject, REQUESTED, _facts(act))
            hint = approvers.hint(recording.connection, by.user, act.group)
        if entered:
            error = NeedsApproval(f"(request {entered})", hint=hint)
            error.request = entered
            raise error
        return self._carried_out(new_id(), act, by.actor)

    def approve(self, request: str, digest: str, by: Principal, remark: str = "") -> Request:
        """Agree to exactly the act of a hash, and carry it out; return what became of it.

        Raises:
            NotFound: there is no such request.
            Forbidden: they are the requester, have not the right, or their account was made or
                opened for somebody else after the request.
            Stale: the act is not the one of the hash, or somebody has decided already.
        """
        with self._trail.writing() as recording:
            row, act = self._open(recording.connection, request)
            problem = self._objection(recording.connection, row, act, by)
            same = proofs.equal(act.digest(), digest) and proofs.equal(row.digest, digest)
            outcome = DONE if same and not problem else REFUSED
            if outcome is DONE:
                self._decide(recording.connection, request, State.RUNNING, by, remark)
            facts = {"request": request, "digest": act.digest()}
            recording.record(by.actor, "approval.approve", act.subject, outcome, facts)
            if outcome is DONE:
                # Before anybody can see the state: `resume` must take it for running.
                self._begin(request)
        if problem:
            raise Forbidden(f"({problem})", hint=approvers.HOW_TO_GET_ONE)
        if not same:
            raise Stale("(the act is not the one that was shown)")
        try:
            self._finish(request, act, by.actor)
        finally:
            self._end(request)
        return self.get(request)

    def refuse(self, request: str, by: Principal, remark: str = "") -> None:
        """Refuse a request; whoever entered it may take it back in the same way.

        Raises:
            NotFound: there is no such request.
            Forbidden: they may not.
            Stale: somebody has decided already.
        """
        with self._trail.writing() as recording:
            row, act = self._open(recording.connection, request)
            own = bool(by.user) and row.requester == by.user
            if not own:
                by.demand(Right.APPROVE, act.group)
                by.demand_person()
            state = State.WITHDRAWN if own else State.REFUSED
            self._decide(recording.connection, request, state, by, remark)
            facts = {"request": request, "digest": row.digest, "remark": _one_line(remark)}
            recording.record(by.actor, f"approval.{state}", act.subject, facts=facts)

    def get(self, request: str) -> Request:
        """Return a request.

        Raises:
            NotFound: there is none of this id.
        """
        with self._database.reading() as connection:
            return _request(_row(connection, request))

    def list(
        self, state: State | None = None, before: str = "", limit: int = 50,
        groups: Sequence[str] | None = None,
    ) -> Sequence[Request]:  # fmt: skip
        """Return requests, the newest first; `before` is `requested/id` of the last one seen.

        `groups` are those whose requests may be seen; None is all of them.
        """
        select = sa.select(APPROVALS).order_by(APPROVALS.c.requested.desc(), APPROVALS.c.id.desc())
        if groups is not None:
            select = select.where(APPROVALS.c.group.in_(groups))
        if state is not None:
            select = select.where(APPROVALS.c.state == state.value)
        if before:
            moment, _, identity = before.partition("/")
            same = (APPROVALS.c.requested == moment) & (APPROVALS.c.id < identity)
            select = select.where((APPROVALS.c.requested < moment) | same)
        with self._database.reading() as connection:
            rows = connection.execute(select.limit(max(1, min(limit, PAGE_MAX)))).all()
        return [_request(row) for row in rows]

    def expire(self) -> int:
        """Close the requests whose time is over; return how many. To be called now and then."""
        now = to_text(self._clock.now())
        waiting = APPROVALS.c.state == State.WAITING.value
        select = sa.select(APPROVALS).where(waiting & (APPROVALS.c.expires <= now))
        with self._trail.writing() as recording:
            rows = recording.connection.execute(select).all()
            for row in rows:
                update = APPROVALS.update().where(APPROVALS.c.id == row.id)
                recording.connection.execute(update.values(state=State.EXPIRED.value))
                facts = {"request": row.id}
                recording.record("system", "approval.expired", row.subject, facts=facts)
        return len(rows)

    def resume(self) -> int:
        """Go on with what a crash interrupted; return how many. For the start of the server.

        An act that was changed in the database since it was approved is not carried out.
        """
        select = sa.select(APPROVALS).where(APPROVALS.c.state == State.RUNNING.value)
        with self._database.reading() as connection:
            rows = connection.execute(select).all()
        count = 0
        for row in rows:
            if self._begin(row.id):
                try:
                    self._go_on(row)
                finally:
                    self._end(row.id)
                count += 1
        return count

    def _go_on(self, row: sa.Row[tuple[Any, ...]]) -> None:
        act = _act(row)
        if act.digest() == row.digest:
            self._finish(row.id, act, row.decider_name)
        else:
            error = Stale("(the act was changed after it was approved)")
            self._close(row.id, State.FAILED, _error(error))
            facts = {"request": row.id, "error": error.code}
            self._trail.record("system", f"act.{act.kind}", act.subject, FAILED, facts)

    def _enter(self, recording: Recording, act: Act, by: Principal) -> str:
        """Enter a request; the same one of the same person is entered once."""
        connection = recording.connection
        now = self._clock.now()
        live = (APPROVALS.c.state == State.WAITING.value) & (APPROVALS.c.expires > to_text(now))
        same = live & (APPROVALS.c.digest == act.digest()) & (APPROVALS.c.requester == by.user)
        found = connection.execute(sa.select(APPROVALS.c.id).where(same)).scalars().first()
        if found is not None:
            return str(found)
        count = sa.select(sa.func.count()).select_from(APPROVALS).where(live)
        if connection.execute(count).scalar_one() >= WAITING_MAX:
            raise TooMany(f"({WAITING_MAX} requests wait)", hint="Decide on some of them first.")
        row = {
            "id": new_id(), "kind": act.kind.value, "subject": act.subject, "group": act.group,
            "arguments": acts.canonical(dict(act.arguments)),
            "losses": acts.canonical([*act.losses]), "digest": act.digest(),
            "requester": by.user, "requester_name": by.name, "requested": to_text(now),
            "expires": to_text(now + LIFETIME), "state": State.WAITING.value,
            "decider": "", "decider_name": "", "remark": "",
        }  # fmt: skip
        connection.execute(APPROVALS.insert().values(row))
        facts = {"request": row["id"], **_facts(act)}
        recording.record(by.actor, "approval.request", act.subject, REQUESTED, facts)
        return str(row["id"])

    def _open(self, connection: sa.Connection, request: str) -> tuple[sa.Row[Any], Act]:
        """Return a request that can still be decided."""
        row = _row(connection, request)
        if row.state != State.WAITING.value:
            raise Stale(f"(the request is {row.state})")
        if row.expires <= to_text(self._clock.now()):
            raise Stale("(the request has expired)", hint="Enter it again.")
        return row, _act(row)

    def _objection(
        self, connection: sa.Connection, row: sa.Row[Any], act: Act, by: Principal
    ) -> str:
        """Return why somebody may not approve; empty if they may."""
        by.demand_person()
        by.demand(Right.APPROVE, act.group)
        if by.user == row.requester:
            return "somebody else has to approve what you asked for"
        return approvers.objection(connection, by.user, row.requested)

    def _decide(
        self, connection: sa.Connection, request: str, state: State, by: Principal, remark: str
    ) -> None:
        values = {
            "state": state.value,
            "decider": by.user,
            "decider_name": by.name,
            "decided": to_text(self._clock.now()),
            "remark": _one_line(remark),
        }
        connection.execute(APPROVALS.update().where(APPROVALS.c.id == request).values(values))

    def _finish(self, request: str, act: Act, actor: str) -> None:
        """Carry an approved act out, and write down what came of it."""
        try:
            result = self._carried_out(request, act, actor)
        except RuchuError as error:
            self._close(request, State.FAILED, _error(error))
        else:
            self._close(request, State.DONE, result)

    def _carried_out(self, request: str, act: Act, actor: str) -> Mapping[str, Any]:
        facts = {"request": request, "digest": act.digest()}
        try:
            # A copy, out of the text that was hashed: nobody can change it meanwhile.
            arguments = json.loads(acts.canonical(dict(act.arguments)))
            result = dict(self._handler(act.kind)(request, arguments))
        except RuchuError as error:
            facts["error"] = error.code
            self._trail.record(actor, f"act.{act.kind}", act.subject, FAILED, facts)
            raise
        self._trail.record(actor, f"act.{act.kind}", act.subject, DONE, facts)
        return result

    def _close(self, request: str, state: State, result: Mapping[str, Any]) -> None:
        values = {"state": state.value, "result": acts.canonical(dict(result))}
        with self._trail.writing() as recording:
            update = APPROVALS.update().where(APPROVALS.c.id == request)
            recording.connection.execute(update.values(values))

    def _handler(self, kind: Kind) -> Handler:
        found = self._handlers.get(kind)
        assert found is not None, f"nobody registered for {kind}"
        return found

    def _turn_off(self, request: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        del arguments
        with self._trail.writing() as recording:
            recording.connection.execute(APPROVAL_SETTINGS.delete().where(_setting()))
            recording.record("system", "four-eyes.off", "", facts={"request": request})
        return {}

    def _begin(self, request: str) -> bool:
        with self._guard:
            fresh = request not in self._running
            self._running.add(request)
            return fresh

    def _end(self, request: str) -> None:
        with self._guard:
            self._running.discard(request)


def _one_line(remark: str) -> str:
    return "".join(filter(str.isprintable, remark))[:_REMARK_MAX]


def _setting() -> sa.ColumnElement[bool]:
    return APPROVAL_SETTINGS.c.name == _FOUR_EYES


def _is_on(connection: sa.Connection) -> bool:
    select = sa.select(APPROVAL_SETTINGS.c.value).where(_setting())
    return connection.execute(select).scalar_one_or_none() == "on"


def _row(connection: sa.Connection, request: str) -> sa.Row[Any]:
    select = sa.select(APPROVALS).where(APPROVALS.c.id == request)
    row = connection.execute(select).one_or_none() if is_id(request) else None
    if row is None:
        raise NotFound("(the request)")
    return row


def _act(row: sa.Row[Any]) -> Act:
    losses = tuple(json.loads(row.losses))
    return Act(Kind(row.kind), row.subject, json.loads(row.arguments), losses, row.group)


def _request(row: sa.Row[Any]) -> Request:
    result = json.loads(row.result) if row.result is not None else None
    return Request(
        row.id, _act(row), row.digest, row.requester, row.requester_name, row.requested,
        row.expires, State(row.state), row.decider, row.decider_name, row.decided, row.remark,
        result,
    )  # fmt: skip


def _facts(act: Act) -> dict[str, Any]:
    return {"digest": act.digest(), "losses": act.losses, "arguments": act.arguments}


def _error(error: RuchuError) -> dict[str, Any]:
    return {"error": error.code, "message": str(error), "hint": error.advice}
