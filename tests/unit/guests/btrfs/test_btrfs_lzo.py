"""Streams written by hand, instruction by instruction, as lzo.rst describes them.

That what a kernel wrote is unpacked right is shown by tests/system/test_guest_btrfs.py.
"""

import struct

import hypothesis
import hypothesis.strategies as st
import pytest

from ruchu.errors import GuestDamaged
from ruchu.guests.btrfs import lzo

END = b"\x11\0\0"


def distance_16(distance, literals=0):
    return struct.pack("<H", distance << 2 | literals)


@pytest.mark.parametrize(
    ("stream", "plain"),
    [
        (bytes([17 + 5]) + b"hello" + END, b"hello"),
        (bytes([17 + 2]) + b"ab" + bytes([0b10100000 | 1 << 2, 0]) + END, b"ab" * 4),
        # A run of literals by instruction; one with its length spelled out.
        (bytes([2]) + b"hello" + END, b"hello"),
        (bytes([0, 4]) + b"q" * 22 + END, b"q" * 22),
        (bytes([0, 0, 1]) + b"q" * 274 + END, b"q" * 274),
        # 3-4 bytes from 2 KiB, then two literals.
        (b"\x16abcde" + bytes([0b01100000 | 4 << 2 | 2, 0]) + b"xy" + END, b"abcdeabcdxy"),
        # 2 bytes from 1 KiB, which follow literals behind a match.
        (
            b"\x16abcde"
            + bytes([0b01000000 | 4 << 2 | 1, 0])
            + b"x"
            + bytes([8 << 2 & 12, 2])
            + END,
            b"abcdeabcxab",
        ),
        # Up to 16 KiB, length in the instruction and behind it.
        (b"\x16abcde" + bytes([32 | 10]) + distance_16(4) + END, b"abcde" + (b"abcde" * 3)[:12]),
        (
            b"\x16abcde" + bytes([32, 9]) + distance_16(4, 1) + b"!" + END,
            b"abcde" + (b"abcde" * 9)[:42] + b"!",
        ),
    ],
)
def test_each_instruction(stream, plain):
    assert lzo.unpack(stream, 4096) == plain


def test_far_distances():
    far = bytes(range(251)) * 80
    run = bytes([0]) + bytes((len(far) - 18) // 255) + bytes([(len(far) - 18) % 255])
    stream = run + far + bytes([16 | 3]) + distance_16(100) + END
    assert lzo.unpack(stream, 1 << 20) == far + far[-16484:][:5]
    # Three bytes from behind 2 KiB, where literals were before.
    stream = run + far + bytes([1 << 2, 5]) + END
    assert lzo.unpack(stream, 1 << 20) == far + far[-(5 * 4 + 1 + 2049) :][:3]


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\x16abc",
        b"\x16abcde",
        b"\x16abcde\x11",
        bytes([0, 0, 0, 0]),
        b"\x16abcde" + bytes([32 | 10]) + distance_16(5) + END,
        b"\x16abcde" + bytes([32 | 10]) + distance_16(16000) + END,
        b"\x16abcde" + bytes([32, *bytes(100), 9]) + distance_16(4) + END,
    ],
)
def test_malformed_streams(stream):
    with pytest.raises(GuestDamaged, match="LZO"):
        lzo.unpack(stream, 4096)


def framed(segments):
    frame = bytearray(4)
    for segment in segments:
        if 4096 - len(frame) % 4096 < 4:
            frame += bytes(4096 - len(frame) % 4096)
        frame += struct.pack("<I", len(segment)) + segment
    frame[:4] = struct.pack("<I", len(frame))
    return bytes(frame)


def literal(data):
    rest = len(data) - 18
    return b"\0" + bytes(rest // 255) + bytes([rest % 255]) + data + END


@pytest.mark.parametrize("shift", range(6))
def test_a_length_never_crosses_a_sector(shift):
    first = bytes([1 + shift]) * (4096 - 4 - 4 - 19 - shift)
    frame = framed([literal(first), literal(b"s" * 100)])
    assert lzo.unpack_frame(frame + bytes(500), 1 << 17, 4096) == first + b"s" * 100
    assert lzo.unpack_frame(frame, len(first) + 7, 4096) == first + b"s" * 7


@pytest.mark.parametrize(
    "frame", [b"", b"\1", struct.pack("<II", 99, 98), struct.pack("<IIQ", 16, 0, 1)]
)
def test_malformed_frames(frame):
    with pytest.raises(GuestDamaged, match="LZO"):
        lzo.unpack_frame(frame, 4096, 4096)


@hypothesis.given(st.binary(max_size=600))
def test_any_bytes_end_in_plain_bytes_or_in_damage(data):
    try:
        plain = lzo.unpack(data, 4096)
    except GuestDamaged:
        return
    assert len(plain) <= 4096 + 238
