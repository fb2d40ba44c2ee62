"""The NBD protocol without a network: a test plays the server, byte by byte."""

import struct

import pytest

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_protocol as protocol
from ruchu.errors import NbdError

GREETING = b"NBDMAGICIHAVEOPT\0\3"
EXPORT = messages.Export(
    size=1 << 20,
    flags=0,
    block_min=1,
    block_preferred=4096,
    payload_max=1 << 25,
    structured=True,
    contexts=(("base:allocation", 7),),
)
SIMPLE = messages.Export(1 << 20, 0, 1, 4096, 1 << 25, structured=False, contexts=())


def play(steps, incoming=b""):
    """Drive the steps with what the server sends; return the result, what was sent, the rest."""
    sent, source, answer = b"", memoryview(incoming), None
    while True:
        try:
            step = next(steps) if answer is None else steps.send(answer)
        except StopIteration as end:
            return end.value, sent, bytes(source)
        answer = b""
        match step:
            case protocol.Send(buffers):
                sent += b"".join(bytes(each) for each in buffers)
            case protocol.Receive(count):
                answer, source = bytes(source[:count]), source[count:]
                assert len(answer) == count, "the client wants more than the server sends"
            case protocol.Fill(view):
                assert len(source) >= len(view), "the client wants more than the server sends"
                view[:] = source[: len(view)]
                source = source[len(view) :]
            case protocol.StartTls():
                sent += b"<tls>"


def reply(option, kind, data=b""):
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data


def ack(option):
    return reply(option, 1)


def error(option, number, text=b""):
    return reply(option, (1 << 31) + number, text)


def info_export(size=1 << 30, flags=1):
    return reply(7, 3, struct.pack(">HQH", 0, size, flags))


def info_blocks(least=1, preferred=4096, most=1 << 25):
    return reply(7, 3, struct.pack(">HIII", 3, least, preferred, most))


def chunk(kind, data=b"", *, done=True, cookie=protocol.COOKIE):
    return struct.pack(">IHHQI", 0x668E33EF, int(done), kind, cookie, len(data)) + data


def data_chunk(offset, data, *, done=True):
    return chunk(1, struct.pack(">Q", offset) + data, done=done)


def hole_chunk(offset, length, *, done=True):
    return chunk(2, struct.pack(">QI", offset, length), done=done)


def simple(number=0, cookie=protocol.COOKIE):
    return struct.pack(">IIQ", 0x67446698, number, cookie)


def read(incoming, length=8, start=100, export=EXPORT):
    buffer = bytearray(b"?" * length)
    _, sent, rest = play(protocol.read(export, start, memoryview(buffer)), incoming)
    assert rest == b""
    assert sent == struct.pack(">IHHQQI", 0x25609513, 0, 0, protocol.COOKIE, start, length)
    return bytes(buffer)


# ---------------------------------------------------------------------------------- handshake


def test_a_full_handshake():
    incoming = (
        GREETING
        + ack(8)
        + reply(10, 4, b"\0\0\0\x07base:allocation")
        + ack(10)
        + info_export(flags=0b100001001)
        + info_blocks(512, 65536, 1 << 30)
        + reply(7, 3, b"\0\1name")  # information that nobody asked for is ignored
        + ack(7)
    )
    export, sent, rest = play(protocol.negotiate("vda", ["base:allocation", "x:y"]), incoming)
    assert rest == b""
    assert export.size == 1 << 30
    assert (export.block_min, export.block_preferred) == (512, 65536)
    assert export.payload_max == 32 << 20  # ours, though the server would take more
    assert export.contexts == (("base:allocation", 7),)
    assert export.offers(messages.EXPORT_MULTI_CONNECTION)
    assert not export.offers(messages.EXPORT_READ_ONLY)
    names = b"\0\0\0\3vda\0\0\0\2\0\0\0\x0fbase:allocation\0\0\0\3x:y"
    assert sent == (
        b"\0\0\0\3"
        b"IHAVEOPT\0\0\0\x08\0\0\0\0"
        b"IHAVEOPT\0\0\0\x0a"
        + struct.pack(">I", len(names))
        + names
        + b"IHAVEOPT\0\0\0\7\0\0\0\x0b\0\0\0\3vda\0\1\0\3"
    )


def test_an_old_server_without_structured_replies_and_sizes():
    incoming = GREETING + error(8, 1) + info_export() + ack(7)
    export, _, _ = play(protocol.negotiate("", ["base:allocation"]), incoming)
    assert not export.structured
    assert export.contexts == ()
    assert (export.block_min, export.payload_max) == (1, 32 << 20)


