"""Is a run as usual? Robust statistics over the runs before it. Pure.

Two patterns freeze the retention of a chain:

- **at once**: more has changed than usual (by median and MAD of the logarithm; at this time of the
  week, if a week has that habit), and what was changed beyond the usual does not compress; or files
  were renamed or removed in masses with a great jump;
- **slowly**: four of the last five runs compress clearly worse than the runs before them, and they
  hold clearly more.

Where data never compresses (video, encrypted disks), compression tells nothing: there a great jump
that replaces a fifth of the disk is taken for the worst.

Measured on simulated machines, as `tests/unit/control/test_anomaly_judging.py` describes them, of
which 0.5 to 3 % change in a night:

- 20,640 ordinary nights: none suspicious, 85 unusual;
- encryption in one night: of 80 % of the disk 100 % found, of 40 % 98 %, of 20 % 92 %, of 10 % 87 %,
  of 5 % 80 %, of 2 % 38 %;
- slow encryption: each night as much as usually changes: all found, half of it: 95 %, both within 4
  nights in the median; a quarter: 57 %; a tenth: 1 %.

Real machines are more varied than a simulation: the figures say that the arithmetic works, not what
a data centre will see. Never found: encryption that leaves its result compressible or most of each
file alone, and anything within the first runs of a chain.
"""

import datetime
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ruchu import units
from ruchu.control.anomalies.signs import Level, Past, RunSigns, Standing, Verdict

# Fewer say nothing about what is usual.
RUNS_MIN = 8
# Two months of nights; with hourly runs two days and a half, beside what the week says.
RUNS_RECENT = 60
# As far as the caller has to look back: two months of hourly runs.
RUNS_MAX = 1_500
# How many standard deviations are no accident. By MAD, so that outliers do not hide outliers.
JUMP_Z = 4.5
# No machine is steadier than that: a change by the factor 1.4, in logarithms.
SPREAD_MIN = 0.35
# Under the triple of what is usual nothing is a jump, however steady the machine was.
JUMP_FACTOR = 3.0
# A change below this is noise of the file system.
FLOOR_BYTES = 1 << 20
# Runs on this weekday, so many hours around this time; that many of them make a habit. The narrow
# window is for hourly runs, whose neighbours are other habits; the wide one for runs that drift.
WEEK_HOURS, WEEK_RUNS_MIN = (0.5, 2.0), 3
# What does not compress to less than this is encrypted, or packed already.
DENSE = 0.90
# A smaller jump counts if the data is dense as well: two accidents at once are rare.
DENSE_Z, DENSE_FACTOR, SHIFT_Z = 1.5, 1.5, 4.0
# Ratios of a machine never lie closer together than that.
DENSE_SPREAD_MIN = 0.02
ENTROPY_HIGH, ENTROPY_SHIFT = 7.9, 0.3
# In a chain that never compresses: this share of the disk at once.
BLIND_SHARE = 0.20
FILES_MIN, FILES_Z = 1_000, 5.0
SLOW_WINDOW, SLOW_HITS = 5, 4
SLOW_SHIFT, SLOW_SPREADS, SLOW_FACTOR = 0.08, 3.0, 1.3
# MAD of a normal distribution times this is its standard deviation.
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, slots=True)
class _Usual:
    middle: float
    spread: float

    def z(self, value: float) -> float:
        return (value - self.middle) / self.spread


def judge(past: Sequence[Past], run: RunSigns) -> Verdict:
    """Return what is to be thought of a run, given those before it in the order of time."""
    usual = [each.signs for each in past if each.standing is not Standing.DOUBTED]
    recent = usual[-RUNS_RECENT:]
    if len(recent) < RUNS_MIN:
        return Verdict(Level.LEARNING)
    measure = _measure(recent, usual, run)
    jump = _jump(measure, run)
    dense = _dense(recent, measure, run)
    files = _files(recent, run)
    slow = _slow(past, run)
    reasons = tuple(filter(None, (jump, dense, files, slow)))
    if dense or slow or (jump and files):
        return Verdict(Level.SUSPICIOUS, reasons)
    return Verdict(Level.UNUSUAL if reasons else Level.NORMAL, reasons)


def _measure(
    recent: Sequence[RunSigns], usual: Sequence[RunSigns], run: RunSigns
) -> Sequence[RunSigns]:
    """Return what a run is compared with: the recent ones, or those at this time of the week.

    The latter if they change more: what is done every Sunday is no surprise on a Sunday.
    """
    apart = [(_hours_apart(each, run), each) for each in usual]
    for hours in WEEK_HOURS:
        same_time = [each for distance, each in apart if distance <= hours]
        if len(same_time) >= WEEK_RUNS_MIN:
            return max(recent, same_time[-RUNS_RECENT:], key=_changed)
    return recent


def _jump(measure: Sequence[RunSigns], run: RunSigns) -> str:
    if not _rose(measure, run, JUMP_Z, JUMP_FACTOR):
        return ""
    changed, before = run.changed_bytes, int(_changed(measure))
    return f"{units.format_size(changed)} changed, usually {units.format_size(before)}"


