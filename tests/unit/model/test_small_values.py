import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu import clock, units
from ruchu.model import configurations
from ruchu.model.ids import is_id, new_id
from ruchu.model.machines import DiskSpec, MachineSpec, NicSpec


def test_ids():
    assert new_id(lambda count: bytes(range(count))) == bytes(range(16)).hex()
    assert is_id(new_id())
    assert new_id() != new_id()
    for wrong in ("", "a" * 31, "a" * 33, "A" * 32, "g" * 32, "a" * 32 + "\n", None, 5, b"a" * 32):
        assert not is_id(wrong)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB"),
     (10 << 40, "10.0 TiB"), (1 << 50, "1.0 PiB"), (5 << 60, "5120.0 PiB"), (-2048, "-2.0 KiB")],
)  # fmt: skip
def test_sizes_as_text(size, text):
    assert units.format_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1048576", 1 << 20), ("64MiB", 64 << 20), ("2g", 2 << 30), (" 1.5 k ", 1536),
     ("1TB", 1 << 40), ("7 b", 7), ("3KB", 3072), ("1tib", 1 << 40)],
)  # fmt: skip
def test_sizes_from_text(text, size):
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "nan", "inf", "1e400", "k", "MiB", "1 2"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the caller says what was asked for
        units.parse_size(text)


@given(st.integers(0, 1 << 62))
def test_bytes_come_back(size):
    assert units.parse_size(str(size)) == pytest.approx(size)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (3.21, "3.2 s"), (245, "4 min 05 s"), (7800, "2 h 10 min")]
)
def test_durations_as_text(seconds, text):
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("12H", 43200), ("7d", 604800), ("2w", 1209600)]
)
def test_durations_from_text(text, seconds):
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "1.5h", "5y", "h5"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the caller says what was asked for
        units.parse_duration(text)


@given(st.datetimes(timezones=st.timezones(), min_value=datetime.datetime(1971, 1, 1)))  # noqa: DTZ001
def test_moments_come_back_and_sort(moment):
    text = clock.to_text(moment)
    assert clock.from_text(text) == moment.astimezone(datetime.UTC)
    later = moment.astimezone(datetime.UTC) + datetime.timedelta(microseconds=1)
    assert clock.to_text(later) > text


@pytest.mark.parametrize("text", ["", "now", "2026-11-22", "2026-11-22T18:00:00Z"])
def test_what_is_no_moment(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the caller says where it stood
        clock.from_text(text)


def test_the_clock_of_the_host():
    assert abs(clock.SYSTEM.now().timestamp() - time.time()) < 5
    before = clock.SYSTEM.monotonic()
    clock.SYSTEM.sleep(0.001)
    assert clock.SYSTEM.monotonic() >= before + 0.001


def test_a_machine_comes_back():
    spec = MachineSpec(
        "id", "wöb", 2, 1 << 30, "uefi", (DiskSpec("vda", 5, "qcow2", "/x"),),
        (NicSpec("52:54", "default"),), "<domain/>", b"nvram",
    )  # fmt: skip
    document = configurations.to_document(spec)
    assert "native" not in document
    assert configurations.from_document(document, "<domain/>", b"nvram") == spec
    document["later"] = document["disks"][0]["later"] = 1
    assert configurations.from_document(document, "<domain/>", b"nvram") == spec
    del document["name"]
    with pytest.raises(TypeError):
        configurations.from_document(document, "", b"")
