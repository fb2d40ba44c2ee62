"""What a channel tells, in words: plain text, HTML and JSON, in English and Chinese. Pure."""

import datetime
import html as html_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruchu.control.alarms import codes, records
from ruchu.control.alarms.records import Alarm, Reason
from ruchu.model.tasks import Severity

# What a digest shows; the rest is counted. A person reads no more at a time.
DIGEST_SHOWN = 50

_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "info": "Info",
        "warning": "Warning",
        "error": "Error",
        "critical": "Critical",
        "raised": "new",
        "worse": "became worse",
        "repeated": "still open",
        "escalated": "escalated: nobody has acknowledged it",
        "cleared": "over",
        "test": "test",
        "digest": "{count} alarms",
        "more": "and {count} more",
        "subject": "About",
        "severity": "Severity",
        "code": "Code",
        "count": "Times",
        "first": "First",
        "last": "Last",
        "state": "State",
        "detail": "Detail",
        "hint": "What to do",
    },
    "zh": {
        "info": "提示",
        "warning": "警告",
        "error": "错误",
        "critical": "严重",
        "raised": "新告警",
        "worse": "级别升高",
        "repeated": "仍未恢复",
        "escalated": "已升级：无人确认",
        "cleared": "已恢复",
        "test": "测试",
        "digest": "{count} 条告警",
        "more": "另有 {count} 条",
        "subject": "对象",
        "severity": "级别",
        "code": "代码",
        "count": "次数",
        "first": "首次",
        "last": "最近",
        "state": "状态",
        "detail": "详情",
        "hint": "处理建议",
    },
}


@dataclass(frozen=True, slots=True)
class Item:
    """One alarm in a message.

    Attributes:
        alarm: as it is when the message leaves.
        reason: why it is told.
    """

    alarm: Alarm
    reason: Reason


@dataclass(frozen=True, slots=True)
class Message:
    """What a channel sends.

    Attributes:
        id: the same in every attempt, so that a receiver can notice a repeat.
        at: when this attempt is made, in UTC.
        items: one alarm, or those of a digest; the latest word on each.
        language: for recipients without one of their own.
    """

    id: str
    at: datetime.datetime
    items: tuple[Item, ...]
    language: str = "en"

    @property
    def severity(self) -> Severity:
        """The worst of its alarms."""
        return max((each.alarm.severity for each in self.items), key=records.rank)

    @property
    def is_digest(self) -> bool:
        """Whether it tells of several alarms."""
        return len(self.items) > 1


def words(language: str) -> Mapping[str, str]:
    """Return the words of a language, English if there are none."""
    return _WORDS.get(language, _WORDS["en"])


def title(message: Message, language: str) -> str:
    """Return one line that says it all."""
    word = words(language)
    mark = f"[Ruchu] [{word[message.severity]}]"
    if message.is_digest:
        return f"{mark} {word['digest'].format(count=len(message.items))}"
    item = message.items[0]
    state = _state(item)
    told = "" if state == Reason.RAISED else f" ({word[state]})"
    return f"{mark} {_headline(item, language)}{told}"


def text(message: Message, language: str) -> str:
    """Return it as plain text."""
    parts = ["\n".join(_lines(each, language)) for each in message.items[:DIGEST_SHOWN]]
    more = len(message.items) - DIGEST_SHOWN
    if more > 0:
        parts.append(words(language)["more"].format(count=more))
    return "\n\n".join(parts) + "\n"


def html(message: Message, language: str) -> str:
    """Return it as HTML, with every text from outside escaped."""
    parts = [_html_item(each, language) for each in message.items[:DIGEST_SHOWN]]
    more = len(message.items) - DIGEST_SHOWN
    if more > 0:
        parts.append(f"<p>{words(language)['more'].format(count=more)}</p>")
    name = html_module.escape(title(message, language))
    head = f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8"><title>{name}'
    return f"{head}</title></head><body>{''.join(parts)}</body></html>\n"


def short(message: Message, language: str, length_max: int) -> str:
    """Return title and details as far as they fit into so many bytes of UTF-8."""
    whole = f"{title(message, language)}\n\n{text(message, language)}"
    return fit(whole, length_max)


def fit(whole: str, length_max: int) -> str:
    """Return a text cut to so many bytes of UTF-8, never within a character."""
    raw = whole.encode()
    if len(raw) <= length_max:
        return whole
    return raw[: length_max - len("…".encode())].decode(errors="ignore") + "…"


def document(message: Message) -> dict[str, Any]:
    """Return it for programs; both languages, nothing left out."""
    return {
        "id": message.id,
        "at": _shown(message.at),
        "severity": message.severity,
        "title": {language: title(message, language) for language in codes.LANGUAGES},
        "alarms": [_item_document(each) for each in message.items],
    }


def _item_document(item: Item) -> dict[str, Any]:
    alarm = item.alarm
    names = ("id", "code", "subject", "severity", "state", "first_at", "last_at", "count", "text")
    return {
        **{name: getattr(alarm, name) for name in names},
        "facts": dict(alarm.facts),
        "reason": item.reason,
        "acknowledged_by": alarm.acknowledged_by,
        "headline": {each: _headline(item, each) for each in codes.LANGUAGES},
        "hint": {each: codes.hint(alarm.code, each) for each in codes.LANGUAGES},
    }


def _headline(item: Item, language: str) -> str:
    alarm = item.alarm
    line = codes.headline(alarm.code, alarm.subject, alarm.facts, language)
    return " ".join(line.split())


def _state(item: Item) -> str:
    """Return how it stands: an alarm that ended before it was told is over, whatever it was."""
    if item.reason is Reason.TEST:
        return Reason.TEST
    return item.reason if item.alarm.is_open else Reason.CLEARED


def _pairs(item: Item, language: str) -> Sequence[tuple[str, str]]:
    alarm, word = item.alarm, words(language)
    pairs = [
        ("severity", word[alarm.severity]),
        ("state", word[_state(item)]),
        ("subject", alarm.subject),
        ("code", alarm.code),
        ("first", alarm.first_at[:19].replace("T", " ") + " UTC"),
        ("last", alarm.last_at[:19].replace("T", " ") + " UTC"),
        ("count", str(alarm.count)),
        ("detail", alarm.text),
        ("hint", codes.hint(alarm.code, language) if alarm.is_open else ""),
    ]
    return [(word[name], value) for name, value in pairs if value]


def _lines(item: Item, language: str) -> list[str]:
    colon = "：" if language == "zh" else ": "
    pairs = [f"{name}{colon}{value}" for name, value in _pairs(item, language)]
    return [_headline(item, language), *pairs]


def _html_item(item: Item, language: str) -> str:
    rows = "".join(
        f'<tr><th align="left" valign="top">{html_module.escape(name)}</th>'
        f"<td>{_html_text(value)}</td></tr>"
        for name, value in _pairs(item, language)
    )
    return f"<h3>{html_module.escape(_headline(item, language))}</h3><table>{rows}</table>"


def _html_text(value: str) -> str:
    return html_module.escape(value).replace("\n", "<br>")


def _shown(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
