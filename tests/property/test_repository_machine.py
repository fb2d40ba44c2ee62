"""A repository against a dictionary, with crashes, kills, clocks that jump and caches that lie.

Every committed point reads back to the byte, whatever happens; what was deleted never comes back;
a backup that was interrupted is absent or whole; what is starred or locked stays.
"""

import contextlib
import datetime
import importlib.util
import io
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from ruchu import errors
from ruchu.model.sources import Kind
from ruchu.repository import (
    exitkit,
    heads,
    keyring,
    layout,
    marks,
    merging,
    repositories,
    verifying,
)
from ruchu.repository.verifying_findings import Depth
from ruchu.testing import worlds
from ruchu.testing.worlds import BLOCK, World

HOUR = datetime.timedelta(hours=1)
DAY = 24 * HOUR
POINTS_MAX = 9
UNMARKED = (False, datetime.datetime.min.replace(tzinfo=datetime.UTC))
BLOCKS_MAX = 3 * worlds.SEGMENT_BLOCKS
# Few contents, so that blocks come back: also those whose packs wait in the trash.
POOL = [random.Random(number).randbytes(BLOCK) for number in range(30)]
POOL.append(b"text " * (BLOCK // 5) + b"!")

BLOCKS = st.lists(
    st.tuples(st.integers(0, BLOCKS_MAX - 1), st.integers(-1, len(POOL) - 1)),
    min_size=2,
    max_size=9,
)
SIZES = st.sampled_from([BLOCKS_MAX * BLOCK, 10 * BLOCK + 7, 8 * BLOCK, 5 * BLOCK - 1, 1, 0])
DISKS = st.sampled_from(["vda", "vdb"])
GRACES = st.sampled_from([0 * DAY, DAY])
WHICH = st.integers(0, 1)
# How an operation ends, and after which part (in percent) of the most calls that it ever took.
FATES = st.one_of(st.none(), st.tuples(st.sampled_from(["power", "kill"]), st.integers(0, 110)))


@pytest.fixture(autouse=True, scope="module")
def _small():
    with worlds.small():
        yield


@dataclass
class Reader:
    """A process that reads a point, and holds a lease on it, for several steps."""

    stem: str
    server: worlds.Server
    head: heads.Head
    stack: contextlib.ExitStack


def overlay(content, size, writes):
    """Return content at a new size with blocks of the pool written, and which blocks they are."""
    result = bytearray(content[:size]) + bytes(max(0, size - len(content)))
    changed = set()
    for block, number in writes:
        if block * BLOCK < size:
            data = bytes(BLOCK) if number < 0 else POOL[number]
            data = data[: size - block * BLOCK]
            result[block * BLOCK : block * BLOCK + len(data)] = data
            changed.add(block)
    return bytes(result), changed


# Named, not lambdas: Hypothesis parses the source of lambdas, which Python 3.11 does not survive
# when the garbage collector comes in between.
def has_room(machine):
    return len(machine.world.model) < POINTS_MAX


def has_points(machine):
    return bool(machine.world.model)


def can_build(machine):
    return has_points(machine) and has_room(machine)


def can_read(machine):
    return has_points(machine) and len(machine.readers) < 2


def is_read(machine):
    return bool(machine.readers)


class RepositoryMachine(stateful.RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.stack = contextlib.ExitStack()
        shared = Path("/dev/shm")
        parent = str(shared) if shared.is_dir() else None
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
        self.usual = {}
        self.marks = {}
        self.readers = []
        self.deleted = set()
        # What an operation did whose process was killed: seen, and yet a power failure may undo it.
        self.unsure = {}
        self.secrets = []
        self.changed = True

    @stateful.initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.world = World(seed, cache=self.folder / "cache")
        self.servers = [None, None]
        self.secrets = [self.world.secret]

    def teardown(self):
        with self.stack:
            if hasattr(self, "world"):
                self.nothing_is_left_over()

    # Processes and how they end.

    def server(self, which):
        if self.servers[which] is None:
            self.servers[which] = self.start()
        return self.servers[which]

    def start(self):
        """Start a process. Where rotations were interrupted, one of the passphrases must do."""
        for secret in (self.world.secret, *self.secrets):
            self.world.secret = secret
            with contextlib.suppress(errors.WrongKey):
                return self.world.start()
        raise AssertionError("no passphrase opens the storage")

    def attempt(self, which, fate, work):
        """Do the work of a server; return whether it went through. Then all is checked."""
        server = self.server(which)
        self.changed = True
        before = self.world.disk.calls
        if fate is None:
            work(server)
            took = self.world.disk.calls - before
            self.usual[work.__name__] = max(took, self.usual.get(work.__name__, 0))
            return True
        how, percent = fate
        calls = self.usual.get(work.__name__, 100) * percent // 100
        done = self.world.run_until(calls, lambda: work(server))
        self.end(which, how)
        return done

    def end(self, which, how):
        if how == "power":
            self.world.fail_power()
            self.servers = [None, None]
            for reader in self.readers:
                reader.stack.pop_all()
            self.readers = []
            self.settle()
        else:
            self.world.kill(self.servers[which])
            self.servers[which] = None

    def settle(self):
        """After a power failure: what was unsure is now either so or so."""
        seen = set(self.server(0).chain.stems())
        for stem, disks in self.unsure.items():
            if stem in seen and stem not in self.world.model:
                self.world.model[stem] = disks
                self.deleted.discard(stem)
            elif stem not in seen and stem in self.world.model:
                self.forget([stem])
        self.unsure = {}

    # Backups.

    def commit(self, which, fate, kind, disks, **options):
        def backup(server):
            self.world.back_up(server, kind, disks, **options)

        if self.attempt(which, fate, backup):
            self.unsure = {}  # whoever writes a point makes durable what is there
        if self.world.pending is not None:
            before = set(self.world.model)
            self.world.recover(self.server(which))
            if fate[0] == "kill":
                new = set(self.world.model) - before
                self.unsure |= {stem: self.world.model[stem] for stem in new}

    @stateful.precondition(has_room)
    @stateful.rule(which=WHICH, fate=FATES, size=SIZES, writes=BLOCKS, other=st.booleans())
    def back_up_fully(self, which, fate, size, writes, other):
        disks = {"vda": overlay(b"", size, writes)[0]}
        if other:
            disks["vdb"] = overlay(b"", size // 3, writes)[0]
        self.commit(which, fate, Kind.FULL, disks)

    @stateful.precondition(can_build)
    @stateful.rule(
        which=WHICH, fate=FATES, writes=BLOCKS, grow=st.integers(0, 5 * BLOCK), back=st.integers(0),
        add=st.booleans(), remove=st.booleans(),
    )  # fmt: skip
    def back_up_changes(self, which, fate, writes, grow, back, add, remove):
        """Build on the newest point (incremental) or on an older one (differential)."""
        stems = sorted(self.world.model)
        base = stems[-1 - back % len(stems)]
        kind = Kind.INCREMENTAL if base == stems[-1] else Kind.DIFFERENTIAL
        disks, changed = {}, {}
        for name, old in self.world.model[base].items():
            disks[name], changed[name] = overlay(old, len(old) + grow, writes)
        if add:
            disks.setdefault("vdc", overlay(b"", 5 * BLOCK + 7, writes)[0])
        elif remove and len(disks) > 1:
            del disks["vda"]
            changed.pop("vda")
        self.commit(which, fate, kind, disks, base=base, changed=changed)

    @stateful.precondition(can_build)
    @stateful.rule(which=WHICH, writes=st.lists(BLOCKS, min_size=2, max_size=4))
    def back_up_for_days(self, which, writes):
        """Some increments in a row."""
        for each in writes:
            self.back_up_changes(which, None, each, 0, 0, add=False, remove=False)

    # Removal.

    @stateful.precondition(has_points)
    @stateful.rule(
        which=WHICH, fate=FATES, chosen=st.lists(st.integers(0), min_size=1, max_size=2),
        grace=GRACES,
    )  # fmt: skip
    def delete(self, which, fate, chosen, grace):
        stems = sorted(self.world.model)
        wanted = {stems[number % len(stems)] for number in chosen}
        refusal = self.refusal(wanted)

        def delete(server):
            with server.chain.exclusive("merge") as lock:
                merging.delete_points(server.chain, lock, sorted(wanted), grace=grace)

        if refusal is not None:
            with pytest.raises(refusal):
                self.attempt(which, None, delete)
            return
        done = self.attempt(which, fate, delete)
        left = set(self.server(which).chain.stems())
        assert done <= (not wanted & left)
        assert wanted & left in (set(), wanted), "half of a deletion"
        if not wanted & left:
            if not done and fate[0] == "kill":
                self.unsure |= {stem: self.world.model[stem] for stem in wanted}
            self.forget(wanted)

    def refusal(self, wanted):
        now = self.world.clock.now()
        for stem in wanted:
            starred, until = self.marks.get(stem, UNMARKED)
            if starred or until > now:
                return errors.PointProtected
        if any(reader.stem in wanted for reader in self.readers):
            return errors.PointInUse
        return None

    def forget(self, stems):
        for stem in stems:
            del self.world.model[stem]
            self.marks.pop(stem, None)
            self.deleted.add(stem)

    @stateful.rule(which=WHICH, fate=FATES, grace=GRACES)
    def sweep(self, which, fate, grace):
        def sweep(server):
            with server.chain.exclusive("merge") as lock:
                merging.sweep(server.chain, lock, grace=grace)

        self.attempt(which, fate, sweep)

    @stateful.rule(which=WHICH, fate=FATES)
    def purge(self, which, fate):
        def purge(server):
            with server.chain.exclusive("merge") as lock:
                merging.purge(server.chain, lock)

        self.attempt(which, fate, purge)

    @stateful.rule(
        which=WHICH, chosen=st.integers(0), grace=GRACES, fate=FATES, fated=st.integers(0, 2)
    )
    def merge(self, which, chosen, grace, fate, fated):
        """Delete, sweep and purge in one go, as a retention does."""
        fates = [fate if step == fated else None for step in range(3)]
        if self.world.model:
            self.delete(which, fates[0], [chosen], grace)
        self.sweep(which, fates[1], grace)
        self.purge(which, fates[2])

    # Marks and time.

    @stateful.precondition(has_points)
    @stateful.rule(which=WHICH, chosen=st.integers(0), starred=st.booleans())
    def star(self, which, chosen, starred):
        stem, storage = self.choice(chosen), self.server(which).storage
        if starred:
            marks.star(storage, self.world.chain_id, stem[11:], self.world.clock.now())
        else:
            marks.unstar(storage, self.world.chain_id, stem[11:])
        self.marks[stem] = (starred, self.marks.get(stem, UNMARKED)[1])

    @stateful.precondition(has_points)
    @stateful.rule(which=WHICH, chosen=st.integers(0), hours=st.integers(1, 60))
    def lock(self, which, chosen, hours):
        stem, now = self.choice(chosen), self.world.clock.now()
        marks.lock(self.server(which).storage, self.world.chain_id, stem[11:],
                   now + hours * HOUR, now)  # fmt: skip
        starred, until = self.marks.get(stem, UNMARKED)
        self.marks[stem] = (starred, max(until, now + hours * HOUR))

    def choice(self, chosen):
        stems = sorted(self.world.model)
        return stems[chosen % len(stems)]

    @stateful.rule(hours=st.integers(-48, 72))
    def the_clock_moves(self, hours):
        self.world.clock.move(hours * HOUR)

    # Readers.

    @stateful.precondition(can_read)
    @stateful.rule(chosen=st.integers(0))
    def begin_reading(self, chosen):
        stem = self.choice(chosen)
        server = self.start()
        stack = contextlib.ExitStack()
        head = server.chain.head(stem)
        stack.enter_context(server.chain.reading(head, "restore"))
        self.readers.append(Reader(stem, server, head, stack))

    @stateful.precondition(is_read)
    @stateful.rule(end=st.booleans())
    def read_on(self, end):
        reader = self.readers[0]
        found = self.world.read(reader.server.chain, reader.stem)
        assert found == self.world.model[reader.stem]
        if end:
            self.readers.pop(0).stack.close()
            self.world.host.kill(reader.server.process)

    # What happens to a server.

    @stateful.rule(which=WHICH, how=st.sampled_from(["power", "kill"]))
    def the_process_dies(self, which, how):
        self.server(which)
        self.end(which, how)
        self.changed = True

    @stateful.rule()
    def adopt(self):
        """Another machine takes the storage over: it knows nothing of it."""
        shutil.rmtree(self.world.cache, ignore_errors=True)
        for which in (0, 1):
            if self.servers[which] is not None:
                self.end(which, "kill")

    @stateful.rule(save=st.booleans())
    def caches_of_another_time(self, save):
        saved = self.folder / "saved"
        source, target = (self.world.cache, saved) if save else (saved, self.world.cache)
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)

    @stateful.rule(which=WHICH, fate=FATES, number=st.integers(0, 3))
    def rotate_the_passphrase(self, which, fate, number):
        old, new = self.world.secret, keyring.Secret("passphrase", b"secret %d" % number)

        def rotate(server):
            server.repository.rotate_secret(new, worlds.CHEAP)

        self.secrets.append(new)
        done = self.attempt(which, fate, rotate)
        if done:
            self.world.secret, self.secrets = new, [new]
        if done and old != new:
            surroundings = self.world.surroundings(self.world.host.start())
            with pytest.raises(errors.WrongKey):
                repositories.open_repository(self.world.storage(), old, surroundings)

    # What must hold.

    @stateful.invariant()
    def the_points_are_those_of_the_model(self):
        server = self.server(0)
        assert server.chain.stems() == sorted(self.world.model)
        assert not self.deleted & set(server.chain.stems())
        if self.changed:
            self.changed = False
            self.world.check(server)
            found = marks.all_marks(server.storage, self.world.chain_id)
            now = self.world.clock.now()
            for stem, (starred, until) in self.marks.items():
                assert found.get(stem[11:], marks.Marks()).keeps(now) == (starred or until > now)

    @stateful.rule(which=WHICH, full=st.sampled_from([False, False, False, True]))
    def verify(self, which, full):
        depth = Depth.FULL if full else Depth.STRUCTURAL
        report = verifying.verify_storage(self.server(which).repository, depth)
        assert report.clean, report.damages

    @stateful.precondition(has_points)
    @stateful.rule(which=WHICH)
    def the_exit_kit_reads_the_same(self, which):
        extract_with_kit(self.world, self.server(which).storage, self.folder / "kit")

    def nothing_is_left_over(self):
        """When all points go, all goes."""
        for reader in self.readers:
            reader.stack.close()
        self.servers = [None, None]
        self.world.host.reboot()
        server = self.server(0)
        for stem in self.marks:
            marks.unstar(server.storage, self.world.chain_id, stem[11:])
        chain = server.chain
        self.world.clock.move(30 * DAY)
        with chain.exclusive("merge") as lock:
            merging.sweep(chain, lock, grace=0 * DAY)
            merging.purge(chain, lock)
        self.world.check(server)
        with chain.exclusive("merge") as lock:
            merging.delete_points(chain, lock, sorted(self.world.model), grace=0 * DAY)
            merging.sweep(chain, lock, grace=0 * DAY)
            merging.purge(chain, lock)
            server.storage.sweep_unfinished("")
        left = {info.name for info in server.storage.list(layout.chain(chain.id))}
        left -= {info.name for info in server.storage.list(layout.locks(chain.id))}
        left -= {info.name for info in server.storage.list(layout.leases(chain.id))}
        assert left == {layout.chain_document(chain.id)}


def load_kit():
    path = Path(exitkit.__file__).with_name("restore.py")
    spec = importlib.util.spec_from_file_location("exit_kit_restore", path)
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    kit.PER_SEGMENT = worlds.SEGMENT_BLOCKS
    return kit


KIT = load_kit()


def extract_with_kit(world, storage, folder):
    """Dump the storage into a real directory, and let the exit kit extract every point."""
    shutil.rmtree(folder, ignore_errors=True)
    for info in storage.list(""):
        path = folder / "storage" / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.get(info.name, info.size))
    (folder / "passphrase").write_bytes(world.secret.value + b"\n")
    common = ["--storage", str(folder / "storage"), "--passphrase-file", str(folder / "passphrase")]
    for stem, disks in world.model.items():
        for name, content in disks.items():
            target = folder / f"{stem}.{name}"
            arguments = [*common, "extract", stem[11:], "--disk", name, str(target)]
            with contextlib.redirect_stderr(io.StringIO()) as said:
                status = KIT.main(arguments)
            assert status == 0, said.getvalue()
            assert target.read_bytes() == content


TestRepositoryMachine = RepositoryMachine.TestCase
_PROFILE = hypothesis.settings()
TestRepositoryMachine.settings = hypothesis.settings(
    max_examples=max(200, _PROFILE.max_examples),
    suppress_health_check=list(hypothesis.HealthCheck),
)
