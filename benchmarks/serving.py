"""Disks served to a hypervisor: ours over NBD and NFS, nbdkit and qemu-nbd with a raw file.

All serve the same bytes to the same client, `qemu-img bench`. Ours is a point of an encrypted and
compressed storage with all of it in the block cache, theirs a raw file in the page cache. The first
pass over a server that has just started is told apart, a second one is not measured: there, every block of ours is read from the
storage, deciphered, decompressed and checked; `serve-disk` takes the files of all out of the page
cache before it, so that both read the disk, `serve-cold` leaves them there. CPU is that of the
server for each request, wall time is that of the client.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import data, measure, peers, workloads
from benchmarks.measure import Failed
from benchmarks.workloads import Sample

BETTER = "better of both"
NFS = "ruchu over NFS"
# In whole MiB; it has to fit into the block cache, and takes seconds to be read.
IMAGE_BYTES = 192 << 20
RANDOM_SHARE = 0.25
# One file must not be most of the image.
FILE_BYTES_MAX = 8 << 20
CACHE = "1GiB"
NFS_PATH = "/ruchu-bench"
READY_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What a client asks for: `qemu-img bench` does `count` requests of `size`, `depth` at a time.

    Attributes:
        step: bytes from one request to the next; they go round the disk.
        flush: a flush after so many writes; 0 for reads.
    """

    size: int
    count: int
    depth: int
    step: int
    flush: int = 0


