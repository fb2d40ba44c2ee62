"""Lockout: longer each time, for the pair, the name and the address. No database."""

import datetime
import threading

import pytest

from ruchu.control.accounts import lockout
from ruchu.control.accounts.lockout import ADDRESS, ENTRIES_MAX, NAME, PAIR, Lockout
from ruchu.errors import TooMany


@pytest.fixture
def door(clock):
    return Lockout(clock)


def pass_time(clock, seconds):
    clock.move(datetime.timedelta(seconds=seconds))


def fail(door, clock, times, name="alice", address="192.0.2.1"):
    """Fail some times, each as soon as it is allowed; return the waits."""
    waits = []
    for _ in range(times):
        try:
            door.begin(name, address)
            waits.append(0.0)
        except TooMany as error:
            waits.append(error.after_s)
            pass_time(clock, error.after_s)
            door.begin(name, address)
    return waits


def test_the_delay_grows_up_to_a_limit(door, clock):
    waits = fail(door, clock, 18)
    assert waits[: PAIR.free + 1] == [0.0] * (PAIR.free + 1)
    assert waits[PAIR.free + 1 : PAIR.free + 5] == [2.0, 4.0, 8.0, 16.0]
    assert waits[-1] == PAIR.most_s
    with pytest.raises(TooMany):
        door.begin("alice", "192.0.2.1")
    door.begin("bob", "192.0.2.1")
    door.begin("alice", "192.0.2.2")


def test_an_attempt_that_comes_too_soon_is_not_counted(door, clock):
    fail(door, clock, PAIR.free + 1)
    for _ in range(100):
        with pytest.raises(TooMany) as caught:
            door.begin("alice", "192.0.2.1")
        assert caught.value.after_s == 2.0
    pass_time(clock, 2.0)
    door.begin("alice", "192.0.2.1")


def test_success_forgets_the_failures_of_the_name_only(door, clock):
    fail(door, clock, PAIR.free)
    door.succeed("alice", "192.0.2.1")
    assert fail(door, clock, PAIR.free + 1) == [0.0] * (PAIR.free + 1)
    # Whoever has an account of their own cannot wash the failures of the address away with it.
    for number in range(ADDRESS.free):
        door.begin(f"victim{number}", "192.0.2.9")
        door.begin("mallory", "192.0.2.9")
        door.succeed("mallory", "192.0.2.9")
    door.begin("victim", "192.0.2.9")
    with pytest.raises(TooMany):
        door.begin("victim", "192.0.2.9")


def test_many_addresses_that_guess_at_one_name(door, clock):
    for number in range(NAME.free + 1):
        door.begin("alice", f"192.0.2.{number}")
    with pytest.raises(TooMany) as caught:
        door.begin("alice", "198.51.100.1")
    assert caught.value.after_s <= NAME.most_s  # its owner is not shut out for long


def test_one_address_that_guesses_at_many_names(door, clock):
    for number in range(ADDRESS.free + 1):
        door.begin(f"user{number}", "192.0.2.1")
    with pytest.raises(TooMany):
        door.begin("another", "192.0.2.1")


def test_an_attempt_that_is_withdrawn_does_not_reset(door, clock):
    """Otherwise a right password without a code would buy new guesses at the code."""
    for _ in range(PAIR.free + 1):
        door.begin("alice", "192.0.2.1")  # a wrong code
        if _ < PAIR.free:
            door.begin("alice", "192.0.2.1")  # no code
            door.withdraw("alice", "192.0.2.1")
    with pytest.raises(TooMany):
        door.begin("alice", "192.0.2.1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::ffff"),
        ("2001:db8:0:0:1::", "2001:db8::2"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_addresses_of_one_network_count_together(one, other):
    assert lockout.network(one) == lockout.network(other)
    assert lockout.network("2001:db8:0:1::1") != lockout.network("2001:db8::1")
    assert lockout.network("x" * 1000) == "x" * 64


def test_memory_is_limited_and_attackers_are_not_forgotten(door, clock):
    fail(door, clock, 14)
    for number in range(ENTRIES_MAX):
        door.begin(f"n{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(door) <= ENTRIES_MAX
    with pytest.raises(TooMany):
        door.begin("alice", "192.0.2.1")


def test_a_day_later_everything_is_forgotten(door, clock):
    fail(door, clock, 30)
    pass_time(clock, 25 * 3600)
    assert fail(door, clock, PAIR.free + 1) == [0.0] * (PAIR.free + 1)


def test_attempts_at_the_same_time_are_all_counted(door):
    passed = []

    def attempt():
        try:
            door.begin("alice", "192.0.2.1")
            passed.append(1)
        except TooMany:
            pass

    threads = [threading.Thread(target=attempt) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == PAIR.free + 1
