"""Runs a program and tells what it cost.

CPU is user and system time of the whole process tree, from the resource usage of waited-for
children. The program runs below a process of our own that adopts orphans (a child subreaper), so
that whatever it leaves behind is waited for and counted as well. Memory is the largest sum of
resident sets of the tree, looked at every 50 ms, or the largest peak of one process if that is
more; pages that processes share count once for each.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 3600
# A program that ends but leaves a process running for longer than this is not done.
LEFTOVERS_LIMIT_S = 30
POLL_S = 0.05
_SET_CHILD_SUBREAPER = 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Failed(Exception):
    """A program failed, or gave a wrong result."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run took.

    Attributes:
        cpu_s: user and system time of the process tree.
        wall_s: until the program ended.
        rss: bytes resident at most.
        others: CPU time of everybody else meanwhile, as a share of all cores.
        steal: CPU time that the hypervisor withheld, as a share of all cores.
        output: what it wrote to standard output.
    """

    cpu_s: float
    wall_s: float
    rss: int
    others: float
    steal: float
    output: str


@dataclass(frozen=True, slots=True)
class Load:
    """CPU time of this machine since it started, in seconds."""

    busy_s: float
    steal_s: float

    @classmethod
    def now(cls) -> "Load":
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
        user, nice, system, _idle, _wait, interrupts, soft_interrupts, steal = ticks
        busy = user + nice + system + interrupts + soft_interrupts
        return cls(busy / _TICKS_PER_S, steal / _TICKS_PER_S)


def run(
    args: Sequence[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Cost:
    """Run a program to its end.

    Raises:
        Failed: its exit status is not zero, or it took too long.
    """
    output = log.with_suffix(".out")
    before = Load.now()
    facts = _in_fork(args, output, log, {**os.environ, **(env or {})}, cwd)
    after = Load.now()
    said = output.read_text(errors="replace")
    if facts.get("status") != 0:
        tail = (log.read_text(errors="replace") + said)[-2000:]
        raise Failed(f"{' '.join(args)}: {facts}\n{tail}")
    capacity = facts["total_s"] * CORES
    others = after.busy_s - before.busy_s - facts["cpu_s"] - facts["own_cpu_s"]
    return Cost(
        cpu_s=facts["cpu_s"],
        wall_s=facts["wall_s"],
        rss=facts["rss"],
        others=max(0.0, others / capacity),
        steal=(after.steal_s - before.steal_s) / capacity,
        output=said,
    )


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that a running process and those it started have used so far."""
    ticks = 0
    for process in (pid, *_descendants(pid)):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S


def peak_of(pid: int) -> float:
    """Return the bytes that a running process had resident at most."""
    return _kib_of(f"/proc/{pid}/status", "VmHWM:")


def memory_of(pid: int) -> float:
    """Return the bytes that a running process has resident at most, or with its children now.

    What several of them have is counted once.
    """
    family = (pid, *_descendants(pid))
    return max(peak_of(pid), sum(_kib_of(f"/proc/{each}/smaps_rollup", "Pss:") for each in family))


def _kib_of(path: str, name: str) -> float:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return float(int(line.split()[1]) << 10)
    raise Failed(f"{path} tells no {name}")


def _in_fork(args, output, log, env, cwd):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            facts = _watch(args, output, log, env, cwd)
        except BaseException:  # noqa: BLE001 - it must reach the other side of the pipe
            facts = {"status": -1, "error": traceback.format_exc()}
        os.write(writer, json.dumps(facts).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(said)


def _watch(args, output, log, env, cwd):
    with open(output, "wb") as out, open(log, "wb") as errors:
        began = time.monotonic()
        process = subprocess.Popen(
            args, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=env, cwd=cwd
        )
    ended = status = None
    peak = largest = 0
    cpu_s = 0.0
    while True:
        peak = max(peak, _resident(os.getpid()))
        try:
            pid, code, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:  # nobody is left
            break
        if pid:
            cpu_s += usage.ru_utime + usage.ru_stime
            largest = max(largest, usage.ru_maxrss << 10)
            if pid == process.pid:
                ended, status = time.monotonic(), os.waitstatus_to_exitcode(code)
        elif time.monotonic() > (began + LIMIT_S if ended is None else ended + LEFTOVERS_LIMIT_S):
            _kill_children()
            status = "took too long" if ended is None else "left processes behind"
            break
        else:
            _pause(process if ended is None else None)
    total_s = time.monotonic() - began
    own = os.times()
    return {
        "status": status,
        "cpu_s": cpu_s,
        "wall_s": (ended or began + total_s) - began,
        "rss": max(peak, largest),
        "total_s": total_s,
        "own_cpu_s": own.user + own.system,
    }


def _pause(process):
    """Wait for the next poll, or only until the program has ended."""
    if process is None:
        time.sleep(POLL_S)
        return
    deadline = time.monotonic() + POLL_S
    while time.monotonic() < deadline:
        # WNOWAIT leaves it to be reaped with its usage.
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.005)


def _descendants(pid: int) -> list[int]:
    found = []
    try:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                found += [int(child), *_descendants(int(child))]
    except OSError:  # it ended while we looked
        pass
    return found


def _resident(pid: int) -> int:
    total = 0
    for child in _descendants(pid):
        try:
            total += int(Path(f"/proc/{child}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            continue
    return total


def _kill_children() -> None:
    """Kill all descendants; those that are orphaned by it become children of ours and follow."""
    deadline = time.monotonic() + LEFTOVERS_LIMIT_S
    while time.monotonic() < deadline:
        for child in _descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:  # nobody is left
            return
        time.sleep(POLL_S)
