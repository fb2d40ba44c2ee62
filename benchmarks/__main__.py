"""`python -m benchmarks`: measure Ruchu against its peers, say what is owed and what is met."""

import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks import (
    data,
    live,
    owed,
    peers,
    report,
    serving,
    serving_boot,
    serving_start,
    workloads,
)
from benchmarks.measure import Failed
from ruchu import units

STATUS_FAILED = 1
STATUS_NOT_MET = 3
SERVING = "serving"


def main() -> int:
    options = _options()
    wanted = set(options.only or workloads.NAMES)
    if SERVING in wanted:
        wanted |= {*workloads.SERVING, workloads.START, workloads.BOOT}
    try:
        return _measure(options, wanted)
    except Failed as error:
        print(f"The benchmark failed: {error}", file=sys.stderr)
        return STATUS_FAILED


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--size", type=units.parse_size, default=4 << 30, help="of the image (default: 4G)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*workloads.NAMES, SERVING),
        metavar="WORKLOAD",
        help=f"one of {', '.join(workloads.NAMES)}, {SERVING} (all about exports); may be repeated",
    )
    names = [tool.name for tool in peers.TOOLS if tool.name != peers.RUCHU] + list(live.PEERS)
    parser.add_argument(
        "--peer",
        action="append",
        choices=names,
        metavar="PEER",
        help=f"one of {', '.join(names)}; may be repeated",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help=f"exit with {STATUS_NOT_MET} if something owed is not met",
    )
    return parser.parse_args()


def _measure(options: argparse.Namespace, wanted: set[str]) -> int:
    facts = {"machine": report.machine(), "size": options.size, "rounds": options.rounds}
    _print_facts("machine", facts["machine"])
    with _work_directory() as name:
        work = Path(name)
        if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
            # What is installed has its bytecode; a checkout that may write none compiles each time.
            os.environ["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
        samples: list[workloads.Sample] = []
        if wanted.intersection(workloads.ON_IMAGES):
            samples += _on_images(options, wanted, work, facts)
        if workloads.LIVE in wanted:
            chosen = [peer for peer in live.PEERS if not options.peer or peer in options.peer]
            samples += live.measure_all(options.size // 2, options.rounds, chosen, work, facts)
        if wanted.intersection(workloads.SERVING):
            samples += serving.measure_all(options.rounds, wanted, work, facts)
        if workloads.START in wanted:
            samples += serving_start.measure_all(options.rounds, work, facts)
        if workloads.BOOT in wanted:
            samples += serving_boot.measure_all(options.rounds, work, facts)
    comparisons = owed.compare(samples, wanted)
    print()
    report.print_comparisons(comparisons)
    print()
    noisy = report.print_noise(samples)
    written = report.write(comparisons, samples, facts | {"noisy": noisy})
    print(f"Written: {written}")
    missed = [comparison for comparison in comparisons if comparison.met is False]
    return STATUS_NOT_MET if missed and options.strict else 0


def _on_images(options, wanted, work, facts) -> list[workloads.Sample]:
    images = data.prepare(options.size)
    # Named as on a host; the last folder leads to the version that is backed up.
    source = work / "source" / "disk.img"
    tools = [
        kind(work, source)
        for kind in peers.TOOLS
        if kind.name == peers.RUCHU or not options.peer or kind.name in options.peer
    ]
    facts["data"] = dataclasses.asdict(images)
    facts["versions"] = {tool.name: _version(tool) for tool in tools}
    _print_facts("data", facts["data"])
    _print_facts("versions", facts["versions"])
    runner = workloads.Images(images, tools, work, wanted)
    for number in range(options.rounds):
        runner.run_round(number)
    return runner.samples


def _version(tool: peers.Tool) -> str:
    try:
        return tool.version()
    except FileNotFoundError as error:
        message = f"{error.filename} is missing; `make bench` installs it"
        raise Failed(message) from None


def _work_directory() -> tempfile.TemporaryDirectory:
    parent = data.cache_directory()
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob("work-*"):
        if not _alive(leftover.name.split("-")[1]):
            shutil.rmtree(leftover, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"work-{os.getpid()}-", dir=parent)


def _alive(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


def _print_facts(title: str, values: dict[str, object]) -> None:
    print(f"{title}: {', '.join(f'{name} {value}' for name, value in values.items())}")


if __name__ == "__main__":
    sys.exit(main())
