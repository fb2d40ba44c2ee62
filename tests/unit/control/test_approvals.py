"""Four eyes: requests, who may approve them, carried out once with what was approved."""

import datetime
import json
import threading

import pytest
import sqlalchemy as sa
from accounts_world import ADMIN, GOOD, pass_time, person, principal, recorded

from ruchu.control.accounts.tokens import NewToken
from ruchu.control.approvals import approvers
from ruchu.control.approvals.acts import Act, Kind
from ruchu.control.approvals.approvals import LIFETIME, WAITING_MAX, Approvals, State
from ruchu.control.approvals.tables import APPROVALS
from ruchu.control.approvals.user_removal import UserRemoval
from ruchu.control.audit.trail import Search
from ruchu.errors import (
    Forbidden,
    LastAdministrator,
    NeedsApproval,
    NotFound,
    Stale,
    StorageFull,
    TooMany,
    UsageError,
)
from ruchu.model.principals import LOCAL, Right, Role

ACT = Act(
    Kind.DELETE_POINTS,
    "web1",
    {"storage": "main", "points": ["3fa9c2", "77b0aa"]},
    ("2 points of web1 from 2026-01-01 to 2026-02-01, 40 GiB",),
)


class Deleting:
    """Carries out what it is told, and remembers it."""

    def __init__(self):
        self.calls = []
        self.fails = None
        self.guard = threading.Lock()

    def __call__(self, request, arguments):
        with self.guard:
            self.calls.append((request, arguments))
        if self.fails is not None:
            raise self.fails
        return {"deleted": len(arguments["points"])}


@pytest.fixture
def deleting():
    return Deleting()


@pytest.fixture
def approvals(database, clock, trail, deleting):
    made = Approvals(database, clock, trail)
    made.register(Kind.DELETE_POINTS, deleting)
    return made


@pytest.fixture
def people(accounts, clock):
    """Return four who are signed in: two administrators, an operator, an auditor."""
    person(accounts, "alice", ADMIN)
    person(accounts, "bob", ADMIN)
    person(accounts, "olga", {"*": frozenset({Role.OPERATOR})})
    person(accounts, "paul", {"default": frozenset({Role.ADMINISTRATOR})})
    pass_time(clock, minutes=1)
    return {name: principal(accounts, name) for name in ("alice", "bob", "olga", "paul")}


@pytest.fixture
def on(approvals, people):
    approvals.turn_on(people["alice"])
    return approvals


def ask(approvals, by, act=ACT):
    """Enter a request; return its id."""
    with pytest.raises(NeedsApproval) as caught:
        approvals.carry_out(act, by)
    assert caught.value.request in str(caught.value)
    return caught.value.request


def fails(act, *, of):
    with pytest.raises(of) as caught:
        act()
    return caught.value


def test_without_four_eyes_it_happens_at_once(approvals, people, deleting, trail):
    assert not approvals.four_eyes()
    assert approvals.carry_out(ACT, people["alice"]) == {"deleted": 2}
    assert deleting.calls[0][1] == ACT.arguments
    assert [row[3] for row in recorded(trail, "act.")] == ["done", "requested"]
    assert not approvals.list()


def test_a_request_from_its_entry_to_its_end(on, people, deleting, trail):
    request = ask(on, people["alice"])
    assert not deleting.calls
    shown = on.get(request)
    assert shown.act == ACT
    assert (shown.state, shown.requester_name) == (State.WAITING, "alice")
    done = on.approve(request, shown.digest, people["bob"], "as agreed")
    assert done.state is State.DONE
    assert done.result == {"deleted": 2}
    assert (done.decider_name, done.remark) == ("bob", "as agreed")
    assert deleting.calls == [(request, ACT.arguments)]
    assert [row[:2] for row in recorded(trail)][:3] == [
        ("bob", "act.delete-points"), ("bob", "approval.approve"), ("alice", "approval.request"),
    ]  # fmt: skip
    facts = trail.search(Search(action="approval.request"))[0].document()["facts"]
    assert facts["digest"] == shown.digest
    assert facts["losses"] == list(ACT.losses)


