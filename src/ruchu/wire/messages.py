"""The messages of the channel and their form on the wire. Pure: text in, values out.

A message is one text frame: a JSON object with `type`. Unknown fields are ignored, so that a newer
release may add some; an unknown type, a missing field or a wrong one is a violation.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Final, NoReturn, get_args

from ruchu.errors import ProtocolViolation, Refused
from ruchu.model.tasks import Ending, Order, Outcome, Severity, TaskEvent
from ruchu.wire import message_fields as take
from ruchu.wire.message_fields import Fields, WrongField

VERSIONS: Final = (1,)
"""Versions of the protocol that this release speaks: its own, and that of the release before."""

# The longest answer is the list of the machines of a platform: 10,000 of them at 500 bytes.
FRAME_BYTES_MAX: Final = 8 << 20
# What an alarm or a refusal says to a person.
TEXT_LENGTH_MAX: Final = 16 << 10
# A node collects what its tasks tell for a second or so; the rest goes into the next message.
EVENTS_MAX: Final = 1000
# Tasks that a node still knows: those that run, and those whose end was not acknowledged yet.
TASKS_MAX: Final = 10_000
VERSIONS_MAX: Final = 64
# Documents are a few levels deep. What is deeper was made to exhaust somebody's stack.
DEPTH_MAX: Final = 32


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
_NUL_SAID: Final = "\\u0000"
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
    # Parts of files are long and hold neither; to look for it in another way costs a twentieth.
    whole = text if text.isascii() else _HALVES.sub(_ODD, text)
    if _NUL_SAID in whole:
        whole = _NUL.sub(rf"\1{_ODD}", whole)
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
        raise ProtocolViolation(f"(unknown type {str(kind)[: take.NAME_LENGTH_MAX]!a})")
    try:
        return read(document)
    except WrongField as wrong:
        raise ProtocolViolation(f"({kind}: {wrong})") from None


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
    raise WrongField


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


def _hello(document: Fields) -> Hello:
    versions = take.items(document, "versions", VERSIONS_MAX)
    if not versions or not all(take.is_whole(value, 1) for value in versions):
        raise WrongField("versions holds what is no version")
    return Hello(
        versions=tuple(versions),
        release=take.text(document, "release"),
        boot=take.text(document, "boot"),
        tasks=tuple(_task_state(each) for each in take.mappings(document, "tasks", TASKS_MAX)),
        facts=take.mapping(document, "facts"),
    )


def _task_state(document: Fields) -> TaskState:
    return TaskState(
        take.identifier(document, "task"),
        take.count(document, "attempt", 1),
        take.count(document, "number"),
        take.flag(document, "ended"),
    )


def _task_events(document: Fields) -> TaskEvents:
    return TaskEvents(tuple(_event(each) for each in take.mappings(document, "events", EVENTS_MAX)))


def _event(document: Fields) -> TaskEvent:
    return TaskEvent(
        task=take.identifier(document, "task"),
        attempt=take.count(document, "attempt", 1),
        number=take.count(document, "number", 1),
        at=take.moment(document, "at"),
        name=take.text(document, "name"),
        body=take.mapping(document, "body"),
    )


def _task_ending(document: Fields) -> TaskEnding:
    found = take.mapping(document, "ending")
    try:
        outcome = Outcome(take.text(found, "outcome"))
    except ValueError:
        raise WrongField("outcome is unknown") from None
    return TaskEnding(
        Ending(
            task=take.identifier(found, "task"),
            attempt=take.count(found, "attempt", 1),
            at=take.moment(found, "at"),
            outcome=outcome,
            result=take.mapping(found, "result"),
            error=take.perhaps(found, "error"),
        )
    )


def _heartbeat(document: Fields) -> Heartbeat:
    return Heartbeat(take.moment(document, "at"), take.mapping(document, "load"))


def _answer(document: Fields) -> Answer:
    return Answer(
        take.identifier(document, "request"),
        document.get("value"),
        take.perhaps(document, "error"),
    )


def _node_alarm(document: Fields) -> NodeAlarm:
    try:
        severity = Severity(take.text(document, "severity"))
    except ValueError:
        raise WrongField("severity is unknown") from None
    return NodeAlarm(
        code=take.text(document, "code"),
        severity=severity,
        subject=take.text(document, "subject"),
        text=take.text(document, "text", TEXT_LENGTH_MAX),
        facts=take.mapping(document, "facts"),
    )


def _welcome(document: Fields) -> Welcome:
    return Welcome(
        take.count(document, "version", 1),
        take.moment(document, "at"),
        take.seconds(document, "heartbeat_s"),
    )


def _order_task(document: Fields) -> OrderTask:
    found = take.mapping(document, "order")
    secrets = take.mapping(found, "secrets")
    if not all(isinstance(value, str) for value in secrets.values()):
        raise WrongField("secrets holds what is no text")
    return OrderTask(
        Order(
            task=take.identifier(found, "task"),
            run=take.identifier(found, "run"),
            kind=take.text(found, "kind"),
            attempt=take.count(found, "attempt", 1),
            body=take.mapping(found, "body"),
            secrets=secrets,
        )
    )


def _stop_task(document: Fields) -> StopTask:
    return StopTask(take.identifier(document, "task"))


def _acknowledge(document: Fields) -> Acknowledge:
    return Acknowledge(
        take.identifier(document, "task"),
        take.count(document, "attempt", 1),
        take.count(document, "number"),
        take.flag(document, "ended"),
    )


def _ask(document: Fields) -> Ask:
    return Ask(
        take.identifier(document, "request"),
        take.text(document, "what"),
        take.mapping(document, "arguments"),
    )


def _refuse(document: Fields) -> Refuse:
    return Refuse(
        take.text(document, "code"),
        take.text(document, "text", TEXT_LENGTH_MAX),
    )


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
