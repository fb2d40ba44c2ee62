"""The messages of the channel and their form on the wire. Pure: text in, values out.

A message is one text frame: a JSON object with `type`. Unknown fields are ignored, so that a newer
release may add some; an unknown type, a missing field or a wrong one is a violation.
"""

import datetime
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final, NoReturn, get_args

from ruchu.errors import ProtocolViolation, Refused
from ruchu.model import ids
from ruchu.model.tasks import Ending, Order, Outcome, Severity, TaskEvent

VERSIONS: Final = (1,)
"""Versions of the protocol that this release speaks: its own, and that of the release before."""

# The longest answer is the list of the machines of a platform: 10,000 of them at 500 bytes.
FRAME_BYTES_MAX: Final = 8 << 20
# Ids of things, codes, names of kinds; people do not type longer ones.
NAME_LENGTH_MAX: Final = 255
# What an alarm or a refusal says to a person.
TEXT_LENGTH_MAX: Final = 16 << 10
# A node collects what its tasks tell for a second or so; the rest goes into the next message.
EVENTS_MAX: Final = 1000
# Tasks that a node still knows: those that run, and those whose end was not acknowledged yet.
TASKS_MAX: Final = 10_000
VERSIONS_MAX: Final = 64
# Documents are a few levels deep. What is deeper was made to exhaust somebody's stack.
DEPTH_MAX: Final = 32
# Whole numbers up to here are the same in every language and database.
COUNT_MAX: Final = 2**53 - 1
HEARTBEAT_S_MAX: Final = 3600.0


@dataclass(frozen=True, slots=True)
class TaskState:
    """What a node knows of a task when it connects.

    Attributes:
        task, attempt: of its order.
        number: of the last event that the node has.
        ended: its ending is on the node's disk.
    """

    task: str
    attempt: int
    number: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a node.

    Attributes:
        versions: of the protocol that it speaks.
        release: of Ruchu.
        boot: id of this start of the host, so that the server knows whether it was restarted.
        tasks: those it still knows.
        facts: about the host, for people and for the choice of a node.
    """

    versions: tuple[int, ...]
    release: str
    boot: str
    tasks: tuple[TaskState, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskEvents:
    """Events of tasks, in their order."""

    events: tuple[TaskEvent, ...]


@dataclass(frozen=True, slots=True)
class TaskEnding:
    """How an attempt ended."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The node lives; `load` says how busy it is."""

    at: str
    load: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """Answers an `Ask`.

    Attributes:
        request: id of the question.
        value: any JSON value; None if there is an error.
        error: `code`, `message`, `hint`, `retry`; None if it succeeded.
    """

    request: str
    value: Any = None
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NodeAlarm:
    """The node has to tell people something that belongs to no task."""

    code: str
    severity: Severity
    subject: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Welcome:
    """Answers `Hello`: the version that is spoken, the server's time, seconds from beat to beat."""

    version: int
    at: str
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class OrderTask:
    """Work for the node."""

    order: Order


