"""What Ruchu owes its users: by how much it has to be better, workload by workload."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks import workloads
from benchmarks.peers import RUCHU
from benchmarks.serving import BETTER
from benchmarks.serving_boot import QCOW2
from benchmarks.workloads import Sample

RSS_MAX = 200 << 20
RSS_LIMIT = "limit 200 MiB"
START_MAX_S = 2.0
START_LIMIT = "limit 2 s"
# Ruchu may need a twentieth more than restic.
SIZE_RATIO_MIN = 1 / 1.05
# (workload, peer, metric): smallest ratio of peer to Ruchu
OWED = {
    (workloads.FULL, "restic", "cpu"): 3.0,
    (workloads.FULL, "borg", "cpu"): 1.8,
    (workloads.SCAN, "restic", "cpu"): 4.0,
    (workloads.SCAN, "borg", "cpu"): 4.0,
    (workloads.LIST, "restic", "cpu"): 10.0,
    (workloads.LIST, "borg", "cpu"): 10.0,
    (workloads.RESTORE, "restic", "cpu"): 1.3,
    (workloads.RESTORE, "borg", "cpu"): 1.3,
    (workloads.SIZE_FULL, "restic", "size"): SIZE_RATIO_MIN,
    (workloads.SIZE_INCREMENT, "restic", "size"): SIZE_RATIO_MIN,
    (workloads.LIVE, "virtnbdbackup", "cpu"): 1.5,
    (workloads.RSS, RSS_LIMIT, "rss"): 1.0,
    # Serving costs at most a fifth more than by the better of nbdkit and qemu-nbd.
    (workloads.SERVE_64K, BETTER, "cpu-op"): 1 / 1.2,
    (workloads.SERVE_4K, BETTER, "cpu-op"): 1 / 1.2,
    (workloads.SERVE_1M, BETTER, "cpu-op"): 1 / 1.2,
    (workloads.SERVE_WRITE, BETTER, "cpu-op"): 1 / 1.2,
    (workloads.SERVE_REWRITE, BETTER, "cpu-op"): 1 / 1.2,
    (workloads.SERVE_DISK, BETTER, "wall-op"): 0.5,
    (workloads.SERVE_COLD, BETTER, "wall-op"): 0.5,
    (workloads.SERVE_64K, BETTER, "wall-op"): 0.9,
    (workloads.START, START_LIMIT, "wall"): 1.0,
    (workloads.BOOT, QCOW2, "wall"): 1 / 1.3,
}
METRICS = ("cpu", "wall", "synced", "rss", "size", "cpu+qemu", "cpu-op", "wall-op")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ruchu and a peer on one workload by one metric.

    Attributes:
        ours: one value a round.
        theirs: of the same rounds.
    """

    workload: str
    peer: str
    metric: str
    ours: list[float]
    theirs: list[float]

    @property
    def pairs(self) -> list[float]:
        return [
            theirs / ours if ours else float("inf")
            for ours, theirs in zip(self.ours, self.theirs, strict=True)
        ]

    @property
    def ratio(self) -> float:
        return statistics.median(self.pairs)

    @property
    def owed(self) -> float | None:
        return OWED.get((self.workload, self.peer, self.metric))

    @property
    def met(self) -> bool | None:
        return None if self.owed is None else self.ratio >= self.owed


def compare(samples: list[Sample], wanted: set[str]) -> list[Comparison]:
    """Pair Ruchu's samples with those of the peers, round by round."""
    made = []
    for workload in workloads.NAMES:
        if workload not in wanted:
            continue
        if workload == workloads.RSS:
            made += _against_limit(samples)
            continue
        # The peers know no change lists: what they do instead is to read everything.
        theirs = workloads.SCAN if workload == workloads.LIST else workload
        for peer in _tools(samples, theirs):
            for metric in METRICS:
                pairs = _pairs(samples, (workload, RUCHU), (theirs, peer), metric)
                if pairs:
                    ours, others = (list(values) for values in zip(*pairs, strict=True))
                    made.append(Comparison(workload, peer, metric, ours, others))
        if workload == workloads.START:
            made += _slowest_against_limit(samples)
    return made


def _pairs(samples, ours, theirs, metric) -> list[tuple[float, float]]:
    left = _by_round(samples, *ours, metric)
    right = _by_round(samples, *theirs, metric)
    return [(left[number], right[number]) for number in sorted(left) if number in right]


def _by_round(samples: Iterable[Sample], workload: str, tool: str, metric: str):
    return {
        sample.round: sample.metrics[metric]
        for sample in samples
        if (sample.workload, sample.tool) == (workload, tool) and metric in sample.metrics
    }


def _tools(samples: Iterable[Sample], workload: str) -> list[str]:
    return sorted({s.tool for s in samples if s.workload == workload and s.tool != RUCHU})


def _against_limit(samples: list[Sample]) -> list[Comparison]:
    """Compare the most memory that Ruchu took in each round with the limit."""
    peaks: dict[int, float] = {}
    for sample in samples:
        if sample.tool == RUCHU and "rss" in sample.metrics:
            peaks[sample.round] = max(peaks.get(sample.round, 0.0), sample.metrics["rss"])
    if not peaks:
        return []
    ours = [peaks[number] for number in sorted(peaks)]
    return [Comparison(workloads.RSS, RSS_LIMIT, "rss", ours, [float(RSS_MAX)] * len(ours))]


def _slowest_against_limit(samples: list[Sample]) -> list[Comparison]:
    """Compare the slowest start of each round, of whatever disk, with the limit."""
    slowest: dict[int, float] = {}
    for sample in samples:
        if sample.workload == workloads.START:
            slowest[sample.round] = max(slowest.get(sample.round, 0.0), sample.metrics["wall"])
    ours = [slowest[number] for number in sorted(slowest)]
    theirs = [START_MAX_S] * len(ours)
    return [Comparison(workloads.START, START_LIMIT, "wall", ours, theirs)]
