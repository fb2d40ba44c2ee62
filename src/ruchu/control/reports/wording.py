"""A summary report in words: subject, plain text and HTML, in English and Chinese. Pure."""

import html as html_module
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ruchu import units
from ruchu.control.alarms import codes, messages
from ruchu.control.reports import forecast as forecasts
from ruchu.control.reports.facts import StorageUse, SummaryFacts, TroubledRun
from ruchu.control.reports.forecast import Forecast
from ruchu.control.reports.periods import Period, ReportKind

# What a reader looks through; the rest is counted, and the console has it all.
LINES_MAX = 50

_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "daily": "Daily report {period}",
        "weekly": "Weekly report {period}",
        "all_well": "all well",
        "trouble": "{count} need attention",
        "runs": "Runs",
        "succeeded": "succeeded",
        "failed": "failed",
        "stopped": "stopped",
        "no_runs": "none",
        "failed_runs": "Failed runs",
        "missed_runs": "Runs that did not start",
        "unprotected": "Machines that no policy covers",
        "protected": "Machines under protection",
        "storages": "Storages",
        "of": "{used} of {capacity} ({share:.0%})",
        "no_limit": "{used}, without a limit",
        "growth": "{growth} a day",
        "too_few": "too few days for a forecast ({days} of {least})",
        "full": "full about {day} (95 %: {earliest} to {latest})",
        "full_maybe": "not filling up by the trend, but {earliest} cannot be ruled out (95 %)",
        "not_full": "not full within ten years",
        "over_ten_years": "more than ten years",
        "alarms": "Open alarms",
        "none": "none",
        "more": "and {count} more",
    },
    "zh": {
        "daily": "日报 {period}",
        "weekly": "周报 {period}",
        "all_well": "一切正常",
        "trouble": "{count} 项需要关注",
        "runs": "任务",
        "succeeded": "成功",
        "failed": "失败",
        "stopped": "已停止",
        "no_runs": "无",
        "failed_runs": "失败的任务",
        "missed_runs": "未启动的任务",
        "unprotected": "未受任何策略保护的机器",
        "protected": "受保护的机器",
        "storages": "存储",
        "of": "已用 {used}，共 {capacity}（{share:.0%}）",
        "no_limit": "已用 {used}，无上限",
        "growth": "每天 {growth}",
        "too_few": "天数不足，无法预测（{days}/{least}）",
        "full": "预计 {day} 前后写满（95 %：{earliest} 至 {latest}）",
        "full_maybe": "按趋势不会写满，但不排除 {earliest} 写满的可能（95 %）",
        "not_full": "十年内不会写满",
        "over_ten_years": "十年以后",
        "alarms": "未恢复的告警",
        "none": "无",
        "more": "另有 {count} 条",
    },
}


@dataclass(frozen=True, slots=True)
class Report:
    """A report, ready to be sent."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    lines: Sequence[str]


def report(facts: SummaryFacts, period: Period, language: str) -> Report:
    """Return a report in a language, English if it is not known."""
    word = _WORDS.get(language, _WORDS["en"])
    title = word[ReportKind(period.kind)].format(period=period.name)
    count = len(facts.failed) + len(facts.missed) + len(facts.unprotected) + len(facts.alarms)
    state = word["trouble"].format(count=count) if count else word["all_well"]
    sections = [_Section(each.title, _cut(each.lines, word)) for each in _sections(facts, language)]
    subject = f"[Ruchu] {facts.server}: {title}, {state}"
    return Report(subject, _text(subject, sections), _html(subject, sections, language))


def _sections(facts: SummaryFacts, language: str) -> list[_Section]:
    word = _WORDS.get(language, _WORDS["en"])
    outcomes = [f"{word.get(name, name)}: {count}" for name, count in facts.outcomes.items()]
    alarms = [
        f"[{messages.words(language)[each.severity]}] "
        f"{codes.headline(each.code, each.subject, each.facts, language)} ({each.count})"
        for each in facts.alarms
    ]
    return [
        _Section(word["runs"], outcomes or [word["no_runs"]]),
        _Section(word["failed_runs"], [_run(each) for each in facts.failed]),
        _Section(word["missed_runs"], [_run(each) for each in facts.missed]),
        _Section(word["alarms"], alarms),
        _Section(word["unprotected"], list(facts.unprotected)),
        _Section(word["protected"], [str(facts.protected)]),
        _Section(word["storages"], [_storage(each, word) for each in facts.storages]),
    ]


def _run(run: TroubledRun) -> str:
    at = run.at[:16].replace("T", " ")
    return f"{at} UTC  {run.policy} / {run.subject}: {' '.join(run.reason.split())}"


def _storage(storage: StorageUse, word: Mapping[str, str]) -> str:
    used = units.format_size(storage.used_bytes)
    if storage.capacity_bytes > 0:
        share = storage.used_bytes / storage.capacity_bytes
        capacity = units.format_size(storage.capacity_bytes)
        use = word["of"].format(used=used, capacity=capacity, share=share)
    else:
        use = word["no_limit"].format(used=used)
    known = forecasts.forecast(storage.daily, storage.capacity_bytes)
    return f"{storage.name}: {'; '.join([use, *_outlook(storage, known, word)])}"


def _outlook(storage: StorageUse, known: Forecast, word: Mapping[str, str]) -> list[str]:
    if not known.enough:
        return [word["too_few"].format(days=known.days, least=forecasts.DAYS_MIN)]
    sign = "-" if known.growth_bytes < 0 else "+"
    growth = word["growth"].format(growth=sign + units.format_size(int(abs(known.growth_bytes))))
    if storage.capacity_bytes <= 0:
        return [growth]
    if known.full_on is not None:
        latest = known.latest or word["over_ten_years"]
        dates = {"day": known.full_on, "earliest": known.earliest, "latest": latest}
        return [growth, word["full"].format(**dates)]
    if known.earliest is not None:
        return [growth, word["full_maybe"].format(earliest=known.earliest)]
    return [growth, word["not_full"]]


def _cut(lines: Sequence[str], word: Mapping[str, str]) -> Sequence[str]:
    if not lines:
        return [word["none"]]
    more = len(lines) - LINES_MAX
    return [*lines[:LINES_MAX], *([word["more"].format(count=more)] if more > 0 else [])]


def _text(subject: str, sections: Sequence[_Section]) -> str:
    parts = [f"{each.title}\n" + "".join(f"  {line}\n" for line in each.lines) for each in sections]
    return f"{subject}\n\n" + "\n".join(parts)


def _html(subject: str, sections: Sequence[_Section], language: str) -> str:
    escape = html_module.escape
    parts = [
        f"<h3>{escape(each.title)}</h3><ul>"
        + "".join(f"<li>{escape(line)}</li>" for line in each.lines)
        + "</ul>"
        for each in sections
    ]
    head = f'<!DOCTYPE html><html lang="{escape(language)}"><head><meta charset="utf-8">'
    title = f"<title>{escape(subject)}</title></head><body><h2>{escape(subject)}</h2>"
    return f"{head}{title}{''.join(parts)}</body></html>\n"
