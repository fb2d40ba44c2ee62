import dataclasses
import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.errors import ProtocolViolation, Refused
from ruchu.model.tasks import Ending, Order, Outcome, Severity, TaskEvent
from ruchu.wire import messages

TASK, RUN = "0123456789abcdef" * 2, "fedcba9876543210" * 2
AT = "2026-11-26T12:00:00.000001Z"
EVENT = TaskEvent(TASK, 1, 3, AT, "progress", {"done": 5, "total": 10, "label": "磁盘 0"})
ORDER = Order(TASK, RUN, "backup", 1, {"machine": "web-1"}, {"passphrase": 'qu"\\u0000"é'})
EXAMPLES = (
    messages.Hello((1, 2), "0.1.0", "b", (messages.TaskState(TASK, 1, 7, True),), {"cpus": 2}),
    messages.TaskEvents((EVENT, dataclasses.replace(EVENT, number=4))),
    messages.TaskEnding(Ending(TASK, 1, AT, Outcome.FAILED, {}, {"code": "damaged"})),
    messages.TaskEnding(Ending(TASK, 1, AT, Outcome.SUCCEEDED, {"points": ["p"]})),
    messages.Heartbeat(AT, {"tasks": 1}),
    messages.Answer(RUN, value=[1, None, {"a": "b"}]),
    messages.Answer(RUN, error={"code": "platform", "message": "no"}),
    messages.NodeAlarm("guard", Severity.CRITICAL, "/backup", "rm wrote", {"pid": 1}),
    messages.Welcome(1, AT, 10.0),
    messages.OrderTask(ORDER),
    messages.StopTask(TASK),
    messages.Acknowledge(TASK, 2, 9, False),
    messages.Ask(RUN, "machines", {"platform": "kvm"}),
    messages.Refuse("revoked", "No more."),
)


@pytest.mark.parametrize("message", EXAMPLES)
def test_every_message_comes_back(message):
    assert messages.decode(messages.encode(message)) == message


def test_the_examples_are_all_messages():
    said = {*get_args(messages.NodeMessage), *get_args(messages.ServerMessage)}
    assert {type(each) for each in EXAMPLES} == said


@pytest.mark.parametrize("message", EXAMPLES)
def test_unknown_fields_are_ignored(message):
    document = json.loads(messages.encode(message))
    document["added-by-a-newer-release"] = {"x": 1}
    assert messages.decode(json.dumps(document)) == message


OPTIONAL = {("answer", "value"), ("answer", "error"), ("task-ending", "error")}


@pytest.mark.parametrize("message", EXAMPLES)
def test_every_field_is_owed_and_has_a_type(message):
    document = json.loads(messages.encode(message))
    for name in document.keys() - {"value"}:
        for wrong in (object, 1.5, [1.5], "\0", -1):
            changed = {key: value for key, value in document.items() if key != name}
            if wrong is not object:
                changed[name] = wrong
            elif (document["type"], name) in OPTIONAL:
                continue
            if name == "heartbeat_s" and wrong == 1.5:
                continue
            with pytest.raises(ProtocolViolation):
                messages.decode(json.dumps(changed))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "{}",
        '{"type":1}',
        '{"type":["hello"]}',
        '{"type":"delete-everything"}',
        '{"type":"heartbeat","at":"2026-13-26T12:00:00.000001Z","load":{}}',
        '{"type":"heartbeat","at":"2026-11-26T12:00:00.000001Z","load":{"x":NaN}}',
        '{"type":"heartbeat","at":"2026-11-26T12:00:00.000001Z","load":{"x":"\\ud800"}}',
        '{"type":"heartbeat","at":"2026-11-26T12:00:00.000001Z","load":{"\\u0000":1}}',
        '{"type":"heartbeat","at":"2026-11-26T12:00:00.000001Z","load":' + "[" * 10**5,
        '{"type":"stop-task","task":"../../etc/passwd"}',
        '{"type":"stop-task","task":"' + "A" * 32 + '"}',
        '{"type":"welcome","version":true,"at":"2026-11-26T12:00:00.000001Z","heartbeat_s":1}',
        '{"type":"welcome","version":1,"at":"2026-11-26T12:00:00.000001Z","heartbeat_s":1e999}',
        '{"type":"ask","request":"' + TASK + '","what":"' + "x" * 300 + '","arguments":{}}',
        '{"type":"answer","request":"' + TASK + '","value":' + "9" * 5000 + "}",
    ],
)
def test_what_is_no_message_is_refused(text):
    with pytest.raises(ProtocolViolation):
        messages.decode(text)


def test_nesting_has_a_limit():
    deep = [0]
    for _ in range(messages.DEPTH_MAX - 3):
        deep = [deep]
    text = messages.encode(messages.Answer(RUN, value=deep))
    assert messages.decode(text).value == deep
    with pytest.raises(ProtocolViolation):
        messages.decode(messages.encode(messages.Answer(RUN, value=[[[deep]]])))


def test_a_frame_has_a_limit_in_both_directions():
    filled = "x" * messages.FRAME_BYTES_MAX
    with pytest.raises(ProtocolViolation, match="larger"):
        messages.encode(messages.Answer(RUN, value=filled))
    with pytest.raises(ProtocolViolation, match="larger"):
        messages.encode(messages.Answer(RUN, value="磁" * (messages.FRAME_BYTES_MAX // 2)))
    text = json.dumps({"type": "answer", "request": RUN, "value": filled})
    with pytest.raises(ProtocolViolation, match="too large"):
        messages.decode(text)


def test_odd_names_of_a_node_arrive_readable():
    said = messages.Answer(RUN, value={"path": "na\udcefve", "log": "a\0b\\u0000\\\0"})
    arrived = messages.decode(messages.encode(said))
    assert arrived.value == {"path": "na\ufffdve", "log": "a\ufffdb\\u0000\\\ufffd"}


def test_what_the_server_orders_is_never_altered():
    for secret in ("na\udcefve", "a\0b"):
        with pytest.raises(ProtocolViolation, match="no text"):
            messages.encode(messages.OrderTask(dataclasses.replace(ORDER, secrets={"p": secret})))


def test_what_json_cannot_say_is_refused():
    for value in (float("nan"), {1, 2}, b"bytes"):
        with pytest.raises(ProtocolViolation):
            messages.encode(messages.Heartbeat(AT, {"x": value}))


def test_secrets_are_not_shown():
    assert "passphrase" not in repr(messages.OrderTask(ORDER))


def test_the_newest_common_version_is_agreed():
    assert messages.agree((1,)) == 1
    assert messages.agree((3, 1, 2), ours=(2, 3)) == 3
    assert messages.agree((1, 2), ours=(2, 3)) == 2


@pytest.mark.parametrize(("theirs", "which"), [((9,), "server"), ((1,), "node"), ((), "node")])
def test_without_a_common_version_it_is_said_who_updates(theirs, which):
    with pytest.raises(Refused, match="protocol") as caught:
        messages.agree(theirs, ours=(4, 5))
    assert caught.value.advice.startswith(f"Update the {which}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(TASK),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
NAMES = [field.name for kind in map(type, EXAMPLES) for field in dataclasses.fields(kind)]


@given(st.sampled_from(EXAMPLES), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
def test_any_document_is_a_message_or_a_violation(message, changes):
    document = {**json.loads(messages.encode(message)), **changes}
    try:
        found = messages.decode(json.dumps(document))
    except ProtocolViolation:
        return
    assert messages.decode(messages.encode(found)) == found


@given(st.text())
def test_any_text_is_a_message_or_a_violation(text):
    with pytest.raises(ProtocolViolation):
        messages.decode(text)
