"""What a form of a restore means."""

from dataclasses import replace

import pytest

from ruchu.web import restore_form
from ruchu.web.language import Language
from ruchu.web.restore_form import GIB, Machine, Wish

ENGLISH = Language("en")
SAVED = {
    "name": "web-1", "vcpus": 2, "memory": 4 * GIB, "firmware": "bios",
    "disks": [
        {"key": "vda", "size": 20 * GIB, "location": "/images/web-1.qcow2"},
        {"key": "vdb", "size": 5 * GIB, "location": "/images/web-1-b.qcow2"},
    ],
    "nics": [{"network": "lan"}, {"network": "dmz"}, {"network": "lan"}, {"network": ""}],
}  # fmt: skip
MACHINE = restore_form.machine_of(SAVED)
WISH = Wish("a0", "main", "kvm", "web-1-restored", directory="/images")


def test_a_machine_is_read_from_what_a_point_holds():
    assert (
        Machine("web-1", {"vda": 20 * GIB, "vdb": 5 * GIB}, "/images", 2, 4 * GIB, ("lan", "dmz"))
        == MACHINE
    )
    point = {"name": "web-1", "disks": [{"name": "vda", "size": 7}]}
    assert restore_form.machine_of_point(point) == Machine("web-1", {"vda": 7})
    volumes = {**SAVED, "disks": [{"key": "sda", "size": 1, "location": "pool/volume"}]}
    assert restore_form.machine_of(volumes).directory == ""


def test_what_stays_as_it_was_is_not_in_the_body():
    same = replace(WISH, vcpus=2, memory=4 * GIB, disks=("vda", "vdb"), networks={"lan": "lan"})
    assert restore_form.restore_body(same, MACHINE) == {
        "point": "a0", "storage": "main", "platform": "kvm",
        "placement": {"macs": "keep", "name": "web-1-restored", "directory": "/images"},
    }  # fmt: skip


def test_what_is_changed_is():
    wish = replace(
        WISH, vcpus=4, memory=GIB, disks=("vdb",), networks={"lan": "test", "dmz": ""},
        new_macs=True, start=True, format="raw", node="n1",
    )  # fmt: skip
    assert restore_form.restore_body(wish, MACHINE) == {
        "point": "a0", "storage": "main", "platform": "kvm", "nodes": ["n1"],
        "placement": {
            "macs": "new", "name": "web-1-restored", "directory": "/images", "format": "raw",
            "vcpus": 4, "memory": GIB, "networks": {"lan": "test"}, "disks": ["vdb"],
            "start": True,
        },
    }  # fmt: skip


def test_over_the_original_neither_name_nor_place_is_new():
    body = restore_form.restore_body(replace(WISH, replace=True), MACHINE)
    assert body["placement"] == {"macs": "keep", "replace": True}


def test_an_instant_restore_is_started_and_says_how_it_is_served():
    body = restore_form.instant_body(replace(WISH, isolated=True, wait=True), MACHINE)
    assert body["placement"] == {
        "macs": "keep", "name": "web-1-restored", "start": True, "isolated": True,
    }  # fmt: skip
    assert (body["protocol"], body["agent_limit_s"]) == ("nbd", restore_form.AGENT_LIMIT_S)
    assert "address" not in body
    wish = replace(WISH, protocol="nfs", address="10.0.0.5", clients=("10.0.0.0/24",), cache="/c")
    body = restore_form.instant_body(wish, MACHINE)
    assert (body["address"], body["clients"], body["cache"]) == ("10.0.0.5", ["10.0.0.0/24"], "/c")


def test_what_goes_on_with_an_instant_restore_is_done_where_it_runs():
    instant = {"instant": "i", "point": "p", "storage": "main", "node": "n", "platform": "kvm",
               "name": "web", "since": "2026-11-22T18:00:00.000000Z",
               "cache_bytes": 1 << 20}  # fmt: skip
    assert restore_form.instant_act_body(instant, keep=True) == {
        "instant": "i", "point": "p", "storage": "main", "nodes": ["n"], "platform": "kvm",
        "keep": True,
    }  # fmt: skip
    lost = restore_form.stopped_losses(ENGLISH, instant)
    assert lost[1:] == [
        "Everything that it wrote since 22 Nov 2026, 18:00.", "That is 1.0 MiB in the write cache.",
    ]  # fmt: skip
    assert len(restore_form.stopped_losses(ENGLISH, {**instant, "cache_bytes": None})) == 2


@pytest.mark.parametrize(
    ("taken", "name"),
    [((), "web"), (("web",), "web-restored"), (("web", "web-restored"), "web-restored-2")],
)
def test_a_name_that_nobody_has_is_proposed(taken, name):
    assert restore_form.free_name("web", "restored", taken) == name


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"platform": ""}, "platform"), ({"name": ""}, "name"), ({"name": "a/b"}, "letters"),
        ({"name": "db"}, "called db"), ({"directory": "images"}, "no full path"),
        ({"directory": "/a/../b"}, "no full path"), ({"cache": "c"}, "no full path"),
        ({"vcpus": 0}, "processors"), ({"memory": 1}, "memory"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(changes, word):
    (fault,) = restore_form.faults(ENGLISH, replace(WISH, **changes), ["db"])
    assert word in fault


def test_nothing_is_wrong_with_what_can_be():
    assert restore_form.faults(ENGLISH, WISH, ["db"]) == []
    over = replace(WISH, replace=True, name="db")
    assert restore_form.faults(ENGLISH, over, ["db"]) == []


def test_the_review_says_what_happens():
    wish = replace(WISH, vcpus=4, memory=GIB, disks=("vda",), networks={"lan": "x"}, new_macs=True)
    assert restore_form.restore_steps(ENGLISH, wish, MACHINE) == [
        "A new machine web-1-restored is made on kvm.",
        "Its disks (20.0 GiB) are written to /images.",
        "Without the disks vdb.",
        "With 4 processors instead of 2.",
        "With 1.0 GiB of memory instead of 4.0 GiB.",
        "Cards of the network lan are in x.",
        "Its network cards get new MAC addresses.",
        "It stays off until somebody switches it on.",
    ]
    over = restore_form.restore_steps(ENGLISH, replace(WISH, replace=True, start=True), MACHINE)
    assert over[0] == "The machine web-1 on kvm becomes what it was at that moment."
    assert over[-1] == "It is switched on at the end."
    instant = restore_form.instant_steps(ENGLISH, replace(WISH, isolated=True), MACHINE)
    assert "unplugged" in instant[2]


def test_who_deletes_points_reads_which_stay():
    point = {"time": "2026-11-22T18:00:00.000000Z", "kind": "full", "bytes_stored": GIB}
    lines, stays = restore_form.point_losses(ENGLISH, [point], "main", 3)
    assert lines == ["22 Nov 2026, 18:00: full, 1.0 GiB stored"]
    assert "3 other points" in stays
    assert "No point" in restore_form.point_losses(ENGLISH, [point], "main", 0)[1]
