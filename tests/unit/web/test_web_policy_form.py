"""The form of a policy: whatever a document says survives it, and what is wrong is told by field."""

import copy
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.control.policies import documents
from ruchu.model import schedules
from ruchu.model.schedules import DAY_NAMES
from ruchu.web import policy_form, policy_lines
from ruchu.web.policy_form import Form
from ruchu.web.policy_lines import ScheduleLine, WindowLine

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
LIST = st.lists(TEXT, max_size=3)
DATE = st.dates(min_value=datetime.date(1990, 1, 1),
                max_value=datetime.date(2200, 12, 31))  # fmt: skip
CLOCK = st.times().map(lambda each: f"{each:%H:%M}")
TIMES = st.lists(CLOCK, min_size=1, max_size=3)
MOMENT = st.tuples(DATE, CLOCK).map(lambda pair: f"{pair[0]}T{pair[1]}")
DAY = st.sampled_from(DAY_NAMES)
NTH = st.fixed_dictionaries({"nth": st.sampled_from([1, 2, 3, 4, 5, -1]), "day": DAY})
MONTH_DAY = st.integers(1, 28) | st.just(-1)
RULES = st.one_of(
    st.fixed_dictionaries({"once": st.fixed_dictionaries({"at": MOMENT})}),
    st.fixed_dictionaries({"minutes": st.fixed_dictionaries(
        {"every": st.integers(1, 1440)}, optional={"anchor": MOMENT})}),
    st.fixed_dictionaries({"hourly": st.fixed_dictionaries({"minute": st.integers(0, 59)})}),
    st.fixed_dictionaries({"rolling": st.fixed_dictionaries({"minutes": st.integers(1, 500000)})}),
    st.fixed_dictionaries({"daily": st.fixed_dictionaries({"times": TIMES})}),
    st.fixed_dictionaries({"weekly": st.fixed_dictionaries(
        {"days": st.lists(DAY, min_size=1), "times": TIMES, "every": st.integers(1, 104),
         "anchor": DATE.map(str)})}),
    st.fixed_dictionaries({"monthly": st.fixed_dictionaries(
        {"days": st.lists(MONTH_DAY, min_size=1, max_size=4), "times": TIMES})}),
    st.fixed_dictionaries({"monthly": st.fixed_dictionaries(
        {"weekdays": st.lists(NTH, min_size=1, max_size=3), "times": TIMES})}),
    st.fixed_dictionaries({"yearly": st.fixed_dictionaries(
        {"month": st.integers(1, 12), "day": MONTH_DAY, "times": TIMES})}),
    st.fixed_dictionaries({"yearly": st.fixed_dictionaries(
        {"month": st.integers(1, 12), "weekday": NTH, "times": TIMES})}),
)  # fmt: skip
KIND = st.sampled_from(["full", "incremental", "differential", "verify"])
SCHEDULE = st.builds(
    lambda rule, kind, begin, holidays: {
        "kind": kind, **rule, **({"from": str(begin)} if begin else {}),
        "mind_holidays": holidays,
    },
    RULES, KIND, st.none() | DATE, st.booleans(),
)  # fmt: skip
WINDOW = st.fixed_dictionaries({
    "days": st.lists(st.integers(0, 6), max_size=3), "begin": st.integers(0, 1439),
    "end": st.integers(0, 1440), "bytes_per_s": st.integers(0, 1 << 40),
})  # fmt: skip
OPTIONS = st.fixed_dictionaries({}, optional={
    "snapshots": TEXT, "quiesce": st.booleans() | st.integers(), "leave_out": TEXT,
    "level": st.integers(0, 19) | TEXT, "disks": LIST | st.lists(st.integers(), max_size=2),
    "grace_days": st.integers(0, 30) | st.floats(0, 30) | st.none(),
})  # fmt: skip
NUMBER = st.integers(0, 5000)
NAME = st.from_regex(r"[a-z][a-z0-9 ._-]{0,20}[a-z]", fullmatch=True)
POLICY = st.fixed_dictionaries(
    {
        "name": NAME, "storage": NAME,
        "selection": st.fixed_dictionaries(
            {"platform": NAME},
            optional={**dict.fromkeys(policy_form.LISTS, LIST),
                      "patterns": LIST | st.just(["*"])},
        ),
    },
    optional={
        "schedules": st.lists(SCHEDULE, max_size=4), "windows": st.lists(WINDOW, max_size=3),
        "zone": st.sampled_from(["UTC", "Asia/Shanghai", "Europe/Berlin"]),
        "holidays": st.lists(DATE.map(str), max_size=2),
        "missed": st.sampled_from(["once", "skip"]),
        "retention": st.dictionaries(st.sampled_from(policy_form.RETENTION), NUMBER),
        "retrying": st.dictionaries(st.sampled_from(["attempts", "first_s", "most_s"]), NUMBER),
        "on_lost_node": st.sampled_from(["wait", "move"]), "nodes": LIST,
        "priority": st.integers(1, 9), "parallel": st.integers(1, 64), "options": OPTIONS,
        "before": LIST, "after": LIST, "after_policy": TEXT, "enabled": st.booleans(),
        "rpo_minutes": st.integers(0, 527040), "group": NAME,
    },
)  # fmt: skip


@given(POLICY)
def test_a_document_comes_out_of_the_form_as_it_went_in(wanted):
    kept = documents.to_document(documents.from_document(wanted))
    before = copy.deepcopy(kept)
    form = policy_form.form_of(kept)
    assert policy_form.document(form) == before
    assert kept == before


@given(SCHEDULE)
def test_a_schedule_comes_out_of_its_line_as_it_went_in(wanted):
    kept = schedules.to_document(schedules.from_document(wanted))
    line = policy_lines.line_of(kept)
    assert policy_lines.document_of(line) == kept
    assert policy_lines.schedule_problems([line]) == {}


