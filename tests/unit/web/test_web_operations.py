"""Words, requests and forms of the pages of operation and administration."""

import csv
import datetime
import io
from dataclasses import fields

import pytest

from ruchu.clock import from_text
from ruchu.control.alarms import codes
from ruchu.control.alarms.channels import building
from ruchu.control.alarms.records import ChannelDefinition
from ruchu.control.server import acts
from ruchu.control.storages.catalogue import PointRow
from ruchu.errors import StorageGone, UsageError
from ruchu.model.policies import Policy, Retention, Selection
from ruchu.model.principals import Role
from ruchu.testing.clocks import ManualClock
from ruchu.web.language import CHINESE, ENGLISH, Language
from ruchu.web.parts import (
    account_parts,
    alarm_words,
    audit_words,
    certificates,
    channel_fields,
    exchange,
    filtering,
    loss_words,
    roles,
    run_words,
    session_list,
    setting_forms,
)
from ruchu.web.parts.channel_fields import FIELDS, KINDS, SECRETS
from ruchu.wire.authority import Authority

EN, ZH = Language(ENGLISH, "Asia/Shanghai"), Language(CHINESE, "Asia/Shanghai")
AT = "2026-11-26T17:05:00.000000Z"


def task(**more):
    return {
        "id": "1", "label": "web-1", "state": "ended", "outcome": "succeeded", "body": {},
        "progress": {}, "result": {}, "error": None, **more,
    }  # fmt: skip


def a_run(**more):
    return {
        "id": "r", "kind": "backup", "name": "nightly", "policy": "p", "state": "failed",
        "ended": AT, "body": {"kind": "full"}, "priority": 5, "stop": False, "pause": False,
        **more,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------- jobs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("stop asked for", "Stop asked for"),
        ("its window opens at 2026-11-26 17:00 UTC",
         "Its backup window opens: 27 Nov 2026, 01:00"),
        ("attempt 2 follows", "Attempt 2 follows"),
        ("run 1a2b3c4d of this policy has not ended", "An earlier run has not ended: 1a2b3c4d"),
        (f"web-1: {StorageGone()}", f"web-1: {StorageGone()}"),
        (f"silent since {AT}.", "silent since 27 Nov 2026, 01:05."),
        ("nobody knows this one", "nobody knows this one"),
    ],
)  # fmt: skip
def test_reasons_of_the_engine_are_said_to_people(text, said):
    assert run_words.reason(EN, text) == said


def test_the_cause_behind_a_name_is_translated():
    said = run_words.reason(ZH, f"attempt 1 failed: web-1: {StorageGone()} (and 2 more)")
    assert said == f"第 1 次尝试失败：web-1: {ZH.say(str(StorageGone()))}（另有 2 项）"


def test_a_line_of_the_log_says_what_it_is_about():
    labels = {"t": "web-1"}
    event = {"task": "t", "at": AT, "name": "log", "body": {"level": "warning", "text": "slow"}}
    assert run_words.line(EN, event, labels) == ("warning", "web-1: slow")
    event |= {"name": "phase", "body": {"name": "copy"}}
    assert run_words.line(ZH, event, labels) == ("info", "web-1: 正在复制")
    event |= {"task": None, "name": "failed", "body": {"reason": "stopped"}}
    assert run_words.line(EN, event, labels) == ("error", "Failed: Stopped by hand")
    event |= {"name": "problem", "body": {"label": "db", "message": "gone", "hint": "Look."}}
    assert run_words.line(EN, event, labels) == ("error", "db: gone Look.")


def test_a_backup_starts_again_with_the_machines_that_it_did_not_save():
    whole = task(label="web-1", body={"names": {"1": "web-1"}})
    alone = task(label="web-2", outcome="failed", result=None, body={"names": {"2": "web-2"}})
    group = task(
        label="nightly", outcome="failed", body={"names": {"3": "db-1", "4": "db-2"}},
        result={"machines": [{"machine": "db-1", "ok": True}, {"machine": "db-2", "ok": False}]},
    )  # fmt: skip
    tasks = [whole, alone, group]
    assert run_words.again(a_run(), tasks) == (
        "/policies/p/run", {"kind": "full", "machines": ["web-2", "db-2"]}
    )  # fmt: skip


