"""Accounts: made, changed, disabled, removed; one-time links; the last administrator."""

import datetime
import threading

import pytest
import sqlalchemy as sa
from accounts_world import ADMIN, BETTER, GOOD, pass_time, person, principal, recorded, sign_in

from ruchu.control.accounts.tables import LINKS, SESSIONS, TOKENS, USERS
from ruchu.control.accounts.tokens import NewToken
from ruchu.control.accounts.users import Profile
from ruchu.control.audit.trail import Search
from ruchu.control.vault.vault import Owner
from ruchu.errors import (
    AlreadyExists,
    Forbidden,
    InvalidName,
    LastAdministrator,
    NotAuthenticated,
    NotFound,
    UsageError,
    WeakPassword,
)
from ruchu.model.principals import LOCAL, Right, Role


def count(database, table):
    with database.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


# ------------------------------------------------------------------------------------- accounts


def test_an_account_from_its_making_to_its_end(accounts, trail, database, vault):
    user, word = accounts.users.create(
        LOCAL, " Alice ", Profile("爱丽丝", "alice@example.org", "zh-CN"), ADMIN
    )
    found = accounts.users.get(user)
    assert (found.name, found.display, found.mail) == ("alice", "爱丽丝", "alice@example.org")
    assert not found.has_password
    with pytest.raises(NotAuthenticated):
        sign_in(accounts, "alice", "")
    accounts.entering.choose_password(word, GOOD)
    me = principal(accounts, "alice")
    assert me.may(Right.ACCOUNTS)
    accounts.users.change(me, user, Profile(mail=""))
    assert accounts.users.find("ALICE").display == "爱丽丝"
    assert accounts.users.find("\x00") is None
    person(accounts, "bob", ADMIN)
    vault.put(Owner("user", user, "totp"), "x")
    accounts.users.remove(LOCAL, user)
    assert count(database, SESSIONS) == 0
    assert not vault.get_all("user", user)
    with pytest.raises(NotFound):
        accounts.users.get(user)
    assert [row[1] for row in recorded(trail, "user.")][::-1] == [
        "user.create", "user.password", "user.change", "user.create", "user.password",
        "user.remove",
    ]  # fmt: skip


def test_accounts_are_listed_by_page(accounts):
    for number in range(7):
        accounts.users.create(LOCAL, f"user{number}", Profile(), {})
    page = accounts.users.list(limit=3)
    assert [user.name for user in page] == ["user0", "user1", "user2"]
    assert [u.name for u in accounts.users.list(page[-1].name, 3)] == ["user3", "user4", "user5"]


@pytest.mark.parametrize(
    "name", ["", "a", "1a", "ä-ö", "a b", "a/b", "../etc", "local", "unknown", "a" * 65, "a\x00b"]
)
def test_names_that_are_not_allowed(accounts, name):
    with pytest.raises(InvalidName):
        accounts.users.create(LOCAL, name, Profile(), {})


@pytest.mark.parametrize(
    "profile",
    [
        Profile("a\nb"), Profile("x" * 101), Profile(mail="nobody"), Profile(mail="a@b\r\nBcc: c"),
        Profile(language="deutsch!"), Profile(mail="a@b@c"), Profile("\ud800"),
    ],
)  # fmt: skip
def test_profiles_that_are_not_allowed(accounts, profile):
    with pytest.raises(UsageError):
        accounts.users.create(LOCAL, "alice", profile, {})


def test_a_name_is_taken_once_and_groups_have_to_exist(accounts):
    accounts.users.create(LOCAL, "alice", Profile(), {})
    with pytest.raises(AlreadyExists):
        accounts.users.create(LOCAL, "Alice", Profile(), {})
    with pytest.raises(NotFound):
        accounts.users.create(LOCAL, "bob", Profile(), {"lab": frozenset({Role.OPERATOR})})
    assert accounts.users.find("bob") is None


def test_who_may_not_administer_accounts(accounts):
    boss = person(accounts, "boss", ADMIN)
    everything_else = frozenset(Role) - {Role.ADMINISTRATOR}
    person(accounts, "alice", {"*": everything_else, "default": frozenset({Role.ADMINISTRATOR})})
    me = principal(accounts, "alice")
    for act in (
        lambda: accounts.users.create(me, "bob", Profile(), {}),
        lambda: accounts.users.change(me, boss, Profile("x")),
        lambda: accounts.users.set_grants(me, me.user, ADMIN),
        lambda: accounts.users.set_disabled(me, boss, disabled=True),
        lambda: accounts.users.remove(me, boss),
        lambda: accounts.users.password_link(me, boss),
        lambda: accounts.totp.reset(me, boss),
        lambda: accounts.sessions.list(me, boss),
        lambda: accounts.tokens.list(me, boss),
        lambda: accounts.entering.rescue_link(me),
    ):
        with pytest.raises(Forbidden):
            act()
    accounts.users.change(me, me.user, Profile("Alice herself"))


