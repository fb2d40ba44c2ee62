"""Rows, addresses and words of the pages for files."""

import pytest

from ruchu.model import guest_paths
from ruchu.web.language import Language
from ruchu.web.parts import guest_files, sending_back

ENGLISH = Language("en")
POINT = "a" * 32
ENTRY = {
    "name": "b.conf", "path": "/vda1/etc/b.conf", "key": "L3g", "kind": "file", "size": 2048,
    "modified": "2026-11-22T18:00:00.123456789Z", "mode": "0644", "owner": 0, "group": 5,
    "target": None, "problem": "",
}  # fmt: skip


def row(*, whole=False, **more):
    return guest_files.row(ENGLISH, POINT, {**ENTRY, **more}, whole=whole)


def test_rows_say_what_a_file_is():
    shown = row()
    assert (shown["size"], shown["modified"]) == ("2.0 KiB", "22 Nov 2026, 18:00")
    assert shown["rights"] == "0644 · 0:5"
    assert shown["content"] == f"/api/v1/points/{POINT}/files/content?key=L3g"
    assert shown["link"] == ""
    assert row(whole=True)["sub"] == "/vda1/etc"
    link = row(kind="symlink", target="\u202efdp.exe")
    assert link["sub"] == "→ \\xe2\\x80\\xaefdp.exe"
    directory = row(kind="directory")
    assert directory["link"] == f"/restore/point/{POINT}/files?key=L3g"
    assert directory["size"] == ""


@pytest.mark.parametrize("more", [{"kind": "fifo"}, {"kind": "block-device"}, {"problem": "torn"}])
def test_what_has_no_content_offers_none(more):
    assert row(**more)["content"] == ""
    assert row(problem="torn")["bad"]


def test_names_show_nothing_unseen():
    assert row(name="a\nb\u202ec\x1b 语")["name"] == "a\\x0ab\\xe2\\x80\\xaec\\x1b 语"
    odd = row(mode=None, modified=None, size=None)
    assert (odd["rights"], odd["modified"], odd["size"]) == ("—", "—", "—")
    assert row(modified="9999-99-99T00:00:00.000000000Z")["modified"] == "9999-99-99"


def test_the_way_to_a_folder():
    key = guest_paths.key_of(b"/vda1/\xff odd/deep")
    ways = guest_files.crumbs(key)
    assert [name for name, _ in ways] == ["vda1", "\\xff odd", "deep"]
    assert ways[-1][1] == key
    assert guest_files.crumbs(guest_files.ROOT) == []


@pytest.mark.parametrize(("typed", "pattern"), [
    (" hosts ", "*hosts*"), ("*.conf", "*.conf"), ("a?c", "a?c"), ("etc/x", "etc/x"),
])  # fmt: skip
def test_what_is_typed_is_a_part_of_a_name_or_a_pattern(typed, pattern):
    assert guest_files.pattern_of(typed) == pattern


def test_addresses_hold_whatever_a_disk_is_called():
    found = guest_files.image_address(POINT, "a b/ü", "qcow2", "main")
    assert found == f"/api/v1/points/{POINT}/disks/a%20b%2F%C3%BC/image?format=qcow2&storage=main"
    several = guest_files.content_address(POINT, ["a", "b"], "s", "zip")
    assert several.endswith("?key=a&key=b&format=zip&storage=s")
    assert guest_files.address(POINT, "", q="x y") == f"/restore/point/{POINT}/files?q=x+y"


def test_what_is_replaced_is_said_by_name():
    rows = [{"id": str(number), "name": f"file {number}"} for number in range(20)]
    names = guest_files.named(rows, [str(number) for number in range(12)])
    assert names[:2] == ["file 0", "file 1"]
    assert names[-1] == "… (+4)"
    wanted = sending_back.Wanted("kvm", "web-1", "/etc", overwrite=True)
    said = sending_back.losses(ENGLISH, wanted, names)
    assert "/etc of web-1" in said[0]
    assert set(names) <= set(said)


@pytest.mark.parametrize(("text", "is_one"), [
    ("/root", True), ("C:\\Temp", True), ("d:/x", True), ("root", False), ("", False), ("C:", False),
])  # fmt: skip
def test_directories_of_guests(text, is_one):
    assert guest_files.is_directory_of_guest(text) is is_one
