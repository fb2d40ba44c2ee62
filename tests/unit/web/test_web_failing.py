"""What a page tells when something failed that was pressed."""

from types import SimpleNamespace

from ruchu.errors import Answered
from ruchu.web import console
from ruchu.web.language import Language
from ruchu.web.parts import acting

ZH = Language("zh", "Asia/Shanghai")


def told_of(monkeypatch, error):
    told, led = [], []
    monkeypatch.setattr(acting.ui, "notify", lambda text, **_: told.append(text))
    monkeypatch.setattr(console.ui.navigate, "to", led.append)
    console.tell_failed(SimpleNamespace(language=ZH, say=ZH.say, path="/runs"), error)
    return told, led


def test_what_nobody_foresaw_is_told_without_its_details(monkeypatch):
    told = told_of(monkeypatch, RuntimeError("in /var/lib/ruchu"))
    assert told == (["出现错误。\n详情见服务器日志。"], [])


def test_a_refusal_is_told_in_the_language_of_the_page(monkeypatch):
    gone = Answered.of({"status": 404, "detail": "There is no such thing."})
    assert told_of(monkeypatch, gone) == (["没有找到。"], [])


def test_a_session_that_ended_leads_to_the_sign_in_page(monkeypatch):
    told = told_of(monkeypatch, Answered.of({"status": 401, "detail": "Sign in."}))
    assert told == ([], ["/login?next=/runs"])
