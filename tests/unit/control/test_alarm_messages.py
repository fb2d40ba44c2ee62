"""Messages in words: both languages, HTML that is safe, and limits in bytes."""

import datetime
import re
import string
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ruchu.control.alarms import codes, messages
from ruchu.control.alarms.channels import building
from ruchu.control.alarms.messages import Item, Message
from ruchu.control.alarms.records import Alarm, Reason
from ruchu.model.tasks import Severity

AT = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)


def alarm(subject="vm-1", code="backup-failed", severity=Severity.ERROR, **changes):
    values = {
        "id": "1" * 32,
        "code": code,
        "subject": subject,
        "severity": severity,
        "state": "open",
        "first_at": "2026-11-26T10:00:00.000000Z",
        "last_at": "2026-11-26T12:00:00.000000Z",
        "count": 3,
        "text": "磁盘 <b>gone</b>\nline two",
        "facts": {},
        "acknowledged_by": None,
        "acknowledged_at": None,
        "cleared_at": None,
    }
    return Alarm(**{**values, **changes})


def message(*alarms, reason=Reason.RAISED):
    return Message("m1", AT, tuple(Item(each, reason) for each in alarms))


def test_a_title_in_both_languages():
    one = message(alarm())
    assert messages.title(one, "en") == "[Ruchu] [Error] Backup of vm-1 failed"
    assert messages.title(one, "zh") == "[Ruchu] [错误] vm-1 备份失败"
    assert messages.title(message(alarm(), alarm("b")), "zh") == "[Ruchu] [错误] 2 条告警"


def test_a_text_says_what_to_do():
    text = messages.text(message(alarm()), "zh")
    assert "处理建议：" in text
    assert "次数：3" in text
    assert "磁盘 <b>gone</b>" in text


def test_what_is_over_when_it_leaves_is_told_as_over():
    late = message(alarm(state="cleared"))
    assert messages.title(late, "en").endswith("(over)")
    assert "What to do" not in messages.text(late, "en")


def test_html_holds_no_tags_of_others():
    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.seen = set()

        def handle_starttag(self, tag, attributes):
            self.seen.add(tag)

    parser = Tags()
    parser.feed(messages.html(message(alarm("<script>alert(1)</script>")), "en"))
    assert not parser.seen & {"script", "b"}
    assert "table" in parser.seen


def test_a_digest_shows_some_and_counts_the_rest():
    many = message(*(alarm(f"vm-{number}") for number in range(70)))
    text = messages.text(many, "en")
    assert text.count("Backup of") == messages.DIGEST_SHOWN
    assert "and 20 more" in text
    assert "and 20 more" in messages.html(many, "en")
    assert len(messages.document(many)["alarms"]) == 70


@pytest.mark.parametrize("length", range(40, 60))
def test_a_cut_is_within_its_bytes_and_never_within_a_character(length):
    cut = messages.short(message(alarm("虚拟机" * 20)), "zh", length)
    assert len(cut.encode()) <= length
    assert cut.endswith("…")
    cut.encode().decode()


def test_every_code_has_both_languages_and_its_templates_work():
    assert len(codes.CODES) == len(codes.TABLE)
    for each in codes.TABLE:
        fields = {name for _, name, _, _ in string.Formatter().parse(each.english) if name}
        assert fields == {"subject"}
        assert re.search(r"[\u4e00-\u9fff]", each.chinese)
        assert re.search(r"[\u4e00-\u9fff]", each.hint_chinese)
        assert each.hint
        assert "X" in codes.headline(each.code, "X", {"self": 1, "subject": "Y"}, "zh")


def test_the_operators_document_is_the_table():
    text = (Path(__file__).parents[3] / "docs" / "operators" / "alarms.md").read_text()
    rows = re.findall(
        r"^\| `([a-z-]+)` \| (\w+) \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE
    )
    documented = {row[0]: row[1:] for row in rows}
    wanted = {
        each.code: (
            each.severity.value,
            each.english.replace("{subject}", "…"),
            each.chinese.replace("{subject}", "…"),
            each.hint,
        )
        for each in codes.TABLE
    }
    assert documented == wanted


def test_the_operators_document_names_every_kind_setting_and_secret():
    text = (Path(__file__).parents[3] / "docs" / "operators" / "alarms.md").read_text()
    for name, kind in building.KINDS.items():
        section = re.search(rf"^### `{name}`\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, name
        named = set(re.findall(r"`(\w+)`", section[1]))
        assert named >= {*kind.settings, *kind.secrets} - {"ca_file", "proxy"}, name
