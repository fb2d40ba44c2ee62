"""Every text of the console is there in both languages."""

import ast
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from babel.messages import pofile

from ruchu import errors, web
from ruchu.errors import Answered
from ruchu.web import language
from ruchu.web.language import Language

_SOURCE = Path(web.__file__).parent
_CALLS = {"say", "later"}


def _texts() -> Iterator[tuple[str, str]]:
    """Yield each text that the console says, and where."""
    for path in sorted(_SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and _name(node.func) in _CALLS:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value, f"{path.relative_to(_SOURCE)}:{node.lineno}"


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_every_text_is_translated() -> None:
    chinese = language.catalogue(language.CHINESE)
    missing = [f"{where}: {text}" for text, where in _texts() if text not in chinese]
    assert not missing


def test_what_errors_say_is_translated() -> None:
    chinese = language.catalogue(language.CHINESE)
    missing = [text for text in (*language.messages(), *language.hints()) if text not in chinese]
    assert not missing


def test_no_translation_is_left_over() -> None:
    said = {text for text, _ in _texts()} | {*language.messages(), *language.hints()}
    assert not sorted(set(language.catalogue(language.CHINESE)) - said - {""})


def test_no_text_is_translated_twice() -> None:
    seen: dict[str, str] = {}
    for path in (resources.files("ruchu.web") / "locale" / "zh").iterdir():
        with path.open("rb") as file:
            for message in pofile.read_po(file):
                if message.id:
                    assert seen.setdefault(str(message.id), path.name) == path.name, message.id


def test_places_in_texts_are_the_same_in_both_languages() -> None:
    for english, chinese in language.catalogue(language.CHINESE).items():
        assert _places(english) == _places(chinese), english


def _places(text: str) -> set[str]:
    return {part.partition("}")[0] for part in text.split("{")[1:]}


@pytest.mark.parametrize(
    ("wanted", "accepted", "code"),
    [("zh", "en", "zh"), ("", "zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("", "de-DE, en-GB;q=0.7", "en"),
     ("xx", "", "en"), ("en", "zh-CN", "en")],
)  # fmt: skip
def test_the_language_is_that_of_the_choice_or_of_the_browser(
    wanted: str, accepted: str, code: str
) -> None:
    assert language.choose(wanted, accepted) == code


def test_moments_are_shown_on_the_clock_of_the_zone() -> None:
    at = "2026-11-26T17:05:00.000000Z"
    assert Language("zh", "Asia/Shanghai").moment(at) == "2026-11-27 01:05"
    assert Language("en", "Asia/Shanghai").moment(at) == "27 Nov 2026, 01:05"


def test_lengths_of_time_are_shown_in_the_units_of_people() -> None:
    shown = Language("en")
    assert [shown.duration(each) for each in (3.24, 42, 61, 3720, 90_000)] == [
        "3.2 s", "42 s", "1 min 1 s", "1 h 2 min", "1 d 1 h",
    ]  # fmt: skip


def test_an_error_within_an_error_is_translated_too() -> None:
    gone = errors.StorageGone("(/srv: mount.nfs: No such device)")
    told = Answered.of({"status": 502, "detail": f"{errors.NodeFailed.__doc__} ({gone})"})
    shown = Language("zh").problem(told)
    assert "存储" in shown
    assert "The storage" not in shown
    assert shown.endswith("(/srv: mount.nfs: No such device))")
    assert Language("en").problem(told) == str(told)
