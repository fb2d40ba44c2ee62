"""Signing in: sessions, codes, lockout, tokens, and who tries to get around them."""

import datetime
import threading

import pyotp
import pytest
import sqlalchemy as sa
from accounts_world import ADMIN, BETTER, GOOD, pass_time, person, principal, recorded, sign_in

from ruchu.control.accounts import lockout, sessions
from ruchu.control.accounts.accounts import Accounts
from ruchu.control.accounts.passwords import Costs, Hasher
from ruchu.control.accounts.sessions import IDLE, LIFETIME, PER_USER_MAX, Origin
from ruchu.control.accounts.signing_in import Credentials
from ruchu.control.accounts.tables import RECOVERY_CODES, SESSIONS, TOKENS, USERS
from ruchu.control.accounts.tokens import PER_USER_MAX as TOKENS_MAX
from ruchu.control.accounts.tokens import NewToken
from ruchu.control.accounts.users import Profile
from ruchu.control.audit.trail import Search
from ruchu.errors import (
    AlreadyExists,
    CodeNeeded,
    Forbidden,
    NotAuthenticated,
    NotFound,
    TooMany,
    UsageError,
)
from ruchu.model.principals import LOCAL, Right, Role, Via


def column(database, wanted):
    with database.reading() as connection:
        return connection.execute(sa.select(wanted)).scalars().all()


def fails(act, *, of=NotAuthenticated):
    with pytest.raises(of) as caught:
        act()
    return caught.value


# ------------------------------------------------------------------------------------- sessions


def test_a_session_says_who_asks(accounts, trail, database):
    user = person(accounts, "alice", {"*": frozenset({Role.OPERATOR})})
    opened = sign_in(accounts, " ALICE ")
    me = accounts.bearer(opened.word)
    assert (me.user, me.name, me.via, me.proof) == (user, "alice", Via.SESSION, opened.session)
    assert me.may(Right.OPERATE)
    assert opened.word not in str(column(database, SESSIONS.c.hash))
    assert opened.word not in repr(opened)
    assert GOOD not in repr(Credentials("alice", GOOD, "123456"))
    assert accounts.users.get(user).signed_in is not None
    accounts.signing_in.sign_out(me)
    fails(lambda: accounts.bearer(opened.word))
    assert recorded(trail, "session.") == [
        ("alice", "session.close", "alice", "done"),
        ("alice", "session.open", "alice", "done"),
    ]
    assert opened.word not in str([record.document() for record in trail.search(Search())])


def test_what_is_wrong_is_not_told(accounts, trail):
    person(accounts, "boss", ADMIN)
    person(accounts, "alice")
    user = person(accounts, "bob")
    accounts.users.set_disabled(LOCAL, user, disabled=True)
    accounts.users.create(LOCAL, "carol", Profile(), {})
    texts = {
        str(fails(lambda n=name, p=password: sign_in(accounts, n, p)))
        for name, password in (
            ("alice", "wrong"), ("nobody", GOOD), ("bob", GOOD), ("carol", ""), ("../x\x00", GOOD),
            ("alice", "\ud800"), ("alice", "x" * 100_000),
        )
    }  # fmt: skip
    assert len(texts) == 1
    refused = [row for row in recorded(trail, "session.open") if row[3] == "refused"]
    assert {row[0] for row in refused} == {"alice", "bob", "carol", "unknown"}


def test_a_password_in_the_field_of_the_name_is_not_written_down(accounts, trail):
    fails(lambda: sign_in(accounts, BETTER, ""))
    fails(lambda: sign_in(accounts, "secretword", ""))
    shown = str([record.document() for record in trail.search(Search())])
    assert BETTER not in shown
    assert "secretword" not in shown


def test_a_session_that_was_planted_is_not_signed_in(accounts):
    """Fixation: the attacker's session, shown by the victim's browser, ends."""
    person(accounts, "mallory")
    person(accounts, "alice")
    planted = sign_in(accounts, "mallory").word
    opened = sign_in(accounts, "alice", replacing=planted)
    assert opened.word != planted
    fails(lambda: accounts.bearer(planted))
    assert accounts.bearer(opened.word).name == "alice"
    again = sign_in(accounts, "alice", replacing=opened.word)
    fails(lambda: accounts.bearer(opened.word))
    fails(lambda: sign_in(accounts, "alice", "wrong", replacing=again.word))
    accounts.bearer(again.word)  # a failed attempt signs nobody out


