"""A machine through the command line: saved, changed, lost, brought back; the guest confirms it."""

import os
import time

import pytest

from ruchu.testing.command_line import CommandLine
from ruchu.testing.guests.guest import GuestDisk, booted, existing, remove
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def cli(tmp_path, libvirt_uri, place):
    cli = CommandLine(tmp_path)
    (tmp_path / "passphrase").write_text("correct horse\n")
    cli.run("storage", "add", "s", tmp_path / "s", "--passphrase-file", tmp_path / "passphrase")
    cli.run("platform", "add", "kvm", libvirt_uri, "--scratch", place)
    return cli


def back_up(cli, name, *words, status=0):
    (done,) = cli.json("backup", "vm", name, "--storage", "s", *words, status=status)
    return done


def codes(done):
    return {(reason["code"], reason["disk"]) for reason in done["reasons"]}


def disk_of(done, key):
    return next(disk for disk in done["disks"] if disk["name"] == key)


def restored(cli, libvirt_uri, point, *words):
    """Restore a machine under a new name, boot it, and yield the guest."""
    return cli.json("restore", "vm", point, "--start", *words)["machine"]


def test_a_life_of_a_machine(cli, libvirt_uri, tmp_path):  # noqa: PLR0915 - a life is long
    checked = cli.json("platform", "check", "kvm")
    assert checked["changed_blocks"]
    disks = [GuestDisk("vda"), GuestDisk("vdb", format="raw", size=64 * MIB)]
    sums = {}
    with booted(libvirt_uri, disks, prefix="ruchu-cli") as guest:
        assert guest.name in {each["name"] for each in cli.json("inventory", "kvm")}
        sums["/mnt/vda/one"] = guest.write("/mnt/vda/one", 9 * MIB)
        sums["/mnt/vdb/one"] = guest.write("/mnt/vdb/one", 2 * MIB)
        full = back_up(cli, guest.name)
        assert (full["ok"], full["kind"], full["consistency"]) == (True, "full", "filesystem")
        assert ("no-base", "") in codes(full)
        assert full["frozen_s"] > 0

        sums["/mnt/vda/two"] = guest.write("/mnt/vda/two", 5 * MIB)
        second = back_up(cli, guest.name)
        assert (second["kind"], second["parent"]) == ("incremental", full["point"])
        assert disk_of(second, "vda")["read"] == "changes"
        assert 5 * MIB <= disk_of(second, "vda")["bytes_read"] < 9 * MIB
        assert second["samples"]["vda"]["blocks"] == 64
        # A raw image has no place for a map of changes: read in full, and it is said so.
        assert disk_of(second, "vdb")["read"] == "all"
        assert ("format-untracked", "vdb") in codes(second)

        sums["/mnt/vda/three"] = guest.write("/mnt/vda/three", 3 * MIB)
        third = back_up(cli, guest.name, "--kind", "incremental")
        sums["/mnt/vda/four"] = guest.write("/mnt/vda/four", 1 * MIB)
        fourth = back_up(cli, guest.name, "--kind", "differential")
        assert (fourth["kind"], fourth["parent"]) == ("differential", full["point"])
        assert disk_of(fourth, "vda")["bytes_read"] >= 9 * MIB
        uuid, directory = guest.uuid, guest.directory

        assert cli.json("storage", "verify", "s", "--full")["clean"]
        # Merge the increment in the middle into the one after it.
        cli.run("points", "delete", second["point"], "--yes", "--grace", "0d")
        differing = cli.json("points", "diff", third["point"], fourth["point"])["disks"]
        assert differing[0]["bytes"] >= 1 * MIB
        guest.stop()
        remove(libvirt_uri, uuid)
        for path in directory.glob("*"):
            path.unlink()

        images = tmp_path / "images"
        images.mkdir()
        os.chmod(tmp_path, 0o755)
        for point, expected in (
            (fourth["point"], set(sums)),
            (third["point"], set(sums) - {"/mnt/vda/four"}),
            (full["point"], {"/mnt/vda/one", "/mnt/vdb/one"}),
        ):
            machine = restored(
                cli, libvirt_uri, point, "--directory", images, "--replace", "--platform", "kvm"
            )
            back = existing(libvirt_uri, machine, images)
            try:
                assert machine == uuid
                back.wait_until_ready()
                for path in expected:
                    assert back.sha256(path) == sums[path]
                missing = set(sums) - expected
                for path in missing:
                    back.run(f"test ! -e {path}")
            finally:
                back.stop()
        remove(libvirt_uri, uuid)


def test_many_machines_and_one_that_is_not_there(cli, libvirt_uri):
    with (
        booted(libvirt_uri, prefix="ruchu-one") as one,
        booted(libvirt_uri, prefix="ruchu-two") as two,
    ):
        for order in ("serial", "parallel", "barrier"):
            found = cli.json(
                "backup", "vm", one.name, "ruchu-missing", two.name,
                "--storage", "s", "--snapshot", order, status=3,
            )  # fmt: skip
            assert [each["ok"] for each in found] == [True, False, True]
            assert found[1]["error"]["code"] == "not-found"
    names = [point["name"] for point in cli.json("points", "list")]
    assert sorted(names) == sorted([one.name, two.name] * 3)


def test_a_killed_run_is_cleaned_up_by_the_next(cli, libvirt_uri, place):
    with booted(libvirt_uri, [GuestDisk("vda")], prefix="ruchu-kill") as guest:
        expected = guest.write("/mnt/vda/file", 60 * MIB)
        process = cli.popen("backup", "vm", guest.name, "--storage", "s", "--level", "19")
        deadline = time.monotonic() + 60
        while not any(place.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        process.kill()
        process.communicate()
        assert cli.json("points", "list") == []
        done = back_up(cli, guest.name)
        assert done["ok"]
        assert done["cleaned"]
        point = done["point"]
        assert guest.sha256("/mnt/vda/file") == expected
    assert cli.json("points", "verify", point, "--full")["clean"]


def test_a_cancelled_run_leaves_nothing(cli, libvirt_uri, place):
    with booted(libvirt_uri, [GuestDisk("vda")], prefix="ruchu-stop") as guest:
        guest.write("/mnt/vda/file", 60 * MIB)
        process = cli.popen("backup", "vm", guest.name, "--storage", "s", "--level", "19")
        deadline = time.monotonic() + 60
        while not any(place.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        process.terminate()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert cli.json("points", "list") == []
        assert list(place.iterdir()) == []
        assert back_up(cli, guest.name)["cleaned"] == []
