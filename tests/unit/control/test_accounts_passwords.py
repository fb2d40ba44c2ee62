"""Passwords: which are refused, how they are kept. No database."""

import hmac
import threading

import pytest

from ruchu.control.accounts import passwords, proofs
from ruchu.control.accounts.passwords import Costs, Hasher
from ruchu.errors import WeakPassword

CHEAP = Costs(memory_kib=8, iterations=1, lanes=1)
GOOD = "vier Birnen, ein Hut"


@pytest.mark.parametrize(
    "password",
    [GOOD, "korrekt-pferd-7-batterie", "密码很长但是没有人能猜到它呢", "x9!Kq2#vL8@p", "a b c d e f g h i"],
)  # fmt: skip
def test_good_passwords(password):
    passwords.check(password, "alice")


@pytest.mark.parametrize(
    "password",
    [
        "", "short", "elevenchars", "x" * 257, "aaaaaaaaaaaa", "abababababab", "123456789012",
        "987654321098", "20240101123456", "qwertyuiopas", "1q2w3e4r5t6y", "password1234",
        "Password2024!", "P@ssw0rd2024!", "PASSWORD----", "admin1234567", "!!administrator!!",
        "iloveyou1234", "1234welcome1234", "changeme!!!!", "alice1234567", "ALICEalice12",
        "backup-2026-11", "qwertyuiop123", "\uff50assword1234",
    ],
)  # fmt: skip
def test_bad_passwords(password):
    with pytest.raises(WeakPassword) as caught:
        passwords.check(password, "alice")
    assert not password or password not in str(caught.value)


def test_one_password_in_two_spellings_of_unicode():
    hasher = Hasher(CHEAP)
    assert hasher.verify(hasher.hash("Die M\u00fchle am Bach"), "Die Mu\u0308hle am Bach")


def test_a_password_is_kept_as_argon2id():
    hasher = Hasher(CHEAP)
    kept = hasher.hash(GOOD)
    assert kept.startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert kept != hasher.hash(GOOD)
    assert hasher.verify(kept, GOOD)
    assert not hasher.verify(kept, GOOD + "x")
    assert not hasher.verify(None, GOOD)
    assert not hasher.verify("nonsense", GOOD)
    assert not hasher.verify(kept, "x" * 1_000_000)
    assert not hasher.verify(kept, "\ud800 alone")


def test_the_costs_are_those_of_the_rfc():
    assert Costs() == Costs(memory_kib=65_536, iterations=3, lanes=4)
    assert Hasher(Costs(16, 1, 1)).is_outdated(Hasher(CHEAP).hash(GOOD))
    assert not Hasher(CHEAP).is_outdated(Hasher(CHEAP).hash(GOOD))


def test_somebody_who_is_not_there_costs_the_same_work(monkeypatch):
    """The work is counted, not timed: the same function runs once, with the same costs."""
    hasher = Hasher(CHEAP)
    calls = []
    original = hasher._hasher.verify

    def count(kept, password):
        calls.append((kept[: kept.index("p=1") + 3], len(password)))
        return original(kept, password)

    monkeypatch.setattr(hasher, "_hasher", type("Counted", (), {"verify": staticmethod(count)})())
    kept = Hasher(CHEAP).hash(GOOD)
    hasher.verify(kept, GOOD)
    hasher.verify(None, GOOD)
    assert len(calls) == 2
    assert calls[0] == calls[1]


def test_only_so_many_hash_at_once(monkeypatch):
    hasher = Hasher(CHEAP)
    guard, inside, most = threading.Lock(), [0], [0]
    original = hasher._hasher.hash

    def watch(password):
        with guard:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        kept = original(password)
        with guard:
            inside[0] -= 1
        return kept

    monkeypatch.setattr(hasher, "_hasher", type("Watched", (), {"hash": staticmethod(watch)})())
    threads = [threading.Thread(target=hasher.hash, args=(GOOD,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most[0] <= 2


def test_words_are_compared_in_constant_time(monkeypatch):
    seen = []
    original = hmac.compare_digest
    monkeypatch.setattr(
        hmac, "compare_digest", lambda one, other: seen.append(1) or original(one, other)
    )
    assert proofs.equal("a", "a")
    assert not proofs.equal("ä", "b")
    assert len(seen) == 2


def test_words_are_random_and_their_hashes_tell_purposes_apart():
    assert len({proofs.fresh() for _ in range(100)}) == 100
    assert len(proofs.fresh()) == 43
    assert proofs.digest("session", "x") != proofs.digest("token", "x")
    code = proofs.fresh_recovery_code()
    assert len(code) == 29
    assert proofs.recovery_letters(f" {code.upper()} ") == code.replace("-", "")
