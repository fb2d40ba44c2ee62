"""Instant restores against a platform in memory: started, found again, ended, never lost."""

import contextlib
import threading

import pytest
from instant_world import Exports, Guest, Killed, Life

from ruchu.errors import (
    AlreadyExists,
    ExportError,
    InvalidName,
    NotFound,
    PlatformError,
    PointInUse,
    SourceBusy,
    StorageError,
    UsageError,
)
from ruchu.exports import control
from ruchu.model.machines import Placement, PowerState
from ruchu.recovery import instant_records, instants
from ruchu.recovery.instant_records import Instants
from ruchu.recovery.instants import InstantRestores, Order
from ruchu.repository import locking, merging


@pytest.fixture
def known(tmp_path, short):
    return Instants(tmp_path / "state with spaces" / "instants", short / "run")


@pytest.fixture
def exports(known, saved):
    made = Exports(known, *saved)
    yield made
    made.close()


@pytest.fixture
def restores(known, exports):
    return InstantRestores(known, exports.launch)


def order(name="web-i", **more):
    return Order("s", "sim", Placement(name=name, start=True), **more)


def contents(chain, head):
    found = {}
    for entry in head.disks:
        buffer = bytearray(entry.size)
        chain.disk(head, entry).read_into(0, memoryview(buffer))
        found[entry.name] = bytes(buffer)
    return found


def nothing_is_left(known, exports, platform):
    assert known.all() == []
    assert list(known.directory.glob("*/*")) == []
    assert exports.running == []
    assert not platform.landed
    assert not list(known.directory.parent.rglob("*.cache"))


def test_a_machine_is_started_and_ended(restores, platform, saved, known, exports):
    done = restores.start(platform, *saved, order(agent_limit_s=5))
    assert (done.instant.state, done.instant.machine) == ("running", "id-web-i")
    assert done.agent_s is not None
    assert known.all() == [done.instant]
    fields = restores.fields(done.instant)
    assert (fields["export"], fields["cache_bytes"]) == ("running", 0)
    with Guest(platform.machines["id-web-i"], contents(*saved), 1) as guest:
        guest.wait_for(20)
    assert restores.fields(done.instant)["cache_bytes"] > 0
    assert restores.resume(platform, done.instant) == []
    assert restores.stop(platform, done.instant, None)
    assert platform.machines == {}
    nothing_is_left(known, exports, platform)
    with pytest.raises(NotFound):
        restores.stop(platform, done.instant, None)


def test_what_the_platform_refuses_leaves_nothing(restores, platform, saved, known, exports):
    platform.add("web-i", {"vda": b""})
    with pytest.raises(AlreadyExists):
        restores.start(platform, *saved, order())
    assert "id-web-i" in platform.machines
    nothing_is_left(known, exports, platform)
    with pytest.raises(UsageError, match="protocol"):
        restores.start(platform, *saved, order("x", protocol="smb"))
    with pytest.raises(NotFound, match="vdx"):
        restores.start(platform, *saved, Order("s", "sim", Placement(disks=("vdx",))))


def test_a_document_that_cannot_be_written_takes_the_machine_back(
    restores, platform, saved, known, exports, monkeypatch
):
    def full(instant, **_):
        raise StorageError(instant.name)

    monkeypatch.setattr(known, "change", full)
    with pytest.raises(StorageError):
        restores.start(platform, *saved, order())
    assert platform.machines == {}
    nothing_is_left(known, exports, platform)


