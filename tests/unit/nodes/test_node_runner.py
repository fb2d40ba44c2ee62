"""Tasks in real processes: carried out once, stopped, killed, and outliving their node."""

import os
import random
import signal
import threading
import time

import pytest

from ruchu.clock import SYSTEM
from ruchu.errors import AlreadyExists
from ruchu.model.ids import new_id
from ruchu.model.sources import Kind
from ruchu.model.tasks import Order, Outcome
from ruchu.nodes.runner import Runner
from ruchu.nodes.spool import Spools
from ruchu.operations import backups
from ruchu.operations.registry import Registry
from ruchu.operations.storages import Storages
from ruchu.protection.running import Run

LIMIT_S = 60

pytestmark = pytest.mark.slow


class Ear:
    """Hears what a runner tells."""

    def __init__(self):
        self.changed = threading.Condition()
        self.events = []
        self.endings = {}

    def __call__(self, heard):
        with self.changed:
            self.events += heard.events
            if heard.ending is not None:
                self.endings[heard.task, heard.attempt] = heard.ending
            self.changed.notify_all()

    def ending(self, task, attempt=1):
        with self.changed:
            assert self.changed.wait_for(lambda: (task, attempt) in self.endings, LIMIT_S)
            return self.endings[task, attempt]


@pytest.fixture
def ear():
    return Ear()


@pytest.fixture
def runner(tmp_path, ear):
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("good", "echo hello"), ("bad", "exit 3"), ("slow", "sleep 600")):
        program = programs / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    runner = Runner(Spools(tmp_path / "tasks"), tmp_path / "local", SYSTEM, ear, programs)
    runner.begin()
    yield runner
    runner.close()


def order(kind, attempt=1, **body):
    return Order(new_id(), new_id(), kind, attempt, body)


def make_storage(runner, ear, tmp_path, **more):
    made = order("storage-make", name="main", directory=str(tmp_path / "storage"), **more)
    runner.start(made)
    return ear.ending(made.task)


def test_a_storage_is_made_then_adopted_with_its_points(runner, ear, tmp_path):
    done = make_storage(runner, ear, tmp_path)
    assert done.outcome is Outcome.SUCCEEDED
    identity = done.result["storage"]["id"]
    again = make_storage(runner, ear, tmp_path, adopt=True)
    assert again.result["storage"]["id"] == identity
    assert again.result["points"] == []
    named = {"name": "main", "directory": str(tmp_path / "storage"), "id": identity}
    listing = order("points", storages=[named], storage="main")
    runner.start(listing)
    found = ear.ending(listing.task).result
    assert (found["points"], found["problems"]) == ([], [])


def test_a_passphrase_never_lies_in_the_folder_of_a_task(runner, ear, tmp_path):
    secrets = {"storage:main": "correct horse battery"}
    body = {"name": "main", "directory": str(tmp_path / "storage")}
    made = Order(new_id(), new_id(), "storage-make", 1, body, secrets)
    runner.start(made)
    done = ear.ending(made.task)
    assert done.result["storage"]["encrypted"] is True
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"correct horse" not in path.read_bytes(), path


def test_what_fails_says_why(runner, ear):
    wrong = order("backup", machines=["a"], platform="nowhere", storage="none")
    runner.start(wrong)
    done = ear.ending(wrong.task)
    assert done.outcome is Outcome.FAILED
    assert done.error["code"] == "not-found"
    assert done.error["retry"] is False


def test_work_of_a_later_release(runner, ear):
    unknown = order("levitation")
    runner.start(unknown)
    assert "Update the node" in ear.ending(unknown.task).error["hint"]


def test_the_same_attempt_is_carried_out_once(runner, ear):
    one = order("doctor")
    assert runner.start(one) is True
    ear.ending(one.task)
    assert runner.start(one) is False


def test_a_second_attempt_waits_for_the_end_of_the_first(runner, ear):
    one = order("backup", before=["slow"])
    runner.start(one)
    with pytest.raises(AlreadyExists):
        runner.start(Order(one.task, one.run, one.kind, 2, one.body))
    runner.stop(one.task)
    ear.ending(one.task)


def running(runner, task):
    """Return the process of a task once it has begun its work."""
    limit = time.monotonic() + LIMIT_S
    spool = runner._spools.of(task, 1)
    while time.monotonic() < limit:
        found = spool.process()
        if found is not None and any(e.name == "phase" for e in spool.new_events()):
            return found.pid
        time.sleep(0.05)
    raise AssertionError("it never began")


def test_a_stopped_task_ends_soon_and_says_so(runner, ear):
    one = order("backup", before=["slow"], machines=["a"])
    runner.start(one)
    running(runner, one.task)
    assert runner.stop(one.task) is True
    assert ear.ending(one.task).outcome is Outcome.STOPPED
    assert runner.running() == []
    assert runner.stop(one.task) is False


def test_a_killed_task_ends_and_may_be_tried_again(runner, ear):
    one = order("backup", before=["slow"], machines=["a"])
    runner.start(one)
    os.killpg(running(runner, one.task), signal.SIGKILL)
    done = ear.ending(one.task)
    assert done.outcome is Outcome.FAILED
    assert done.error["retry"] is True


@pytest.mark.parametrize(
    ("words", "code"),
    [(["bad"], "command-failed"), (["../bad"], "usage"), (["nothing"], "usage")],
)
def test_programs_of_a_policy_are_those_of_the_node(runner, ear, words, code):
    one = order("backup", before=words, machines=["a"])
    runner.start(one)
    assert ear.ending(one.task).error["code"] == code


def test_what_an_earlier_process_of_the_node_left_is_settled(tmp_path, ear):
    spools = Spools(tmp_path / "tasks")
    left = order("backup")
    spools.of(left.task, 1).save_order(left)
    runner = Runner(spools, tmp_path / "local", SYSTEM, ear)
    runner.begin()
    runner.close()
    assert spools.of(left.task, 1).ending().error["retry"] is True


def test_points_are_evacuated_and_listed_elsewhere(runner, ear, tmp_path):
    places = {}
    for name in ("main", "other"):
        body = {"name": name, "directory": str(tmp_path / name)}
        made = Order(new_id(), new_id(), "storage-make", 1, body, {f"storage:{name}": f"{name} 7"})
        runner.start(made)
        fields = ear.ending(made.task).result["storage"]
        places[name] = {"name": name, "directory": fields["location"], "id": fields["id"]}
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(range(256)) * 4096)
    known = Storages(Registry(tmp_path / "local"))
    run = Run(choose=random.Random(1))
    backups.back_up_image(known, "main", "disk", image, (Kind.FULL, None), run)
    secrets = {"storage:main": "main 7", "storage:other": "other 7"}
    body = {"storages": list(places.values()), "storage": "main", "to": "other"}
    moved = Order(new_id(), new_id(), "evacuate", 1, body, secrets)
    runner.start(moved)
    assert len(ear.ending(moved.task).result["chains"]) == 1
    listing = Order(new_id(), new_id(), "points", 1, {**body, "storage": "other"}, secrets)
    runner.start(listing)
    assert [each["name"] for each in ear.ending(listing.task).result["points"]] == ["disk"]
