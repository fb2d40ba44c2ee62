"""Policies: documents checked, versions, selection by rule, and who is unprotected."""

import datetime

import pytest

from ruchu.clock import to_text
from ruchu.control.events.stream import Events
from ruchu.control.inventory.inventory import Inventory
from ruchu.control.policies import documents, selecting
from ruchu.control.policies.policies import Policies
from ruchu.control.policies.selecting import Machine
from ruchu.errors import AlreadyExists, NotFound, RuchuError, Stale
from ruchu.model.policies import Policy, Selection

DOCUMENT = {
    "name": "夜间",
    "selection": {
        "platform": "kvm",
        "patterns": ["web-*"],
        "tags": ["prod"],
        "excluded": ["web-9"],
    },
    "storage": "main",
    "schedules": [{"kind": "full", "weekly": {"days": ["sun"], "times": ["02:00"]}}],
    "zone": "Asia/Shanghai",
    "retention": {"daily": 7},
    "windows": [{"days": [5, 6], "begin": 1320, "end": 360, "bytes_per_s": 1000}],
    "options": {"quiesce": False, "leave_out": "free,swap"},
}


def machine(name, **more):
    return Machine("kvm", f"id-{name}", name, **more)


@pytest.fixture
def policies(database, clock):
    return Policies(database, clock, Events(database, clock))


def test_a_document_comes_back_as_it_was():
    policy = documents.from_document(DOCUMENT)
    assert documents.from_document(documents.to_document(policy)) == policy
    assert policy.selection.tags == ("prod",)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "../x"},
        {"name": "a" * 101},
        {"storage": ""},
        {"zone": "Nowhere/City"},
        {"selection": {}},
        {"selection": {"platform": "kvm", "tags": "prod"}},
        {"priority": 0},
        {"parallel": 65},
        {"retention": {"hourly": -1}},
        {"retention": {"often": 3}},
        {"windows": [{"days": [7]}]},
        {"windows": [{"begin": 1440}]},
        {"schedules": [{"kind": "full"}]},
        {"holidays": ["2027-02-30"]},
        {"options": {"speed": 11}},
        {"after_policy": "夜间"},
        {"colour": "red"},
        {"missed": "perhaps"},
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(change):
    with pytest.raises(RuchuError) as caught:
        documents.from_document({**DOCUMENT, **change})
    assert str(caught.value)


def test_selection_by_rule():
    selection = documents.from_document(DOCUMENT).selection
    machines = [
        machine("web-1"), machine("web-9"), machine("db", tags=("prod",)), machine("test"),
        Machine("other", "x", "web-1"),
    ]  # fmt: skip
    assert [each.name for each in selecting.selected(selection, machines)] == ["db", "web-1"]


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ({"folders": ("/a",)}, ["in", "below"]),
        ({"hosts": ("h1",)}, ["in"]),
        ({"machines": ("id-other",)}, ["other"]),
        ({"patterns": ("*",), "excluded": ("id-in", "bel*")}, ["other"]),
    ],
)
def test_rules_of_all_kinds(rule, taken):
    machines = [
        machine("in", folder="/a", host="h1"), machine("below", folder="/a/b"),
        machine("other", folder="/ab"),
    ]  # fmt: skip
    found = selecting.selected(Selection("kvm", **rule), machines)
    assert {each.name for each in found} == set(taken)


def test_who_is_unprotected():
    protecting = Policy("a", Selection("kvm", patterns=("web-*",)), "main")
    off = Policy("b", Selection("kvm", patterns=("*",)), "main", enabled=False)
    machines = [machine("web-1"), machine("db")]
    assert [m.name for m in selecting.unprotected(machines, [protecting, off])] == ["db"]


