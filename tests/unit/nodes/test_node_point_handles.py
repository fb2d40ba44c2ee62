"""What an opened point hands out: parts, ends, archives that nobody reads, limits."""

import base64
import io
import threading
import zipfile

import pytest

from ruchu.errors import Cancelled, GuestDamaged, NotFound, StorageGone, TooMany, UsageError
from ruchu.nodes import kinds, point_handles, point_readers
from ruchu.nodes.point_handles import HANDLES_MAX, IDLE_S, Handles
from ruchu.operations import point_transfers
from ruchu.operations.point_transfers import AHEAD_BYTES_MAX, ArchiveTransfer, DiskTransfer, Pipe
from ruchu.recovery.granular import Fetched
from ruchu.testing.clocks import ManualClock
from ruchu.testing.memory_disk import MemoryDisk

LENGTH = 1 << 20


def part(found):
    return bytes(found["zeros"]) if "zeros" in found else base64.b64decode(found["content"])


def whole(handles, handle, length=LENGTH):
    """Return all parts of what is handed out."""
    found = bytearray()
    while True:
        answer = handles.read(handle, len(found), length)
        found += part(answer)
        if answer["end"]:
            return bytes(found)


def test_a_disk_is_handed_out_part_by_part():
    content = bytes(2 * LENGTH) + bytes(range(256)) * 4096 + b"the end"
    handles = Handles(ManualClock())
    handle = handles.add(DiskTransfer(MemoryDisk(content)))
    assert handles.read(handle, 0, LENGTH) == {"zeros": LENGTH, "end": False}
    assert whole(handles, handle) == content
    assert part(handles.read(handle, len(content), 10)) == b""
    for offset, length in ((-1, 1), (len(content) + 1, 1), (0, 0), (0, LENGTH + 1)):
        handle = handles.add(DiskTransfer(MemoryDisk(content)))
        with pytest.raises(UsageError):
            handles.read(handle, offset, length)
        # Whoever asks wrongly once gets nothing more.
        with pytest.raises(NotFound):
            handles.read(handle, 0, 1)


def test_an_archive_is_made_as_it_is_read():
    written = []

    def make(pipe, ended):
        for number in range(100):
            assert not ended()
            pipe.write(bytes([number + 1]) * 200_000)
            written.append(number)

    handles = Handles(ManualClock())
    transfer = ArchiveTransfer(make)
    handle = handles.add(transfer)
    first = part(handles.read(handle, 0, LENGTH))
    assert len(written) <= (AHEAD_BYTES_MAX + LENGTH) // 200_000 + 2
    # An answer that was lost is given again, an older one never.
    assert part(handles.read(handle, 0, LENGTH)) == first
    rest = b"".join(
        part(handles.read(handle, at, LENGTH)) for at in range(LENGTH, 20_000_000, LENGTH)
    )
    assert first + rest == b"".join(bytes([number + 1]) * 200_000 for number in range(100))
    with pytest.raises(UsageError):
        handles.read(handle, 0, LENGTH)


def test_an_archive_that_fails_or_that_nobody_wants_ends():
    def fails(pipe, ended):
        del ended
        pipe.write(b"begun")
        raise StorageGone("(it is away)")

    handles = Handles(ManualClock())
    handle = handles.add(ArchiveTransfer(fails))
    with pytest.raises(StorageGone):
        whole(handles, handle)
    ended = threading.Event()

    def endless(pipe, _):
        try:
            while True:
                pipe.write(bytes(LENGTH))
        except Cancelled:
            ended.set()
            raise

    handle = handles.add(ArchiveTransfer(endless))
    handles.read(handle, 0, LENGTH)
    handles.close(handle)
    handles.close(handle)
    assert ended.wait(10)
    with pytest.raises(NotFound):
        handles.read(handle, LENGTH, LENGTH)


def test_there_are_only_a_few_and_none_for_ever():
    clock = ManualClock()
    handles = Handles(clock)
    kept = [handles.add(DiskTransfer(MemoryDisk(b"x" * 512))) for _ in range(HANDLES_MAX)]
    with pytest.raises(TooMany):
        handles.add(DiskTransfer(MemoryDisk(b"x" * 512)))
    clock.sleep(IDLE_S - 1)
    handles.read(kept[0], 0, 512)
    clock.sleep(2)
    handles.add(DiskTransfer(MemoryDisk(b"x" * 512)))
    handles.read(kept[0], 0, 512)
    with pytest.raises(NotFound):
        handles.read(kept[1], 0, 512)
    handles.close_all()
    assert handles._handles == {}


def test_an_archive_says_what_is_missing_in_it():
    done = Fetched()
    for number in range(point_transfers.NAMED_MAX + 3):
        done.fail(b"/vda1/\x1b[31m%d" % number, GuestDamaged("(bad)"))
    archive = point_transfers.archive({}, "zip", done)
    handles = Handles(ManualClock())
    with zipfile.ZipFile(io.BytesIO(whole(handles, handles.add(archive)))) as packed:
        (name,) = packed.namelist()
        text = packed.read(name).decode()
    assert name == point_transfers.INCOMPLETE_NAME.decode()
    assert text.startswith("203 files could not be read")
    assert "\\x1b[31m0: " in text
    assert "\x1b" not in text
    assert text.endswith("and 3 more\n")
    with pytest.raises(UsageError):
        point_transfers.archive({}, "rar", done)


def test_a_pipe_that_is_closed_takes_nothing():
    pipe = Pipe()
    pipe.close()
    with pytest.raises(Cancelled):
        pipe.write(b"x")
    assert pipe.read(0, 10) == b""


def test_a_node_knows_which_questions_go_to_opened_points():
    assert set(kinds.POINT_QUESTIONS) == point_readers.KINDS
    assert point_handles.IDLE_S < point_readers.IDLE_S
