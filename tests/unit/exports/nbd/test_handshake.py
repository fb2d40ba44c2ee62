"""The handshake, played with lists of bytes."""

import struct

import pytest

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_server_messages as replies
from ruchu.blocks.nbd_protocol import Receive, Send, StartTls
from ruchu.errors import NbdError
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.handshake import OPTIONS_MAX, negotiate
from ruchu.testing.memory_device import MemoryDevice
from ruchu.units import KIB, MIB

FLAGS = struct.pack(">I", 3)


def exports(*names):
    made = [NbdExport(name, MemoryDevice(MIB), f"about {name}") for name in names]
    return {export.name: export for export in made}


def play(known, said, *, tls=False):
    """Return (what was agreed on, what the server sent after its greeting, TLS was started)."""
    steps = negotiate(known, tls=tls)
    rest, sent, started, answer = FLAGS + said, [], False, None
    try:
        while True:
            step = next(steps) if answer is None else steps.send(answer)
            answer = b""
            match step:
                case Receive(count):
                    if len(rest) < count:
                        steps.close()
                        return None, parsed(b"".join(sent)[18:]), started
                    answer, rest = rest[:count], rest[count:]
                case Send(buffers):
                    sent += buffers
                case StartTls():
                    started = True
    except StopIteration as end:
        return end.value, parsed(b"".join(sent)[18:]), started


def parsed(data):
    """Return (option, kind, data) of each reply; what is no reply stays bytes."""
    found = []
    while len(data) >= 20 and data[:8] == struct.pack(">Q", messages.OPTION_REPLY_MAGIC):
        option, kind, length = struct.unpack(">III", data[8:20])
        found.append((option, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return [*found, data] if data else found


def go(name, *wanted):
    data = struct.pack(">I", len(name)) + name.encode()
    return data + struct.pack(f">H{len(wanted)}H", len(wanted), *wanted)


def opt(number, data=b""):
    return messages.option(number, data)


STRUCTURED = opt(messages.OPT_STRUCTURED_REPLY)
ACK = messages.REP_ACK


def test_go_tells_the_export():
    known = exports("a", "b")
    agreed, said, _ = play(known, opt(messages.OPT_GO, go("b", 1, 2, 3)))
    assert agreed.export is known["b"]
    assert not agreed.structured
    assert not agreed.allocation
    infos = [data for _, kind, data in said if kind == messages.REP_INFO]
    assert said[-1] == (messages.OPT_GO, ACK, b"")
    size, flags = messages.parse_info_export(infos[0])
    assert size == MIB
    assert flags & messages.EXPORT_MULTI_CONNECTION
    assert not flags & messages.EXPORT_READ_ONLY
    assert messages.parse_info_block_size(infos[1]) == (1, 64 * KIB, 32 * MIB)
    assert infos[2:] == [b"\0\1b", b"\0\2about b"]


def test_info_leaves_the_choice_open():
    known = exports("a", "b")
    agreed, said, _ = play(known, opt(replies.OPT_INFO, go("a")) + opt(messages.OPT_GO, go("b")))
    assert agreed.export is known["b"]
    assert [option for option, *_ in said] == [6, 6, 6, 7, 7, 7]


def test_the_empty_name_is_the_only_export():
    known = exports("only")
    assert play(known, opt(messages.OPT_GO, go("")))[0].export is known["only"]
    assert play(exports("a", "b"), opt(messages.OPT_GO, go("")))[0] is None


def test_an_unknown_export_is_refused_and_the_handshake_goes_on():
    agreed, said, _ = play(exports("a"), opt(messages.OPT_GO, go("x")) + opt(7, go("a")))
    assert said[0][1] == replies.REP_ERR_UNKNOWN
    assert agreed is not None


@pytest.mark.parametrize(("flags", "zeroes"), [(3, 0), (1, 124), (0, 124)])
def test_old_clients_name_the_export(flags, zeroes):
    steps = negotiate(exports("a"), tls=False)
    assert next(steps) == Send((replies.greeting(),))
    assert steps.send(b"") == Receive(4)
    assert steps.send(struct.pack(">I", flags)) == Receive(16)
    assert steps.send(opt(replies.OPT_EXPORT_NAME, b"a")[:16]) == Receive(1)
    answer = steps.send(b"a")
    assert struct.unpack(">Q", answer.buffers[0][:8]) == (MIB,)
    assert len(answer.buffers[0]) == 10 + zeroes
    with pytest.raises(StopIteration) as end:
        steps.send(b"")
    assert end.value.value.export.name == "a"


@pytest.mark.parametrize("data", [b"unknown", b"\xff\xfe"])
def test_a_wrong_old_name_ends_the_connection(data):
    with pytest.raises(NbdError):
        play(exports("a"), opt(replies.OPT_EXPORT_NAME, data))


def test_the_list():
    _, said, _ = play(exports("a", "b"), opt(replies.OPT_LIST))
    assert said == [(3, 2, b"\0\0\0\1a"), (3, 2, b"\0\0\0\1b"), (3, ACK, b"")]


def test_goodbye():
    agreed, said, _ = play(exports("a"), opt(replies.OPT_ABORT) + opt(7, go("a")))
    assert agreed is None
    assert said == [(replies.OPT_ABORT, ACK, b"")]


def context(name, *queries):
    return messages.context_data(name, queries)


@pytest.mark.parametrize(
    ("queries", "found"),
    [((), True), (("base:",), True), (("base:allocation",), True), (("qemu:", "x"), False)],
)
def test_contexts_are_listed(queries, found):
    _, said, _ = play(exports("a"), STRUCTURED + opt(9, context("a", *queries)))
    names = [data[4:] for _, kind, data in said if kind == messages.REP_META_CONTEXT]
    assert names == ([b"base:allocation"] if found else [])


@pytest.mark.parametrize(
    ("said", "allocation"),
    [
        (opt(10, context("a", "base:allocation")), True),
        (opt(10, context("a", "base:")), False),
        (opt(10, context("a")), False),
        (opt(10, context("b", "base:allocation")), False),
        (opt(10, context("a", "base:allocation")) + opt(10, context("a", "x:y")), False),
        (opt(10, context("a", "base:allocation")) + opt(10, b"junk"), False),
    ],
)
def test_contexts_are_selected_for_one_export(said, allocation):
    agreed, _, _ = play(exports("a", "b"), STRUCTURED + said + opt(7, go("a")))
    assert agreed.structured
    assert agreed.allocation is allocation


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (opt(9, context("a")), replies.REP_ERR_INVALID),  # before structured replies
        (STRUCTURED + opt(9, context("x")), replies.REP_ERR_UNKNOWN),
        (STRUCTURED + opt(9, b"\0\0\0\1a"), replies.REP_ERR_INVALID),
        (STRUCTURED + opt(9, b"\0\0\0\1a\xff\xff\xff\xff"), replies.REP_ERR_INVALID),
        (STRUCTURED + opt(9, b"\0\0\0\1a\0\0\0\1\0\0\0\2a"), replies.REP_ERR_INVALID),
        (opt(messages.OPT_STRUCTURED_REPLY, b"x"), replies.REP_ERR_INVALID),
        (opt(replies.OPT_LIST, b"x"), replies.REP_ERR_INVALID),
        (opt(messages.OPT_GO, b""), replies.REP_ERR_INVALID),
        (opt(messages.OPT_GO, go("a") + b"x"), replies.REP_ERR_INVALID),
        (opt(messages.OPT_GO, b"\xff\xff\xff\xff"), replies.REP_ERR_INVALID),
        (opt(messages.OPT_GO, b"\0\0\0\1\xff\0\0"), replies.REP_ERR_INVALID),
        (opt(messages.OPT_STARTTLS), replies.REP_ERR_POLICY),
        (opt(4), replies.REP_ERR_UNSUPPORTED),
        (opt(11), replies.REP_ERR_UNSUPPORTED),
        (opt(99, bytes(replies.OPTION_MAX + 1)), replies.REP_ERR_TOO_BIG),
    ],
)
def test_what_is_wrong_is_refused_and_the_handshake_goes_on(said, kind):
    agreed, answers, _ = play(exports("a"), said + opt(7, go("a")))
    assert kind in [each[1] for each in answers]
    assert agreed is not None