def test_words_that_are_no_session(accounts):
    person(accounts, "alice")
    opened = sign_in(accounts, "alice")
    for word in ("", "x", opened.session, opened.word[:-1], opened.word + "x", "\x00", "\ud800"):
        fails(lambda w=word: accounts.bearer(w))
    fails(lambda: accounts.bearer("x" * 1_000_000))


def test_a_session_that_is_idle_ends(accounts, clock):
    person(accounts, "alice")
    word = sign_in(accounts, "alice").word
    for _ in range(5):
        clock.move(IDLE - datetime.timedelta(minutes=2))
        accounts.bearer(word)
    clock.move(IDLE)
    fails(lambda: accounts.bearer(word))
    assert accounts.sessions.sweep() == 1


def test_a_session_ends_however_busy_it_is(accounts, clock):
    person(accounts, "alice")
    word = sign_in(accounts, "alice").word
    step = datetime.timedelta(minutes=20)
    for _ in range(int(LIFETIME / step) - 1):
        clock.move(step)
        accounts.bearer(word)
    clock.move(step)
    fails(lambda: accounts.bearer(word))


def test_sessions_are_listed_and_ended(accounts, clock, database):
    person(accounts, "boss", ADMIN)
    user = person(accounts, "alice")
    person(accounts, "bob")
    one, two = sign_in(accounts, "alice"), sign_in(accounts, "alice")
    me, bob = accounts.bearer(two.word), principal(accounts, "bob")
    boss = principal(accounts, "boss")
    assert {each.id for each in accounts.sessions.list(me)} == {one.session, two.session}
    assert one.word not in repr(accounts.sessions.list(me))
    assert len(accounts.sessions.list(boss, user)) == 2
    fails(lambda: accounts.sessions.revoke(bob, one.session), of=NotFound)
    fails(lambda: accounts.sessions.revoke(bob, "\x00"), of=NotFound)
    accounts.sessions.revoke(me, one.session)
    fails(lambda: accounts.bearer(one.word))
    accounts.sessions.revoke(boss, two.session)
    fails(lambda: accounts.bearer(two.word))


def test_only_so_many_sessions(accounts, clock):
    person(accounts, "alice")
    words = []
    for _ in range(PER_USER_MAX + 2):
        words.append(sign_in(accounts, "alice").word)
        pass_time(clock, seconds=1)
    for word in words[:2]:
        fails(lambda w=word: accounts.bearer(w))
    accounts.bearer(words[2])


def test_that_a_session_was_seen_is_not_written_with_every_request(accounts, clock, database):
    person(accounts, "alice")
    word = sign_in(accounts, "alice").word
    before = column(database, SESSIONS.c.seen)
    pass_time(clock, seconds=30)
    accounts.bearer(word)
    assert column(database, SESSIONS.c.seen) == before
    pass_time(clock, seconds=31)
    accounts.bearer(word)
    assert column(database, SESSIONS.c.seen) != before


def test_an_old_hash_is_made_anew(accounts, database, clock, trail, vault):
    person(accounts, "alice")
    before = column(database, USERS.c.password)
    dearer = Accounts(database, clock, trail, vault, Hasher(Costs(16, 1, 1)))
    sign_in(dearer, "alice")
    after = column(database, USERS.c.password)
    assert "m=8," in before[0]
    assert "m=16," in after[0]
    sign_in(dearer, "alice")
    assert column(database, USERS.c.password) == after


def test_an_account_that_changes_while_its_password_is_compared(accounts, monkeypatch):
    """Disabled, or given another password, between the comparison and the session."""
    person(accounts, "boss", ADMIN)
    user = person(accounts, "alice")
    original = accounts.signing_in._hasher.is_outdated

    def disable(kept):
        accounts.users.set_disabled(LOCAL, user, disabled=True)
        return original(kept)

    monkeypatch.setattr(accounts.signing_in._hasher, "is_outdated", disable)
    fails(lambda: sign_in(accounts, "alice"))


# -------------------------------------------------------------------------------------- lockout