def test_a_server_that_refuses_contexts():
    incoming = GREETING + ack(8) + error(10, 1) + info_export() + ack(7)
    export, _, _ = play(protocol.negotiate("", ["base:allocation"]), incoming)
    assert export.structured
    assert export.contexts == ()


def test_tls_comes_before_everything_else():
    incoming = GREETING + ack(5) + ack(8) + info_export() + ack(7)
    _, sent, _ = play(protocol.negotiate("", tls=True), incoming)
    assert sent.startswith(b"\0\0\0\3IHAVEOPT\0\0\0\5\0\0\0\0<tls>IHAVEOPT\0\0\0\x08")


def test_tls_that_is_refused_is_not_done_without():
    with pytest.raises(NbdError, match="TLS is wanted"):
        play(protocol.negotiate("", tls=True), GREETING + error(5, 1))


def test_the_list_of_contexts():
    incoming = GREETING + ack(8) + reply(9, 4, b"\0\0\0\0qemu:dirty-bitmap:a") + ack(9)
    found, _, _ = play(protocol.list_contexts(""), incoming)
    assert found == ["qemu:dirty-bitmap:a"]
    assert play(protocol.list_contexts(""), GREETING + error(8, 1))[0] == []


@pytest.mark.parametrize(
    "incoming",
    [
        b"HTTP/1.1 400 Bad R",
        b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0",  # oldstyle
        b"NBDMAGICIHAVEOPT\0\0",  # newstyle, not fixed
        GREETING + b"\0" * 20,  # wrong magic
        GREETING + ack(9),  # reply to another option
        GREETING + reply(8, 2),  # a kind that is none for this option
        GREETING + struct.pack(">QIII", 0x3E889045565A9, 8, 1, 1 << 30),  # oversized
        GREETING + ack(8) + reply(10, 4, b"\0\0"),  # a context without a name
        GREETING + ack(8) + reply(10, 4, b"\0\0\0\1\xff\xfe"),  # a name that is no text
        GREETING + ack(8) + reply(10, 3, b"\0\0"),
        GREETING + ack(8) + reply(10, 4, b"\0\0\0\1a") * 1025,  # without end
    ],
)
def test_a_handshake_that_breaks_the_protocol(incoming):
    with pytest.raises(NbdError):
        play(protocol.negotiate("", ["base:allocation"]), incoming)


@pytest.mark.parametrize(
    "incoming",
    [
        ack(7),  # no size
        error(7, 6, b"nope"),
        reply(7, 3, b"\0"),
        reply(7, 3, b"\0\0" + b"x" * 9),  # export information of a wrong length
        info_blocks(3, 4096, 1 << 20),  # no power of two
        info_blocks(4096, 512, 1 << 20),
        info_blocks(1, 4096, 512),
        info_blocks(1 << 17, 1 << 17, 1 << 20),
        reply(7, 3, b"\0\3" + b"x" * 3),
        reply(7, 4),
        info_export() * 1025,
    ],
)
def test_a_choice_of_the_export_that_fails(incoming):
    with pytest.raises(NbdError):
        play(protocol.negotiate("x"), GREETING + ack(8) + incoming)


def test_the_text_of_an_error_reaches_us():
    with pytest.raises(NbdError, match="no such export: try vda"):
        play(protocol.negotiate("x"), GREETING + ack(8) + error(7, 6, b"try vda"))


def test_a_name_that_is_too_long_is_not_sent():
    with pytest.raises(NbdError):
        play(protocol.negotiate("x" * 5000), GREETING + ack(8))


# -------------------------------------------------------------------------------------- reads


def test_one_chunk():
    assert read(data_chunk(100, b"abcdefgh")) == b"abcdefgh"


def test_data_and_holes_in_any_order():
    incoming = (
        data_chunk(106, b"gh", done=False)
        + hole_chunk(102, 4, done=False)
        + data_chunk(100, b"ab", done=False)
        + chunk(0)
    )
    assert read(incoming) == b"ab\0\0\0\0gh"


def test_a_simple_reply():
    assert read(simple() + b"abcdefgh", export=SIMPLE) == b"abcdefgh"


