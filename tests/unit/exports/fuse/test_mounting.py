import sys
import threading
import types

import pytest

from ruchu import errors
from ruchu.exports.fuse import mounting
from ruchu.exports.fuse.tree import RawDisk, Tree
from ruchu.testing.memory_disk import MemoryDisk

TREE = Tree([RawDisk("vda", MemoryDisk(b"content"))], {})


def stand_in(work):
    """Return a library whose mount does some work and is never there."""
    return types.SimpleNamespace(
        FUSE=work, fuse_exit=lambda: None, fuse_version_major=3, fuse_version_minor=2
    )


def mount(place):
    with mounting.mounted(place, TREE):
        pytest.fail("it was mounted")


def test_a_host_without_mfusepy_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mfusepy", None)
    with pytest.raises(errors.ExportError, match="mfusepy is not installed"):
        mount(tmp_path)


def test_a_host_without_libfuse_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mfusepy", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mfusepy.py").write_text("raise OSError('Unable to find libfuse')")
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(errors.ExportError, match="libfuse 3 is not installed"):
        mount(place)


def test_what_libfuse_refuses_is_an_error(tmp_path, monkeypatch):
    seen = {}

    def refuse(_, place, **options):
        seen.update(options, place=place)
        raise RuntimeError(3)

    monkeypatch.setattr(mounting, "_library", lambda: stand_in(refuse))
    with pytest.raises(errors.ExportError, match="status 3"):
        mount(tmp_path)
    assert seen["place"] == str(tmp_path)
    assert seen["ro"]
    assert "max_threads" not in seen


def test_a_kernel_that_does_not_answer_is_an_error(tmp_path, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(mounting, "_MOUNT_LIMIT_S", 0.0)
    monkeypatch.setattr(mounting, "_END_LIMIT_S", 0.01)
    monkeypatch.setattr(mounting, "_library", lambda: stand_in(lambda *_, **__: gate.wait(30)))
    with pytest.raises(errors.ExportError, match="still mounted") as caught:
        mount(tmp_path)
    assert "does not answer" in str(caught.value.__context__)
    gate.set()


def test_a_mount_that_fails_while_it_serves_is_an_error(tmp_path, monkeypatch):
    def fail(operations, *_, **__):
        operations.init_with_config(None, None)
        raise RuntimeError("broken")

    monkeypatch.setattr(mounting, "_library", lambda: stand_in(fail))
    told = []
    with pytest.raises(errors.ExportError, match="broken"):
        mounting.serve(tmp_path, TREE, ready=lambda: told.append(True), cancelled=lambda: False)
    assert told == [True]


def test_other_threads_may_mount_too(tmp_path, monkeypatch):
    seen = []

    def work():
        with mounting.mounted(tmp_path, TREE) as found:
            seen.append(found.ended.wait(30))

    monkeypatch.setattr(
        mounting, "_library", lambda: stand_in(lambda one, *_, **__: one.init_with_config(0, 0))
    )
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert seen == [True]