_64K = 64 << 10
FIRST = Load(_64K, IMAGE_BYTES // _64K, 8, _64K)
READS = {
    workloads.SERVE_COLD: FIRST,
    workloads.SERVE_64K: Load(_64K, 4 * IMAGE_BYTES // _64K, 8, _64K),
    # A step that has no common divisor with the number of blocks comes to each of them.
    workloads.SERVE_4K: Load(4096, 60_000, 16, 4096 * 12_347),
    workloads.SERVE_1M: Load(1 << 20, 5 * IMAGE_BYTES >> 20, 4, 1 << 20),
}
WRITE = Load(4096, 16_384, 16, 4096, flush=64)


@dataclass(slots=True)
class Server:
    """A process that serves, and the address that QEMU reads."""

    tool: str
    process: "subprocess.Popen[bytes]"
    url: str

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(READY_LIMIT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Servers:
    """Starts the servers of one image."""

    def __init__(self, work: Path) -> None:
        self.home = work / "serving"
        self.home.mkdir(mode=0o700)
        self.image = self.home / "disk.img"
        _make_image(self.image)
        self.ruchu = peers.Ruchu(self.home, self.image)
        self.ruchu.prepare()
        self.ruchu.note(self.ruchu.call(self.ruchu.full()))
        self.files = [self.image, *self.ruchu.repository.rglob("*.pack")]
        for path in self.files:
            workloads.read_once(path)

    def cool(self) -> None:
        """Take the image and the packs out of the page cache."""
        os.sync()
        for path in self.files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def start(self, tool: str, *, writable: bool) -> Server:
        """Start a server of the image, or of a fresh copy of it to write to."""
        if tool in {peers.RUCHU, NFS}:
            return self._start_ruchu(tool, writable=writable)
        image = self.image
        if writable:
            image = self.home / "copy.img"
            image.unlink(missing_ok=True)
            subprocess.run(["cp", str(self.image), str(image)], check=True)
            os.sync()
        socket = self.home / "peer.sock"
        socket.unlink(missing_ok=True)
        if tool == "nbdkit":
            args = ["nbdkit", "--foreground", "--unix", str(socket), "file", str(image)]
        else:
            args = ["qemu-nbd", "--socket", str(socket), "--format", "raw", "--persistent"]
            args += ["--shared", "8", "--cache", "writeback", str(image)]
        server = Server(tool, subprocess.Popen(args), f"nbd+unix:///?socket={socket}")
        deadline = time.monotonic() + READY_LIMIT_S
        while not socket.exists():
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{tool} does not serve")
            time.sleep(0.01)
        return server

    def _start_ruchu(self, tool: str, *, writable: bool) -> Server:
        cache = self.home / "cache"
        cache.unlink(missing_ok=True)
        kind, where = "nbd", ["--socket", str(self.home / "ruchu.sock")]
        host = f"127.{1 + os.getpid() % 250}.{1 + os.getpid() // 250 % 250}.11"
        if tool == NFS:
            kind, where = "nfs", ["--listen", f"{host}:0", "--portmapper", "--path", NFS_PATH]
            where += ["--allow", "127.0.0.0/8"]
        args = [self.ruchu.command, "--state", str(self.ruchu.home / "state"), "export", kind]
        args += [self.ruchu.point, "--disk", "0", "--memory", CACHE, *where]
        if writable:
            args += ["--writable", str(cache)]
        process = subprocess.Popen(args, stdout=subprocess.PIPE)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Failed(f"{' '.join(args)}: it does not serve")
        answer = json.loads(line)
        url = f"nbd+unix:///?socket={self.home / 'ruchu.sock'}"
        if tool == NFS:
            url = f"nfs://{host}{NFS_PATH}/{answer['files'][0]}"
        return Server(tool, process, url)


def measure_all(rounds: int, wanted: set[str], work: Path, facts: dict[str, Any]) -> list[Sample]:
    """Run all loads against all servers, in turn."""
    servers = Servers(work)
    facts["serving"] = {"image": IMAGE_BYTES, "stored": servers.ruchu.size(), **_versions()}
    print("serving:", ", ".join(f"{name} {value}" for name, value in facts["serving"].items()))
    tools = [peers.RUCHU, "nbdkit", "qemu-nbd", NFS]
    samples: list[Sample] = []
    for number in range(rounds):
        at = number % len(tools)
        for tool in (*tools[at:], *tools[:at]):
            samples += _round(servers, tool, number, wanted)
        samples += _better(samples, number)
    return samples


def _round(servers: Servers, tool: str, number: int, wanted: set[str]) -> Iterator[Sample]:
    if workloads.SERVE_DISK in wanted:
        with contextlib.closing(_Closing(servers.start(tool, writable=False))) as held:
            servers.cool()
            yield _sample(workloads.SERVE_DISK, number, held.server, FIRST)
    for path in servers.files:
        workloads.read_once(path)
    with contextlib.closing(_Closing(servers.start(tool, writable=False))) as held:
        for workload, load in READS.items():
            # Two passes always run: what is read in order is kept once it is read again.
            if workload in wanted or workload == workloads.SERVE_COLD:
                yield _sample(workload, number, held.server, load)
            if workload == workloads.SERVE_COLD:
                _timed([*_bench(load), held.server.url])
        _compare(servers.image, held.server)
    if wanted & {workloads.SERVE_WRITE, workloads.SERVE_REWRITE}:
        with contextlib.closing(_Closing(servers.start(tool, writable=True))) as held:
            yield _sample(workloads.SERVE_WRITE, number, held.server, WRITE)
            yield _sample(workloads.SERVE_REWRITE, number, held.server, WRITE)


class _Closing:
    def __init__(self, server: Server) -> None:
        self.server = server

    def close(self) -> None:
        self.server.stop()


def _sample(workload: str, number: int, server: Server, load: Load) -> Sample:
    args = _bench(load)
    os.sync()
    before, cpu = measure.Load.now(), measure.cpu_of(server.process.pid)
    cost = _timed([*args, server.url])
    cpu = measure.cpu_of(server.process.pid) - cpu
    after = measure.Load.now()
    capacity = cost.wall_s * measure.CORES
    others = max(0.0, after.busy_s - before.busy_s - cpu - cost.cpu_s) / capacity
    metrics = {
        "cpu-op": cpu / load.count,
        "wall-op": cost.wall_s / load.count,
        "rss": measure.memory_of(server.process.pid),
    }
    told = f"cpu {cpu / load.count * 1e6:.1f} us/op"
    speed = load.count * load.size / cost.wall_s / 1e6
    print(
        f"round {number + 1}  {workload:12}  {server.tool:14}  {told}  {speed:.0f} MB/s",
        file=sys.stderr,
    )
    steal = (after.steal_s - before.steal_s) / capacity
    return Sample(workload, server.tool, number, metrics, others, steal)


def _bench(load: Load) -> list[str]:
    args = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", str(load.count)]
    args += ["-d", str(load.depth), "-s", str(load.size), "-S", str(load.step)]
    if load.flush:
        args += ["-w", "--flush-interval", str(load.flush)]
    return args


@dataclass(frozen=True, slots=True)
class _Client:
    wall_s: float
    cpu_s: float


def _timed(args: list[str]) -> _Client:
    before = os.times()
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    after = os.times()
    if done.returncode:
        raise Failed(f"{' '.join(args)}: {done.stderr}")
    # By its own clock: it leaves out the opening.
    seconds = float(done.stdout.split("Run completed in ")[1].split()[0])
    children = after.children_user - before.children_user
    children += after.children_system - before.children_system
    return _Client(max(seconds, 1e-3), children)


def _compare(image: Path, server: Server) -> None:
    """Compare what is served with the image.

    Raises:
        Failed: they differ.
    """
    args = ["qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), server.url]
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{server.tool} serves something else: {done.stdout}{done.stderr}")


def _better(samples: list[Sample], number: int) -> list[Sample]:
    """Return a peer that is as good as the better of the two in each metric."""
    made = []
    for workload in workloads.SERVING:
        found = [
            sample
            for sample in samples
            if (sample.workload, sample.round) == (workload, number)
            and sample.tool in {"nbdkit", "qemu-nbd"}
        ]
        if found:
            metrics = {
                name: min(sample.metrics[name] for sample in found) for name in found[0].metrics
            }
            made.append(replace(found[0], tool=BETTER, metrics=metrics))
    return made


def _versions() -> dict[str, str]:
    found = {}
    for program in ("nbdkit", "qemu-nbd", "qemu-img"):
        try:
            done = subprocess.run(
                [program, "--version"], capture_output=True, text=True, check=True
            )
        except FileNotFoundError:
            raise Failed(f"{program} is missing; `make bench` installs it") from None
        found[program] = done.stdout.splitlines()[0]
    return found


def _make_image(path: Path) -> None:
    """Fill an image with files of this machine, and what does not compress."""
    chance = random.Random(data.SEED)
    wanted = int(IMAGE_BYTES * (1 - RANDOM_SHARE))
    files = list(data.files())
    chance.shuffle(files)
    with path.open("xb") as image:
        for source in files:
            left = wanted - image.tell()
            if left <= 0:
                break
            with source.open("rb") as file:
                image.write(file.read(min(left, FILE_BYTES_MAX)))
        while image.tell() < IMAGE_BYTES:
            image.write(chance.randbytes(min(1 << 20, IMAGE_BYTES - image.tell())))
    os.sync()