def test_whoever_guesses_waits(accounts, clock):
    person(accounts, "alice")
    for name in ("alice", "nobody"):
        for _ in range(lockout.PAIR.free + 1):
            fails(lambda n=name: sign_in(accounts, n, "wrong"))
        error = fails(lambda n=name: sign_in(accounts, n, GOOD), of=TooMany)
        assert error.after_s == lockout.PAIR.first_s
    sign_in(accounts, "alice", origin=Origin("198.51.100.7"))
    pass_time(clock, seconds=2)
    sign_in(accounts, "alice")


def test_whoever_waits_costs_no_work_and_fills_no_trail(accounts, trail, monkeypatch):
    for _ in range(lockout.PAIR.free + 1):
        fails(lambda: sign_in(accounts, "alice", "wrong"))
    count = len(recorded(trail))
    monkeypatch.setattr(accounts.signing_in._hasher, "verify", None)
    for _ in range(50):
        fails(lambda: sign_in(accounts, "alice", "wrong"), of=TooMany)
    assert len(recorded(trail)) == count


# ----------------------------------------------------------------------------------------- TOTP


def code(secret, clock, steps=0):
    return pyotp.TOTP(secret).at(int(clock.now().timestamp()) + 30 * steps)


def enrolled(accounts, clock, name="alice"):
    """Turn an authenticator on; return its secret and the recovery codes."""
    me = principal(accounts, name)
    secret = accounts.totp.enrol(me).secret
    codes = accounts.totp.confirm(me, code(secret, clock))
    pass_time(clock, seconds=30)
    return secret, codes


def test_an_authenticator_is_turned_on_by_its_first_code(accounts, clock, vault, trail):
    user = person(accounts, "alice")
    me = principal(accounts, "alice")
    enrolment = accounts.totp.enrol(me)
    assert enrolment.uri.startswith("otpauth://totp/Ruchu:alice?secret=")
    assert "issuer=Ruchu" in enrolment.uri
    assert enrolment.secret not in repr(enrolment)
    sign_in(accounts, "alice")  # it does not count before
    fails(lambda: accounts.totp.confirm(me, "000000"), of=Forbidden)
    codes = accounts.totp.confirm(me, code(enrolment.secret, clock))
    assert len(set(codes)) == 10
    assert accounts.users.get(user).totp
    fails(lambda: accounts.totp.enrol(me), of=AlreadyExists)
    fails(lambda: accounts.totp.confirm(me, code(enrolment.secret, clock)), of=NotFound)
    shown = str([record.document() for record in trail.search(Search())])
    assert enrolment.secret not in shown
    assert codes[0] not in shown


def test_a_code_is_needed_and_taken_once(accounts, clock):
    person(accounts, "alice")
    secret, _ = enrolled(accounts, clock)
    fails(lambda: sign_in(accounts, "alice"), of=CodeNeeded)
    assert type(fails(lambda: sign_in(accounts, "alice", "wrong"))) is NotAuthenticated
    typed = code(secret, clock)
    sign_in(accounts, "alice", code=f"{typed[:3]} {typed[3:]}")
    fails(lambda: sign_in(accounts, "alice", code=typed))  # replayed within its time
    fails(lambda: sign_in(accounts, "alice", code=code(secret, clock, -1)))  # an earlier one
    sign_in(accounts, "alice", code=code(secret, clock, 1))
    pass_time(clock, seconds=30)
    fails(lambda: sign_in(accounts, "alice", code=code(secret, clock)))


def test_the_code_that_turned_it_on_is_not_taken_again(accounts, clock):
    person(accounts, "alice")
    me = principal(accounts, "alice")
    secret = accounts.totp.enrol(me).secret
    typed = code(secret, clock)
    accounts.totp.confirm(me, typed)
    fails(lambda: sign_in(accounts, "alice", code=typed))


@pytest.mark.parametrize("steps", [-3, -2, 2, 3])
def test_codes_of_other_times(accounts, clock, steps):
    person(accounts, "alice")
    secret, _ = enrolled(accounts, clock)
    pass_time(clock, minutes=10)
    fails(lambda: sign_in(accounts, "alice", code=code(secret, clock, steps)))
    sign_in(accounts, "alice", code=code(secret, clock))


