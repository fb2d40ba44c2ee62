import random

import pytest

from ruchu import errors, units
from ruchu.storage import failures, faulty, limited, logged, retrying
from ruchu.storage.faulty import Effect, Fault
from ruchu.storage.intercepting import Verb
from ruchu.testing.storages import in_parallel, read


@pytest.fixture
def faults(simulated, clock, rng):
    """Make the storage fail as listed."""

    def make(*listed, **settings):
        return faulty.Faulty(simulated, clock=clock, choose=rng, faults=listed, **settings)

    return make


@pytest.fixture
def retry(faults, clock, rng):
    """Make the storage fail as listed, below retries."""

    def make(*listed, **settings):
        return retrying.Retrying(faults(*listed), clock=clock, choose=rng, **settings)

    return make


# Retrying.


def test_what_may_succeed_is_tried_again(retry, clock):
    storage = retry(
        *(Fault(verb, 1, Effect.FAIL) for verb in Verb), *[Fault(Verb.GET, 2, Effect.FAIL)]
    )
    storage.put("a/b", b"content")
    assert storage.get("a/b", 100) == b"content"
    assert read(storage, "a/b", 0, 7) == b"content"
    assert storage.size("a/b") == 7
    assert {info.name for info in storage.list("a")} == {"a/b"}
    assert set(storage.folders("")) == {"a"}
    storage.protect("a/b")
    assert storage.is_protected("a/b")
    storage.release("a/b")
    storage.delete("a/b")
    assert storage.sweep_unfinished("") == 0
    assert not storage.foreign()
    assert storage.free_space() > 0
    with storage.open_writer("a/c"):
        pass
    assert len(clock.slept) == 15


def test_what_was_done_may_be_done_twice(retry):
    storage = retry(*(Fault(verb, 1, Effect.FAIL_AFTER) for verb in (Verb.DELETE, Verb.PROTECT)))
    storage.put("a", b"content")
    storage.protect("a")
    storage.release("a")
    storage.delete("a")
    assert not tuple(storage.list("a"))


def test_waits_grow_and_differ_and_end(retry, clock):
    storage = retry(*(Fault(Verb.SIZE, call, Effect.FAIL) for call in range(1, 20)))
    with pytest.raises(errors.StorageError, match="size 7"):
        storage.size("a")
    steps = [1, 2, 4, 8, 16, 30]
    assert len(clock.slept) == retrying.ATTEMPTS_MAX - 1
    for slept, step in zip(clock.slept, steps, strict=True):
        assert step / 2 <= slept <= step
    assert len({slept / step for slept, step in zip(clock.slept, steps, strict=True)}) > 1


def test_what_stays_wrong_is_not_tried_again(retry, clock):
    storage = retry(
        Fault(Verb.PUT, 1, Effect.FAIL, error=errors.StorageFull),
        Fault(Verb.GET, 1, Effect.FAIL, error=errors.ObjectMissing),
    )
    with pytest.raises(errors.StorageFull):
        storage.put("a", b"")
    with pytest.raises(errors.ObjectMissing):
        storage.get("a", 1)
    storage.put("a", b"content")
    with pytest.raises(errors.ObjectExists):
        storage.put("a", b"content")
    with pytest.raises(failures.ObjectTooLarge):
        storage.get("a", 1)
    with pytest.raises(errors.ObjectShort):
        read(storage, "a", 0, 100)
    assert clock.slept == []


def test_a_put_whose_answer_was_lost_has_succeeded(retry):
    storage = retry(Fault(Verb.PUT, 1, Effect.FAIL_AFTER))
    storage.put("a", b"content")
    assert storage.get("a", 100) == b"content"


@pytest.mark.parametrize("theirs", [b"theirs!", b"longer than ours", b""])
def test_a_put_that_failed_while_another_succeeded_is_refused(retry, simulated, clock, theirs):
    storage = retry(Fault(Verb.PUT, 1, Effect.FAIL))
    sleep = clock.sleep

    def meanwhile(seconds):
        simulated.put("a", theirs)
        sleep(seconds)

    clock.sleep = meanwhile
    with pytest.raises(errors.ObjectExists):
        storage.put("a", b"content")
    assert storage.get("a", 100) == theirs


@pytest.mark.parametrize("verb", [Verb.WRITE, Verb.COMMIT])
def test_a_stream_is_not_tried_again(retry, clock, verb):
    storage = retry(Fault(verb, 1, Effect.FAIL))

    def write():
        with storage.open_writer("a") as writer:
            writer.write([b"content"])
            writer.commit()

    with pytest.raises(errors.StorageError):
        write()
    assert clock.slept == []
    write()
    assert storage.get("a", 100) == b"content"


def test_errors_that_are_not_ours_come_through(retry, simulated, monkeypatch, clock):
    def fail(_):
        raise ZeroDivisionError

    monkeypatch.setattr(simulated, "size", fail)
    with pytest.raises(ZeroDivisionError):
        retry().size("a")
    assert clock.slept == []


# Limited.


def test_bytes_take_their_time(simulated, clock):
    both = {
        "reads": limited.Bandwidth(units.MIB, clock),
        "writes": limited.Bandwidth(2 * units.MIB, clock),
    }
    storage = limited.Limited(simulated, **both)
    start = clock.monotonic()
    storage.put("a", bytes(4 * units.MIB))
    with storage.open_writer("b") as writer:
        for _ in range(4):
            writer.write([bytes(units.MIB)])
        writer.commit()
    assert clock.monotonic() - start == pytest.approx(4, abs=limited.BURST_S)
    start = clock.monotonic()
    storage.get("a", 4 * units.MIB)
    read(storage, "b", 0, 4 * units.MIB)
    assert clock.monotonic() - start == pytest.approx(8, abs=limited.BURST_S)


