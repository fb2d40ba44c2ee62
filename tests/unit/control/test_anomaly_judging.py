"""The anomaly watch on simulated machines: what it finds, what it misses, how often it errs.

A simulated machine has a disk of 60 GiB, of which 0.5 to 3 % change in a night (lognormal, sigma 0.2
to 0.6; a third of it at weekends), data that compresses to 30 to 60 %, give or take 1 to 5 points,
and, every other machine, a job on Sundays that rewrites 30 % of the disk. An encryption writes data
that compresses to 99.8 %. The figures below are what these simulations give, with some room for
another seed; the docstring of `judging` quotes them. Nothing here has seen a real attack.
"""

import datetime
import math
import random
import statistics

import pytest

from ruchu.clock import to_text
from ruchu.control.anomalies import judging
from ruchu.control.anomalies.signs import Level, Past, RunSigns, Standing

GIB = 1 << 30
SIZE = 60 * GIB
ENCRYPTED = 0.998
START = datetime.datetime(2026, 1, 5, 1, 0, tzinfo=datetime.UTC)  # a Monday


class Machine:
    """Makes the signs of one run after the other, as an incremental backup would see them."""

    def __init__(self, choose, *, every_h=24, sundays=False, ratio=None):
        self.choose, self.every_h, self.sundays = choose, every_h, sundays
        self.nightly = choose.uniform(0.005, 0.03) * SIZE * every_h / 24
        self.sigma = choose.uniform(0.2, 0.6)
        self.ratio = choose.uniform(0.3, 0.6) if ratio is None else ratio
        self.scatter = choose.uniform(0.01, 0.05)
        self.runs = 0

    def run(self, extra=(), **files):
        at = START + datetime.timedelta(
            hours=self.runs * self.every_h, minutes=self.choose.uniform(0, 20)
        )
        weekend = 0.3 if at.weekday() > 4 else 1.0
        changed = self.nightly * math.exp(self.choose.gauss(0, self.sigma)) * weekend
        parts = [(changed, min(0.99, max(0.05, self.choose.gauss(self.ratio, self.scatter))))]
        if self.sundays and at.weekday() == 6:
            again = 0.3 * SIZE * math.exp(self.choose.gauss(0, 0.1))
            parts.append((again, self.choose.gauss(0.5, 0.03)))
        parts += extra
        whole = sum(length for length, _ in parts)
        ratio = sum(length * share for length, share in parts) / whole
        self.runs += 1
        sizes = (SIZE, int(whole), int(whole * ratio * 0.9))
        return RunSigns("c", f"r{self.runs}", "vm", to_text(at), *sizes, ratio, **files)


def play(machine, runs, extra=lambda number: (), files=lambda number: {}):
    """Return what is thought of each run, each judged by those before it."""
    past, verdicts = [], []
    for number in range(runs):
        run = machine.run(extra(number), **files(number))
        verdict = judging.judge(past, run)
        doubted = verdict.level is Level.SUSPICIOUS
        past.append(Past(run, Standing.DOUBTED if doubted else Standing.USUAL))
        verdicts.append(verdict)
    return verdicts


def levels(verdicts):
    return [each.level for each in verdicts]


def rate(found, wanted):
    return sum(each is wanted for each in found) / len(found)


@pytest.mark.slow
def test_ordinary_nights_raise_no_suspicion(rng):
    found = []
    for number in range(20):
        found += levels(play(Machine(rng, sundays=number % 2), 100))[judging.RUNS_MIN :]
    assert len(found) > 1800
    assert rate(found, Level.SUSPICIOUS) <= 0.001  # measured: 0 of 20,640
    assert rate(found, Level.UNUSUAL) <= 0.02  # the first Sundays, before they are a habit


@pytest.mark.slow
def test_hourly_runs_with_a_rhythm_raise_no_suspicion(rng):
    machine = Machine(rng, every_h=1)

    def nightly_job(number):
        return [(5 * GIB, 0.5)] if number % 24 == 2 else []

    found = levels(play(machine, 600, nightly_job))
    assert rate(found, Level.SUSPICIOUS) == 0
    # Once it is a habit of this time of the week, the job is no surprise.
    assert rate(found[504:], Level.UNUSUAL) == 0


