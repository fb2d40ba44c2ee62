"""Three nodes share the work of a schedule while lines are cut and everything is killed.

A server and two nodes in network namespaces of their own, one behind NAT; three real guests; a
policy that starts every minute. Kills are drawn by the seed. Afterwards: every start that was due
happened once, history says how each run ended, nothing of ours stays on the guests, and every
point that was committed reads back.
"""

import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import libvirt
import pytest

from ruchu.testing import databases, networks, servers
from ruchu.testing.guests.guest import GuestDisk, defined

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(3000)]

MIB = 1 << 20
# `RUCHU_KILLS=50` for the long search; a start is due every minute meanwhile.
KILLS = int(os.environ.get("RUCHU_KILLS", "3"))
PAUSE_S = (5.0, 25.0)
LIMIT_S = 600
VICTIMS = ("server", "near", "far", "line near", "line far", "task")


@pytest.fixture
def home(place):
    (place / "scratch").mkdir()
    yield place
    for path in sorted(place.iterdir()):
        shutil.rmtree(path)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    """Yield the option of the server that names its database."""
    if request.param == "sqlite":
        yield ()
        return
    # Not below pytest's own folder: that is closed to the user PostgreSQL runs as.
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        with (
            databases.postgresql_server(Path(directory) / "pg") as server,
            databases.fresh(server) as url,
        ):
            yield ("--database", url)


class World:
    """Everything that can be killed, and how."""

    def __init__(self, network, server, nodes):
        self.network = network
        self.server = server
        self.nodes = nodes

    def harm(self, victim, draw):
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {victim}\n")
        match victim.split():
            case ["server"]:
                self.server.restart()
            case ["line", name]:
                host = getattr(self.network, name)
                self.network.cut(host)
                time.sleep(draw.uniform(1, 12))
                self.network.mend(host)
            case ["task"]:
                self.kill_a_task(draw)
            case [name]:
                self.nodes[name].kill()
                time.sleep(draw.uniform(0, 5))
                self.nodes[name].start()

    def kill_a_task(self, draw):
        """Kill a process of a task, of whichever node, if there is one."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes()
                if b"ruchu.nodes.task" in words and bytes(self.server.home) in words:
                    found.append(int(path.parent.name))
        if found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(found), 9)


def policy(guests):
    return {
        "name": "minutes",
        "selection": {"platform": "kvm", "machines": [guest.uuid for guest in guests]},
        "storage": "main",
        "schedules": [{"kind": "incremental", "minutes": {"every": 1}}],
        "parallel": 3,
        "retrying": {"attempts": 20, "first_s": 1, "most_s": 5},
        "retention": {"count": 50},
    }


def leftovers(guest):
    """Return backup jobs of a guest that were not removed."""
    with guest.connect() as connection:
        machine = connection.lookupByUUIDString(guest.uuid)
        return machine.jobInfo()[0]


@contextlib.contextmanager
def built(home, database, uri):
    """Yield a world with three guests that run."""
    with contextlib.ExitStack() as stack:
        guests = [stack.enter_context(defined(uri, [GuestDisk("vda", 32 * MIB)])) for _ in range(3)]
        for guest in guests:
            guest.start(wait=False)
        network = stack.enter_context(networks.three_hosts())
        at = f"{network.server.address}:7000"
        server = servers.Server(
            home / "w", "--nodes", at, *database,
            inside=network.server.inside, transport=networks.transport(network.server),
        )  # fmt: skip
        stack.enter_context(server)
        nodes = {}
        for name in ("near", "far"):
            url = server.post("/nodes/tokens", {"name": name})["url"]
            inside = getattr(network, name).inside
            nodes[name] = stack.enter_context(servers.node(home / "w" / name, url, inside=inside))
        for guest in guests:
            guest.wait_until_ready()
        yield World(network, server, nodes), guests


def test_every_start_happens_once_whatever_is_killed(libvirt_uri, home, database, seed):
    draw = random.Random(seed)
    with built(home, database, libvirt_uri) as (world, guests):
        server = world.server
        server.nodes_online(3)
        made = {"name": "main", "location": str(home / "storage"), "passphrase": "sieben Berge 7"}
        server.post("/storages", made)
        server.post(
            "/platforms",
            {"name": "kvm", "uri": libvirt_uri, "scratch": str(home / "scratch"), "parallel": 3},
        )
        kept = server.post("/policies", policy(guests))
        for number in range(KILLS):
            time.sleep(draw.uniform(*PAUSE_S))
            change(guests[number % 3], number)
            world.harm(draw.choice(VICTIMS), draw)
        shown = server.get(f"/policies/{kept['id']}")
        etag = {"If-Match": f'"{shown["version"]}"'}
        stopped = {**shown["policy"], "enabled": False}
        server.call("PUT", f"/policies/{kept['id']}", json=stopped, headers=etag)
        ended = time.time()
        server.nodes_online(3)
        server.until(lambda: not open_runs(server), LIMIT_S)
        check(server, kept, ended, guests, home)


def change(guest, number):
    """Write something in a guest; while a backup holds it frozen, its agent does nothing."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            return guest.run(f"dd if=/dev/urandom of=/mnt/vda/f{number} bs=64k count=4; sync")
        except libvirt.libvirtError as error:
            if "frozen" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def open_runs(server):
    return [run for run in server.get("/runs", limit=200)["items"] if not run["ended"]]


def check(server, kept, ended, guests, home):
    runs = server.get("/runs", limit=200)["items"]
    due = sorted(run["due"] for run in runs)
    # Each whole minute from the first to the last, once.
    minutes = [moment[:16] for moment in due]
    assert len(set(minutes)) == len(minutes)
    first = time.mktime(time.strptime(minutes[0], "%Y-%m-%dT%H:%M"))
    last = time.mktime(time.strptime(minutes[-1], "%Y-%m-%dT%H:%M"))
    missed = [alarm for alarm in server.get("/alarms") if alarm["code"] == "missed-run"]
    if not missed:
        assert (last - first) / 60 + 1 == len(minutes)
    assert {run["state"] for run in runs} == {"succeeded"}, [
        (run["due"], run["state"], run["reason"]) for run in runs
    ]
    for run in runs:
        names = [event["name"] for event in server.get(f"/runs/{run['id']}/history")]
        assert names[0] == "queued"
        assert names[-1] == run["state"]
        tasks = server.get(f"/runs/{run['id']}/tasks")
        assert len(tasks) == 3
    shared = {task["node"] for run in runs for task in server.get(f"/runs/{run['id']}/tasks")}
    assert len(shared) > 1
    assert [leftovers(guest) for guest in guests] == [0, 0, 0]
    assert not list((home / "scratch").iterdir())
    verify = server.post("/runs", {"kind": "verify", "body": {"storage": "main", "depth": "full"}})
    done = server.over(verify["id"], LIMIT_S)
    assert done["state"] == "succeeded", done["reason"]
    (task,) = server.get(f"/runs/{verify['id']}/tasks")
    assert task["result"]["clean"] is True, task["result"]["findings"]
    points = server.get("/points", limit=400)["items"]
    made = {point for run in runs for point in run["summary"]["points"]}
    assert made <= {point["id"] for point in points}
