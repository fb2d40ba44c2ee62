"""Disks of a point, opened to be served; the rounds that an export hands out."""

import pytest

from ruchu.errors import CacheMismatch, ExportError, NotFound, UsageError
from ruchu.recovery import exporting
from ruchu.repository import locking


def test_disks_are_chosen_by_number_or_name(saved):
    _, head = saved
    assert exporting.chosen(head, ()) == head.disks
    names = [disk.name for disk in exporting.chosen(head, ["1", "vda", "vdb"])]
    assert names == ["vdb", "vda"]
    with pytest.raises(NotFound, match="vdx"):
        exporting.chosen(head, ["vdx"])


def test_where_caches_are(saved, tmp_path):
    _, head = saved
    assert exporting.cache_paths(head.disks, None) == {}
    found = exporting.cache_paths(head.disks, tmp_path)
    assert found == {"vda": tmp_path / "vda.cache", "vdb": tmp_path / "vdb.cache"}
    assert exporting.cache_paths(head.disks[:1], tmp_path / "c") == {"vda": tmp_path / "c"}
    with pytest.raises(UsageError, match="several disks"):
        exporting.cache_paths(head.disks, tmp_path / "c")


def test_rounds_come_until_they_are_acknowledged(saved, tmp_path):
    chain, head = saved
    caches = exporting.cache_paths(head.disks, tmp_path)
    with exporting.opened(chain, head, head.disks, caches) as disks:
        assert head.point in locking.active_leases(chain.storage, chain.id, chain.surroundings)
        handlers = exporting.Handlers(disks)
        vda = disks[0].overlay
        vda.write(5, memoryview(b"x"))
        first = handlers.round({"anew": True})
        assert first["disks"] == {"vda": [[0, 4096]], "vdb": []}
        vda.write(8192, memoryview(b"y"))
        again = handlers.round({})
        assert again["disks"]["vda"] == [[0, 4096], [8192, 4096]]
        with pytest.raises(UsageError, match="not the latest"):
            handlers.round({"acknowledge": first["round"]})
        vda.write(vda.size - 1, memoryview(b"z"))
        last = handlers.round({"acknowledge": again["round"]})
        assert last["disks"]["vda"] == [[vda.size // 4096 * 4096, 512]]
        everything = handlers.round({"acknowledge": last["round"], "anew": True})
        assert len(everything["disks"]["vda"]) == 3
        with (
            pytest.raises(ExportError),
            exporting.opened(chain, head, head.disks, caches),
        ):
            pytest.fail("two exports with one cache")
    assert not locking.active_leases(chain.storage, chain.id, chain.surroundings)
    with (
        pytest.raises(CacheMismatch),
        exporting.opened(chain, head, head.disks[:1], {"vda": caches["vdb"]}),
    ):
        pytest.fail("the cache of another disk")
