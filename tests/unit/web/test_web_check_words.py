"""What a node says of its host is shown in Chinese, whatever it finds."""

import ast
import re
from pathlib import Path

import pytest

from ruchu.operations import host_checks
from ruchu.storage.guarding import probing
from ruchu.storage.guarding.bpf import calls, enforcing, programs, structures
from ruchu.web.language import Language
from ruchu.web.parts import check_words

EN, ZH = Language("en"), Language("zh")
# Names of programs, devices and libraries are the same in every language.
KEPT = {"kvm", "root"}


def _text(node):
    """Return a text of the source with its places filled in; None: it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "/x/7" for part in
                       node.values)  # fmt: skip
    return None


def _calls(module, name):
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name:
            yield node


def _details():
    for call in _calls(host_checks, "Check"):
        if len(call.args) > 2:
            yield _text(call.args[2])
    for module in (host_checks, probing):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Return):
                yield _text(node.value)
    for module in (calls, enforcing, programs, structures):
        for call in _calls(module, "GuardUnsupported"):
            yield _text(call.args[0])
    for call in _calls(probing, "_require_refused"):
        yield f"{_text(call.args[0])} was not refused"


def _names():
    for module, name in ((host_checks, "Check"), (host_checks, "_tried"), (probing, "_tried")):
        for call in _calls(module, name):
            yield _text(call.args[0])


def test_every_detail_is_translated():
    found = {text for text in _details() if text and re.search("[a-z] [a-z]", text)}
    assert len(found) > 25
    assert not [text for text in found if text in check_words.detail(ZH, text)]
    assert [check_words.detail(EN, text) for text in found] == list(found)


def test_every_name_is_translated():
    found = {text for text in _names() if text} - KEPT
    assert len(found) > 8
    assert not [text for text in found if check_words.name(ZH, text) == text]


@pytest.mark.parametrize(("said", "shown"), [
    ("/dev/nbd0 is not there", "/dev/nbd0 不存在"),
    ("Address already in use: no NFS export with --portmapper here",
     "地址已被占用：此处不能以 --portmapper 导出 NFS"),
    ("changing flags was not refused", "更改标志未被拒绝"),
    ("qemu-nbd 7.2.22 (Debian)", "qemu-nbd 7.2.22 (Debian)"),
    ("", ""),
])  # fmt: skip
def test_places_are_filled_with_what_was_found(said, shown):
    assert check_words.detail(ZH, said) == shown


def test_this_host_is_understood(tmp_path):
    for check in host_checks.all_checks(tmp_path):
        shown = check_words.detail(ZH, check.detail)
        assert check.state != "missing" or shown != check.detail or not check.detail
