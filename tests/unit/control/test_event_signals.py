"""Whoever waits for one thing is not woken by another, and misses nothing."""

import threading

from ruchu.control.events import signals
from ruchu.control.events.signals import Signals

LONG_S = 30.0


def test_what_changed_after_the_mark_is_not_waited_for():
    found = Signals()
    mark = found.mark()
    found.fire("a")
    assert found.wait("a", mark, LONG_S) is True
    assert found.wait("b", mark, 0.0) is False
    assert found.wait("a", found.mark(), 0.0) is False


def test_everything_may_have_changed():
    found = Signals()
    mark = found.mark()
    found.fire_all()
    assert found.wait("a", mark, LONG_S) is True
    assert found.wait("a", found.mark(), 0.0) is False


def test_a_thread_is_woken_by_its_key_and_by_all():
    found = Signals()
    for wake in (lambda: found.fire("a"), found.fire_all):
        mark, woken = found.mark(), []
        thread = threading.Thread(target=lambda m, w: w.append(found.wait("a", m, LONG_S)),
                                  args=(mark, woken))  # fmt: skip
        thread.start()
        found.fire("b")
        wake()
        thread.join(LONG_S)
        assert woken == [True]


def test_a_change_that_was_forgotten_counts_as_one(monkeypatch):
    monkeypatch.setattr(signals, "_KEYS_MAX", 2)
    found = Signals()
    mark = found.mark()
    for key in ("a", "b", "c"):
        found.fire(key)
    assert found.wait("a", mark, 0.0) is True
    assert found.wait("c", mark, 0.0) is True