def test_a_disabled_account_is_out_at_once(accounts, clock, database):
    person(accounts, "boss", ADMIN)
    user = person(accounts, "alice", {"*": frozenset({Role.OPERATOR})})
    session = sign_in(accounts, "alice").word
    me = accounts.sessions.authenticate(session)
    rights, groups = frozenset({Right.VIEW}), frozenset({"*"})
    wanted = NewToken("ci", rights, groups, datetime.timedelta(days=1))
    token = accounts.tokens.create(me, wanted).word
    link = accounts.users.password_link(LOCAL, user)
    accounts.tokens.authenticate(token)
    accounts.users.set_disabled(LOCAL, user, disabled=True)
    for fails in (
        lambda: accounts.sessions.authenticate(session),
        lambda: accounts.tokens.authenticate(token),
        lambda: accounts.bearer(token),
        lambda: sign_in(accounts, "alice"),
        lambda: accounts.entering.choose_password(link, BETTER),
    ):
        with pytest.raises(NotAuthenticated):
            fails()
    accounts.users.set_disabled(LOCAL, user, disabled=False)
    with pytest.raises(NotAuthenticated):
        accounts.sessions.authenticate(session)
    accounts.tokens.authenticate(token)
    accounts.users.remove(LOCAL, user)
    assert count(database, TOKENS) == count(database, LINKS) == 0


def test_a_change_of_roles_holds_for_the_next_request(accounts):
    person(accounts, "boss", ADMIN)
    user = person(accounts, "alice", {"*": frozenset({Role.OPERATOR})})
    word = sign_in(accounts, "alice").word
    assert accounts.sessions.authenticate(word).may(Right.OPERATE)
    accounts.users.set_grants(LOCAL, user, {"*": frozenset({Role.READ_ONLY})})
    assert not accounts.sessions.authenticate(word).may(Right.OPERATE)


# ------------------------------------------------------------------------------------ passwords


def test_a_password_is_changed_by_who_knows_the_old_one(accounts):
    person(accounts, "alice")
    other = sign_in(accounts, "alice").word
    word = sign_in(accounts, "alice").word
    me = accounts.sessions.authenticate(word)
    with pytest.raises(Forbidden):
        accounts.users.set_password(me, "wrong password", BETTER)
    with pytest.raises(WeakPassword):
        accounts.users.set_password(me, GOOD, "alice1234567")
    accounts.sessions.authenticate(other)
    accounts.users.set_password(me, GOOD, BETTER)
    accounts.sessions.authenticate(word)
    with pytest.raises(NotAuthenticated):
        accounts.sessions.authenticate(other)
    with pytest.raises(NotAuthenticated):
        sign_in(accounts, "alice", GOOD)
    sign_in(accounts, "alice", BETTER)


# ------------------------------------------------------------------------- the last administrator


def test_the_last_administrator_stays(accounts):
    alice, bob = person(accounts, "alice", ADMIN), person(accounts, "bob", ADMIN)
    carol, _ = accounts.users.create(LOCAL, "carol", Profile(), ADMIN)  # never came in
    accounts.users.set_disabled(LOCAL, bob, disabled=True)
    fewer = {"default": frozenset({Role.ADMINISTRATOR})}
    for act in (
        lambda: accounts.users.remove(LOCAL, alice),
        lambda: accounts.users.set_disabled(LOCAL, alice, disabled=True),
        lambda: accounts.users.set_grants(LOCAL, alice, {}),
        lambda: accounts.users.set_grants(LOCAL, alice, fewer),
    ):
        with pytest.raises(LastAdministrator):
            act()
    assert not accounts.users.get(alice).disabled
    assert accounts.users.get(alice).grants == ADMIN
    accounts.users.remove(LOCAL, carol)
    accounts.users.set_disabled(LOCAL, bob, disabled=False)
    accounts.users.remove(LOCAL, alice)