@pytest.mark.parametrize(
    "typed", ["0", "12345", "abcdef", "\uff1123456", "\x00", "\ud800", "9" * 9999]
)
def test_texts_that_are_no_code(accounts, clock, typed):
    person(accounts, "alice")
    enrolled(accounts, clock)
    fails(lambda: sign_in(accounts, "alice", code=typed))


def test_one_code_at_the_same_time_opens_one_session(accounts, clock):
    person(accounts, "alice")
    secret, _ = enrolled(accounts, clock)
    typed, start, outcomes = code(secret, clock), threading.Barrier(3), []

    def run(number):
        start.wait()
        try:
            sign_in(accounts, "alice", code=typed, origin=Origin(f"192.0.2.{number}"))
            outcomes.append("done")
        except NotAuthenticated:
            outcomes.append("refused")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["done", "refused", "refused"]


def test_guessing_at_codes_with_the_right_password_waits(accounts, clock):
    """Attempts without a code in between buy nothing."""
    person(accounts, "alice")
    enrolled(accounts, clock)
    for _ in range(lockout.PAIR.free + 1):
        fails(lambda: sign_in(accounts, "alice", code="000000"))
        if _ < lockout.PAIR.free:
            fails(lambda: sign_in(accounts, "alice"), of=CodeNeeded)
    fails(lambda: sign_in(accounts, "alice", code="000000"), of=TooMany)


def test_a_recovery_code_works_once(accounts, clock, database):
    user = person(accounts, "alice")
    _, codes = enrolled(accounts, clock)
    assert not set(codes) & set(column(database, RECOVERY_CODES.c.hash))
    sign_in(accounts, "alice", code=codes[3].upper().replace("-", " "))
    fails(lambda: sign_in(accounts, "alice", code=codes[3]))
    assert accounts.totp.recovery_codes_left(user) == 9


def test_a_recovery_code_of_another_account(accounts, clock):
    person(accounts, "alice")
    person(accounts, "bob")
    _, codes = enrolled(accounts, clock)
    enrolled(accounts, clock, "bob")
    fails(lambda: sign_in(accounts, "bob", code=codes[0]))
    sign_in(accounts, "alice", code=codes[0])


def test_turning_it_off_takes_a_code(accounts, clock):
    person(accounts, "alice")
    word = sign_in(accounts, "alice").word
    secret, codes = enrolled(accounts, clock)
    me = accounts.bearer(word)
    for _ in range(lockout.PAIR.free):
        fails(lambda: accounts.totp.turn_off(me, "000000"), of=Forbidden)
    fails(lambda: accounts.totp.turn_off(me, "000000"), of=Forbidden)
    fails(lambda: accounts.totp.turn_off(me, code(secret, clock)), of=TooMany)
    pass_time(clock, seconds=30)
    fresh = accounts.totp.new_recovery_codes(me, codes[0])
    fails(lambda: accounts.totp.turn_off(me, codes[1]), of=Forbidden)
    accounts.totp.turn_off(me, fresh[0])
    sign_in(accounts, "alice")
    again = accounts.totp.enrol(me)
    assert again.secret != secret


def test_an_administrator_resets_that_of_others_only(accounts, clock):
    person(accounts, "boss", ADMIN)
    user = person(accounts, "alice")
    enrolled(accounts, clock)
    boss = principal(accounts, "boss")
    fails(lambda: accounts.totp.reset(boss, boss.user), of=Forbidden)
    accounts.totp.reset(boss, user)
    sign_in(accounts, "alice")


# --------------------------------------------------------------------------------------- tokens


def wanted(name="ci", rights=(Right.VIEW,), groups=("*",), **lifetime):
    span = datetime.timedelta(**(lifetime or {"days": 30}))
    return NewToken(name, frozenset(rights), frozenset(groups), span)