def test_other_work_starts_again_as_it_was_asked_for():
    run = a_run(kind="restore", policy=None, body={"point": "a"})
    wanted = {"kind": "restore", "name": "nightly", "body": {"point": "a"}, "priority": 5}
    assert run_words.again(run, []) == ("/runs", wanted)
    assert run_words.again(a_run(kind="delete-points"), []) is None
    assert run_words.again(a_run(policy=None), []) is None
    assert run_words.again(a_run(ended=None), []) is None


@pytest.mark.parametrize(
    ("run", "steps"),
    [
        ({"state": "running", "ended": None}, ("pause", "stop")),
        ({"state": "paused", "ended": None}, ("resume", "stop")),
        ({"state": "running", "ended": None, "pause": True}, ("resume", "stop")),
        ({"state": "stopping", "ended": None, "stop": True}, ()),
        ({"state": "succeeded"}, ()),
    ],
)
def test_a_run_is_steered_by_what_makes_sense_now(run, steps):
    assert run_words.steps(a_run(**run)) == steps


def test_totals_of_a_run_count_each_task_the_same():
    running = task(state="sent", outcome=None, progress={"done": 10, "total": 40, "rate": 8.0})
    found = run_words.totals([task(), running, task(state="waiting", outcome=None)])
    assert found == {"share": (1 + 0.25) / 3, "done": 10, "total": 40, "rate": 8.0}
    assert run_words.totals([])["share"] == 0


def test_a_period_begins_so_long_ago():
    now = from_text(AT)
    assert filtering.since("day", now) == "2026-11-25T17:05:00.000000Z"
    assert filtering.since("", now) is None


# -------------------------------------------------------------------------------------- alarms


def test_every_alarm_has_a_headline_and_a_hint_in_both_languages():
    for each in codes.TABLE:
        alarm = {"code": each.code, "subject": "web-1", "facts": {}, "text": ""}
        for language in (EN, ZH):
            assert "web-1" in alarm_words.headline(language, alarm)
            assert alarm_words.hint(language, alarm)


def test_facts_of_an_alarm_are_words_and_never_too_long():
    facts = {"group": "team-a", "some_key": [1, {"a": 2}], "points": ["a", "b"], "path": "x" * 900}
    found = alarm_words.facts(EN, {"facts": facts})
    assert found["Group"] == "team-a"
    assert found["some key"] == '[1, {"a": 2}]'
    assert found["Recovery points"] == "a, b"
    assert len(found["File"]) == 600


SETTINGS = {
    "mail": {"host": "mail.example.com", "port": 465, "security": "tls",
             "sender": "ruchu@example.com",
             "recipients": ["ops@example.com", {"address": "li@example.com", "language": "zh"}]},
    "webhook": {"url": "https://hook.example.com/x", "ca_file": "/etc/ca.pem"},
    "sms": {"phones": ["+8613800000000"], "url": "https://sms.example.com/", "method": "POST",
            "signer": "none", "query": {"PhoneNumbers": "${phone}"},
            "body": '{"text": "${headline}"}',
            "success": [{"path": "Code", "equals": "OK"}, {"path": "n", "equals": 0},
                        {"path": "s", "equals": "0"}]},
    "dingtalk": {"host": "https://ding.example.com"},
    "wecom": {},
    "feishu": {"proxy": "http://proxy.example.com:3128"},
}  # fmt: skip


@pytest.mark.parametrize("kind", building.KINDS)
def test_the_form_of_a_channel_holds_all_that_its_kind_knows(kind):
    known = building.KINDS[kind]
    assert {field.name for field in FIELDS[kind]} == known.settings
    assert {field.name for field in FIELDS[kind] if field.needed} == known.needed
    assert tuple(secret.name for secret in SECRETS[kind]) == known.secrets
    assert kind in KINDS


@pytest.mark.parametrize("kind", building.KINDS)
def test_settings_of_a_channel_come_back_from_the_form_as_they_went_in(kind):
    settings = SETTINGS[kind]
    building.check(ChannelDefinition("c", kind, settings))
    texts = channel_fields.texts_of(kind, settings)
    assert channel_fields.settings_of(kind, texts) == settings


@pytest.mark.parametrize(
    ("kind", "texts"),
    [("mail", {"port": "many"}), ("mail", {"recipients": "li@example.com fr"}),
     ("sms", {"query": "no pair"}), ("sms", {"success": "= OK"})],
)  # fmt: skip
def test_a_form_that_cannot_be_read_is_refused(kind, texts):
    with pytest.raises(UsageError):
        channel_fields.settings_of(kind, texts)