def test_nobody_approves_what_they_asked_for(on, people, deleting, trail):
    request = ask(on, people["alice"])
    digest = on.get(request).digest
    error = fails(lambda: on.approve(request, digest, people["alice"]), of=Forbidden)
    assert "somebody else" in str(error)
    assert recorded(trail, "approval.approve")[0][3] == "refused"
    assert not deleting.calls
    on.approve(request, digest, people["bob"])


def test_who_may_approve(on, accounts, people, deleting):
    request = ask(on, people["alice"])
    digest = on.get(request).digest
    rights = NewToken("t", frozenset(Right), frozenset({"*"}), datetime.timedelta(days=1))
    token = accounts.tokens.create(people["bob"], rights).word
    for other in (people["olga"], people["paul"], LOCAL, accounts.bearer(token)):
        fails(lambda by=other: on.approve(request, digest, by), of=Forbidden)
        fails(lambda by=other: on.refuse(request, by), of=Forbidden)
    inside = Act(ACT.kind, "web2", ACT.arguments, ACT.losses, "default")
    second = ask(on, people["alice"], inside)
    on.approve(second, on.get(second).digest, people["paul"])
    assert len(deleting.calls) == 1


def test_an_account_that_was_made_for_it_does_not_approve(on, accounts, people, deleting, clock):
    request = ask(on, people["alice"])
    digest = on.get(request).digest
    pass_time(clock, minutes=1)
    person(accounts, "mallory", ADMIN)
    error = fails(lambda: on.approve(request, digest, principal(accounts, "mallory")), of=Forbidden)
    assert "made after the request" in str(error)
    # Nor that of a colleague, opened by a link, or made an administrator for it.
    accounts.users.set_grants(people["alice"], people["olga"].user, ADMIN)
    error = fails(lambda: on.approve(request, digest, principal(accounts, "olga")), of=Forbidden)
    assert "got a role" in str(error)
    word = accounts.users.password_link(people["alice"], people["bob"].user)
    accounts.entering.choose_password(word, GOOD)
    fails(lambda: on.approve(request, digest, principal(accounts, "bob")), of=Forbidden)
    assert not deleting.calls
    # Entered again, it is theirs to decide.
    pass_time(clock, minutes=1)
    on.refuse(request, people["alice"])
    request = ask(on, people["alice"])
    on.approve(request, digest, principal(accounts, "mallory"))


@pytest.mark.parametrize(
    "values",
    [
        {"arguments": json.dumps({"storage": "main", "points": ["everything"]})},
        {"losses": json.dumps(["nothing"])},
        {"subject": "web2"},
        {"group": "default"},
    ],
)
def test_an_act_that_was_changed_in_the_database(on, people, deleting, database, values):
    request = ask(on, people["alice"])
    digest = on.get(request).digest
    with database.writing() as connection:
        connection.execute(APPROVALS.update().values(values))
    fails(lambda: on.approve(request, digest, people["bob"]), of=Stale)
    changed = on.get(request).act
    with database.writing() as connection:  # and with the hash that fits
        connection.execute(APPROVALS.update().values(digest=changed.digest()))
    fails(lambda: on.approve(request, digest, people["bob"]), of=Stale)
    fails(lambda: on.approve(request, "", people["bob"]), of=Stale)
    fails(lambda: on.approve(request, "\ud800", people["bob"]), of=Stale)
    assert not deleting.calls


