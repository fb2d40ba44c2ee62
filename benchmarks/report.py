"""Tables for people, JSON for programs, and what tells a quiet run from a noisy one."""

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.owed import Comparison
from benchmarks.workloads import Sample

OUT = Path(__file__).parent / "out"
# With more of the cores taken by others than this, a run says little.
NOISE_MAX = 0.10
_UNITS = {
    "rss": ("MiB", 1 << 20),
    "size": ("MiB", 1 << 20),
    "cpu-op": ("us", 1e-6),
    "wall-op": ("us", 1e-6),
}


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns: the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for number, line in enumerate(lines):
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def machine() -> dict[str, Any]:
    """Return what this machine is."""
    processor = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_mib": memory >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def print_comparisons(comparisons: list[Comparison]) -> None:
    """Print each comparison: medians of both, and the ratios of the pairs."""
    header = ("workload", "peer", "metric", "Ruchu", "peer's", "unit", "ratio", "pairs", "owed", "")
    print_table(header, [_row(comparison) for comparison in comparisons])
    print("ratio = peer / Ruchu: more than 1 means that Ruchu needs less. Median of the pairs.")
    print(
        "cpu: user + system of the process tree. rss: of the process tree, polled; see "
        "benchmarks/measure.py.\nsynced: wall time with the target written to its disk."
    )


def _row(comparison: Comparison) -> tuple[str, ...]:
    unit, divisor = _UNITS.get(comparison.metric, ("s", 1))
    met = {None: "", True: "met", False: "NOT MET"}[comparison.met]
    return (
        comparison.workload,
        comparison.peer,
        comparison.metric,
        f"{statistics.median(comparison.ours) / divisor:.2f}",
        f"{statistics.median(comparison.theirs) / divisor:.2f}",
        unit,
        f"{comparison.ratio:.2f}",
        " ".join(f"{pair:.2f}" for pair in comparison.pairs),
        "" if comparison.owed is None else f"{comparison.owed:.2f}",
        met,
    )


def print_noise(samples: list[Sample]) -> list[str]:
    """Print how quiet the machine was; return the runs that were not."""
    timed = [sample for sample in samples if {"cpu", "cpu-op"} & set(sample.metrics)]
    if not timed:
        return []
    others = [sample.others for sample in timed]
    steal = [sample.steal for sample in timed]
    print(
        f"CPU taken by others during a run: median {statistics.median(others):.1%}, "
        f"most {max(others):.1%}; steal: median {statistics.median(steal):.1%}, "
        f"most {max(steal):.1%}."
    )
    noisy = [
        f"{sample.workload} {sample.tool} round {sample.round + 1}"
        for sample in timed
        if sample.others + sample.steal > NOISE_MAX
    ]
    if noisy:
        print(f"Noisy (above {NOISE_MAX:.0%}), do not trust: {'; '.join(noisy)}.")
    return noisy


def write(comparisons: list[Comparison], samples: list[Sample], facts: dict[str, Any]) -> Path:
    """Write latest.json (what was compared) and run.json (all about the run)."""
    OUT.mkdir(exist_ok=True)
    latest = [
        {
            "workload": comparison.workload,
            "peer": comparison.peer,
            "metric": comparison.metric,
            "ratio": _number(comparison.ratio),
            "pairs": [_number(pair) for pair in comparison.pairs],
            "ruchu": comparison.ours,
            "theirs": comparison.theirs,
            "owed": _number(comparison.owed),
            "met": comparison.met,
        }
        for comparison in comparisons
    ]
    (OUT / "latest.json").write_text(json.dumps(latest, indent=1) + "\n")
    everything = facts | {
        "samples": [
            {
                "workload": sample.workload,
                "tool": sample.tool,
                "round": sample.round,
                "others": round(sample.others, 4),
                "steal": round(sample.steal, 4),
                **sample.metrics,
            }
            for sample in samples
        ]
    }
    (OUT / "run.json").write_text(json.dumps(everything, indent=1, default=str) + "\n")
    return OUT / "latest.json"


def _number(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None