def _dense(recent: Sequence[RunSigns], measure: Sequence[RunSigns], run: RunSigns) -> str:
    """Look whether more changed than usual, and what is beyond the usual does not compress."""
    known = [each.density for each in recent if each.density is not None]
    rose = _rose(measure, run, DENSE_Z, DENSE_FACTOR)
    if run.density is None or len(known) < RUNS_MIN or not rose:
        return ""
    before = _usual(known, DENSE_SPREAD_MIN)
    if before.middle >= DENSE:
        return _blind(measure, run)
    if _entropy_rose(recent, run):
        return f"the new data has {run.entropy:.2f} bits in a byte"
    more = run.changed_bytes - _changed(measure)
    dense_more = run.dense_bytes - statistics.median(each.dense_bytes for each in measure)
    if before.z(run.density) < SHIFT_Z or dense_more < DENSE * more:
        return ""
    return f"it compresses to {run.density:.0%}, usually to {before.middle:.0%}"


def _blind(measure: Sequence[RunSigns], run: RunSigns) -> str:
    share = run.changed_bytes / run.size_bytes if run.size_bytes else 0.0
    if share < BLIND_SHARE or not _rose(measure, run, JUMP_Z, JUMP_FACTOR):
        return ""
    return f"{share:.0%} of the disks at once, on a machine whose data never compresses"


def _entropy_rose(recent: Sequence[RunSigns], run: RunSigns) -> bool:
    known = [each.entropy for each in recent if each.entropy is not None]
    if run.entropy is None or len(known) < RUNS_MIN:
        return False
    return run.entropy >= ENTROPY_HIGH and run.entropy - statistics.median(known) >= ENTROPY_SHIFT


def _files(recent: Sequence[RunSigns], run: RunSigns) -> str:
    counted = (
        ("renamed", run.renamed, [each.renamed for each in recent]),
        ("removed", run.removed, [each.removed for each in recent]),
    )
    found = []
    for name, value, before in counted:
        known = [math.log1p(each) for each in before if each is not None]
        if value is None or value < FILES_MIN or len(known) < RUNS_MIN:
            continue
        usual = _usual(known, SPREAD_MIN)
        if usual.z(math.log1p(value)) >= FILES_Z:
            found.append(f"{value} files {name}, usually {math.expm1(usual.middle):.0f}")
    return "; ".join(found)


def _slow(past: Sequence[Past], run: RunSigns) -> str:
    """Look whether the last runs compress worse than those before, and hold more."""
    window = [*past[1 - SLOW_WINDOW :], Past(run)]
    before = [each for each in past[: 1 - SLOW_WINDOW] if each.standing is not Standing.DOUBTED]
    reference = [each.signs for each in before[-RUNS_RECENT:]]
    known = [each.density for each in reference if each.density is not None]
    if len(window) < SLOW_WINDOW or len(known) < RUNS_MIN:
        return ""
    usual = _usual(known, 0.0)
    # What a person has accepted is the new measure, even while most of the history is older.
    accepted = [
        each.signs.density or 0.0
        for each in past[-RUNS_RECENT:]
        if each.standing is Standing.ACCEPTED
    ]
    level = max(usual.middle, statistics.median(accepted)) if accepted else usual.middle
    if level >= DENSE:
        return ""
    # A machine that has changed its habits scatters widely: half way to "does not compress" is far.
    limit = level + min(max(SLOW_SHIFT, SLOW_SPREADS * usual.spread), (1 - level) / 2)
    hits = [each for each in window if (each.signs.density or 0.0) >= limit]
    median = statistics.median
    dense = median(each.dense_bytes for each in reference)
    now = median(each.signs.dense_bytes for each in window)
    fresh = (run.density or 0.0) >= limit
    if len(hits) < SLOW_HITS or not fresh or now < SLOW_FACTOR * dense:
        return ""
    worse = median(each.signs.density or 0.0 for each in window)
    return f"{len(hits)} of {SLOW_WINDOW} runs compress to {worse:.0%}, before to {level:.0%}"


def _rose(measure: Sequence[RunSigns], run: RunSigns, z: float, factor: float) -> bool:
    usual = _usual([_log_changed(each) for each in measure], SPREAD_MIN)
    return usual.z(_log_changed(run)) >= z and run.changed_bytes >= factor * _changed(measure)


def _changed(runs: Sequence[RunSigns]) -> float:
    return statistics.median(each.changed_bytes for each in runs)


def _hours_apart(one: RunSigns, other: RunSigns) -> float:
    """Return how far apart two runs lie within the week."""
    week = 7 * 24.0
    apart = abs(_hour_of_week(one) - _hour_of_week(other))
    return min(apart, week - apart)


def _hour_of_week(run: RunSigns) -> float:
    moment = datetime.datetime.fromisoformat(run.at)
    return moment.weekday() * 24 + moment.hour + moment.minute / 60


def _log_changed(run: RunSigns) -> float:
    return math.log(run.changed_bytes + FLOOR_BYTES)


def _usual(values: Sequence[float], spread_min: float) -> _Usual:
    middle = statistics.median(values)
    spread = _MAD_TO_SIGMA * statistics.median(abs(each - middle) for each in values)
    return _Usual(middle, max(spread, spread_min, 1e-9))
