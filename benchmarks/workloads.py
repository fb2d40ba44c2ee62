"""What is measured on images: full backup, increments, restore."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure, peers
from benchmarks.data import Data

FULL, SCAN, LIST, RESTORE = "full", "increment-scan", "increment-list", "restore"
SIZE_FULL, SIZE_INCREMENT, RSS, LIVE = "size-full", "size-increment", "rss", "live-full"
SERVE_COLD, SERVE_64K, SERVE_4K = "serve-cold", "serve-64k", "serve-4k"
SERVE_1M, SERVE_WRITE, SERVE_REWRITE = "serve-1m", "serve-write", "serve-rewrite"
SERVE_DISK = "serve-disk"
START, BOOT = "export-start", "instant-boot"
ON_IMAGES = (FULL, SCAN, LIST, RESTORE, SIZE_FULL, SIZE_INCREMENT, RSS)
SERVING = (SERVE_DISK, SERVE_COLD, SERVE_64K, SERVE_4K, SERVE_1M, SERVE_WRITE, SERVE_REWRITE)
NAMES = (*ON_IMAGES, LIVE, *SERVING, START, BOOT)
_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured run; metrics that it has no value for are missing.

    Attributes:
        metrics: cpu and wall in seconds, rss and size in bytes, synced (wall with the sync);
            cpu-op and wall-op in seconds for each request.
    """

    workload: str
    tool: str
    round: int
    metrics: dict[str, float]
    others: float = 0.0
    steal: float = 0.0


class Images:
    """Runs the workloads on images, tools in turn."""

    def __init__(self, data: Data, tools: list[peers.Tool], work: Path, wanted: set[str]) -> None:
        self.samples: list[Sample] = []
        self._data = data
        self._tools = tools
        self._work = work
        self._wanted = wanted
        self._sizes: dict[str, int] = {}

    def run_round(self, number: int) -> None:
        """Run everything once; each round another tool begins."""
        at = number % len(self._tools)
        order = [*self._tools[at:], *self._tools[:at]]
        self._show(1)
        for tool in order:
            self._full(tool, number)
        listing = [tool for tool in order if isinstance(tool, peers.Ruchu) and self._wants(LIST)]
        for tool in listing:
            subprocess.run(["cp", "-a", tool.home, _aside(tool)], check=True)
        if self._wants(SCAN, LIST, RESTORE, SIZE_INCREMENT, RSS):
            self._show(2)
            for tool in order:
                if tool.increments:
                    self._increment(tool, number)
        if self._wants(RESTORE, RSS):
            for tool in order:
                self._restore(tool, number)
        for tool in listing:
            shutil.rmtree(tool.home)
            _aside(tool).rename(tool.home)
            self._increment_listed(tool, number)
        for tool in order:
            shutil.rmtree(tool.home)

    def _wants(self, *workloads: str) -> bool:
        return not self._wanted.isdisjoint(workloads)

    def _show(self, version: int) -> None:
        """Let the path that is backed up lead to a version."""
        link = self._tools[0].source.parent
        link.unlink(missing_ok=True)
        link.symlink_to(self._data.image(version).parent)

    def _full(self, tool: peers.Tool, number: int) -> None:
        tool.prepare()
        cost = self._backup(tool, tool.full())
        self._sizes[tool.name] = tool.size()
        self._keep(FULL, tool, number, cost)
        self._keep_size(SIZE_FULL, tool, number, tool.size())

    def _increment(self, tool: peers.Tool, number: int) -> None:
        cost = self._backup(tool, tool.increment())
        self._keep(SCAN, tool, number, cost)
        self._keep_size(SIZE_INCREMENT, tool, number, tool.size() - self._sizes[tool.name])

    def _increment_listed(self, tool: peers.Ruchu, number: int) -> None:
        cost = self._backup(tool, tool.increment_listed(self._data.changes))
        self._keep(LIST, tool, number, cost)
        self._run_restore(tool)

    def _backup(self, tool: peers.Tool, args: list[str]) -> measure.Cost:
        read_once(tool.source)
        os.sync()
        cost = measure.run(args, tool.home / "log", tool.env())
        tool.note(cost.output)
        return cost

    def _restore(self, tool: peers.Tool, number: int) -> None:
        cost, synced_s = self._run_restore(tool)
        self._keep(RESTORE, tool, number, cost, synced=cost.wall_s + synced_s)

    def _run_restore(self, tool: peers.Tool) -> tuple[measure.Cost, float]:
        """Restore the latest version, and compare it with what was backed up."""
        expected = self._data.image(2 if tool.increments else 1)
        target = self._work / "restored"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        args, image = tool.restore(target)
        for path in tool.repository.rglob("*"):
            if path.is_file():
                read_once(path)
        os.sync()
        cost = measure.run(args, tool.home / "log", tool.env(), cwd=target)
        synced_s = _sync(image)
        if subprocess.run(["cmp", str(expected), str(image)], check=False).returncode:
            raise measure.Failed(f"{tool.name} restored something else than {expected}")
        shutil.rmtree(target)
        return cost, synced_s

    def _keep(self, workload, tool, number, cost, **more: float) -> None:
        metrics = {"cpu": cost.cpu_s, "wall": cost.wall_s, "rss": float(cost.rss), **more}
        sample = Sample(workload, tool.name, number, metrics, cost.others, cost.steal)
        self._add(sample)

    def _keep_size(self, workload: str, tool: peers.Tool, number: int, size: int) -> None:
        self._add(Sample(workload, tool.name, number, {"size": float(size)}))

    def _add(self, sample: Sample) -> None:
        self.samples.append(sample)
        told = "  ".join(f"{name} {value:.6g}" for name, value in sample.metrics.items())
        print(
            f"round {sample.round + 1}  {sample.workload:14}  {sample.tool:11}  {told}",
            file=sys.stderr,
        )


def read_once(path: Path) -> None:
    """Bring a file into the page cache, its holes left out."""
    with path.open("rb", buffering=0) as file:
        end = os.fstat(file.fileno()).st_size
        buffer = bytearray(_READ_BYTES)
        at = 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # only a hole is left
                return
            at += max(1, os.preadv(file.fileno(), [buffer], at))


def _sync(path: Path) -> float:
    """Write a file to its disk and return how long that took."""
    began = time.monotonic()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return time.monotonic() - began


def _aside(tool: peers.Tool) -> Path:
    return tool.home.with_name(tool.home.name + ".full")