@pytest.mark.parametrize(
    "said",
    [
        b"IHAVEOPX" + bytes(8),
        messages.OPTION_MAGIC + struct.pack(">II", 7, 2**32 - 1),
        messages.OPTION_MAGIC + struct.pack(">II", 1, 2**32 - 1),
        opt(messages.OPT_STRUCTURED_REPLY) * OPTIONS_MAX,
    ],
)
def test_what_cannot_be_understood_ends_the_connection(said):
    with pytest.raises(NbdError):
        play(exports("a"), said)


def test_unknown_client_flags_end_the_connection():
    steps = negotiate(exports("a"), tls=False)
    next(steps)
    steps.send(b"")
    with pytest.raises(NbdError):
        steps.send(b"\0\0\0\4")


@pytest.mark.parametrize(
    "said", [opt(replies.OPT_LIST), opt(7, go("a")), STRUCTURED, opt(6, go("a")), opt(99)]
)
def test_before_tls_nothing_is_told(said):
    agreed, answers, _ = play(exports("a"), said, tls=True)
    assert agreed is None
    assert [kind for _, kind, _ in answers] == [replies.REP_ERR_TLS_REQUIRED]


def test_an_old_client_without_tls_is_turned_away():
    with pytest.raises(NbdError):
        play(exports("a"), opt(replies.OPT_EXPORT_NAME, b"a"), tls=True)


def test_tls_starts_once_and_everything_before_is_forgotten():
    said = opt(5, b"x") + opt(5) + opt(5) + opt(7, go("a"))
    agreed, answers, started = play(exports("a"), said, tls=True)
    assert started
    assert [kind for _, kind, _ in answers[:3]] == [
        replies.REP_ERR_INVALID, ACK, replies.REP_ERR_INVALID,
    ]  # fmt: skip
    assert not agreed.structured