def test_an_export_that_fails_says_why(restores, platform, saved, known, exports, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        restores.start(platform, *saved, order(cache=str(tmp_path / "file")))
    exports.head = saved[1]
    exports.chain = None
    with pytest.raises(ExportError):
        InstantRestores(known, lambda _: instants.Launched(lambda: False, str, list)).start(
            platform, *saved, order()
        )
    nothing_is_left(known, exports, platform)


def test_a_name_is_taken_once(restores, platform, saved, known):
    restores.start(platform, *saved, order())
    with pytest.raises(AlreadyExists, match="web-i"):
        restores.start(platform, *saved, order())
    restores.start(platform, *saved, order("other"))
    assert [each.name for each in known.all()] == ["web-i", "other"]
    assert len(platform.machines) == 2


def test_of_two_starts_at_once_one_wins(restores, platform, saved, known):
    gate = threading.Barrier(2)
    outcomes = []

    def begin():
        gate.wait()
        try:
            outcomes.append(restores.start(platform, *saved, order()).instant.id)
        except AlreadyExists:
            outcomes.append(None)

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(None) == 1
    assert [each.id for each in known.all()] == [each for each in outcomes if each]


def test_two_with_one_cache_directory_do_not_meet(restores, platform, saved, tmp_path):
    first = restores.start(platform, *saved, order("a", cache=str(tmp_path / "c"))).instant
    second = restores.start(platform, *saved, order("b", cache=str(tmp_path / "c"))).instant
    assert first.cache_of("vda") != second.cache_of("vda")
    (tmp_path / "c" / "vda.cache").write_text("somebody's")
    restores.stop(platform, second, None)
    assert first.cache_of("vda").exists()
    assert (tmp_path / "c" / "vda.cache").exists()


def test_paths_do_not_depend_on_the_working_directory(saved, short, monkeypatch):
    monkeypatch.chdir(short)
    known = Instants(instants.Path("state"), instants.Path("run"))
    assert known.directory == short / "state"
    assert known.cache_for("0" * 32, "c") == str(short / "c" / f"ruchu-{'0' * 32}")
    assert known.runtime_of("0" * 32) == str(short / "run" / ("0" * 16))


def test_a_path_that_no_socket_can_have_is_refused(saved, platform, tmp_path, exports):
    known = Instants(tmp_path / "i", tmp_path / ("long" * 30))
    with pytest.raises(UsageError, match="too long"):
        InstantRestores(known, exports.launch).start(platform, *saved, order())
    assert not (tmp_path / "i").exists()


def test_a_runtime_directory_of_somebody_else_is_refused(known, restores, platform, saved, short):
    (short / "run").symlink_to(short)
    with pytest.raises(ExportError, match="somebody else"):
        restores.start(platform, *saved, order())
    assert known.all() == []


@pytest.mark.parametrize("key", ["../vda", "", "a/b", ".hidden"])
def test_a_disk_whose_name_is_no_file_name(known, restores, platform, saved, key):
    started = restores.start(platform, *saved, order()).instant
    with pytest.raises(InvalidName):
        known.add(instant_records.replace(started, id="0" * 32, name="x", disks=(key,)))


def test_found_by_name_or_id(known, restores, platform, saved):
    started = restores.start(platform, *saved, order("a b ü'")).instant
    assert known.find("a b ü'") == started
    assert known.find(started.id[:6]) == started
    for wrong in ("a", started.id[:3], "../" + started.id):
        with pytest.raises(NotFound):
            known.find(wrong)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "ruchu-instant"}', "\x00"])
def test_a_damaged_document_is_no_empty_list(known, restores, platform, saved, text):
    started = restores.start(platform, *saved, order()).instant
    (known.folder(started) / "instant.json").write_text(text)
    with pytest.raises(UsageError, match="not what Ruchu wrote"):
        known.all()


def test_a_machine_removed_by_hand(restores, platform, saved, known, exports):
    started = restores.start(platform, *saved, order()).instant
    platform.switch_off(started.machine)
    platform.delete(started.machine, disks=False)
    with pytest.raises(NotFound, match="machine of instant restore web-i"):
        restores.resume(platform, started)
    assert not restores.stop(platform, started, None)
    nothing_is_left(known, exports, platform)


def test_a_dead_export_is_resumed(restores, platform, saved, known, exports):
    started = restores.start(platform, *saved, order()).instant
    with Guest(platform.machines[started.machine], contents(*saved), 2) as guest:
        guest.wait_for(20)
        exports.close()
        platform.machines[started.machine].state = PowerState.PAUSED
        assert restores.fields(started)["export"] == "stopped"
        assert restores.resume(platform, started) == ["export", "machine resumed"]
        guest.wait_for(20)


def test_two_commands_do_not_work_on_one(restores, platform, saved, known):
    started = restores.start(platform, *saved, order()).instant
    with known.exclusive(started):
        for what in (restores.resume, lambda p, i: restores.stop(p, i, None)):
            with pytest.raises(SourceBusy, match="instant restore"):
                what(platform, started)
    assert restores.resume(platform, started) == []


def test_a_point_stays_while_it_is_needed(restores, platform, saved, known, exports, repository):
    """Its export holds a lease; without one, the document of the instant restore counts."""
    chain, head = saved
    started = restores.start(platform, chain, head, order()).instant
    assert head.point in locking.active_leases(chain.storage, chain.id, chain.surroundings)
    exports.close()
    assert head.point not in locking.active_leases(chain.storage, chain.id, chain.surroundings)
    needed = instant_records.needed(known.directory)
    object.__setattr__(chain.surroundings, "needed", needed)
    with chain.exclusive("delete") as lock, pytest.raises(PointInUse, match="restore web-i"):
        merging.delete_points(chain, lock, [head.stem])
    assert head.stem in chain.stems()
    restores.stop(platform, started, None)
    with chain.exclusive("delete") as lock:
        merging.delete_points(chain, lock, [head.stem])


