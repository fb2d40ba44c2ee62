"""One server, a real guest: from the first start to a restore, with kills in between."""

import shutil

import pytest

from ruchu.testing.guests.guest import GuestDisk, defined
from ruchu.testing.servers import Server

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1 << 20
DISKS = [GuestDisk("vda", 64 * MIB)]


def policy(names, **more):
    return {
        "name": "nightly", "selection": {"platform": "kvm", "machines": list(names)},
        "storage": "main", "retention": {"count": 3}, "options": {"quiesce": True}, **more,
    }  # fmt: skip


def prepared(server, home, uri):
    """Add the storage and the platform."""
    server.nodes_online(1)
    made = {"name": "main", "location": str(home / "storage"), "passphrase": "sieben Berge 7"}
    server.post("/storages", made)
    server.post("/platforms", {"name": "kvm", "uri": uri, "scratch": str(home / "scratch")})


@pytest.fixture
def home(place):
    (place / "scratch").mkdir()
    yield place
    for path in sorted(place.iterdir()):
        shutil.rmtree(path)


def test_from_the_first_start_to_a_restore(libvirt_uri, home):
    with defined(libvirt_uri, DISKS) as guest, Server(home / "one") as server:
        guest.start()
        guest.run("dd if=/dev/urandom of=/mnt/vda/first bs=64k count=40; sync")
        prepared(server, home, libvirt_uri)
        kept = server.post("/policies", policy([guest.uuid]))
        run = server.post(f"/policies/{kept['id']}/run", {"kind": "full"})
        done = server.over(run["id"])
        assert done["state"] == "succeeded", (done["reason"], server.trouble())
        first = server.get("/points")["items"]
        assert [point["kind"] for point in first] == ["full"]
        # The server dies, and comes back with everything it knew.
        server.restart()
        server.nodes_online(1)
        guest.run("echo more >/mnt/vda/second; sync")
        run = server.post("/policies/nightly/run", {"kind": "incremental"})
        done = server.over(run["id"])
        assert done["state"] == "succeeded", (done["reason"], server.trouble())
        points = server.get("/points")["items"]
        assert [point["kind"] for point in points] == ["incremental", "full"]
        names = [event["name"] for event in server.get(f"/runs/{run['id']}/history")]
        assert names[0] == "queued"
        assert names[-1] == "succeeded"
        body = {
            "point": points[0]["id"], "platform": "kvm",
            "placement": {"name": f"{guest.name}-back", "directory": str(home), "macs": "new"},
        }  # fmt: skip
        restored = server.post("/runs", {"kind": "restore", "name": "web", "body": body})
        done = server.over(restored["id"])
        assert done["state"] == "succeeded", (done["reason"], server.trouble())
        (task,) = server.get(f"/runs/{restored['id']}/tasks")
        with guest.connect() as connection:
            machine = connection.lookupByUUIDString(task["result"]["machine"])
            assert machine.name() == f"{guest.name}-back"
            machine.undefine()
        for path in home.glob("*.qcow2"):
            path.unlink()
