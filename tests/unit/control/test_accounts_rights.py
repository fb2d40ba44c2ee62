"""Roles, groups, and tokens that are narrower than their owner. No database."""

import pytest

from ruchu.errors import Forbidden
from ruchu.model.principals import LOCAL, ROLES, Limits, Principal, Right, Role, Via


def principal(grants, limits=None, via=Via.SESSION):
    held = {group: frozenset(roles) for group, roles in grants.items()}
    return Principal("u", "alice", held, via, limits=limits)


def test_the_table_of_roles():
    assert ROLES[Role.ADMINISTRATOR] == set(Right)
    assert ROLES[Role.OPERATOR] == {Right.VIEW, Right.OPERATE}
    assert ROLES[Role.RESTORE_OPERATOR] == {Right.VIEW, Right.RESTORE}
    assert ROLES[Role.AUDITOR] == {Right.VIEW, Right.AUDIT}
    assert ROLES[Role.READ_ONLY] == {Right.VIEW}
    assert set(ROLES) == set(Role)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("right", Right)
def test_a_role_in_a_group_holds_there_alone(role, right):
    there = principal({"lab": {role}})
    held = right in ROLES[role]
    assert there.may(right, "lab") is held
    assert not there.may(right, "office")
    assert not there.may(right)
    assert there.groups(right) == ({"lab"} if held else set())
    everywhere = principal({"*": {role}})
    assert everywhere.may(right) is held
    assert everywhere.may(right, "lab") is held
    assert everywhere.groups(right) == ({"*"} if held else set())


def test_several_roles_add_up():
    both = principal({"*": {Role.READ_ONLY}, "lab": {Role.OPERATOR, Role.RESTORE_OPERATOR}})
    assert both.may(Right.RESTORE, "lab")
    assert both.may(Right.OPERATE, "lab")
    assert both.may(Right.VIEW)
    assert not both.may(Right.RESTORE)
    assert both.groups(Right.RESTORE) == {"lab"}


def test_a_token_is_narrower_than_its_owner():
    owner = {"*": {Role.ADMINISTRATOR}}
    limits = Limits(frozenset({Right.VIEW, Right.OPERATE}), frozenset({"lab"}))
    token = principal(owner, limits, Via.TOKEN)
    assert token.may(Right.OPERATE, "lab")
    assert not token.may(Right.RESTORE, "lab")
    assert not token.may(Right.VIEW, "office")
    assert not token.may(Right.VIEW)
    assert token.groups(Right.VIEW) == {"lab"}
    everywhere = principal({"lab": {Role.OPERATOR}}, Limits(frozenset(Right), frozenset({"*"})))
    assert everywhere.may(Right.OPERATE, "lab")
    assert not everywhere.may(Right.OPERATE, "office")
    assert not everywhere.may(Right.RESTORE, "lab")


def test_what_is_not_allowed_says_what_it_takes():
    with pytest.raises(Forbidden, match=r"restore in the group lab"):
        principal({"lab": {Role.OPERATOR}}).demand(Right.RESTORE, "lab")
    for via in (Via.TOKEN, Via.LOCAL):
        with pytest.raises(Forbidden):
            principal({}, via=via).demand_person()
    assert LOCAL.may(Right.ACCOUNTS)
    assert principal({}, via=Via.TOKEN).actor == "alice (token)"
