"""`ruchu backup vm` is killed at any moment: the next run works, nothing is left, nothing is lost.

RUCHU_KILLS  how many kills in all (default 10; 50 in `make long`), spread evenly over the length of a run.
RUCHU_SEED   the seed of the moments.
"""

import collections
import contextlib
import functools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import libvirt_qemu
import pytest

from ruchu import commands
from ruchu.cli.session import Session
from ruchu.clock import SYSTEM
from ruchu.operations import points as listing
from ruchu.platforms.contract import OpenRequest
from ruchu.platforms.libvirt import checkpoints, leftovers, naming, quiesce
from ruchu.platforms.libvirt.driver import DEFAULT_DIRECTORY
from ruchu.protection import machine
from ruchu.repository import locking, verifying
from ruchu.repository.verifying_findings import Depth
from ruchu.testing import truth
from ruchu.testing.guests.guest import GuestDisk, booted
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]

KILLS = int(os.environ.get("RUCHU_KILLS", "10"))
GROUP = 10  # kills of one test, so that each test is short and workers share them
GROUPS = -(-KILLS // GROUP)
# The last moments lie behind the end of most runs: some end by themselves, some while they leave.
BEYOND = 1.2
# Read in full each time, which gives a run a length that moments can be chosen of.
RAW_BYTES = 48 * MIB
ATTEMPTS = 5
LIMIT_S = 60
POLL_S = 0.005
LOAD = """(n=0; while [ -e /tmp/load ]; do n=$((n+1));
dd if=/dev/urandom of=/mnt/vda/load bs=64k count=4 seek=$((n*5%200)) conv=notrunc 2>/dev/null; sync;
sleep 0.3; done) >/dev/null 2>&1 </dev/null &"""


@pytest.fixture(scope="module")
def guest(libvirt_uri):
    disks = [
        GuestDisk("vda", size=64 * MIB),
        GuestDisk("vdb", format="raw", size=256 * MIB, filesystem=False),
    ]
    with booted(libvirt_uri, disks, prefix="ruchu-killed") as guest:
        guest.run("dd if=/dev/urandom of=/mnt/vda/data bs=1M count=16 2>/dev/null; sync")
        yield guest


@dataclass
class Machine:
    """A guest, the state and the storage that it is backed up to, and what is known of both."""

    guest: object
    directory: Path
    place: Path
    committed: set = field(default_factory=set)
    seconds: dict = field(default_factory=lambda: collections.defaultdict(list))
    work: dict = field(default_factory=lambda: collections.defaultdict(list))
    storages: object = None

    def args(self, *words):
        state = self.directory / "state"
        return [sys.executable, "-m", "ruchu", "--state", str(state), *map(str, words)]

    def ruchu(self, *words):
        args = [*self.args(*words), "--json"]
        done = subprocess.run(args, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def start(self, kind):
        """Begin a backup; the caller waits for it."""
        args = self.args("backup", "vm", self.guest.name, "--storage", "s", "--kind", kind)
        return subprocess.Popen([*args, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def back_up(self, kind):
        """Back up, and note how long it took and what it made."""
        began = SYSTEM.monotonic()
        (done,) = self.ruchu("backup", "vm", self.guest.name, "--storage", "s", "--kind", kind)
        self.seconds[kind].append(SYSTEM.monotonic() - began)
        self.work[kind].append(done["seconds"])
        assert (done["ok"], done["kind"]) == (True, kind)
        return done

    @functools.cached_property
    def chain(self):
        (chain,) = self.storages.open("s").all_chains()
        return chain

    def locked(self):
        return locking.holder_of(self.chain.storage, self.chain.id) is not None

    def listed(self):
        found = listing.list_points(self.storages, "s")
        assert found.problems == []
        return {point["point"] for point in found.points}

    @contextlib.contextmanager
    def domain(self):
        with self.guest.connect() as connection:
            yield connection.lookupByUUIDString(self.guest.uuid)

    def job(self):
        """Return the socket of the backup job, None if there is no job."""
        with self.domain() as domain:
            return leftovers.job_mark(domain)

    def check(self, made=frozenset()):
        """Nothing is left on the source; each point that ever was is there, and whole."""
        self.check_source()
        listed = self.listed()
        assert self.committed <= listed, "a point vanished"
        assert made <= listed
        self.committed = listed
        report = verifying.verify_storage(self.storages.open("s"), Depth.STRUCTURAL)
        assert report.clean, report.findings

    def check_source(self):
        chain = self.chain
        with self.domain() as domain:
            assert leftovers.job_mark(domain) is None
            assert not quiesce.left_frozen_by(domain, chain.id)
            left = checkpoints.ours(domain, chain.id)
            bitmaps = self.bitmaps(domain)
        heads = chain.points()
        known = [head for head in heads if machine.change_ref(head) is not None]
        # A run keeps what it may have needed: the newest point and full of before, and its own.
        fulls = [head for head in known[:-1] if head.kind.value == "full"]
        kept = {machine.change_ref(head).name for head in (*known[-2:], *fulls[-1:])}
        if known:
            assert machine.change_ref(known[-1]).name in left
        assert set(left) <= kept
        assert bitmaps == set(left)
        assert self.guest.agent("guest-fsfreeze-status") == "thawed"
        assert self.files() == []
        assert [line for line in processes() if "qemu-nbd" in line and chain.id in line] == []

    def bitmaps(self, domain):
        query = json.dumps({"execute": "query-named-block-nodes", "arguments": {"flat": True}})
        nodes = json.loads(libvirt_qemu.qemuMonitorCommand(domain, query, 0))["return"]
        return {bitmap["name"] for node in nodes for bitmap in node.get("dirty-bitmaps", ())}

    def files(self):
        """Return scratch files, sockets and pid files of ours, wherever they may be."""
        owner = self.chain.id
        return [
            name
            for directory in (self.place, DEFAULT_DIRECTORY)
            for name in os.listdir(directory)
            if naming.is_mark_of(name, owner, self.guest.uuid)
        ]


def fill(guest, length):
    """Let the raw disk hold so many bytes; QEMU sees them at once, through the page cache."""
    with guest.disks["vdb"].open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.truncate(0)
        for _ in range(length // MIB):
            file.write(os.urandom(MIB))
        file.truncate(size)


def processes():
    return commands.run(["ps", "-eo", "pid,args"], timeout_s=10).text.splitlines()


@pytest.fixture
def target(guest, libvirt_uri, place, tmp_path):
    target = Machine(guest, tmp_path, place)
    (tmp_path / "passphrase").write_text("correct horse\n")
    secret = ("--passphrase-file", tmp_path / "passphrase")
    target.ruchu("storage", "add", "s", tmp_path / "s", *secret)
    target.ruchu("platform", "add", "kvm", libvirt_uri, "--scratch", place)
    target.storages = Session(tmp_path / "state").storages
    fill(guest, RAW_BYTES)
    yield target
    # The next test has another chain; what this one keeps for its next increment is not its.
    with target.domain() as domain:
        checkpoints.prune(domain, target.chain.id, ())


@pytest.fixture
def load(guest):
    guest.run("touch /tmp/load")
    guest.run(LOAD)
    yield
    guest.run("rm -f /tmp/load; sleep 1; sync")


def moments(seed):
    """Return for each kill a share of the length of a run, all together spread evenly."""
    choose = random.Random(seed)
    shares = [(number + choose.random()) / KILLS * BEYOND for number in range(KILLS)]
    choose.shuffle(shares)
    return shares


def wait_until(reached, process):
    """Wait for a moment of a run; return whether it came before its end."""
    deadline = SYSTEM.monotonic() + LIMIT_S
    while not reached():
        if process.poll() is not None:
            return False
        assert SYSTEM.monotonic() < deadline
        SYSTEM.sleep(POLL_S)
    return True


def killed(target, kind, share, *, at_work):
    """Back up, kill it, and return in which phase it was; `at_work`: not while it starts."""
    before = target.listed()
    lengths = target.work if at_work else target.seconds
    delay = statistics.median(lengths[kind][-5:]) * share
    with target.start(kind) as process:
        if at_work:
            wait_until(target.locked, process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
        out, err = process.communicate()
    assert process.returncode in {0, -signal.SIGKILL}, (out, err)
    if process.returncode == 0:
        return "was done"
    made = target.listed() - before
    assert len(made) <= 1
    if target.guest.agent("guest-fsfreeze-status") == "frozen":
        return "frozen"
    if target.job() is not None:
        return "committed, job runs" if made else "job runs"
    if made:
        return "committed"
    return "locked" if target.locked() else "before or after"


@pytest.mark.parametrize("group", range(GROUPS))
def test_killed_at_any_moment(target, load, platform, seed, group):
    choose = random.Random(f"{seed} {group}")
    for kind in ("full", "incremental", "incremental", "full", "differential"):
        made = target.back_up(kind)
    target.check({made["point"]})

    phases = collections.Counter()
    kinds = ["full", "incremental", "differential"]
    left = moments(seed)[group * GROUP : (group + 1) * GROUP]
    while left:
        # Now and then the run that cleans up after a kill is killed itself.
        for _ in range(choose.choice((1, 1, 1, 2))):
            if left:
                at_work = len(left) % 3 > 0
                share = left.pop()
                phases[killed(target, choose.choice(kinds), share, at_work=at_work)] += 1
        done = target.back_up(choose.choice(kinds))
        target.check({done["point"]})
    lengths = {kind: round(statistics.median(each), 2) for kind, each in target.seconds.items()}
    print(f"\nkilled: {dict(phases)}; a run takes {lengths} s; {len(target.committed)} points")  # noqa: T201

    # What all of them led to is right: the guest stands still while it is saved and compared.
    with target.domain() as domain:
        domain.suspend()
        try:
            last = target.back_up("incremental")
            restored = target.directory / "restored"
            target.ruchu("restore", "image", last["point"], restored, "--disk", "vda")
            request = OpenRequest(target.guest.uuid, "judge", disks=("vda",))
            with platform.open_points([request], "serial") as (point,):
                assert truth.same(restored, point.disks[0].uri)
        finally:
            domain.resume()
    target.check({last["point"]})
    assert target.ruchu("storage", "verify", "s", "--full")["clean"]
    assert {point["point"] for point in target.ruchu("points", "list")} == target.committed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_cancelled_it_ends_soon_and_leaves_nothing(target, load, number, kind):
    first = target.back_up("full")
    target.check({first["point"]})
    # Much to copy: a raw disk is always read in full.
    fill(target.guest, 4 * RAW_BYTES)
    last = first["point"]
    for _ in range(ATTEMPTS):
        with target.start(kind) as process:
            wait_until(lambda: target.job() is not None, process)
            began = SYSTEM.monotonic()
            process.send_signal(number)
            out, err = process.communicate(timeout=LIMIT_S)
        took = SYSTEM.monotonic() - began
        if process.returncode:
            break
        # It had done its work just before the signal came: once more.
        (done,) = json.loads(out)
        last = done["point"]
        target.committed.add(last)
    fill(target.guest, 0)
    print(f"\n{number.name} during {kind}: ended after {took:.2f} s")  # noqa: T201
    assert process.returncode == 130, (out, err)
    (done,) = json.loads(out)
    assert (done["ok"], done["error"]["code"]) == (False, "cancelled")
    # 2 s are what is promised; a machine that also runs other tests may need longer.
    assert took < 10
    target.check()
    assert {point["point"] for point in target.ruchu("points", "list")} == target.committed
    done = target.back_up("incremental")
    assert done["cleaned"] == []
    assert (done["parent"], done["disks"][0]["read"]) == (last, "changes")
    target.check({done["point"]})