def test_a_token_is_shown_once_and_does_what_it_may(accounts, clock, database, trail):
    person(accounts, "alice", {"*": frozenset({Role.OPERATOR})})
    me = principal(accounts, "alice")
    made = accounts.tokens.create(
        me, wanted(rights=[Right.VIEW, Right.OPERATE], groups=["default"])
    )
    listed = accounts.tokens.list(me)[0]
    assert made.word.startswith(f"{listed.prefix}_")
    assert listed.used is None
    assert made.word not in str(column(database, TOKENS.c.hash)) + repr(made) + repr(listed)
    assert made.word not in str([record.document() for record in trail.search(Search())])
    program = accounts.bearer(made.word)
    assert (program.via, program.name) == (Via.TOKEN, "alice")
    assert program.may(Right.OPERATE, "default")
    assert not program.may(Right.OPERATE)
    assert not program.may(Right.RESTORE, "default")
    assert accounts.tokens.list(me)[0].used is not None
    accounts.tokens.revoke(me, made.id)
    fails(lambda: accounts.bearer(made.word))


def test_a_token_has_no_right_that_its_owner_has_not(accounts):
    person(accounts, "boss", ADMIN)
    user = person(accounts, "alice", {"default": frozenset({Role.OPERATOR})})
    me = principal(accounts, "alice")
    for rights, groups in (([Right.RESTORE], ["*"]), ([Right.VIEW], ["lab"])):
        fails(
            lambda r=rights, g=groups: accounts.tokens.create(me, wanted("x", r, g)), of=Forbidden
        )
    word = accounts.tokens.create(me, wanted(rights=[Right.OPERATE])).word
    assert accounts.bearer(word).may(Right.OPERATE, "default")
    accounts.users.set_grants(LOCAL, user, {"default": frozenset({Role.READ_ONLY})})
    assert not accounts.bearer(word).may(Right.OPERATE, "default")


def test_a_token_makes_no_tokens_and_changes_no_password(accounts):
    person(accounts, "boss", ADMIN)
    boss = principal(accounts, "boss")
    word = accounts.tokens.create(boss, wanted(rights=list(Right))).word
    program = accounts.bearer(word)
    assert program.may(Right.ACCOUNTS)
    for act in (
        lambda: accounts.tokens.create(program, wanted("more")),
        lambda: accounts.users.set_password(program, GOOD, BETTER),
        lambda: accounts.totp.enrol(program),
        lambda: accounts.users.change(program, boss.user, Profile("x")),
        lambda: accounts.entering.rescue_link(program),
    ):
        fails(act, of=Forbidden)


def test_a_token_ends_with_its_time(accounts, clock):
    person(accounts, "alice", ADMIN)
    me = principal(accounts, "alice")
    word = accounts.tokens.create(me, wanted(hours=1)).word
    pass_time(clock, minutes=59)
    accounts.bearer(word)
    pass_time(clock, minutes=1)
    fails(lambda: accounts.bearer(word))


def test_tokens_that_are_not_allowed(accounts):
    person(accounts, "alice", ADMIN)
    me = principal(accounts, "alice")
    for bad in (
        wanted(days=731), wanted(days=0), wanted(days=-1), wanted(rights=[]), wanted(groups=[]),
        wanted(" "), wanted("a\nb"), wanted(groups=["../x"]),
    ):  # fmt: skip
        fails(lambda b=bad: accounts.tokens.create(me, b), of=UsageError)
    accounts.tokens.create(me, wanted())
    fails(lambda: accounts.tokens.create(me, wanted()), of=AlreadyExists)
    for number in range(TOKENS_MAX - 1):
        accounts.tokens.create(me, wanted(f"t{number}"))
    fails(lambda: accounts.tokens.create(me, wanted("more")), of=AlreadyExists)


def test_tokens_of_others_are_not_revoked(accounts):
    person(accounts, "alice", ADMIN)
    person(accounts, "bob")
    made = accounts.tokens.create(principal(accounts, "alice"), wanted())
    bob = principal(accounts, "bob")
    fails(lambda: accounts.tokens.revoke(bob, made.id), of=NotFound)
    fails(lambda: accounts.tokens.revoke(bob, "\x00"), of=NotFound)
    accounts.bearer(made.word)


def test_a_session_is_no_token_and_a_token_no_session(accounts):
    person(accounts, "alice", ADMIN)
    opened = sign_in(accounts, "alice")
    token = accounts.tokens.create(accounts.bearer(opened.word), wanted()).word
    fails(lambda: accounts.sessions.authenticate(token))
    fails(lambda: accounts.tokens.authenticate(opened.word))
    assert sessions.IDLE < sessions.LIFETIME