def test_two_who_approve_at_once_carry_it_out_once(on, accounts, people, deleting, clock):
    person(accounts, "carol", ADMIN)
    pass_time(clock, minutes=1)
    carol = principal(accounts, "carol")
    request = ask(on, people["alice"])
    digest = on.get(request).digest
    start, outcomes = threading.Barrier(4), []

    def run(by):
        start.wait()
        try:
            on.approve(request, digest, by)
            outcomes.append("done")
        except Stale:
            outcomes.append("stale")

    threads = [
        threading.Thread(target=run, args=(by,)) for by in (people["bob"], carol) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done", "stale", "stale", "stale"]
    assert len(deleting.calls) == 1


def test_what_was_decided_is_not_decided_again(on, people, deleting):
    request = ask(on, people["alice"])
    digest = on.get(request).digest
    on.refuse(request, people["bob"], "no\nway")
    assert on.get(request).state is State.REFUSED
    assert on.get(request).remark == "noway"
    for act in (
        lambda: on.approve(request, digest, people["bob"]),
        lambda: on.refuse(request, people["bob"]),
    ):
        fails(act, of=Stale)
    request = ask(on, people["alice"])
    on.refuse(request, people["alice"])
    assert on.get(request).state is State.WITHDRAWN
    assert not deleting.calls
    fails(lambda: on.get("\x00"), of=NotFound)


def test_a_request_expires(on, people, deleting, clock, trail):
    request = ask(on, people["alice"])
    digest = on.get(request).digest
    clock.move(LIFETIME)
    fails(lambda: on.approve(request, digest, people["bob"]), of=Stale)
    assert on.expire() == 1
    assert on.get(request).state is State.EXPIRED
    assert on.expire() == 0
    assert recorded(trail, "approval.expired")
    assert ask(on, people["alice"]) != request
    assert not deleting.calls


def test_the_same_request_is_entered_once(on, people):
    first = ask(on, people["alice"])
    assert ask(on, people["alice"]) == first
    assert ask(on, people["bob"]) != first
    assert len(on.list()) == 2
    assert len(on.list(State.DONE)) == 0


@pytest.mark.slow
def test_only_so_many_requests_wait(on, people):
    for number in range(WAITING_MAX):
        ask(on, people["alice"], Act(ACT.kind, f"web{number}", {}, ACT.losses))
    fails(lambda: on.carry_out(ACT, people["alice"]), of=TooMany)


@pytest.mark.parametrize(
    "act",
    [
        Act(ACT.kind, "x", {}, ()),
        Act(ACT.kind, "x", {"a": b"bytes"}, ("x",)),
        Act(ACT.kind, "x", {"a": float("nan")}, ("x",)),
        Act(ACT.kind, "x", {"a": "x" * 300_000}, ("x",)),
        Act(ACT.kind, "x", {}, ("x",) * 1001),
    ],
)
def test_acts_that_nobody_could_judge(on, people, act):
    fails(lambda: on.carry_out(act, people["alice"]), of=UsageError)


# ------------------------------------------------------------------------ failures and crashes


def test_what_fails_says_so(on, people, deleting, trail):
    deleting.fails = StorageFull("(main)")
    request = ask(on, people["alice"])
    done = on.approve(request, on.get(request).digest, people["bob"])
    assert done.state is State.FAILED
    assert done.result["error"] == "storage-full"
    assert recorded(trail, "act.")[0][3] == "failed"
    fails(lambda: on.approve(request, done.digest, people["bob"]), of=Stale)


class Killed(BaseException):
    """The server is killed."""


def test_after_a_crash_it_goes_on_with_the_same_id(on, people, deleting, database, clock, trail):
    request = ask(on, people["alice"])
    deleting.fails = Killed()
    with pytest.raises(Killed):
        on.approve(request, on.get(request).digest, people["bob"])
    assert on.get(request).state is State.RUNNING
    deleting.fails = None
    again = Approvals(database, clock, trail)
    again.register(Kind.DELETE_POINTS, deleting)
    assert again.resume() == 1
    assert again.resume() == 0
    assert again.get(request).state is State.DONE
    assert deleting.calls == [(request, ACT.arguments)] * 2  # the handler knows the id


def test_after_a_crash_what_was_changed_is_not_carried_out(on, people, deleting, database):
    request = ask(on, people["alice"])
    deleting.fails = Killed()
    with pytest.raises(Killed):
        on.approve(request, on.get(request).digest, people["bob"])
    deleting.fails = None
    with database.writing() as connection:
        changed = json.dumps({"storage": "main", "points": ["everything"]})
        connection.execute(APPROVALS.update().values(arguments=changed))
    assert on.resume() == 1
    assert on.get(request).state is State.FAILED
    assert len(deleting.calls) == 1


def test_what_runs_is_not_begun_again(on, people, deleting):
    request = ask(on, people["alice"])
    inside = []

    def look(request, arguments):
        inside.append(on.resume())
        return {}

    on._handlers[Kind.DELETE_POINTS] = look
    on.approve(request, on.get(request).digest, people["bob"])
    assert inside == [0]


# ---------------------------------------------------------------------------------- the setting


def test_turning_it_off_takes_four_eyes(on, people, trail):
    fails(lambda: on.turn_on(people["olga"]), of=Forbidden)
    fails(lambda: on.turn_off(people["olga"]), of=Forbidden)
    request = fails(lambda: on.turn_off(people["alice"]), of=NeedsApproval).request
    assert on.four_eyes()
    on.approve(request, on.get(request).digest, people["bob"])
    assert not on.four_eyes()
    assert recorded(trail, "four-eyes.off")
    on.turn_on(people["alice"])
    on.turn_on(people["alice"])
    assert on.four_eyes()


def test_turning_it_off_where_it_is_off(approvals, people):
    approvals.turn_off(people["alice"])
    assert not approvals.four_eyes()


def test_a_single_administrator_is_told_what_to_do(approvals, accounts, people, clock):
    accounts.users.set_disabled(LOCAL, people["bob"].user, disabled=True)
    error = fails(lambda: approvals.turn_on(people["alice"]), of=UsageError)
    assert "two people" in str(error)
    assert error.advice == approvers.HOW_TO_GET_ONE
    accounts.users.set_disabled(LOCAL, people["bob"].user, disabled=False)
    approvals.turn_on(people["alice"])
    assert (
        "another administrator"
        in fails(lambda: approvals.carry_out(ACT, people["alice"]), of=NeedsApproval).advice
    )
    accounts.users.remove(LOCAL, people["bob"].user)
    error = fails(lambda: approvals.carry_out(ACT, people["alice"]), of=NeedsApproval)
    assert "nobody else can approve" in error.advice
    assert "role administrator" in error.advice
    # What is told helps.
    person(accounts, "carol", ADMIN)
    pass_time(clock, minutes=1)
    approvals.refuse(error.request, people["alice"])
    request = ask(approvals, people["alice"])
    carol = principal(accounts, "carol")
    assert approvals.approve(request, ACT.digest(), carol).state is State.DONE


# ----------------------------------------------------------------------------- removing accounts


def test_an_account_with_rights_is_removed_by_four_eyes(on, accounts, people, database):
    removal = UserRemoval(accounts.users, on)
    olga = people["olga"].user
    fails(lambda: removal.remove(people["paul"], olga), of=Forbidden)
    request = fails(lambda: removal.remove(people["alice"], olga), of=NeedsApproval).request
    shown = on.get(request)
    assert "operator in *" in shown.act.losses[0]
    assert on.approve(request, shown.digest, people["bob"]).state is State.DONE
    fails(lambda: accounts.users.get(olga), of=NotFound)
    nobody = person(accounts, "nora", {})
    assert removal.remove(people["alice"], nobody) == {"removed": nobody}
    with database.reading() as connection:
        assert len(connection.execute(sa.select(APPROVALS)).all()) == 1


def test_roles_that_changed_since_the_request(on, accounts, people):
    removal = UserRemoval(accounts.users, on)
    olga = people["olga"].user
    request = fails(lambda: removal.remove(people["alice"], olga), of=NeedsApproval).request
    accounts.users.set_grants(LOCAL, olga, ADMIN)
    done = on.approve(request, on.get(request).digest, people["bob"])
    assert done.state is State.FAILED
    assert accounts.users.get(olga).name == "olga"


def test_an_account_that_is_gone_already(on, accounts, people):
    removal = UserRemoval(accounts.users, on)
    olga = people["olga"].user
    request = fails(lambda: removal.remove(people["alice"], olga), of=NeedsApproval).request
    accounts.users.remove(LOCAL, olga)
    assert on.approve(request, on.get(request).digest, people["bob"]).state is State.DONE


def test_the_last_administrator_stays_even_with_four_eyes(approvals, accounts, people):
    removal = UserRemoval(accounts.users, approvals)
    accounts.users.set_disabled(LOCAL, people["bob"].user, disabled=True)
    fails(lambda: removal.remove(people["alice"], people["alice"].user), of=LastAdministrator)