# --------------------------------------------------------------------------- audit and approvals


def test_a_spreadsheet_takes_no_cell_of_the_audit_for_a_formula():
    rows = [{"number": 1, "at": AT, "actor": "=cmd()", "action": "user.change", "subject": "李娜",
             "outcome": "done", "facts": {"a": [1]}}]  # fmt: skip
    text = audit_words.as_csv(rows).decode("utf-8-sig")
    head, row = csv.reader(io.StringIO(text))
    assert head[0] == "number"
    assert row == ["1", AT, "'=cmd()", "user.change", "李娜", "done", '{"a": [1]}']


def test_acts_that_are_not_known_go_by_their_own_name():
    assert audit_words.act(EN, "policy.run") == "Policies: run by hand"
    assert audit_words.act(ZH, "act.remove-user") == "破坏性操作：删除账户"
    assert audit_words.act(EN, "later.thing") == "later.thing"


def point(**more):
    values = dict.fromkeys([each.name for each in fields(PointRow)])
    values |= {"id": "a1b2c3d4e5", "name": "web 1", "storage": "main", "kind": "full",
               "time": AT, "bytes_stored": 3 << 30}  # fmt: skip
    return PointRow(**values | more)


def policy(**rules):
    return Policy("nightly", Selection("kvm", ("web-1",)), "main", retention=Retention(**rules))


def test_every_line_of_losses_is_said_in_the_language_of_who_decides():
    line = acts.point_line(point())
    assert loss_words.said(EN, line) == (
        "web 1, 27 Nov 2026, 01:05: Full, 3.0 GiB, on main (a1b2c3d4)"
    )
    lines = [
        line, f"No longer known: {line}", f"Retention may remove: {line}",
        "The storage main at /srv/backup; what lies there stays.",
        "No longer known: 12 older points.",
        *acts.keeps_less(policy(), policy(daily=7)),
        *acts.keeps_less(policy(daily=7, weekly=4), policy(daily=3, weekly=2)),
    ]  # fmt: skip
    lines += [f"Machines of the policy other, too: {each}" for each in lines[-4:]]
    for each in lines:
        said = loss_words.said(ZH, each)
        assert said != each
        assert any("\u4e00" <= letter <= "\u9fff" for letter in said), each
    assert loss_words.said(ZH, "Something else.") == "Something else."


# ----------------------------------------------------------------------- people and the server


def test_roles_are_summed_up_with_the_widest_first():
    grants = {"*": ["auditor", "operator"], "team-a": ["restore-operator"], "none": []}
    assert roles.summary(EN, grants) == ("Operator, Auditor everywhere; Restore operator in team-a")
    assert set(roles.NAMES) == set(roles.WORDS) == set(Role)


def test_recipients_of_summaries_have_a_language():
    found = setting_forms.recipients("li@example.com zh\nops@example.com\n\n")
    assert found == {"li@example.com": "zh", "ops@example.com": "en"}
    assert setting_forms.recipients(setting_forms.shown(found)) == found


def test_storages_that_are_elsewhere_are_named_with_their_place():
    assert exchange.locations("main = /mnt/a\n\nb=s3://x") == {"main": "/mnt/a", "b": "s3://x"}
    with pytest.raises(UsageError):
        exchange.locations("main")


def test_changes_are_counted_by_what_happens():
    changes = [{"action": "create"}, {"action": "create"}, {"action": "same"}]
    assert exchange.counted(EN, changes) == "Is made: 2 · Is the same: 1"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
         "Firefox · Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/126.0 Safari/537.36 Edg/126.0",
         "Edge · Windows"),
        ("python-httpx/0.27", "python-httpx/0.27"),
        ("", "?"),
    ],
)  # fmt: skip
def test_a_browser_is_named_as_people_call_it(text, short):
    assert session_list.agent(text) == short


def test_a_secret_is_typed_in_groups_of_four():
    assert account_parts.grouped("ABCDEFGHIJ") == "ABCD EFGH IJ"


def test_a_certificate_that_ends_soon_is_marked():
    clock = ManualClock()
    found = certificates.read(Authority.create(clock).certificate)
    assert found.mark(clock.now()) is certificates.VALID
    assert found.mark(found.ends - datetime.timedelta(days=10)) is certificates.ENDING
    assert found.mark(found.ends + datetime.timedelta(days=2)) is certificates.ENDED
