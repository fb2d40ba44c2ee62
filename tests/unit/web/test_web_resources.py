"""Where storages lie, and what pages of platforms, machines, nodes and storages say: pure parts."""

import datetime
from typing import Any

import pytest

from ruchu.errors import UsageError
from ruchu.storage import locations
from ruchu.web.language import Language
from ruchu.web.pages import nodes, platforms, storage_new, storages
from ruchu.web.pages.storage import probed
from ruchu.web.parts import locating, platform_tree, platform_words, resources, storage_charts

ENGLISH = Language("en")
NOW = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)
TIB = 1 << 40
STORAGE: dict[str, Any] = {
    "id": "5" * 32, "name": "main", "location": "/srv/backup", "role": "backup", "encrypted": True,
    "warn_percent": 80, "stop_percent": 95, "free": TIB, "size": 4 * TIB, "problem": "",
    "facts": {},
}  # fmt: skip
USE: dict[str, Any] = {
    "days": [{"day": f"2026-11-{day}", "free": (44 - day) * TIB // 10, "stored": day} for day in range(20, 27)],
    "points": 12, "bytes_read": 30 * TIB, "bytes_stored": 10 * TIB, "growth_bytes": TIB / 10,
    "full_on": "2026-12-14", "earliest": "2026-12-12", "latest": "2026-12-17",
}  # fmt: skip
NODE: dict[str, Any] = {
    "id": "1" * 32, "name": "node-2", "state": "online", "embedded": False, "maintenance": False,
    "parallel": 4, "release": "0.1.0", "last_seen": "2026-11-26T11:59:50.000000Z",
    "facts": {"host": "kvm-2", "cores": 8, "memory": 16 << 30},
    "load": {"tasks": 3, "load_1": 6.8, "memory_available": 12 << 30, "guarded": ["main"]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "values", "location"),
    [
        ("directory", {"path": " /srv/备份 "}, "/srv/备份"),
        ("s3", {"bucket": "ruchu", "prefix": "/bj/", "endpoint": "https://s3.example.com:9000",
                "region": "cn-north-1", "style": "path"},
         "s3://ruchu/bj?endpoint=https://s3.example.com:9000&region=cn-north-1&style=path"),
        ("s3", {"bucket": "ruchu", "prefix": "", "endpoint": "", "region": ""}, "s3://ruchu"),
        ("nfs", {"host": "nas", "path": "volume1/backup", "vers": "4.1", "sec": ""},
         "nfs://nas/volume1/backup?vers=4.1"),
        ("nfs", {"host": "2001:db8::7", "path": "/a b"}, "nfs://[2001:db8::7]/a%20b"),
        ("smb", {"host": "\\\\nas", "path": "backup\\ruchu", "seal": "1"},
         "smb://nas/backup/ruchu?seal=1"),
        ("iscsi", {"host": "san:3261", "target": "iqn.2001-05.com.example:backup", "unit": ""},
         "iscsi://san:3261/iqn.2001-05.com.example:backup/0"),
        ("device", {"path": "/dev/mapper/vg-lv"}, "device:///dev/mapper/vg-lv"),
    ],
)  # fmt: skip
def test_fields_become_a_location(kind: str, values: dict[str, str], location: str) -> None:
    made = locating.location(kind, values)
    assert made == location
    found = locating.described(made)
    assert found is not None
    assert found.name == kind
    assert str(locations.parse(made)) == location or kind == "directory"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("directory", {"path": "srv/backup"}),
        ("directory", {}),
        ("s3", {"bucket": "", "endpoint": "https://s3.example.com"}),
        ("s3", {"bucket": "ruchu", "endpoint": "s3.example.com"}),
        ("nfs", {"host": "user@nas", "path": "/a"}),
        ("nfs", {"host": "nas", "path": "/"}),
        ("smb", {"host": "nas", "path": "a,uid=0"}),
        ("iscsi", {"host": "san:99999", "target": "iqn.2001-05.com.example:backup"}),
        ("iscsi", {"host": "san", "target": "backup"}),
        ("device", {"path": "/etc/passwd"}),
        ("device", {"path": "/dev/../etc/passwd"}),
    ],
)
def test_what_names_no_place_is_refused(kind: str, values: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        locating.location(kind, values)


def test_credentials_stay_out_of_the_location() -> None:
    values = {"host": "nas", "path": "a", "user": "backup", "password": "a = b#c", "domain": ""}
    assert locating.credentials("smb", values) == "user = backup\npassword = a = b#c"
    assert "backup" not in locating.location("smb", values)
    assert locating.credentials("nfs", values) is None
    with pytest.raises(UsageError):
        locating.credentials("smb", {**values, "password": "a\nuser = root"})


def test_a_device_is_erased_only_if_it_was_typed() -> None:
    where = "device:///dev/sdb"
    assert locating.extras({"file_system": "xfs", "erase": "/dev/sdb"}, where) == {
        "file_system": "xfs", "erase": "/dev/sdb",
    }  # fmt: skip
    assert locating.extras({"file_system": "", "erase": ""}, where) == {}
    with pytest.raises(UsageError):
        locating.extras({"erase": "/dev/sda"}, where)


@pytest.mark.parametrize(
    ("first", "again", "kept", "adopts", "complaint"),
    [
        ("sieben Berge 7", "sieben Berge 7", True, False, ""),
        ("short", "short", True, False, "at least"),
        ("sieben Berge 7", "sieben Berge 8", True, False, "differ"),
        ("sieben Berge 7", "sieben Berge 7", False, False, "Write"),
        ("short", "", False, True, ""),
        ("", "", False, True, "Type"),
    ],
)
def test_a_passphrase_is_long_typed_twice_and_kept(
    first: str, again: str, *, kept: bool, adopts: bool, complaint: str
) -> None:
    found = storage_new.secret_complaint(first, again, kept=kept, adopts=adopts)
    assert complaint in found
    assert bool(complaint) == bool(found)


@pytest.mark.parametrize(
    ("more", "mark"),
    [
        ({}, resources.STORAGE_FINE),
        ({"free": TIB // 2}, resources.STORAGE_LOW),
        ({"free": TIB // 10}, resources.STORAGE_FULL),
        ({"free": None}, resources.STORAGE_FINE),
        ({"problem": "gone", "free": 0}, resources.STORAGE_BROKEN),
        ({"facts": {"state": "evacuated"}, "problem": "gone"}, resources.STORAGE_LEFT),
    ],
)
def test_of_a_storage_the_worst_is_said(more: dict[str, Any], mark: object) -> None:
    assert resources.storage_mark({**STORAGE, **more}) == mark


def test_a_storage_is_a_row() -> None:
    guard = resources.guard_mark(STORAGE, [NODE], [])
    row = storages.storage_row(ENGLISH, STORAGE, USE, guard)
    assert (row["use"]["bar"], row["use"]["text"]) == (0.75, "3.0 TiB of 4.0 TiB")
    assert (row["reduction"], row["guard"]["text"]) == ("3.0 : 1", "Guarded")
    bucket = {**STORAGE, "location": "s3://ruchu/bj", "size": None, "free": None}
    assert resources.guard_mark(bucket, [NODE], []) is None
    row = storages.storage_row(ENGLISH, bucket, USE, None)
    assert (row["use"]["text"], row["kind"]["text"]) == ("10.0 TiB", "S3 bucket")


def test_a_guard_that_raised_an_alarm_is_broken() -> None:
    alarm = {"subject": "main", "code": "guard-ended"}
    assert resources.guard_mark(STORAGE, [NODE], [alarm]) == resources.GUARD_BROKEN
    assert resources.guard_mark(STORAGE, [], []) == resources.NOT_GUARDED


def test_a_forecast_is_said_and_drawn() -> None:
    said = storage_charts.words(ENGLISH, STORAGE, USE)
    assert "102.4 GiB a day" in said
    assert "full on 14 Dec 2026" in said
    options = storage_charts.options(ENGLISH, STORAGE, USE)
    used, ahead, size = (each["data"] for each in options["series"])
    assert len(used) == len(ahead) == len(size) == 7 + storage_charts.AHEAD_DAYS
    assert (used[6], ahead[5], ahead[6]) == (ahead[6], None, used[6])
    few = {**USE, "growth_bytes": None}
    assert "takes a week" in storage_charts.words(ENGLISH, STORAGE, few)
    assert len(storage_charts.options(ENGLISH, STORAGE, few)["series"]) == 2


def test_a_probe_is_told_in_words() -> None:
    found = probed(ENGLISH, {"storage": "main", "file_system": "xfs", "immutable": False, "odd": 3})
    assert list(found.values()) == ["xfs", "no", "3"]


def test_a_node_is_a_row() -> None:
    row = nodes.node_row(ENGLISH, NODE, NOW)
    assert row["tasks"]["bar"] == 0.75
    assert (row["processors"]["text"], row["processors"]["tone"]) == ("85%", "warn")
    assert (row["memory"]["text"], row["guard"]) == ("25%", "1 storages")
    lost = nodes.node_row(ENGLISH, {**NODE, "state": "lost", "load": {}}, NOW)
    assert (lost["tasks"], lost["processors"], lost["guard"]) == ("–", "–", "–")
    resting = {**NODE, "maintenance": True}
    assert resources.node_mark(resting) == resources.IN_MAINTENANCE
    assert resources.node_mark({**resting, "state": "lost"}) == resources.NODES["lost"]


def machine(number: int = 1, **more: Any) -> dict[str, Any]:
    known = {"platform": "kvm", "id": f"{number}", "name": f"web-{number}", "state": "running",
             "host": "h1", "folder": "", "tags": ["a"], "vcpus": 1, "memory": 1 << 30,
             "disk_size": 8 << 30, "seen": ""}  # fmt: skip
    return {"machine": known, "policies": [], "protected": False, "newest": None, **more}


def test_a_machine_is_a_row_that_offers_what_can_be_done() -> None:
    bare = resources.machine_row(ENGLISH, machine(), NOW, may_operate=True)
    assert (bare["name"]["link"], bare["name"]["sub"]) == ("/machines/kvm/1", "kvm · h1 · a")
    assert (bare["protection"]["text"], bare["acts"][0]["name"]) == ("Not protected", "protect")
    policy = {"id": "9", "name": "nightly", "enabled": True}
    off = {**policy, "enabled": False}
    safe = machine(policies=[policy, {**policy, "name": "b"}, off], protected=True,
                   newest="2026-11-26T02:00:00.000000Z")  # fmt: skip
    row = resources.machine_row(ENGLISH, safe, NOW, may_operate=True)
    assert (row["protection"]["link"], row["protection"]["sub"]) == ("/policies/9", "and 1 more")
    assert row["acts"][0]["name"] == "back-up"
    assert "tone" not in row["newest"]
    old = resources.newest_cell(ENGLISH, "2026-11-01T02:00:00.000000Z", NOW)
    assert old["tone"] == "warn"
    suspended = resources.machine_row(ENGLISH, machine(policies=[off]), NOW, may_operate=False)
    assert (suspended["protection"]["sub"], suspended["acts"]) == ("switched off: nightly", [])


def test_a_platform_is_a_row_and_says_what_it_can_do() -> None:
    known = {"name": "kvm", "uri": "qemu+ssh://root@h/system", "problem": "", "seen": None}
    row = platforms.platform_row(ENGLISH, known, (3, 1), NOW, may_configure=False)
    assert (row["kind"], row["machines"]) == ("KVM over SSH", {"text": "3", "sub": "1 protected"})
    assert [each["name"] for each in row["acts"]] == ["refresh"]
    check = {"version": "QEMU 8.2", "changed_blocks": True, "quiesce": False, "machines": 3,
             "notes": ["no agent"]}  # fmt: skip
    assert [good for _, good in platform_words.can(ENGLISH, check)] == [True, True, False, False]


def test_a_tree_leaves_out_levels_without_a_name() -> None:
    places = [
        {"host": "h1", "folder": "", "machines": 2, "protected": 1},
        {"host": "h2", "folder": "", "machines": 1, "protected": 0},
        {"host": "h2", "folder": "/dc", "machines": 1500, "protected": 0},
    ]
    one, two = platform_tree.top(ENGLISH, places)
    assert one["place"] == {"host": "h1", "folder": ""}
    assert [each["label"] for each in two["children"]] == ["without a folder", "/dc"]
    assert two["sub"] == "1,501 machines"
    found = platform_tree.machine_nodes(ENGLISH, [machine(), machine(2)], "web-2/2/kvm", "h/h1")
    assert [each["id"] for each in found] == ["m/1", "m/2", "more/h/h1"]
    assert platform_tree.disk_nodes(ENGLISH, [], "1")[0]["label"] == "no disks"


@pytest.mark.parametrize(
    ("at", "host"),
    [
        ("backup.example.com:8444", "backup.example.com"),
        ("192.0.2.1:8444", "192.0.2.1"),
        ("0.0.0.0:8444", ""),
        ("127.0.0.1:8444", ""),
        ("[::]:8444", ""),
        ("[2001:db8::7]:8444", "2001:db8::7"),
        ("", ""),
    ],
)
def test_nodes_are_not_told_an_address_that_only_the_server_reaches(at: str, host: str) -> None:
    assert nodes.reached_as(at) == host
