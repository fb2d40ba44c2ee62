"""Policies in words, in both languages; and the rows and files that are made of them."""

import pytest
import yaml

from ruchu.control.policies import documents
from ruchu.web import policy_facts, policy_words
from ruchu.web.language import Language

EN, ZH = Language("en"), Language("zh")


def document(**more):
    wanted = {"name": "n", "storage": "main", "selection": {"platform": "kvm"}, **more}
    return documents.to_document(documents.from_document(wanted))


def selection(**more):
    return document(selection={"platform": "kvm", **more})["selection"]


@pytest.mark.parametrize(
    ("wanted", "english", "chinese"),
    [
        ({"machines": ["a"]}, "1 machine", "1 台虚拟机"),
        ({"machines": ["a", "b"]}, "2 machines", "2 台虚拟机"),
        ({"patterns": ["*"]}, "Every machine of kvm", "kvm 的全部虚拟机"),
        ({"patterns": ["*"], "excluded": ["test-*"]}, "Every machine of kvm; without test-*",
         "kvm 的全部虚拟机；不含 test-*"),
        ({"patterns": ["web-*"], "tags": ["gold"]}, "Named web-*, tagged gold",
         "名称为 web-*、标签为 gold"),
        ({"hosts": ["1", "2", "3", "4"]}, "On the host 1, 2, 3 and 1 more",
         "位于主机 1、2、3 等另外 1 项"),
        ({}, "No machine", "无虚拟机"),
    ],
)  # fmt: skip
def test_what_is_selected_is_said(wanted, english, chinese):
    assert policy_words.selects(EN, selection(**wanted)) == english
    assert policy_words.selects(ZH, selection(**wanted)) == chinese


def test_a_list_that_was_cut_says_how_long_it_is():
    shown = {**selection(machines=["a", "b"]), "counts": {"machines": 900}}
    assert policy_words.selects(EN, shown) == "900 machines"


def test_schedules_are_said():
    schedules = [{"kind": "incremental", "daily": {"times": ["02:00"]}},
                 {"kind": "full", "weekly": {"days": ["sun"], "times": ["02:00"]}}]  # fmt: skip
    assert policy_words.when(EN, schedules) == [
        "Incremental every day at 02:00", "Full every Sunday at 02:00",
    ]  # fmt: skip
    assert policy_words.when(ZH, schedules) == ["每天 02:00 增量", "每周日 02:00 全量"]
    assert policy_words.when(ZH, []) == ["仅手动"]


def test_how_long_points_stay_is_said():
    rules = {"daily": 7, "weekly": 4, "monthly": 12}
    assert policy_words.keeps(EN, rules) == "7 daily, 4 weekly, 12 monthly"
    assert policy_words.keeps(ZH, rules) == "每日 7 个、每周 4 个、每月 12 个"
    assert policy_words.keeps(EN, {"count": 14}) == "The newest 14"
    assert policy_words.keeps(ZH, {}) == "全部"
    assert len(policy_words.stays(EN, rules)) == 3


def test_windows_are_said():
    found = {"days": [5, 6], "begin": 1200, "end": 1440, "bytes_per_s": 100 << 20}
    assert policy_words.window(EN, found) == (
        "Saturday, Sunday from 20:00 to 24:00, at most 100.0 MiB/s"
    )
    assert policy_words.window(ZH, {**found, "days": [], "bytes_per_s": 0}) == "每天 20:00 至 24:00"


def test_only_what_is_not_as_usual_is_among_the_facts():
    usual = policy_facts.facts(EN, document())
    assert list(usual) == ["Protects", "Platform", "Storage", "When", "Keeps",
                           "Machines at the same time"]  # fmt: skip
    more = policy_facts.facts(EN, document(
        priority=1, nodes=["n1"], on_lost_node="move", rpo_minutes=1500, group="team",
        options={"level": 9, "leave_out": "free,swap", "quiesce": False, "snapshots": "barrier"},
    ))  # fmt: skip
    assert more["Left out"] == "Free space of file systems, Swap"
    assert more["If a node is lost"] == "Let another node take over"
    assert more["No machine without a point for longer than"] == "1 d 1 h"


def test_a_policy_as_code_is_the_policy():
    wanted = document(
        name="每晚", zone="Asia/Shanghai", retention={"daily": 7}, options={"level": 3},
        schedules=[{"kind": "full", "daily": {"times": ["02:00", "14:00"]}}],
    )  # fmt: skip
    text = policy_words.as_code(wanted)
    ((name, fields),) = yaml.safe_load(text)["policies"].items()
    assert document(**fields, name=name) == wanted
    assert "parallel" not in text


PREVIEW = {"disk_bytes": 1000 << 20, "change_a_day": 0.1, "ratio": None,
           "remaining": {"points": 20, "oldest_days": 318.0, "weight": 4.0}}  # fmt: skip


def test_space_is_predicted_from_what_is_assumed():
    assert [size for _, size in policy_words.space(EN, PREVIEW)] == [
        "500.0 MiB", "50.0 MiB", "2.0 GiB",
    ]  # fmt: skip
    known = {**PREVIEW, "ratio": 0.25, "remaining": None}
    assert [size for _, size in policy_words.space(EN, known)] == ["250.0 MiB", "25.0 MiB"]
    assert "10%" in policy_words.assumptions(ZH, PREVIEW)
    assert "25%" in policy_words.assumptions(EN, known)


def test_what_remains_is_said():
    assert policy_words.remains(EN, PREVIEW["remaining"]) == (
        "In the long run 20 points remain of each machine, the oldest 11 months old."
    )
    assert policy_words.remains(ZH, None) == "不会删除任何恢复点。"


@pytest.mark.parametrize(
    ("enabled", "run", "state"),
    [
        (False, None, "off"),
        (True, None, "never"),
        (True, {"state": "failed", "ended": "x"}, "failed"),
        (True, {"state": "partly", "ended": "x"}, "failed"),
        (True, {"state": "running", "ended": None}, "running"),
        (True, {"state": "succeeded", "ended": "x"}, "good"),
    ],
)
def test_policies_are_found_by_how_they_went(enabled, run, state):
    assert policy_words.state({"enabled": enabled, "last": run}) == state
