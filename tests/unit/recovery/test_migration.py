"""Migrations while a guest writes: whatever is interrupted, the new disks hold what it saw."""

import contextlib
import itertools
import random

import pytest
from instant_world import Exports, Guest, Killed, Life
from test_instants import contents, order

from ruchu.errors import Cancelled, ExportError, PlatformError, StorageError, UsageError
from ruchu.exports import control
from ruchu.model.machines import Placement, PowerState
from ruchu.recovery import instants, landings, migration
from ruchu.recovery.instant_records import Instants
from ruchu.recovery.instants import InstantRestores
from ruchu.recovery.migration import Migration, Order
from ruchu.recovery.running import Run


class World:
    """One instant restore whose guest writes."""

    def __init__(self, platform, saved, known, exports):
        self.platform = platform
        self.saved = saved
        self.known = known
        self.exports = exports
        self.restores = InstantRestores(known, exports.launch)
        self.begin(0)

    def begin(self, seed):
        self.instant = self.restores.start(self.platform, *self.saved, order()).instant
        self.machine = self.platform.machines[self.instant.machine]
        self.guest = Guest(self.machine, contents(*self.saved), seed)

    def migrate(
        self, method="own", *, directory="/new", run=None, platform=None, known=None,
        pause_limit_s=10.0,
    ):  # fmt: skip
        """Do what the command does."""
        platform, known = platform or self.platform, known or self.known
        restores = InstantRestores(known, self.exports.launch)
        done = None
        with known.exclusive(self.instant) as found:
            instant = restores.settled(platform, found)
            if instant.state != "moved":
                restores.ready(platform, instant)
                wanted = Order(method, directory, "raw", pause_limit_s)
                work = Migration(known, instant, *self.saved, wanted, run or Run())
                done = work.migrate(platform)
        restores.stop(platform, instant, None)
        return done

    def check(self):
        """Compare the machine's disks with what the guest knows; nothing else is left."""
        assert self.machine.state is PowerState.RUNNING
        assert not self.machine.served
        for key, model in self.guest.model.items():
            assert self.machine.disks[key] == model, key
        assert self.known.all() == []
        assert not self.platform.landed
        assert self.exports.running == []


@pytest.fixture
def world(platform, saved, tmp_path, short):
    known = Instants(tmp_path / "instants", short / "run")
    exports = Exports(known, *saved)
    yield World(platform, saved, known, exports)
    exports.close()


@pytest.mark.parametrize("method", ["own", "hypervisor"])
def test_a_busy_machine_is_moved_exactly(world, method):
    with world.guest as guest:
        guest.wait_for(50)
        done = world.migrate(method)
        guest.wait_for(20)
    world.check()
    assert done.size == sum(map(len, guest.model.values()))
    assert (done.rounds > 0) is (method == "own")


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(3))
def test_killed_anywhere_it_goes_on(world, monkeypatch, seed, round_):
    """At random steps the process dies; sometimes the export too; sometimes the place changes."""
    draw = random.Random(f"{seed} {round_}")
    with world.guest as guest:
        for attempt in itertools.count():
            life = Life(draw.randrange(1, 20 + 10 * attempt))
            with monkeypatch.context() as patch:
                patch.setattr(instants, "control", life.of(control, silent={"is_answering"}))
                patch.setattr(migration, "control", life.of(control))
                patch.setattr(landings, "store_document", life.call(landings.store_document))
                patch.setattr(migration, "STRIDE", 1 << 19)
                silent = {"control", "nbd", "served", "folder", "all", "get"}
                with contextlib.suppress(Killed):
                    world.migrate(
                        "hypervisor" if draw.random() < 0.1 else "own",
                        directory=draw.choice(["/new", "/new", "/new", "/other"]),
                        platform=life.of(world.platform),
                        known=life.of(world.known, silent),
                    )
            if not life.dead:
                break
            goes_on = world.machine.state is PowerState.RUNNING and (
                world.exports.running or not world.machine.served
            )
            guest.wait_for(draw.randrange(10) if goes_on else 0)
            if draw.random() < 0.3:
                world.exports.close()
                if draw.random() < 0.5 and world.machine.served:
                    world.machine.state = PowerState.PAUSED
            if not world.known.all():
                break
        guest.wait_for(20)
    world.check()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["own", "hypervisor"])
def test_killed_at_each_step_then_stopped(world, monkeypatch, method):
    """A stop after it either ends the machine or finds it moved; then it has all it wrote."""
    ends = set()
    for steps in itertools.count(1):
        life = Life(steps)
        with world.guest as guest:
            guest.wait_for(5)
            with monkeypatch.context() as patch:
                patch.setattr(instants, "control", life.of(control, silent={"is_answering"}))
                patch.setattr(migration, "control", life.of(control))
                silent = {"control", "nbd", "served", "folder", "all", "get"}
                with contextlib.suppress(Killed):
                    world.migrate(
                        method, platform=life.of(world.platform), known=life.of(world.known, silent)
                    )
            for each in world.known.all():
                world.restores.stop(world.platform, each, None)
        assert world.known.all() == []
        assert not world.platform.landed
        assert world.exports.running == []
        if world.machine.id in world.platform.machines:
            ends.add("moved")
            world.check()
            del world.platform.machines[world.machine.id]
        else:
            ends.add("ended")
            assert world.machine.served
        if not life.dead:
            break
        world.begin(steps)
    assert ends == {"moved", "ended"}


