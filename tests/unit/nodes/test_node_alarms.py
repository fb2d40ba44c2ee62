"""Alarms of a node: kept until the server has them, in order, bounded, and never lost."""

import dataclasses
import threading

import pytest

from ruchu.errors import NodeAway, ProtocolViolation
from ruchu.model.ids import is_id
from ruchu.model.tasks import Severity
from ruchu.nodes import alarming
from ruchu.nodes.alarming import NodeAlarms
from ruchu.testing.clocks import ManualClock
from ruchu.wire import messages

LIMIT_S = 30
INFO, WARNING, ERROR, CRITICAL = Severity


class Server:
    """Takes messages while it is there."""

    def __init__(self):
        self.changed = threading.Condition()
        self.there = True
        self.strict = False
        self.told = []

    def send(self, message):
        with self.changed:
            if not self.there:
                raise NodeAway
            if self.strict and "odd" in message.facts:
                raise ProtocolViolation
            self.told.append(messages.decode(messages.encode(message)))
            self.changed.notify_all()

    def wait(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.told) >= count, LIMIT_S), self.told
            return self.told[:count]


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def said():
    return []


@pytest.fixture
def alarms(tmp_path, server, said):
    return NodeAlarms(tmp_path / "alarms", server.send, ManualClock(), said.append)


def again(tmp_path, server, said):
    """Return what the next process of the node finds."""
    return NodeAlarms(tmp_path / "alarms", server.send, ManualClock(), said.append)


def refused(alarms, subject="main", severity=CRITICAL, **facts):
    alarms.raise_alarm("guard-refused", severity, subject, f"{subject} was touched", facts)


def test_an_alarm_is_sent_and_kept_until_it_is_acknowledged(alarms, server, tmp_path):
    with alarms:
        refused(alarms, program={"comm": "dd"})
        (told,) = server.wait(1)
    assert (told.code, told.severity, told.subject) == ("guard-refused", CRITICAL, "main")
    assert told.facts["program"] == {"comm": "dd"}
    assert told.facts["count"] == 1
    assert told.facts["at"].endswith("Z")
    assert len(list((tmp_path / "alarms").iterdir())) == 1
    assert not alarms.acknowledged("0" * 32)
    assert is_id(told.facts["id"])
    assert alarms.acknowledged(told.facts["id"])
    assert not alarms.acknowledged(told.facts["id"])
    assert list((tmp_path / "alarms").iterdir()) == []
    assert alarms.waiting() == []


def test_what_a_dead_process_left_is_sent_by_the_next_in_order(alarms, server, said, tmp_path):
    server.there = False
    with alarms:
        for name in ("a", "b", "c"):
            refused(alarms, name)
    assert server.told == []
    server.there = True
    with again(tmp_path, server, said) as later:
        later.connected()
        assert [each.subject for each in server.wait(3)] == ["a", "b", "c"]
        refused(later, "d")
        assert server.wait(4)[3].subject == "d"
        assert len({each.facts["id"] for each in server.told}) == 4


def test_after_a_reconnect_it_is_sent_again_with_the_same_id(alarms, server):
    with alarms:
        refused(alarms)
        server.wait(1)
        alarms.connected()
        first, second = server.wait(2)
    assert first == second


def test_a_repeat_counts_and_the_worst_severity_stays(alarms, server, said, tmp_path):
    server.there = False
    refused(alarms, severity=CRITICAL)
    refused(alarms, severity=WARNING)
    (kept,) = again(tmp_path, server, said).waiting()
    assert (kept.severity, kept.facts["count"]) == (CRITICAL, 2)
    assert len(list((tmp_path / "alarms").iterdir())) == 1


def test_a_death_and_a_return_are_both_told(alarms, server):
    server.there = False
    alarms.raise_alarm("guard-ended", CRITICAL, "main", "it died", {})
    alarms.clear("guard-ended", "main")
    alarms.raise_alarm("guard-ended", CRITICAL, "main", "it died again", {})
    server.there = True
    with alarms:
        alarms.connected()
        told = server.wait(3)
    assert [each.facts.get("over", False) for each in told] == [False, True, False]


def test_a_flood_keeps_the_worst_and_says_how_much_is_missing(
    alarms, monkeypatch, said, server, tmp_path
):
    monkeypatch.setattr(alarming, "KEPT_MAX", 5)
    refused(alarms, "first")
    for number in range(10):
        refused(alarms, f"w{number}", WARNING)
    waiting = alarms.waiting()
    assert [each.subject for each in waiting] == ["first", "w6", "w7", "w8", "w9"]
    assert waiting[-1].facts["dropped"] == 5
    assert again(tmp_path, server, said).waiting() == waiting


def test_names_that_are_no_text_and_facts_that_cannot_be_sent_lose_no_alarm(alarms, server):
    server.strict = True
    with alarms:
        refused(alarms, "\udcff\x00" * 300, name="\udcff")
        refused(alarms, "second", odd=1)
        first, second = server.wait(2)
    assert "\N{REPLACEMENT CHARACTER}" in first.subject
    assert len(first.subject) <= 255
    assert second.subject == "second"
    assert set(second.facts) == {"id", "count"}


def test_a_file_that_is_no_alarm_stops_nobody(alarms, server, said, tmp_path):
    refused(alarms)
    (tmp_path / "alarms" / f"000000000009.{'a' * 32}.json").write_text("{}")
    (tmp_path / "alarms" / "nonsense.json").write_text("{}")
    (tmp_path / "alarms" / f"000000000008.{'b' * 32}.json").write_text("[")
    found = again(tmp_path, server, said).waiting()
    assert found == alarms.waiting()
    assert len(said) == 3


def test_an_alarm_that_cannot_be_kept_is_sent_all_the_same(server, said, tmp_path):
    (tmp_path / "file").write_text("")
    with NodeAlarms(tmp_path / "file", server.send, ManualClock(), said.append) as alarms:
        refused(alarms)
        (told,) = server.wait(1)
        assert alarms.acknowledged(told.facts["id"])
    assert "could not be kept" in said[0]


def test_what_is_sent_can_be_read_on_the_wire(alarms):
    refused(alarms, "s" * 1000)
    (waiting,) = alarms.waiting()
    assert messages.decode(messages.encode(waiting)) == waiting
    longest = dataclasses.replace(waiting, text="x" * alarming.TEXT_MAX)
    assert messages.decode(messages.encode(longest)) == longest