def test_no_limit_is_no_limit(simulated, clock):
    storage = limited.Limited(simulated, reads=limited.Bandwidth(1, clock))
    storage.put("a", bytes(1000))
    assert clock.slept == []


def test_idleness_is_not_saved_up(clock):
    bandwidth = limited.Bandwidth(1000, clock)
    clock.seconds += 3600
    bandwidth.take(250)
    assert clock.slept == []
    bandwidth.take(1000)
    assert clock.slept == [pytest.approx(1.0)]


def test_threads_share_a_limit(clock):
    bandwidth = limited.Bandwidth(1000, clock)
    start = clock.monotonic()
    in_parallel(lambda _: bandwidth.take(500))
    # Each waits for those before it, so that the last one waits for all.
    assert max(clock.slept) <= 4
    assert clock.monotonic() - start >= 4 - limited.BURST_S


# Logged.


def test_calls_are_counted(simulated, clock, faults):
    slow = faults(Fault(Verb.PUT, 1, Effect.DELAY, delay_s=3.0), Fault(Verb.SIZE, 1, Effect.FAIL))
    storage = logged.Logged(slow, clock=clock)
    storage.put("a", b"content")
    storage.put("b", b"more")
    storage.get("a", 100)
    read(storage, "a", 0, 2)
    with pytest.raises(errors.StorageError):
        storage.size("a")
    with storage.open_writer("c") as writer:
        writer.write([b"12", b"345"])
        writer.commit()
    assert storage.snapshot() == {
        Verb.PUT: logged.Tally(calls=2, length=11, duration_s=3.0),
        Verb.GET: logged.Tally(calls=1, length=7),
        Verb.READ: logged.Tally(calls=1, length=2),
        Verb.SIZE: logged.Tally(calls=1, failures=1),
        Verb.OPEN: logged.Tally(calls=1),
        Verb.WRITE: logged.Tally(calls=1, length=5),
        Verb.COMMIT: logged.Tally(calls=1),
    }


# Faulty.


def test_the_call_named_fails(faults):
    storage = faults(Fault(Verb.PUT, 2, Effect.FAIL, error=errors.StorageGone))
    storage.put("a", b"")
    with pytest.raises(errors.StorageGone, match="put 2"):
        storage.put("b", b"")
    storage.put("b", b"")


def test_bits_flip_when_read(faults):
    storage = faults(*(Fault(verb, 1, Effect.FLIP) for verb in (Verb.GET, Verb.READ)))
    storage.put("a", bytes(100))
    assert sum(storage.get("a", 100)).bit_count() == 1
    assert sum(read(storage, "a", 0, 100)).bit_count() == 1
    assert storage.get("a", 100) == read(storage, "a", 0, 100) == bytes(100)


def test_bits_flip_when_stored(faults):
    storage = faults(*(Fault(verb, 1, Effect.FLIP) for verb in (Verb.PUT, Verb.WRITE)))
    storage.put("a", bytes(100))
    with storage.open_writer("b") as writer:
        writer.write([bytes(100)])
        writer.commit()
    for name in "ab":
        assert sum(storage.get(name, 100)).bit_count() == 1


def test_nothing_flips_in_nothing(faults):
    storage = faults(Fault(Verb.PUT, 1, Effect.FLIP))
    storage.put("a", b"")
    assert storage.get("a", 0) == b""


def test_reads_fall_short(faults):
    storage = faults(*(Fault(verb, 1, Effect.SHORT) for verb in (Verb.GET, Verb.READ)))
    storage.put("a", b"content")
    assert storage.get("a", 100) == b"con"
    with pytest.raises(errors.StorageError):
        read(storage, "a", 0, 7)


def test_a_rate_of_failures_is_the_same_for_the_same_seed(simulated, clock):
    def outcome(seed):
        choose = random.Random(seed)
        storage = faulty.Faulty(simulated, clock=clock, choose=choose, failure_rate=0.3)
        failed = []
        for turn in range(100):
            try:
                storage.free_space()
            except errors.StorageError:
                failed.append(turn)
        return failed

    assert outcome(1) == outcome(1) != outcome(2)
    assert 10 < len(outcome(1)) < 50


def test_retries_get_through_random_failures(simulated, clock):
    choose = random.Random(5)
    shaky = faulty.Faulty(simulated, clock=clock, choose=choose, failure_rate=0.3)
    storage = retrying.Retrying(shaky, clock=clock, choose=choose, attempts_max=30)
    for number in range(50):
        storage.put(f"a/{number}", b"%d" % number)
    for number in range(50):
        assert storage.get(f"a/{number}", 10) == b"%d" % number
        storage.delete(f"a/{number}")
    assert not tuple(storage.list("a"))


def test_a_rate_that_changes_by_the_hour(clock):
    rates = [0, 1000]
    bandwidth = limited.Bandwidth(lambda: rates[0], clock)
    bandwidth.take(10_000_000)
    assert clock.slept == []
    rates.pop(0)
    bandwidth.take(2000)
    bandwidth.take(2000)
    assert sum(clock.slept) >= 3
