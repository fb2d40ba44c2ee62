import pytest

from ruchu.model.tasks import Severity
from ruchu.storage.guarding import reporting
from ruchu.storage.guarding.reporting import Limiter, Report


def report(name="a", text="dd wrote"):
    return Report(
        "guard-refused", Severity.CRITICAL, "/storage", f"{text} {name}", {"object": name}
    )


@pytest.fixture
def told():
    return []


@pytest.fixture
def limiter(told, clock):
    return Limiter(told.append, clock)


def test_the_first_of_a_kind_is_told_at_once_and_the_next_are_counted(limiter, told, clock):
    for _ in range(5):
        limiter.report(("dd", "a"), report())
    limiter.report(("dd", "b"), report("b"))
    assert told == [report(), report("b")]
    clock.sleep(reporting.WINDOW_S - 1)
    limiter.tick()
    assert len(told) == 2
    clock.sleep(1)
    limiter.tick()
    (counted,) = told[2:]
    assert counted.facts == {"object": "a", "count": 4}
    assert "4 more times" in counted.text
    limiter.tick()
    assert len(told) == 3


def test_a_new_window_begins_after_the_old_one(limiter, told, clock):
    limiter.report(("dd", "a"), report())
    limiter.report(("dd", "a"), report())
    clock.sleep(reporting.WINDOW_S)
    limiter.report(("dd", "a"), report())
    assert [each.facts.get("count") for each in told] == [None, 1, None]


def test_memory_is_bounded_and_nothing_is_lost(limiter, told):
    for number in range(reporting.KEYS_MAX + 50):
        limiter.report(("dd", str(number)), report(str(number)))
        limiter.report(("dd", str(number)), report(str(number)))
    assert len(limiter._windows) == reporting.KEYS_MAX
    limiter.flush()
    assert sum(each.facts.get("count", 1) for each in told) == 2 * (reporting.KEYS_MAX + 50)


def test_a_report_is_a_document():
    fields = report().fields()
    assert fields["event"] == "alarm"
    assert fields["severity"] == "critical"
    assert Report("c", Severity.INFO, "s", "t", clears=True).fields()["event"] == "clear"