@given(WINDOW)
def test_a_window_comes_out_of_its_line_as_it_went_in(wanted):
    line = policy_lines.window_line(wanted)
    assert policy_lines.window_document(line) == wanted
    assert policy_lines.window_problems([line]) == {}


def test_what_the_form_does_not_know_survives():
    kept = documents.to_document(documents.from_document(
        {"name": "a", "storage": "s", "selection": {"platform": "p", "machines": ["m"]}}
    ))  # fmt: skip
    kept |= {"later": {"x": 1}, "options": {"later": [2]}}
    kept["selection"]["later"] = "y"
    assert policy_form.document(policy_form.form_of(kept)) == kept


def form(**more):
    made = policy_form.fresh("Asia/Shanghai")
    made.name, made.platform, made.storage, made.machines = "nightly", "kvm", "main", ["web-1"]
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_a_fresh_form_makes_a_policy_that_can_be():
    assert policy_form.problems(form()) == {}
    policy = documents.from_document(policy_form.document(form()))
    assert policy.retention.monthly == 12
    assert len(policy.schedules) == 2


def test_only_what_is_chosen_is_selected():
    made = form(patterns=["web-*"], excluded=["web-9"], tags=["gold"])
    picked = policy_form.selection(made)
    assert (picked["machines"], picked["patterns"], picked["tags"]) == (["web-1"], [], [])
    made.mode = policy_form.ALL
    everything = policy_form.selection(made)
    assert (everything["machines"], everything["patterns"]) == ([], ["*"])
    assert everything["excluded"] == ["web-9"]
    made.mode = policy_form.RULE
    assert policy_form.selection(made)["machines"] == ["web-1"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"platform": ""}, "platform"),
        ({"machines": []}, "machines"),
        ({"mode": "rule", "machines": []}, "rule"),
        ({"storage": ""}, "storage"),
        ({"name": "a/b"}, "name"),
        ({"name": ""}, "name"),
        ({"parallel": 0}, "parallel"),
        ({"parallel": None}, "parallel"),
        ({"priority": 10}, "priority"),
        ({"attempts": -1}, "attempts"),
        ({"level": 20}, "level"),
        ({"grace_days": -1}, "grace_days"),
        ({"before": "dump 'x"}, "before"),
        ({"after_policy": "nightly"}, "after_policy"),
        ({"holidays": ["2027-2-6"]}, "holidays"),
        ({"rpo": policy_form.Span(9000, "days")}, "rpo"),
        ({"retention": {"daily": -1}}, "retention.daily"),
        ({"zone": "Mars/Olympus"}, ""),
        ({"windows": [WindowLine(begin="25:00")]}, "windows.0.begin"),
        ({"windows": [WindowLine(end="24:01")]}, "windows.0.end"),
        ({"windows": [WindowLine(rate=None)]}, "windows.0.rate"),
    ],
)
def test_a_problem_is_told_at_its_field(change, field):
    assert list(policy_form.problems(form(**change))) == [field]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (ScheduleLine(times="2 o'clock"), "times"),
        (ScheduleLine(times=""), "times"),
        (ScheduleLine(rule="weekly", weekdays=[]), "weekdays"),
        (ScheduleLine(rule="weekly", weeks=2), "anchor"),
        (ScheduleLine(rule="weekly", weeks=None), "weeks"),
        (ScheduleLine(rule="monthly", days="32"), "days"),
        (ScheduleLine(rule="monthly", days=""), "days"),
        (ScheduleLine(rule="yearly", days="1, 2"), "days"),
        (ScheduleLine(rule="yearly", month=2, days="30"), "rule"),
        (ScheduleLine(rule="hourly", minute=60), "minute"),
        (ScheduleLine(rule="minutes", minutes=0), "minutes"),
        (ScheduleLine(rule="once", at="tomorrow"), "at"),
        (ScheduleLine(begin="2027-13-01"), "begin"),
        (ScheduleLine(begin="2027-02-01", until="2027-01-01"), "rule"),
    ],
)
def test_a_problem_of_a_schedule_is_told_at_its_field(line, field):
    assert list(policy_lines.schedule_problems([line])) == [f"schedules.0.{field}"]


def test_a_schedule_that_is_there_twice_is_told():
    lines = [ScheduleLine(), ScheduleLine()]
    assert list(policy_lines.schedule_problems(lines)) == ["schedules.1.kind"]


def test_times_are_read_as_people_type_them():
    line = ScheduleLine(times="2:05，14:00")
    assert policy_lines.document_of(line)["daily"] == {"times": ["02:05", "14:00"]}
    monthly = ScheduleLine(rule="monthly", days="1, Last")
    assert policy_lines.document_of(monthly)["monthly"]["days"] == [1, -1]


@pytest.mark.parametrize("name", policy_form.PRESETS)
def test_presets_can_be(name):
    assert policy_form.problems(form(schedules=policy_form.preset(name))) == {}


@pytest.mark.parametrize("name", policy_form.KEEPING)
def test_rules_of_retention_can_be(name):
    assert policy_form.problems(form(retention=policy_form.keeping(name))) == {}


def test_every_problem_has_a_step():
    shown = {name for names in policy_form.STEPS.values() for name in names}
    assert {"schedules", "windows", "retention", "name", "machines"} <= shown
    assert policy_form.step_of("schedules.3.times") == "when"
    assert policy_form.step_of("retention.daily") == "keep"
    assert policy_form.step_of("") == "review"
    assert policy_form.step_of("name") == "review"


def test_a_form_without_anything_has_problems():
    assert {"platform", "storage", "name"} <= set(policy_form.problems(Form()))
