"""Resource groups: members, roles in them, quotas."""

import pytest
from accounts_world import person, principal, recorded

from ruchu.control.accounts.groups import Group, Quota, Usage
from ruchu.errors import (
    AlreadyExists,
    Forbidden,
    InvalidName,
    NotFound,
    QuotaExceeded,
    UsageError,
)
from ruchu.model.principals import LOCAL, Right, Role

LAB = Group("lab", "Laboratory", Quota(bytes=1 << 40, machines=10, runs=20))


def test_a_group_from_its_making_to_its_end(accounts, trail):
    groups = accounts.groups
    assert [group.name for group in groups.list()] == ["default"]
    groups.create(LOCAL, LAB)
    assert groups.get("lab") == LAB
    groups.change(LOCAL, Group("lab", "Labor", Quota()))
    assert groups.get("lab").title == "Labor"
    user = person(accounts, "alice", {"lab": frozenset({Role.OPERATOR})})
    groups.assign(LOCAL, "machine", "kvm/web1", "lab")
    with pytest.raises(UsageError, match="1 objects"):
        groups.remove(LOCAL, "lab")
    groups.forget("machine", "kvm/web1")
    groups.remove(LOCAL, "lab")
    assert accounts.users.get(user).grants == {}
    with pytest.raises(NotFound):
        groups.get("lab")
    assert [row[1] for row in recorded(trail, "group.")] == [
        "group.remove", "group.assign", "group.change", "group.create",
    ]  # fmt: skip


def test_the_default_group_always_exists(accounts):
    groups = accounts.groups
    with pytest.raises(AlreadyExists):
        groups.create(LOCAL, Group("default", "", Quota()))
    groups.change(LOCAL, Group("default", "Everything else", Quota(machines=3)))
    assert groups.get("default").quota.machines == 3
    with pytest.raises(UsageError):
        groups.remove(LOCAL, "default")
    groups.assign(LOCAL, "machine", "x", "default")
    assert groups.members("default") == [("machine", "x")]


@pytest.mark.parametrize("name", ["", "*", "A", "a b", "../x", "a" * 65, "\x00", "-a"])
def test_names_that_are_not_allowed(accounts, name):
    with pytest.raises(InvalidName):
        accounts.groups.create(LOCAL, Group(name, "", Quota()))
    with pytest.raises(InvalidName):
        accounts.groups.get(name)


@pytest.mark.parametrize("quota", [Quota(-1), Quota(1 << 63), Quota(0, -1), Quota(0, 0, 10**9)])
def test_quotas_that_make_no_sense(accounts, quota):
    with pytest.raises(UsageError):
        accounts.groups.create(LOCAL, Group("lab", "", quota))


def test_an_object_is_in_one_group(accounts):
    groups = accounts.groups
    groups.create(LOCAL, LAB)
    assert groups.group_of("machine", "web1") == "default"
    groups.assign(LOCAL, "machine", "web1", "lab")
    groups.assign(LOCAL, "policy", "web1", "lab")
    assert groups.group_of("machine", "web1") == "lab"
    assert groups.members("lab") == [("machine", "web1"), ("policy", "web1")]
    groups.assign(LOCAL, "machine", "web1", "default")
    assert groups.members("lab") == [("policy", "web1")]
    with pytest.raises(NotFound):
        groups.assign(LOCAL, "machine", "web1", "nowhere")
    with pytest.raises(UsageError):
        groups.assign(LOCAL, "machine", "x" * 301, "lab")


def test_who_may_move_objects(accounts):
    """Both groups count: nobody pulls a machine out of a group that is not theirs."""
    groups = accounts.groups
    groups.create(LOCAL, LAB)
    person(accounts, "alice", {"lab": frozenset({Role.ADMINISTRATOR})})
    me = principal(accounts, "alice")
    with pytest.raises(Forbidden):
        groups.assign(me, "machine", "web1", "lab")
    groups.assign(LOCAL, "machine", "web1", "lab")
    with pytest.raises(Forbidden):
        groups.assign(me, "machine", "web1", "default")
    groups.assign(me, "machine", "web1", "lab")
    assert not me.may(Right.ACCOUNTS)
    for act in (
        lambda: groups.create(me, Group("x", "", Quota())),
        lambda: groups.change(me, Group("lab", "", Quota())),
        lambda: groups.remove(me, "lab"),
    ):
        with pytest.raises(Forbidden):
            act()


@pytest.mark.parametrize(
    ("usage", "more", "fits"),
    [
        (Usage(0, 0, 0), Usage(1 << 40, 10, 20), True),
        (Usage(1 << 40), Usage(bytes=1), False),
        (Usage((1 << 40) - 1), Usage(bytes=1), True),
        (Usage(machines=10), Usage(machines=1), False),
        (Usage(runs=20), Usage(runs=1), False),
        # What adds nothing goes on, however full it is.
        (Usage(1 << 50, 99, 99), Usage(), True),
        (Usage(1 << 50, 99, 0), Usage(runs=1), True),
    ],
)
def test_quotas(accounts, usage, more, fits):
    accounts.groups.create(LOCAL, LAB)
    accounts.groups.check_quota("default", usage, more)  # no quota there
    if fits:
        accounts.groups.check_quota("lab", usage, more)
    else:
        with pytest.raises(QuotaExceeded, match="lab"):
            accounts.groups.check_quota("lab", usage, more)