def test_names_are_unique_and_changes_know_their_version(policies):
    told = []
    policies.listen(lambda: told.append(1))
    policy = documents.from_document(DOCUMENT)
    row = policies.add(policy)
    with pytest.raises(AlreadyExists):
        policies.add(policy)
    changed = policies.enable(row.id, enabled=False)
    assert (changed.version, changed.policy.enabled) == (2, False)
    with pytest.raises(Stale):
        policies.change(row.id, policy, 1)
    with pytest.raises(Stale):
        policies.remove(row.id, 1)
    policies.remove(row.id, 2)
    with pytest.raises(NotFound):
        policies.get("夜间")
    assert len(told) == 3


def test_a_listing_that_failed_leaves_the_machines(database, clock):
    inventory = Inventory(database, clock, Events(database, clock))
    inventory.add("kvm", "qemu:///system")
    summary = {"id": "1", "name": "web", "state": "running", "vcpus": 1, "memory": 1,
               "disk_size": 1}  # fmt: skip
    inventory.saw("kvm", [summary])
    inventory.failed("kvm", "no answer")
    assert [row.name for row in inventory.machines()] == ["web"]
    assert inventory.platform("kvm").problem == "no answer"
    inventory.saw("kvm", [])
    assert inventory.machines() == []
    assert inventory.platform("kvm").problem == ""


def test_machines_are_paged_by_name(database, clock):
    inventory = Inventory(database, clock, Events(database, clock))
    inventory.add("kvm", "qemu:///system")
    rows = [{"id": str(n), "name": f"web-{n % 3}", "state": "off"} for n in range(7)]
    inventory.saw("kvm", rows)
    seen, after = [], ""
    while page := inventory.page("WEB", "", after, 2):
        seen += [(row.name, row.id) for row in page]
        after = f"{page[-1].name}/{page[-1].id}/{page[-1].platform}"
    assert seen == sorted((row["name"], row["id"]) for row in rows)


def listed(name, state="running"):
    return {"id": f"id-{name}", "name": name, "state": state, "tags": ["prod"]}


def test_a_listing_replaces_the_one_before(database, clock):
    inventory = Inventory(database, clock, Events(database, clock))
    inventory.add("kvm", "qemu:///system")
    assert inventory.machines("kvm") == []
    inventory.saw("kvm", [listed("a"), listed("b"), listed("c")])
    first = inventory.machines("kvm")
    assert [row.name for row in first] == ["a", "b", "c"]
    clock.move(datetime.timedelta(seconds=1))
    inventory.saw("kvm", [listed("a"), listed("b", "shut off"), listed("d")])
    second = inventory.machines("kvm")
    assert [(row.name, row.state) for row in second] == [
        ("a", "running"), ("b", "shut off"), ("d", "running")
    ]  # fmt: skip
    assert {row.seen for row in second} == {to_text(clock.now())}
    assert second == inventory.machines()
    # What is remembered is not the caller's to change, and ends with the platform.
    inventory.machines("kvm").clear()
    assert inventory.machines("kvm") == second
    inventory.remove("kvm", inventory.platform("kvm").version)
    assert inventory.machines("kvm") == []


def test_names_are_chosen_as_rules_choose(rng):
    machines = [machine(f"vm-{number}") for number in range(50)]
    for _ in range(20):
        names = tuple(rng.choice([f"vm-{n}", f"id-vm-{n}"]) for n in rng.sample(range(60), 20))
        left = (f"vm-{rng.randrange(50)}", "vm-1?")
        selection = Selection("kvm", names, excluded=left)
        expected = [each for each in machines if selecting.selects(selection, each)]
        expected.sort(key=lambda each: each.name)
        assert selecting.selected(selection, machines) == expected
        policy = Policy("p", selection, "main")
        free = [each for each in machines if each not in expected]
        assert selecting.unprotected(machines, [policy]) == free


def test_a_policy_that_was_read_before_is_read_anew_when_it_changes(policies):
    row = policies.add(documents.from_document(DOCUMENT))
    assert policies.all() == [row]
    changed = policies.enable(row.id, enabled=False)
    assert policies.all() == [changed] == [policies.get(row.id)]
    assert changed.policy.enabled is False
