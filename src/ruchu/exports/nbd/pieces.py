"""What was read as chunks of a structured reply: zeros are told, not sent."""

from typing import Final

from ruchu.blocks import nbd_server_messages as replies
from ruchu.exports.nbd.channels import Part
from ruchu.units import KIB

# Zeros in what was read are found in pieces: a chunk's head is 32 bytes.
ZERO_PIECE: Final = 64 * KIB
_ZEROS = bytes(ZERO_PIECE)

# The head of a message, and its data.
Piece = tuple[bytes, Part]


def chunks_of(cookie: int, start: int, buffer: bytearray) -> list[Piece]:
    """Return data and hole chunks of what was read; every piece of zeros is a hole."""
    runs: list[list[int]] = []
    for at in range(0, len(buffer), ZERO_PIECE):
        count = min(ZERO_PIECE, len(buffer) - at)
        zero = int(buffer.startswith(_ZEROS[:count] if count < ZERO_PIECE else _ZEROS, at))
        if runs and runs[-1][2] == zero:
            runs[-1][1] += count
        else:
            runs.append([at, count, zero])
    view = memoryview(buffer)
    pieces: list[Piece] = []
    for at, count, zero in runs:
        last = at + count == len(buffer)
        if zero:
            pieces.append((replies.hole_chunk(cookie, start + at, count, last=last), b""))
        else:
            head = replies.data_chunk(cookie, start + at, count, last=last)
            pieces.append((head, view[at : at + count]))
    return pieces