def test_a_machine_that_a_killed_switch_has_left_off_is_started(restores, platform, saved):
    started = restores.start(platform, *saved, order("off")).instant
    platform.mirror(started.machine, Placement(), lambda *_: None, lambda: False)
    platform.switch_off(started.machine)
    assert restores.resume(platform, started) == ["moved before; tidied up"]
    assert instants.state_of(platform, started) is PowerState.RUNNING


def test_a_machine_that_was_moved_is_never_removed(restores, platform, saved, known, exports):
    """Killed after the pivot, before that was noted."""
    for act in ("stop", "resume"):
        started = restores.start(platform, *saved, order(act)).instant
        platform.mirror(started.machine, Placement(), lambda *_: None, lambda: False)
        with pytest.raises(UsageError, match="was moved"):
            restores.stop(platform, started, lambda: pytest.fail("kept"))
        if act == "stop":
            assert not restores.stop(platform, started, None)
        else:
            assert restores.resume(platform, started) == ["moved before; tidied up"]
        machine = platform.machines[started.machine]
        assert machine.state is PowerState.RUNNING
        assert machine.disks == contents(*saved)
        nothing_is_left(known, exports, platform)


def test_a_machine_that_was_moved_in_part_is_not_removed(restores, platform, saved, known):
    started = restores.start(platform, *saved, order()).instant
    asked = iter([False, True])
    with contextlib.suppress(Exception):
        platform.mirror(started.machine, Placement(), lambda *_: None, lambda: next(asked))
    for keep in (None, lambda: pytest.fail("kept")):
        with pytest.raises(UsageError, match="vda were moved already"):
            restores.stop(platform, started, keep)
    assert platform.machines[started.machine].state is PowerState.RUNNING
    assert control.is_answering(known.control(started))


def mortal(monkeypatch, life, known, exports, platform):
    """Return restores and a platform whose every step may be the last one."""
    monkeypatch.setattr(instants, "control", life.of(control, silent={"is_answering"}))
    silent = {"control", "nbd", "served", "folder", "all", "get"}
    return InstantRestores(life.of(known, silent), exports.launch), life.of(platform)


@pytest.mark.slow
def test_a_start_killed_anywhere_is_found_again(
    platform, saved, known, exports, monkeypatch, restores
):
    steps = 0
    while True:
        life = Life(steps)
        with monkeypatch.context() as patch:
            mine, theirs = mortal(patch, life, known, exports, platform)
            with contextlib.suppress(Killed):
                mine.start(theirs, *saved, order())
        if not life.dead:
            break
        # A kill leaves the process of the export alive or not; here it is alive.
        for each in known.all():
            if steps % 2:
                with contextlib.suppress(NotFound):
                    restores.resume(platform, each)
                    assert platform.machines[known.get(each.id).machine].served
            restores.stop(platform, each, None)
        assert platform.machines == {}, f"killed after {steps} steps"
        exports.close()
        nothing_is_left(known, exports, platform)
        steps += 1
    assert steps > 6


@pytest.mark.slow
def test_a_stop_killed_anywhere_is_ended_again(
    platform, saved, known, exports, monkeypatch, restores
):
    steps = 0
    while True:
        started = restores.start(platform, *saved, order()).instant
        life = Life(steps)
        with monkeypatch.context() as patch:
            mine, theirs = mortal(patch, life, known, exports, platform)
            with contextlib.suppress(Killed):
                mine.stop(theirs, started, None)
        for each in known.all():
            restores.stop(platform, each, None)
        assert platform.machines == {}, f"killed after {steps} steps"
        nothing_is_left(known, exports, platform)
        if not life.dead:
            break
        steps += 1
    assert steps > 6


def test_what_a_platform_cannot_say_stops_nothing(restores, platform, saved, known, monkeypatch):
    started = restores.start(platform, *saved, order()).instant

    def broken():
        raise PlatformError("no answer")

    monkeypatch.setattr(platform, "inventory", broken)
    with pytest.raises(PlatformError):
        restores.stop(platform, started, None)
    assert platform.machines[started.machine].state is PowerState.RUNNING
    assert control.is_answering(known.control(started))


def test_folders_of_starts_that_never_began_go(restores, platform, saved, known):
    left = known.directory / ("a" * 32)
    left.mkdir(parents=True)
    (left / "instant.partial").touch()
    (known.directory / "notes").mkdir()
    started = restores.start(platform, *saved, order()).instant
    assert not left.exists()
    assert (known.directory / "notes").exists()
    assert known.folder(started).stat().st_mode & 0o077 == 0