def test_cancelled_it_goes_on_from_there(world):
    asked = itertools.count()
    with world.guest as guest:
        guest.wait_for(20)
        with pytest.raises(Cancelled):
            world.migrate(run=Run(cancelled=lambda: next(asked) >= 2))
        assert world.machine.served
        assert world.machine.state is PowerState.RUNNING
        guest.wait_for(20)
        world.migrate()
    world.check()


def test_cancelled_while_it_is_held_the_machine_goes_on(world):
    with world.guest as guest:
        guest.wait_for(20)
        held = []

        def cancelled():
            if world.machine.state is PowerState.PAUSED:
                held.append(True)
            return bool(held)

        with pytest.raises(Cancelled):
            # What is written between the last look and the pause is copied while it is held.
            for _ in range(50):
                world.migrate(run=Run(cancelled=cancelled))
                pytest.skip("the guest wrote nothing in that moment")
        guest.wait_for(20)
        world.migrate()
    world.check()


def test_a_place_that_was_left_is_not_believed(world, monkeypatch):
    """There, then elsewhere, then there again: the first disks lack what was written since."""
    with world.guest as guest:
        for directory in ("/new", "/other", "/new"):
            with monkeypatch.context() as patch:
                patch.setattr(Migration, "_converge", interrupted(Migration._converge))
                with pytest.raises(Cancelled):
                    world.migrate(directory=directory)
            guest.wait_for(30)
        world.migrate(directory="/new")
    world.check()


def interrupted(converge):
    def converging(self, landing, known):
        converge(self, landing, known)
        raise Cancelled

    return converging


def test_what_was_written_and_zeroed_after_the_copy_began(world, monkeypatch):
    """A block of the point that the guest discards must not come back."""
    key, model = "vda", world.guest.model["vda"]
    copied = Migration._copy_point

    def discarding(self, sink):
        copied(self, sink)
        if sink.key == key:
            assert any(model[4096:12288])
            assert world.guest.write(key, 4096, bytes(8192), zero=True)
            tail = len(model) - 512
            assert world.guest.write(key, tail, b"t" * 512, zero=False)

    monkeypatch.setattr(Migration, "_copy_point", discarding)
    done = world.migrate()
    world.check()
    assert done.rounds >= 2


def test_a_guest_that_writes_faster_than_the_copy(world, monkeypatch):
    copied = Migration._copy_round

    def writing(self, landing, found):
        copied(self, landing, found)
        assert world.guest.write("vdb", 0, b"again" + bytes([found.number]), zero=False)

    monkeypatch.setattr(Migration, "_copy_round", writing)
    monkeypatch.setattr(migration, "SMALL_BYTES", -1)
    monkeypatch.setattr(migration, "ROUNDS_MAX", 3)
    with pytest.raises(PlatformError, match="faster"):
        world.migrate(pause_limit_s=0.0)
    assert world.machine.state is PowerState.RUNNING
    monkeypatch.undo()
    world.migrate()
    world.check()


def test_a_round_of_another_export_is_refused(world):
    path = world.known.control(world.instant)
    first = control.ask(path, "round", anew=True)
    world.exports.close()
    world.restores.resume(world.platform, world.instant)
    with pytest.raises(ExportError, match="not the latest"):
        control.ask(path, "round", acknowledge=first["round"] + 1)


def test_an_export_that_dies_meanwhile_fails_the_migration_only(world, monkeypatch):
    asked = Migration._ask_round

    def dying(self, before, *, anew=False):
        if before is not None:
            world.exports.close()
        return asked(self, before, anew=anew)

    monkeypatch.setattr(Migration, "_ask_round", dying)
    with world.guest as guest:
        guest.wait_for(20)
        with pytest.raises(ExportError):
            world.migrate()
        monkeypatch.undo()
        world.migrate()
    world.check()


def test_a_switch_that_fails_lets_the_machine_go_on(world, monkeypatch):
    from ruchu.testing.simulated_platform import SimulatedLanding  # noqa: PLC0415

    def failing(_):
        raise PlatformError("no room for the memory")

    with world.guest as guest:
        with monkeypatch.context() as patch:
            patch.setattr(SimulatedLanding, "switch", failing)
            with pytest.raises(PlatformError, match="memory"):
                world.migrate()
        guest.wait_for(20)
        world.migrate()
    world.check()


def test_a_machine_that_was_not_found_moved_after_all(world):
    """Killed after the switch: the next call only tidies up."""
    world.platform.mirror(world.machine.id, Placement(), lambda *_: None, lambda: False)
    assert world.migrate() is None
    world.check()


@pytest.mark.parametrize("text", ["", "[]", '{"copied": 5}', '{"directory": "/x", "format": ""}'])
def test_a_damaged_note_of_a_migration_is_not_believed(world, text):
    (world.known.folder(world.instant) / "migration.json").write_text(text)
    with pytest.raises(UsageError, match=r"migration\.json"):
        world.migrate()
    assert world.machine.served


def test_orders_that_cannot_be(world):
    with pytest.raises(UsageError, match="method"):
        world.migrate("magic")
    with pytest.raises(UsageError, match="is moved"):
        Migration(
            world.known, world.known.change(world.instant, state="moved"), *world.saved,
            Order(), Run(),
        )  # fmt: skip


def test_the_note_cannot_be_written(world, monkeypatch):
    def full(path, value):
        raise StorageError(f"({path}: {len(value)})")

    with monkeypatch.context() as patch:
        patch.setattr(landings, "store_document", full)
        with pytest.raises(StorageError):
            world.migrate()
    world.migrate()
    world.check()