@pytest.mark.parametrize("way", ["remove", "disable", "demote", "mixed"])
def test_two_requests_at_once_do_not_remove_the_last_two(accounts, way):
    both = [person(accounts, name, ADMIN) for name in ("alice", "bob")]
    acts = {
        "remove": accounts.users.remove,
        "disable": lambda by, user: accounts.users.set_disabled(by, user, disabled=True),
        "demote": lambda by, user: accounts.users.set_grants(by, user, {}),
    }
    chosen = ["remove", "disable"] if way == "mixed" else [way, way]
    start, outcomes = threading.Barrier(2), []

    def run(act, user):
        start.wait()
        try:
            act(LOCAL, user)
            outcomes.append("done")
        except LastAdministrator:
            outcomes.append("refused")

    threads = [
        threading.Thread(target=run, args=(acts[name], user))
        for name, user in zip(chosen, both, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done", "refused"]


# ------------------------------------------------------------------------------------ one-time links


def test_the_first_administrator_comes_by_a_link(accounts, database, trail):
    word = accounts.entering.first_link()
    with database.reading() as connection:
        assert word not in str(connection.execute(sa.select(LINKS)).all())
    assert accounts.entering.look(word).purpose == "first"
    with pytest.raises(WeakPassword):
        accounts.entering.make_administrator(word, "alice", "short", Profile())
    with pytest.raises(InvalidName):
        accounts.entering.make_administrator(word, "local", GOOD, Profile())
    accounts.entering.make_administrator(word, "alice", GOOD, Profile("Alice"))
    assert principal(accounts, "alice").may(Right.ACCOUNTS)
    with pytest.raises(NotAuthenticated):
        accounts.entering.make_administrator(word, "mallory", GOOD, Profile())
    assert accounts.entering.first_link() is None
    assert word not in str([record.document() for record in trail.search(Search())])


def test_a_link_that_nobody_used_ends_with_the_next_one(accounts):
    first = accounts.entering.first_link()
    second = accounts.entering.first_link()
    with pytest.raises(NotAuthenticated):
        accounts.entering.make_administrator(first, "alice", GOOD, Profile())
    accounts.entering.make_administrator(second, "alice", GOOD, Profile())


def test_links_end_with_their_time(accounts, clock):
    first = accounts.entering.first_link()
    pass_time(clock, hours=24)
    with pytest.raises(NotAuthenticated):
        accounts.entering.make_administrator(first, "alice", GOOD, Profile())
    _, word = accounts.users.create(LOCAL, "bob", Profile(), {})
    pass_time(clock, hours=72)
    with pytest.raises(NotAuthenticated):
        accounts.entering.choose_password(word, GOOD)
    assert accounts.entering.sweep() == 2
    assert accounts.entering.sweep() == 0


def test_a_second_first_administrator_only_from_the_local_command_line(accounts):
    person(accounts, "boss", ADMIN)
    with pytest.raises(Forbidden):
        accounts.entering.rescue_link(principal(accounts, "boss"))
    word = accounts.entering.rescue_link(LOCAL)
    accounts.entering.make_administrator(word, "rescue", GOOD, Profile())
    assert principal(accounts, "rescue").may(Right.ACCOUNTS)


def test_a_link_is_for_one_purpose(accounts):
    _, word = accounts.users.create(LOCAL, "bob", Profile(), {})
    with pytest.raises(Forbidden):
        accounts.entering.make_administrator(word, "mallory", GOOD, Profile())
    first = accounts.entering.rescue_link(LOCAL)
    with pytest.raises(Forbidden):
        accounts.entering.choose_password(first, GOOD)
    for nonsense in ("", "x", "\x00", "\ud800", "x" * 10_000):
        with pytest.raises(NotAuthenticated):
            accounts.entering.look(nonsense)


def test_two_who_use_a_link_at_once(accounts, database):
    word = accounts.entering.first_link()
    start, outcomes = threading.Barrier(3), []

    def run(name):
        start.wait()
        try:
            accounts.entering.make_administrator(word, name, GOOD, Profile())
            outcomes.append("done")
        except NotAuthenticated:
            outcomes.append("refused")

    threads = [threading.Thread(target=run, args=(f"user{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done", "refused", "refused"]
    assert count(database, USERS) == 1


def test_a_new_password_by_a_link_ends_the_sessions(accounts):
    user = person(accounts, "alice")
    session = sign_in(accounts, "alice").word
    word = accounts.users.password_link(LOCAL, user)
    accounts.entering.choose_password(word, BETTER)
    with pytest.raises(NotAuthenticated):
        accounts.sessions.authenticate(session)
    with pytest.raises(NotAuthenticated):
        accounts.entering.choose_password(word, GOOD)
    sign_in(accounts, "alice", BETTER)
