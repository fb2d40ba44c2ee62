"""The server is lost with everything it knew: its storages and an export bring all of it back."""

import json
import shutil

import pytest

from ruchu.testing.guests.guest import GuestDisk, defined
from ruchu.testing.servers import Server

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1 << 20
DISKS = [GuestDisk("vda", 64 * MIB)]
PASSPHRASE = "three rivers seven mountains"


@pytest.fixture
def home(place):
    (place / "scratch").mkdir()
    yield place
    for path in sorted(place.iterdir()):
        shutil.rmtree(path)


def defined_on(server, home, uri, guest):
    """Define everything, and make a full backup."""
    server.nodes_online(1)
    made = {"name": "main", "location": str(home / "storage"), "passphrase": "sieben Berge 7"}
    server.post("/storages", made)
    server.post("/platforms", {"name": "kvm", "uri": uri, "scratch": str(home / "scratch")})
    selection = {"platform": "kvm", "machines": [guest.uuid]}
    policy = {"name": "nightly", "selection": selection, "storage": "main",
              "retention": {"count": 30}, "options": {"quiesce": True}}  # fmt: skip
    server.post("/policies", policy)
    run = server.post("/policies/nightly/run", {"kind": "full"})
    done = server.over(run["id"])
    assert done["state"] == "succeeded", (done["reason"], server.trouble())


def scheduled_every_minute(server):
    """Let the policy start by its schedule; return the run that the schedule started."""
    row = server.get("/policies/nightly")
    policy = {**row["policy"], "schedules": [{"kind": "incremental", "minutes": {"every": 1}}]}
    headers = {"If-Match": f'"{row["version"]}"'}
    server.call("PUT", "/policies/nightly", json=policy, headers=headers)

    def started():
        return [run for run in server.get("/runs")["items"] if run["started_by"] == "schedule"]

    return server.until(started, 180)[0]


def test_the_next_scheduled_run_of_a_rebuilt_server_is_incremental(libvirt_uri, home):
    with defined(libvirt_uri, DISKS) as guest:
        guest.start()
        guest.run("dd if=/dev/urandom of=/mnt/vda/first bs=64k count=40; sync")
        with Server(home / "one") as server:
            defined_on(server, home, libvirt_uri, guest)
            wanted = {"passphrase": PASSPHRASE, "passwords": True}
            answer = server.client.post("/definitions/export", json=wanted)
            assert answer.status_code == 200, answer.text
            export = answer.text
            (point,) = server.get("/points")["items"]
        assert "sieben" not in export
        # The database, the jobs, the key, the node's state: nothing is left of it.
        shutil.rmtree(home / "one")
        guest.run("echo more >/mnt/vda/second; sync")
        with Server(home / "two") as server:
            assert server.get("/policies") == []
            server.nodes_online(1)
            body = {"file": export, "passphrase": PASSPHRASE}
            tried = server.post("/definitions/import", {**body, "dry_run": True})
            assert server.get("/policies") == []
            done = server.post("/definitions/import", body)
            assert done["changes"] == tried["changes"]
            actions = {(each["kind"], each["name"]): each["action"] for each in done["changes"]}
            assert actions["storages", "main"] == actions["policies", "nightly"] == "create"
            assert done["storages"] == [{"name": "main", "points": 1, "problems": []}]
            assert [each["id"] for each in server.get("/points")["items"]] == [point["id"]]
            run = scheduled_every_minute(server)
            done = server.over(run["id"])
            assert done["state"] == "succeeded", (done["reason"], server.trouble())
            points = server.get("/points")["items"]
            assert [each["kind"] for each in points][-2:] == ["incremental", "full"], points
            newer, older = points[-2:]
            assert newer["chain"] == older["chain"] == point["chain"]
            # An increment of what changed, not of everything.
            assert newer["bytes_read"] < older["bytes_read"] / 2, json.dumps(points, indent=1)
