"""Figures of the dashboard and of reports, counted by both databases."""

import datetime
from types import SimpleNamespace

import pytest

from ruchu.clock import to_text
from ruchu.control.events.stream import Events
from ruchu.control.inventory.inventory import Inventory
from ruchu.control.jobs.runs import NewRun, Runs
from ruchu.control.nodes.tasks import Planned, Tasks
from ruchu.control.policies import documents
from ruchu.control.policies.policies import Policies
from ruchu.control.reports import csv_files
from ruchu.control.reports.columns import Table
from ruchu.control.reports.figures import Figures, Known
from ruchu.control.reports.keeping import Kept
from ruchu.control.reports.standing import covered, judged
from ruchu.control.reports.tabling import Scope, Wanted
from ruchu.control.schedules import targets
from ruchu.control.settings.settings import ServerSettings, Settings
from ruchu.control.storages.catalogue import Catalogue
from ruchu.control.storages.storages import StorageDefinitions
from ruchu.model.tasks import TaskEvent

GIB = 1 << 30
HOUR, DAY = datetime.timedelta(hours=1), datetime.timedelta(days=1)


class World:
    """The services that figures come from, over one database."""

    def __init__(self, database, clock):
        events = Events(database, clock)
        self.database, self.clock = database, clock
        self.runs = Runs(database, clock, events)
        self.tasks = Tasks(database, clock)
        self.inventory = Inventory(database, clock, events)
        self.policies = Policies(database, clock, events)
        self.storages = StorageDefinitions(database, clock, events)
        self.catalogue = Catalogue(database, events)
        self.settings = Settings(database)
        self.settings.put(ServerSettings(zone="Asia/Shanghai"), 0)
        self.started = []
        known = Known(
            self.inventory, self.policies, self.storages, self.catalogue, self.settings,
            SimpleNamespace(open_alarms=list), self._next_starts,
        )  # fmt: skip
        self.figures = Figures(database, clock, known)

    def _next_starts(self, row, count):
        self.started.append(row.policy.name)
        at = self.clock.now() + HOUR
        return [{"at": to_text(at + each * DAY), "kind": "full"} for each in range(count)]

    def policy(self, name, machines, **more):
        document = {"name": name, "selection": {"platform": "kvm", "machines": machines},
                    "storage": "main", **more}  # fmt: skip
        return self.policies.add(documents.from_document(document))

    def run(self, state, *, group="default", kind="backup", policy=None, **summary):
        run = self.runs.create(NewRun(kind, "name", {}, policy, group=group))
        self.runs.move(run.id, state, summary=summary)
        return run.id

    def made(self, groups=None):
        return self.figures.overviews.made(groups)


@pytest.fixture
def world(database, clock):
    return World(database, clock)


def point(name, time, **more):
    return {"storage": "main", "point": f"{name} {time}", "chain": "c" * 32,
            "sequence": 0, "name": name, "platform": "kvm", "kind": "full", "time": time, **more}  # fmt: skip


def test_runs_are_counted_by_their_end_and_by_the_days_of_the_zone(world):
    # 16:30 UTC is half past midnight in Shanghai.
    at = world.clock.now().replace(hour=15, minute=30)
    world.clock.move(at + DAY - world.clock.now())
    world.run("succeeded", bytes_read=3 << 40, bytes_full=1 << 40, bytes_stored=1 << 40)
    world.run("failed", group="other")
    world.run("failed", kind="restore")
    world.clock.move(HOUR)
    world.run("succeeded", bytes_read=7, bytes_full=0, bytes_stored=3)
    world.run("partly", bytes_read=1)
    found = world.made()
    yesterday, today = found.days[-2:]
    assert datetime.date.fromisoformat(today.day) == world.clock.now().date() + DAY
    assert (yesterday.full, yesterday.incremental, yesterday.stored) == (1 << 40, 2 << 40, 1 << 40)
    assert (yesterday.succeeded, yesterday.failed) == (1, 1)
    assert (today.full, today.incremental, today.partly) == (0, 8, 1)
    assert (found.day.succeeded, found.day.partly, found.day.failed) == (2, 1, 1)
    assert found.day.rate == 0.5
    assert world.made(("default",)).day.failed == 0
    assert found.reduction.ratio == pytest.approx(3, rel=1e-6)
    world.clock.move(2 * DAY)
    later = world.made()
    assert later.days[-4] == yesterday
    assert later.days[-3] == today
    assert (later.day.rate, later.week.succeeded) == (None, 2)


