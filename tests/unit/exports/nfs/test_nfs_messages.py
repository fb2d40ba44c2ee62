"""XDR and record marking, without a server."""

import hypothesis
import hypothesis.strategies as st
import pytest

from ruchu.errors import CommandFailed, StorageFull, StorageReadOnly
from ruchu.exports.nfs.messages import Refused, Status, read_new_attributes, status_of
from ruchu.exports.nfs.records import FRAGMENTS_MAX, RECORD_MAX, BrokenRecord, RecordBuffer
from ruchu.exports.nfs.xdr import U32, Reader, XdrError, opaque
from ruchu.testing import nfs


def reader(data):
    return Reader(memoryview(data))


@hypothesis.given(st.binary(max_size=50))
def test_what_is_packed_is_read(data):
    taken = reader(opaque(data) + U32.pack(7))
    assert taken.opaque(50) == data
    assert taken.u32() == 7


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\0", U32.pack(4), U32.pack(0xFFFFFFFF), U32.pack(5) + b"12345", U32.pack(9)]
)
def test_no_read_goes_beyond_the_message(data):
    with pytest.raises(XdrError):
        reader(data).opaque(8)


def test_a_boolean_is_0_or_1():
    with pytest.raises(XdrError):
        reader(U32.pack(2)).flag()


def test_new_attributes():
    wanted = read_new_attributes(reader(nfs.new_attributes(mode=0o600, size=5)))
    assert (wanted.mode, wanted.size, wanted.owner, wanted.modified) == (0o600, 5, None, None)
    packed = bytes(16) + U32.pack(1) + U32.pack(2) + U32.pack(3) + U32.pack(4)
    wanted = read_new_attributes(reader(packed))
    assert (wanted.accessed, wanted.modified) == (-1, 3_000_000_004)
    with pytest.raises(XdrError):
        read_new_attributes(reader(bytes(16) + U32.pack(3)))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Refused(Status.STALE), Status.STALE),
        (StorageFull(), Status.NOSPC),
        (StorageReadOnly(), Status.ROFS),
        (CommandFailed(), Status.IO),
        (OSError(28, "full"), Status.NOSPC),
        (OSError(122, "quota"), Status.DQUOT),
        (OSError(5, "broken"), Status.IO),
        (OSError("no number"), Status.IO),
        (ValueError(), Status.SERVERFAULT),
    ],
)
def test_every_error_has_a_status(error, status):
    assert status_of(error) is status


def feed(buffer, data):
    """Put bytes into the buffer as a socket does, and return the records that are whole."""
    found = []
    while data:
        space = buffer.space()
        count = min(len(space), len(data))
        assert count
        space[:count] = data[:count]
        buffer.received(count)
        data = data[count:]
        while (record := buffer.next_record()) is not None:
            found.append(bytes(record))
    return found


@hypothesis.given(
    st.lists(st.lists(st.binary(max_size=70_000), min_size=1, max_size=4), max_size=5),
    st.lists(st.integers(1, 100_000), min_size=1, max_size=20),
)
def test_records_come_out_however_the_stream_is_cut(records, cuts):
    stream = b""
    for fragments in records:
        for number, fragment in enumerate(fragments, 1):
            last = 1 << 31 if number == len(fragments) else 0
            stream += U32.pack(last | len(fragment)) + fragment
    buffer, found, at = RecordBuffer(), [], 0
    while at < len(stream):
        for cut in cuts:
            found += feed(buffer, stream[at : at + cut])
            at += cut
    assert found == [b"".join(fragments) for fragments in records]


def test_the_largest_record_fits_and_a_larger_one_does_not():
    buffer = RecordBuffer()
    record = bytes(RECORD_MAX)
    for _ in range(2):
        assert feed(buffer, U32.pack(1 << 31 | RECORD_MAX) + record) == [record]
    with pytest.raises(BrokenRecord):
        feed(buffer, U32.pack(1 << 31 | RECORD_MAX + 1))


def test_fragments_are_limited_in_size_and_number():
    with pytest.raises(BrokenRecord):
        feed(RecordBuffer(), (U32.pack(RECORD_MAX) + bytes(RECORD_MAX)) + U32.pack(1))
    with pytest.raises(BrokenRecord):
        feed(RecordBuffer(), U32.pack(0) * FRAGMENTS_MAX)
