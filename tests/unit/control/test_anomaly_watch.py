"""The watch: a suspicion freezes retention and raises the alarm together, until a person decides."""

import datetime
import random

import pytest
import sqlalchemy as sa

from ruchu.clock import to_text
from ruchu.control.alarms.service import AlarmService
from ruchu.control.anomalies.signs import Level, RunSigns
from ruchu.control.anomalies.tables import RETENTION_FREEZES, RUN_SIGNS
from ruchu.control.anomalies.watch import AnomalyWatch, Decision
from ruchu.errors import NotFound

GIB = 1 << 30


class World:
    def __init__(self, database, clock):
        self.database, self.clock = database, clock
        self.alarms = AlarmService(database, clock)
        self.watch = AnomalyWatch(database, clock, self.alarms)
        self.choose = random.Random(3)
        self.runs = 0

    def see(self, changed=1.0, ratio=0.4, **more):
        self.clock.move(datetime.timedelta(days=1))
        self.runs += 1
        length = int(changed * self.choose.uniform(0.8, 1.2) * GIB)
        density = ratio + self.choose.uniform(-0.02, 0.02)
        at = to_text(self.clock.now())
        signs = RunSigns(
            "chain-1", f"r{self.runs}", "vm-1", at, 60 * GIB, length, length // 3, density, **more
        )
        return self.watch.observe(signs)

    def codes(self):
        return [each.code for each in self.alarms.open_alarms()]


@pytest.fixture
def world(database, clock):
    world = World(database, clock)
    for _ in range(12):
        world.see()
    return world


def test_an_encryption_freezes_retention_until_a_person_releases_it(world):
    assert world.watch.frozen("chain-1") is None
    verdict = world.see(30, 0.97)
    assert verdict.level is Level.SUSPICIOUS
    why = world.watch.frozen("chain-1")
    assert "compresses to" in why
    assert world.watch.frozen("chain-2") is None
    (alarm,) = world.alarms.open_alarms()
    assert (alarm.code, alarm.subject, alarm.severity) == ("anomaly", "vm-1", "critical")
    world.watch.decide("chain-1", Decision.KEEP, "li", "证据保全")
    assert world.watch.frozen("chain-1")
    (freeze,) = world.watch.freezes()
    assert (freeze.decision, freeze.decided_by, freeze.note) == ("keep", "li", "证据保全")
    assert world.codes() == ["anomaly"]
    world.watch.decide("chain-1", Decision.RELEASE, "wang")
    assert world.watch.frozen("chain-1") is None
    assert world.codes() == []
    assert world.watch.freezes() == []
    (freeze,) = world.watch.freezes(active=False)
    assert (freeze.decision, freeze.decided_by) == ("release", "wang")
    with pytest.raises(NotFound):
        world.watch.decide("chain-1", Decision.RELEASE, "li")


def test_more_of_it_is_one_freeze_and_one_alarm_that_counts(world):
    for _ in range(3):
        assert world.see(30, 0.97).level is Level.SUSPICIOUS
    (freeze,) = world.watch.freezes()
    (alarm,) = world.alarms.open_alarms()
    assert alarm.count == 3
    assert freeze.since == alarm.first_at


def test_an_update_is_told_and_freezes_nothing(world):
    assert world.see(30, 0.6).level is Level.UNUSUAL
    assert world.watch.frozen("chain-1") is None
    assert world.codes() == ["unusual-change"]
    assert world.see().level is Level.NORMAL
    assert world.codes() == []


def test_a_run_that_is_told_twice_counts_once(world):
    run = RunSigns("chain-1", "twice", "vm-1", to_text(world.clock.now()), 0, 99 * GIB, 98 * GIB)
    assert world.watch.observe(run) == world.watch.observe(run)
    assert world.alarms.open_alarms()[0].count == 1
    with world.database.reading() as connection:
        query = sa.select(sa.func.count()).select_from(RUN_SIGNS).where(RUN_SIGNS.c.run == "twice")
        assert connection.execute(query).scalar() == 1


def test_all_or_nothing(world, monkeypatch):
    def broken(connection, new):
        raise ZeroDivisionError

    monkeypatch.setattr(world.alarms, "raise_within", broken)
    with pytest.raises(ZeroDivisionError):
        world.see(30, 0.97)
    assert world.watch.frozen("chain-1") is None
    with world.database.reading() as connection:
        query = sa.select(sa.func.count()).select_from(RETENTION_FREEZES)
        assert connection.execute(query).scalar() == 0


def test_another_process_sees_the_freeze(world):
    world.see(30, 0.97)
    other = AnomalyWatch(world.database, world.clock, AlarmService(world.database, world.clock))
    assert other.frozen("chain-1")