def test_machines_stand_as_the_alarms_judge_them(world, rng):
    """Against `targets.misses`, which housekeeping asks policy by policy."""
    names = [f"vm-{number}" for number in range(60)]
    world.inventory.add("kvm", "qemu:///system")
    world.inventory.saw("kvm", [{"id": name, "name": name, "state": "off"} for name in names])
    for number in range(8):
        mine = rng.sample(names, 12)
        world.policy(f"p{number}", mine, rpo_minutes=rng.choice([0, 60, 600]),
                     enabled=rng.random() < 0.8)  # fmt: skip
        world.clock.move(HOUR)
    now = world.clock.now()
    newest = {("kvm", name): to_text(now - rng.random() * 12 * HOUR)
              for name in names if rng.random() < 0.8}  # fmt: skip
    newest["kvm", names[0]] = to_text(now + DAY)
    policies = world.policies.all()
    found = judged(covered(world.inventory.machines("kvm"), policies), newest, now)
    missed = set()
    for row in policies:
        if row.policy.enabled:
            moments = {
                name: [datetime.datetime.fromisoformat(newest["kvm", name])]
                if ("kvm", name) in newest else []
                for name in row.policy.selection.machines
            }  # fmt: skip
            rpo = datetime.timedelta(minutes=row.policy.rpo_minutes)
            since = dict.fromkeys(moments, datetime.datetime.fromisoformat(row.created))
            missed |= {each.name for each in targets.misses(rpo, moments, now, since)}
    assert {each.machine.name for each in found if each.missed} == missed
    assert missed
    selected = {name for row in policies if row.policy.enabled
                for name in row.policy.selection.machines}  # fmt: skip
    assert {each.machine.name for each in found if each.policies} == selected


def test_a_point_or_a_policy_changes_how_machines_stand(world):
    world.inventory.add("kvm", "qemu:///system")
    world.inventory.saw(
        "kvm", [{"id": n, "name": n, "state": "off", "disk_size": GIB} for n in "ab"]
    )
    row = world.policy("p", ["a"], rpo_minutes=60)
    world.clock.move(2 * HOUR)
    found = world.made().machines
    assert (found.total, found.protected, found.missed, found.bytes) == (2, 1, 1, GIB)
    assert [each.name for each in found.first_unprotected] == ["b"]
    assert [(each.name, each.policy) for each in found.first_missed] == [("a", "p")]
    world.catalogue.took(point("a", to_text(world.clock.now())), policy=row.id, run="")
    world.clock.move(datetime.timedelta(minutes=1))
    assert world.made().machines.missed == 0
    world.policies.enable(row.id, enabled=False)
    world.clock.move(datetime.timedelta(minutes=1))
    assert world.made().machines.unprotected == 2


def test_what_runs_shows_how_far_and_how_fast(world):
    run = world.runs.create(NewRun("backup", "nightly", {}))
    world.runs.create(NewRun("backup", "second", {}))
    world.runs.move(run.id, "running")
    plans = [Planned(f"{run.id[:31]}{n}", run.id, "backup", f"vm-{n}", {}, (), (), {})
             for n in range(4)]  # fmt: skip
    world.tasks.plan(plans)
    for each in plans[:2]:
        world.tasks.send(each.id, "node")
    body = {"done": 30, "total": 40, "rate": 1000.0}
    world.tasks.tell("node", [TaskEvent(plans[0].id, 1, 1, to_text(world.clock.now()), "progress",
                                        body)])  # fmt: skip
    found = world.made().under_way
    assert (found.count, found.waiting, found.rate) == (1, 1, 1000.0)
    assert (found.runs[0].tasks, found.runs[0].ended, found.runs[0].share) == (4, 0, 0.1875)
    assert found.runs[0].what == "vm-0, vm-1"
    assert world.made(("other",)).under_way.count == 0


def test_storages_have_their_history_and_forecast(world):
    made = {"id": "5" * 32, "name": "main", "role": "backup", "encrypted": False, "free": 900,
            "total": 1000}  # fmt: skip
    world.storages.add(made, "/srv/main", {})
    for day in range(10):
        world.storages.saw("main", {"free": 900 - 10 * day, "total": 1000}, 50)
        world.clock.move(DAY)
    row = world.made().storages[0]
    assert (row.used, row.free, row.stored, len(row.daily)) == (190, 810, 50, 10)
    assert row.forecast_enough
    assert row.growth == pytest.approx(10)
    assert world.made(("other",)).storages == []


