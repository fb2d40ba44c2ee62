"""A real guest, backed up, restored and run from its point by a server that the command line drives."""

import pytest

from ruchu.testing.command_line import CommandLine
from ruchu.testing.guests.guest import GuestDisk, defined
from ruchu.testing.servers import Server

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1 << 20
DISKS = [GuestDisk("vda", 64 * MIB)]


@pytest.fixture
def server(home, libvirt_uri, monkeypatch):
    with Server(home / "one") as found:
        found.nodes_online(1)
        found.post("/storages", {"name": "main", "location": str(home / "storage")})
        scratch = str(home / "scratch")
        found.post("/platforms", {"name": "kvm", "uri": libvirt_uri, "scratch": scratch})
        rights = ["view", "operate", "restore"]
        token = found.post("/tokens", {"name": "cli", "rights": rights})["token"]
        monkeypatch.setenv("RUCHU_SERVER", found.process.line["url"])
        monkeypatch.setenv("RUCHU_TOKEN", token)
        yield found


def test_a_guest_is_saved_restored_and_run_through_a_server(libvirt_uri, home, server):
    ruchu = CommandLine(home)
    with defined(libvirt_uri, DISKS) as guest:
        guest.start()
        selection = {"platform": "kvm", "machines": [guest.name]}
        server.post("/policies", {"name": "nightly", "selection": selection, "storage": "main"})
        (saved,) = ruchu.json("backup", "vm", guest.name, "--storage", "main", "--kind", "full")
        assert (saved["ok"], saved["kind"]) == (True, "full")
        (point,) = ruchu.json("points", "list")
        assert point["id"] == saved["point"]
        assert ruchu.json("points", "show", point["id"][:8])[0]["name"] == guest.name
        assert guest.name in [each["name"] for each in ruchu.json("inventory")]
        run = ruchu.json("policy", "run", "nightly", "--wait")
        assert run["state"] == "succeeded", run
        assert "succeeded" in ruchu.run("runs", "log", run["id"][:8])
        assert ruchu.json("runs", "show", run["id"][:8])["tasks"][0]["label"] == guest.name
        restored = ruchu.json(
            "restore", "vm", point["id"][:8], "--as", f"{guest.name}-back", "--directory", home,
            "--mac", "new",
        )  # fmt: skip
        started = ruchu.json(
            "instant", "start", point["id"][:8], "--as", f"{guest.name}-now", "--isolated",
            "--mac", "new",
        )  # fmt: skip
        (instant,) = ruchu.json("instant", "list")
        assert (instant["instant"], instant["node"]) == (started["instant"], "server")
        assert f"{guest.name}-now" in ruchu.run("instant", "list")
        assert ruchu.json("instant", "stop", f"{guest.name}-now")["machine_removed"]
        assert ruchu.json("instant", "list") == []
        with guest.connect() as connection:
            connection.lookupByUUIDString(restored["machine"]).undefine()
        # What fails ends with the status of what failed.
        error = ruchu.json("restore", "vm", point["id"][:8], status=2)["error"]
        assert error["code"] == "already-exists"
        assert f"ruchu: {error['message']}" in ruchu.err