@dataclass(frozen=True, slots=True)
class StopTask:
    """A task shall end and clean up."""

    task: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The server has everything of an attempt up to `number`, and its ending if `ended`."""

    task: str
    attempt: int
    number: int
    ended: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """A short question; the node sends an `Answer` with the same id."""

    request: str
    what: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refuse:
    """The server does not go on with this node, and closes."""

    code: str
    text: str


NodeMessage = Hello | TaskEvents | TaskEnding | Heartbeat | Answer | NodeAlarm
"""What a node says."""

ServerMessage = Welcome | OrderTask | StopTask | Acknowledge | Ask | Refuse
"""What a server says."""

Message = NodeMessage | ServerMessage


def agree(theirs: Iterable[int], ours: Iterable[int] = VERSIONS) -> int:
    """Return the newest version of the protocol that both sides speak.

    Raises:
        Refused: there is none.
    """
    theirs, ours = sorted(theirs), sorted(ours)
    common = set(theirs) & set(ours)
    if common:
        return max(common)
    older = not theirs or theirs[-1] < ours[0]
    which = "Update the node" if older else "Update the server"
    raise Refused(
        f"(it speaks version {_listed(theirs)} of the protocol, this side {_listed(ours)})",
        hint=f"{which}: a server talks to nodes of its own release and of the one before.",
    )


def _listed(numbers: list[int]) -> str:
    return " or ".join(str(number) for number in numbers) or "no"


# ------------------------------------------------------------------------------------- to text

# What no text may hold: halves of a character, which a file name on Linux can bring along.
_HALVES: Final = re.compile("[\ud800-\udfff]")
_NUL: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_ODD: Final = "\N{REPLACEMENT CHARACTER}"


def encode(message: Message) -> str:
    r"""Return a message as the text of one frame.

    Names and output of programs may hold what no text on the wire may (`\0`, bytes that are not
    UTF-8): a node's message carries U+FFFD instead, since it is read by people. What a server says
    is acted upon, and refused instead.

    Raises:
        ProtocolViolation: it is too large, or holds what JSON cannot say.
    """
    document = {"type": _TYPES[type(message)], **_plain(message)}
    try:
        text = json.dumps(
            document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolViolation(f"({_TYPES[type(message)]}: {error})") from None
    whole = _NUL.sub(rf"\1{_ODD}", _HALVES.sub(_ODD, text))
    if whole != text and isinstance(message, get_args(ServerMessage)):
        raise ProtocolViolation(f"({_TYPES[type(message)]} holds what is no text)")
    if len(whole) > FRAME_BYTES_MAX or len(whole.encode()) > FRAME_BYTES_MAX:
        raise ProtocolViolation(f"({_TYPES[type(message)]} is larger than a frame may be)")
    return whole


def _plain(value: Any) -> dict[str, Any]:
    """Return what JSON does not know as what it knows."""
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


# ----------------------------------------------------------------------------------- from text


def decode(text: str) -> Message:
    """Return the message of one frame.

    Raises:
        ProtocolViolation: it is none.
    """
    document = _document(text)
    kind = document.get("type")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise ProtocolViolation(f"(unknown type {str(kind)[:NAME_LENGTH_MAX]!a})")
    try:
        return read(document)
    except _Wrong as wrong:
        raise ProtocolViolation(f"({kind}: {wrong})") from None


class _Wrong(ValueError):
    """A field is not what it should be."""


Fields = dict[str, Any]


def _document(text: str) -> Fields:
    if len(text) > FRAME_BYTES_MAX or len(text.encode(errors="replace")) > FRAME_BYTES_MAX:
        raise ProtocolViolation("(the frame is too large)")
    try:
        document = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise ProtocolViolation("(the frame is no JSON)") from None
    if not isinstance(document, dict):
        raise ProtocolViolation("(the frame is no object)")
    # Both can be said by an escape, or in a frame of somebody who does not mind UTF-8.
    _check(document, texts="\\u" in text or not text.isascii() or "\0" in text)
    return document


def _no_number(_: str) -> NoReturn:
    raise _Wrong


def _check(document: Fields, *, texts: bool) -> None:
    """Refuse what would exhaust a stack, or what no database can keep."""
    level: list[Any] = [document]
    for _ in range(DEPTH_MAX):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += value.values()
                if texts:
                    inside += value
            elif isinstance(value, list):
                inside += value
        if texts and any(_is_odd(value) for value in inside):
            raise ProtocolViolation("(a text holds half a character, or NUL)")
        level = [value for value in inside if isinstance(value, dict | list)]
        if not level:
            return
    raise ProtocolViolation("(it is nested too deeply)")


def _is_odd(value: Any) -> bool:
    return isinstance(value, str) and ("\0" in value or _HALVES.search(value) is not None)


def _get(document: Fields, name: str) -> Any:
    try:
        return document[name]
    except KeyError:
        raise _Wrong(f"{name} is missing") from None


def _text(document: Fields, name: str, length_max: int = NAME_LENGTH_MAX) -> str:
    value = _get(document, name)
    if not isinstance(value, str) or len(value) > length_max:
        raise _Wrong(f"{name} is no text, or too long a one")
    return value


def _id(document: Fields, name: str) -> str:
    value = _get(document, name)
    if not ids.is_id(value):
        raise _Wrong(f"{name} is no id")
    return str(value)


def _whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value <= COUNT_MAX


def _count(document: Fields, name: str, least: int = 0) -> int:
    value = _get(document, name)
    if not _whole(value, least):
        raise _Wrong(f"{name} is no whole number from {least}")
    return int(value)


def _seconds(document: Fields, name: str) -> float:
    value = _get(document, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Wrong(f"{name} is no number")
    if not 0 < value <= HEARTBEAT_S_MAX:
        raise _Wrong(f"{name} is out of range")
    return float(value)


def _flag(document: Fields, name: str) -> bool:
    value = _get(document, name)
    if not isinstance(value, bool):
        raise _Wrong(f"{name} is neither true nor false")
    return value


_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{6}Z")


def _moment(document: Fields, name: str) -> str:
    value = _get(document, name)
    try:
        if isinstance(value, str) and _MOMENT.fullmatch(value):
            datetime.datetime.fromisoformat(value)
            return value
    except ValueError:
        pass
    raise _Wrong(f"{name} is no moment")


def _object(document: Fields, name: str) -> Fields:
    value = _get(document, name)
    if not isinstance(value, dict):
        raise _Wrong(f"{name} is no object")
    return value


def _perhaps(document: Fields, name: str) -> Fields | None:
    return None if document.get(name) is None else _object(document, name)


def _list(document: Fields, name: str, length_max: int) -> list[Any]:
    value = _get(document, name)
    if not isinstance(value, list) or len(value) > length_max:
        raise _Wrong(f"{name} is no list, or too long a one")
    return value


def _objects(document: Fields, name: str, length_max: int) -> list[Fields]:
    found = _list(document, name, length_max)
    if not all(isinstance(value, dict) for value in found):
        raise _Wrong(f"{name} holds what is no object")
    return found


def _hello(document: Fields) -> Hello:
    versions = _list(document, "versions", VERSIONS_MAX)
    if not versions or not all(_whole(value, 1) for value in versions):
        raise _Wrong("versions holds what is no version")
    return Hello(
        versions=tuple(versions),
        release=_text(document, "release"),
        boot=_text(document, "boot"),
        tasks=tuple(_task_state(each) for each in _objects(document, "tasks", TASKS_MAX)),
        facts=_object(document, "facts"),
    )


def _task_state(document: Fields) -> TaskState:
    return TaskState(
        _id(document, "task"),
        _count(document, "attempt", 1),
        _count(document, "number"),
        _flag(document, "ended"),
    )


def _task_events(document: Fields) -> TaskEvents:
    return TaskEvents(tuple(_event(each) for each in _objects(document, "events", EVENTS_MAX)))


def _event(document: Fields) -> TaskEvent:
    return TaskEvent(
        task=_id(document, "task"),
        attempt=_count(document, "attempt", 1),
        number=_count(document, "number", 1),
        at=_moment(document, "at"),
        name=_text(document, "name"),
        body=_object(document, "body"),
    )


def _task_ending(document: Fields) -> TaskEnding:
    found = _object(document, "ending")
    try:
        outcome = Outcome(_text(found, "outcome"))
    except ValueError:
        raise _Wrong("outcome is unknown") from None
    return TaskEnding(
        Ending(
            task=_id(found, "task"),
            attempt=_count(found, "attempt", 1),
            at=_moment(found, "at"),
            outcome=outcome,
            result=_object(found, "result"),
            error=_perhaps(found, "error"),
        )
    )


def _heartbeat(document: Fields) -> Heartbeat:
    return Heartbeat(_moment(document, "at"), _object(document, "load"))


def _answer(document: Fields) -> Answer:
    return Answer(_id(document, "request"), document.get("value"), _perhaps(document, "error"))


def _node_alarm(document: Fields) -> NodeAlarm:
    try:
        severity = Severity(_text(document, "severity"))
    except ValueError:
        raise _Wrong("severity is unknown") from None
    return NodeAlarm(
        code=_text(document, "code"),
        severity=severity,
        subject=_text(document, "subject"),
        text=_text(document, "text", TEXT_LENGTH_MAX),
        facts=_object(document, "facts"),
    )


def _welcome(document: Fields) -> Welcome:
    return Welcome(
        _count(document, "version", 1),
        _moment(document, "at"),
        _seconds(document, "heartbeat_s"),
    )


def _order_task(document: Fields) -> OrderTask:
    found = _object(document, "order")
    secrets = _object(found, "secrets")
    if not all(isinstance(value, str) for value in secrets.values()):
        raise _Wrong("secrets holds what is no text")
    return OrderTask(
        Order(
            task=_id(found, "task"),
            run=_id(found, "run"),
            kind=_text(found, "kind"),
            attempt=_count(found, "attempt", 1),
            body=_object(found, "body"),
            secrets=secrets,
        )
    )


def _stop_task(document: Fields) -> StopTask:
    return StopTask(_id(document, "task"))


def _acknowledge(document: Fields) -> Acknowledge:
    return Acknowledge(
        _id(document, "task"),
        _count(document, "attempt", 1),
        _count(document, "number"),
        _flag(document, "ended"),
    )


def _ask(document: Fields) -> Ask:
    return Ask(_id(document, "request"), _text(document, "what"), _object(document, "arguments"))


def _refuse(document: Fields) -> Refuse:
    return Refuse(_text(document, "code"), _text(document, "text", TEXT_LENGTH_MAX))


_TYPES: Final[dict[type, str]] = {
    Hello: "hello",
    TaskEvents: "task-events",
    TaskEnding: "task-ending",
    Heartbeat: "heartbeat",
    Answer: "answer",
    NodeAlarm: "node-alarm",
    Welcome: "welcome",
    OrderTask: "order-task",
    StopTask: "stop-task",
    Acknowledge: "acknowledge",
    Ask: "ask",
    Refuse: "refuse",
}
_READERS: Final[dict[str, Callable[[Fields], Message]]] = {
    "hello": _hello,
    "task-events": _task_events,
    "task-ending": _task_ending,
    "heartbeat": _heartbeat,
    "answer": _answer,
    "node-alarm": _node_alarm,
    "welcome": _welcome,
    "order-task": _order_task,
    "stop-task": _stop_task,
    "acknowledge": _acknowledge,
    "ask": _ask,
    "refuse": _refuse,
}