def test_next_starts_are_the_first_of_all_policies_and_are_not_worked_out_again(world):
    world.policy("b", ["x"], schedules=[{"kind": "full", "daily": {"times": ["02:00"]}}])
    world.policy("a", ["x"], schedules=[{"kind": "full", "daily": {"times": ["02:00"]}}])
    world.policy("never", ["x"])
    world.policy("off", ["x"], enabled=False,
                 schedules=[{"kind": "full", "daily": {"times": ["02:00"]}}])  # fmt: skip
    found = world.made().next_starts
    assert [each.name for each in found] == ["a", "b"]
    world.made()
    assert world.started == ["a", "b"]
    world.clock.move(2 * HOUR)
    world.made()
    assert world.started == ["a", "b"] * 2


def test_success_is_counted_over_days_by_policy(world):
    row = world.policy("nightly", ["x"])
    world.run("failed", policy=row.id)
    world.clock.move(8 * DAY)
    world.run("succeeded", policy=row.id, bytes_read=5 << 40, bytes_stored=1 << 40)
    world.run("succeeded", kind="verify", group="other")
    tables, names = world.figures.tables, {row.id: "nightly"}
    scope = Scope(None, frozenset(), ())
    rows = tables.success(scope, 7, names)
    assert [(each["name"], each["kind"], each["runs"]) for each in rows] == [
        ("nightly", "backup", 1), ("", "verify", 1),
    ]  # fmt: skip
    assert (rows[0]["rate"], rows[0]["read"]) == (1.0, 5 << 40)
    rows = tables.success(scope, 30, names)
    assert (rows[0]["runs"], rows[0]["rate"]) == (2, 0.5)
    assert len(tables.success(Scope(("default",), frozenset(), ()), 30, names)) == 1


def test_a_protection_report_counts_points_where_they_may_be_seen(world):
    world.inventory.add("kvm", "qemu:///system")
    world.inventory.saw("kvm", [{"id": n, "name": n, "state": "off"} for n in ("a", "b")])
    for hour in range(3):
        at = to_text(world.clock.now() - hour * HOUR)
        world.catalogue.took(point("a", at, bytes_stored=4 << 30), policy=None, run="")
    scope = Scope(None, frozenset({"kvm"}), ("main",))
    tables = world.figures.tables
    rows = list(tables.protection(scope, tables.standings(scope, Wanted())))
    assert [(row["name"], row["points"], row["stored"]) for row in rows] == [
        ("a", 3, 12 << 30), ("b", 0, 0),
    ]  # fmt: skip
    assert rows[0]["age_s"] == 0.0
    assert rows[1]["age_s"] is None
    none = Scope((), frozenset({"kvm"}), ())
    assert next(iter(tables.protection(none, tables.standings(scope, Wanted()))))["points"] == 0


def test_what_is_kept_is_made_once_and_again_when_it_is_too_old(clock):
    kept, made = Kept(clock, 2.0), []
    for _ in range(3):
        assert kept.get("a", lambda: made.append(1) or len(made)) == 1
    clock.sleep(2)
    assert kept.get("a", lambda: made.append(1) or len(made)) == 2
    assert kept.get("b", lambda: 7) == 7


@pytest.mark.parametrize(
    ("cell", "written"),
    [("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@a", "'@a"), (" =1", "' =1"),
     ("\t=1", "'\t=1"), ("a=1", "a=1"), (-5, -5)],
)  # fmt: skip
def test_formulas_are_texts(cell, written):
    assert csv_files.safe(cell) == written


def test_a_long_csv_file_comes_in_parts():
    rows = [{"name": f"vm-{n}", "policies": ["a", "b"], "met": n % 2 == 0} for n in range(1200)]
    parts = list(csv_files.lines(Table.PROTECTION, rows, "en", "UTC"))
    assert len(parts) == 3
    lines = b"".join(parts).decode("utf-8-sig").splitlines()
    assert lines[0].startswith("Machine,Platform,Policies,Newest point,Age (s)")
    assert lines[1] == "vm-0,,a; b,,,,yes,,,"
    assert len(lines) == 1201