def test_a_windows_update_is_unusual_at_most(rng):
    updates = []
    for _ in range(20):
        machine = Machine(rng)

        def update(number):
            return [(8 * GIB, rng.uniform(0.55, 0.75))] if number % 30 == 29 else []

        updates += levels(play(machine, 90, update))[29::30]
    assert Level.SUSPICIOUS not in updates
    assert Level.UNUSUAL in updates


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "least"), [(0.8, 0.97), (0.4, 0.95), (0.2, 0.85), (0.1, 0.75), (0.05, 0.55)]
)
def test_an_encryption_in_one_night_is_found(rng, share, least):
    found = []
    for number in range(40):
        machine = Machine(rng, sundays=number % 2)
        night = 40 + number % 7
        attack = [(share * SIZE, ENCRYPTED)]
        past = [Past(machine.run()) for _ in range(night)]
        found.append(judging.judge(past, machine.run(attack)).level)
    assert rate(found, Level.SUSPICIOUS) >= least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of_usual", "least", "days"), [(2.0, 0.95, 5), (1.0, 0.9, 6), (0.5, 0.75, 9)]
)
def test_a_slow_encryption_is_found_within_days(rng, of_usual, least, days):
    found = []
    for number in range(30):
        machine = Machine(rng, sundays=number % 2)
        attack = [(of_usual * machine.nightly, ENCRYPTED)]
        verdicts = play(machine, 60, lambda each, a=attack: a if each >= 40 else [])
        hits = [night for night in range(40, 60) if verdicts[night].level is Level.SUSPICIOUS]
        found.append(hits[0] - 39 if hits else None)
    caught = [each for each in found if each is not None]
    assert len(caught) / len(found) >= least
    assert statistics.median(caught) <= days


def test_what_it_does_not_find_is_known(rng):
    machine = Machine(rng)
    slower = [(0.05 * machine.nightly, ENCRYPTED)]
    verdicts = play(machine, 60, lambda each: slower if each >= 40 else [])
    assert Level.SUSPICIOUS not in levels(verdicts)


def test_masses_of_renamed_files_with_a_jump_are_found_whatever_they_compress_to(rng):
    machine = Machine(rng)
    attack = [(20 * GIB, machine.ratio)]
    verdicts = play(
        machine,
        41,
        lambda each: attack if each == 40 else [],
        lambda each: {"renamed": 90_000 if each == 40 else rng.randrange(50), "removed": 3},
    )
    assert verdicts[-1].level is Level.SUSPICIOUS
    assert any("90000 files renamed" in each for each in verdicts[-1].reasons)
    calm = play(Machine(rng), 41, files=lambda each: {"removed": 9_000 if each == 40 else 5})
    assert calm[-1].level is Level.UNUSUAL


def test_entropy_tells_where_the_ratio_is_not_known(rng):
    machine = Machine(rng)
    attack = [(20 * GIB, 0.8)]
    verdicts = play(
        machine,
        41,
        lambda each: attack if each == 40 else [],
        lambda each: {"entropy": 7.99 if each == 40 else rng.uniform(5.5, 6.5)},
    )
    assert verdicts[-1].level is Level.SUSPICIOUS


def test_where_nothing_compresses_only_a_great_jump_counts(rng):
    def last(share):
        machine = Machine(rng, ratio=0.98)
        machine.scatter = 0.005
        attack = [(share * SIZE, ENCRYPTED)]
        return play(machine, 41, lambda each: attack if each == 40 else [])[-1].level

    assert last(0.5) is Level.SUSPICIOUS
    assert last(0.15) in {Level.UNUSUAL, Level.NORMAL}


def test_too_few_runs_say_nothing(rng):
    verdicts = play(Machine(rng), 8, lambda each: [(SIZE, ENCRYPTED)] if each == 7 else [])
    assert set(levels(verdicts)) == {Level.LEARNING}


def test_a_run_without_change_and_one_without_figures(rng):
    machine = Machine(rng)
    past = [Past(machine.run()) for _ in range(20)]
    still = RunSigns("c", "x", "vm", to_text(START), SIZE, 0, 0)
    assert judging.judge(past, still).level is Level.NORMAL
    empty = [Past(still)] * 20
    assert judging.judge(empty, still).level is Level.NORMAL
    assert judging.judge(empty, machine.run()).level is Level.UNUSUAL


def test_what_a_person_accepted_is_the_new_measure(rng):
    machine = Machine(rng, ratio=0.4)
    past = [Past(machine.run()) for _ in range(40)]
    machine.ratio, machine.nightly = 0.7, machine.nightly * 3
    doubted = []
    for _ in range(20):
        run = machine.run()
        if judging.judge(past, run).level is Level.SUSPICIOUS:
            doubted.append(run)
            past = [*past, Past(run, Standing.ACCEPTED)]
        else:
            past.append(Past(run))
    assert 1 <= len(doubted) <= 6  # then it is used to it
    machine.ratio = 0.99
    for _ in range(5):
        run = machine.run()
        level = judging.judge(past, run).level
        past.append(Past(run, Standing.DOUBTED))
    assert level is Level.SUSPICIOUS


def test_the_seed_decides():
    def once():
        return levels(play(Machine(random.Random(7)), 30))

    assert once() == once()