@pytest.mark.parametrize(
    "incoming",
    [
        data_chunk(100, b"abcd"),  # too little
        chunk(0),  # nothing at all
        data_chunk(99, b"abcdefgh"),  # before
        data_chunk(101, b"abcdefgh"),  # beyond
        hole_chunk(100, 9),
        hole_chunk(100, 0, done=False) + data_chunk(100, b"abcdefgh"),
        data_chunk(100, b"abcde", done=False) + data_chunk(104, b"efgh"),  # twice
        data_chunk(104, b"efgh", done=False) + data_chunk(100, b"abcde"),
        data_chunk(100, b""),
        chunk(2, b"x" * 11),
        chunk(5, b"x" * 12),  # a block status
        chunk(77, b""),
        chunk(0, b"x"),
        chunk(0, done=False),
        chunk(1, struct.pack(">Q", 100) + b"abcdefgh", cookie=1),
        simple() + b"abcdefgh",  # though structured ones were agreed on
        simple(5, cookie=1),
        b"junk" * 5,
        chunk(0x8001, b"\0" * 6),  # an error without a number
        chunk(0x8001, b"\0\0\0\5\0\x09abc"),  # a text longer than the chunk
        chunk(0x8001, b"\0"),
        struct.pack(">IHHQI", 0x668E33EF, 1, 0x8001, protocol.COOKIE, 1 << 31),
        b"".join(hole_chunk(100, 1, done=False) for _ in range(2)),
    ],
)
def test_a_reply_to_a_read_that_breaks_the_protocol(incoming):
    with pytest.raises(NbdError) as caught:
        read(incoming)
    assert not isinstance(caught.value, protocol.RequestRefused)


def test_a_structured_reply_that_was_not_agreed_on():
    with pytest.raises(NbdError):
        read(data_chunk(100, b"abcdefgh"), export=SIMPLE)


def test_a_refused_read_is_read_to_its_end():
    incoming = (
        data_chunk(100, b"abcd", done=False)
        + chunk(0x8002, struct.pack(">IH4sQ", 5, 4, b"disk", 104), done=False)
        + chunk(0)
    )
    with pytest.raises(protocol.RequestRefused, match="input/output error: disk"):
        read(incoming)
    with pytest.raises(protocol.RequestRefused, match="invalid"):
        read(simple(22), export=SIMPLE)
    with pytest.raises(protocol.RequestRefused, match="error 999"):
        read(simple(999), export=SIMPLE)


def test_a_reply_without_end():
    export = EXPORT
    buffer = memoryview(bytearray(1 << 20))
    steps = protocol.read(export, 0, buffer)
    pieces = b"".join(
        data_chunk(offset, b"x", done=False) for offset in range(protocol.CHUNKS_MAX + 1)
    )
    with pytest.raises(NbdError, match="chunks"):
        play(steps, pieces)


# ----------------------------------------------------------------------- writes, block status


def test_a_write_and_commands():
    view = memoryview(b"payload")
    _, sent, _ = play(protocol.write(EXPORT, 5, view), chunk(0))
    assert sent == struct.pack(">IHHQQI", 0x25609513, 0, 1, protocol.COOKIE, 5, 7) + b"payload"
    _, sent, _ = play(protocol.command(EXPORT, messages.CMD_FLUSH), simple())
    assert sent == struct.pack(">IHHQQI", 0x25609513, 0, 3, protocol.COOKIE, 0, 0)
    with pytest.raises(protocol.RequestRefused, match="no space"):
        play(protocol.command(EXPORT, messages.CMD_WRITE_ZEROES, 0, 9), simple(28))
    with pytest.raises(NbdError):
        play(protocol.write(EXPORT, 5, view), data_chunk(5, b"payload"))
    _, sent, _ = play(protocol.disconnect())
    assert sent[6:8] == b"\0\2"


def status(*pairs, context=7, done=True):
    data = struct.pack(">I", context) + b"".join(struct.pack(">II", *pair) for pair in pairs)
    return chunk(5, data, done=done)


def ask(incoming, export=EXPORT):
    return play(protocol.block_status(export, 0, 4096), incoming)[0]


def test_block_status():
    assert ask(status((512, 0), (1 << 31, 3))) == {"base:allocation": [(512, 0), (1 << 31, 3)]}
    assert ask(status((1, 2), done=False) + chunk(0)) == {"base:allocation": [(1, 2)]}


@pytest.mark.parametrize(
    "incoming",
    [
        status((512, 0), context=8),
        status((512, 0), done=False) + status((512, 0)),
        status((512, 0), (0, 0)),
        status(),
        chunk(5, b"\0\0\0\7\0\0"),
        chunk(0),
        data_chunk(0, b"x"),
        simple(),
        struct.pack(">IHHQI", 0x668E33EF, 1, 5, protocol.COOKIE, 1 << 31),
    ],
)
def test_a_block_status_that_breaks_the_protocol(incoming):
    with pytest.raises(NbdError):
        ask(incoming)


def test_a_refused_block_status():
    with pytest.raises(protocol.RequestRefused):
        ask(chunk(0x8001, b"\0\0\0\x16\0\0"))
