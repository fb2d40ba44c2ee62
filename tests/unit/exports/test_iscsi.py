import contextlib
import socket
import tempfile
from pathlib import Path

import pytest

from ruchu import errors
from ruchu.exports import iscsi
from ruchu.exports.iscsi import Access, Unit

GOOD = Access("operator", "correct.horse.battery")
TARGET = "iqn.2026-01.org.example:web"


@pytest.mark.parametrize(
    ("access", "target", "units"),
    [
        (Access("", "correct.horse.battery"), TARGET, 1),
        (Access("a,b", "correct.horse.battery"), TARGET, 1),
        (Access("operator", "too.short"), TARGET, 1),
        (Access("operator", "with a space in it"), TARGET, 1),
        (Access("operator", "comma,comma,comma"), TARGET, 1),
        (Access("operator", "long" * 100), TARGET, 1),
        (Access("operator", "correct.horse.battery", ()), TARGET, 1),
        (Access("operator", "correct.horse.battery", ("nobody",)), TARGET, 1),
        (Access("operator", "correct.horse.battery", ("10.0.0.1/8",)), TARGET, 1),
        (GOOD, "disk", 1),
        (GOOD, "iqn.2026-01.org.example:UPPER", 1),
        (GOOD, "iqn.2026-01.org." + "x" * 300, 1),
        (GOOD, TARGET, 0),
        (GOOD, TARGET, 256),
    ],
)
def test_what_tgt_cannot_take_is_refused(tmp_path, access, target, units):
    disks = [Unit(tmp_path / "disk", writable=False)] * units
    with (
        pytest.raises(errors.UsageError) as caught,
        iscsi.exported(disks, access, target=target, listen=("127.0.0.1", 3260)),
    ):
        pytest.fail("it was taken")
    assert not access.password or access.password not in str(caught.value)


def test_passwords_are_not_shown():
    assert "horse" not in repr(GOOD)


def test_networks_are_given_as_tgt_knows_them():
    texts = ("10.0.0.7", "10.0.0.7/32", "10.0.0.0/24", "fd00::1/128")
    assert [iscsi._acl(text) for text in texts] == [
        "10.0.0.7", "10.0.0.7", "10.0.0.0/24", "fd00::1"
    ]  # fmt: skip


def test_a_host_without_tgt_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(iscsi.shutil, "which", lambda *_, **__: None)
    units = [Unit(tmp_path / "disk", writable=False)]
    with (
        pytest.raises(errors.ExportError, match="tgtd is not installed") as caught,
        iscsi.exported(units, GOOD, target=TARGET, listen=("127.0.0.1", 3260)),
    ):
        pytest.fail("it was served")
    assert "Install tgt" in caught.value.advice


def serve(tmp_path, name="disk"):
    units = [Unit(tmp_path / name, writable=False)]
    with (
        socket.create_server(("127.0.0.1", 0)) as probe,
    ):
        listen = probe.getsockname()
    with iscsi.exported(units, GOOD, target=TARGET, listen=listen):
        pytest.fail("it was served")


def test_a_path_that_tgt_cannot_take_is_refused(tmp_path):
    with pytest.raises(errors.UsageError, match="comma"):
        serve(tmp_path, "a,b")


def test_a_tgtd_that_does_not_start_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(iscsi, "_SOCKETS", tmp_path / "tgtd")
    monkeypatch.setattr(iscsi, "_program", lambda _: "false")
    with pytest.raises(errors.ExportError, match="did not start"):
        serve(tmp_path)
    assert list((tmp_path / "tgtd").iterdir()) == []


def test_a_user_who_may_not_serve_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(iscsi, "_SOCKETS", tmp_path / "file" / "tgtd")
    monkeypatch.setattr(iscsi, "_program", lambda _: "false")
    with pytest.raises(errors.ExportError, match="Not a directory") as caught:
        serve(tmp_path)
    assert "root" in caught.value.advice


def test_control_ports_in_use_are_passed_over(monkeypatch):
    # A unix socket has a short path.
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setattr(iscsi, "_SOCKETS", Path(place))
        with contextlib.ExitStack() as stack:
            for _ in range(iscsi._PORTS_TRIED):
                port = iscsi._unused_port()
                path = Path(place) / f"socket.{port}"
                assert not path.exists()
                listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(str(path))
                listener.listen()
            with pytest.raises(OSError, match="in use"):
                iscsi._unused_port()
        # What a tgtd that died has left is no obstacle.
        assert (Path(place) / f"socket.{iscsi._unused_port()}").exists()
