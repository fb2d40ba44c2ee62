"""The image that is backed up: a file system with the files of this machine, and a later version.

Of a 4 GiB image about 2.4 GiB are in use: 1,750 MiB of the machine's own programs, libraries and
documents, and 560 MiB that do not compress. The later version differs in 2 % of it, in runs of
4 KiB to 1 MiB. All choices come from one seed, so that the same machine makes the same images.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

SEED = 42
# Images made by an earlier recipe are made anew.
RECIPE = 1
FILES_SHARE = 1750 / 4096
RANDOM_SHARE = 560 / 4096
CHANGED_SHARE = 0.02
# One file must not be most of the data.
FILE_BYTES_MAX = 300 << 20
ROOTS = ("/usr/lib/x86_64-linux-gnu", "/usr/bin", "/usr/share", "/usr/lib", "/usr/local", "/opt")
RUN_BYTES = (4096,) * 6 + (65536,) * 3 + (262144,) * 3 + (1 << 20,) * 2
# Few changes fall into space that was never used.
HOLE_SHARE = 0.15
_UUID = "5275c875-0000-4000-8000-000000000042"
_MTIME_S = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Data:
    """Where the images are, and what is in them.

    Attributes:
        directory: holds `v1/disk.img`, `v2/disk.img` and `changes.txt`.
        size: bytes of an image.
        allocated: bytes of the first one that are no holes.
        changed: bytes by which the second one differs at most.
        runs: of the change list.
    """

    directory: Path
    size: int
    allocated: int
    changed: int
    runs: int

    def image(self, version: int) -> Path:
        return self.directory / f"v{version}" / "disk.img"

    @property
    def changes(self) -> Path:
        return self.directory / "changes.txt"


def cache_directory() -> Path:
    named = os.environ.get("RUCHU_BENCH_DIR")
    return Path(named) if named else Path(__file__).parent / "data"


def prepare(size: int) -> Data:
    """Return the images of this size; they are made on the first call."""
    directory = cache_directory() / f"{size >> 20}m"
    stamp = directory / "facts.json"
    if stamp.exists():
        facts = json.loads(stamp.read_text())
        if facts.pop("recipe") == RECIPE:
            return Data(directory=directory, **facts)
    print(f"Making images of {size >> 20} MiB in {directory}.", file=sys.stderr)
    shutil.rmtree(directory, ignore_errors=True)
    for version in (1, 2):
        (directory / f"v{version}").mkdir(parents=True)
    data = Data(directory, size, 0, 0, 0)
    _make_first(data.image(1), size)
    runs = _make_second(data)
    facts = asdict(data) | {
        "allocated": data.image(1).stat().st_blocks * 512,
        "changed": sum(length for _, length in runs),
        "runs": len(runs),
    }
    del facts["directory"]
    os.sync()
    stamp.write_text(json.dumps(facts | {"recipe": RECIPE}))
    return Data(directory=directory, **facts)


def _make_first(image: Path, size: int) -> None:
    with image.open("xb") as file:
        file.truncate(size)
    make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-U", _UUID]
    make += ["-E", f"lazy_itable_init=0,hash_seed={_UUID}"]
    with ExitStack() as stack:
        subprocess.run([*make, str(image)], check=True)
        mounted = stack.enter_context(_mounted(image))
        if mounted is not None:
            _fill(mounted, size)
            return
        staging = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=image.parent)))
        _fill(staging, size)
        subprocess.run([*make, "-d", str(staging), str(image)], check=True)


@contextmanager
def _mounted(image: Path) -> Iterator[Path | None]:
    """Yield where the image is mounted, None where that cannot be done."""
    with tempfile.TemporaryDirectory(dir=image.parent) as name:
        mount = ["mount", "-o", "loop", str(image), name]
        if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
            yield None
            return
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", name], check=True)


def _fill(target: Path, size: int) -> None:
    left = int(size * FILES_SHARE)
    for source in files():
        length = source.stat().st_size
        copy = target / source.relative_to("/")
        if length > left or copy.exists():
            continue
        left -= length
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        os.utime(copy, (_MTIME_S, _MTIME_S))
    if left > size * FILES_SHARE / 10:
        print(f"This machine has {left >> 20} MiB of files less than wanted.", file=sys.stderr)
    chance = random.Random(SEED)
    with (target / "random.bin").open("xb") as file:
        for _ in range(int(size * RANDOM_SHARE) >> 20):
            file.write(chance.randbytes(1 << 20))


def files() -> Iterator[Path]:
    for root in (*ROOTS, sysconfig.get_paths()["stdlib"]):
        for parent, directories, names in os.walk(root):
            directories.sort()
            for name in sorted(names):
                path = Path(parent, name)
                usable = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
                if usable and path.stat().st_size <= FILE_BYTES_MAX:
                    yield path


def _make_second(data: Data) -> list[tuple[int, int]]:
    copy = ["cp", "--sparse=always", "--reflink=auto", str(data.image(1)), str(data.image(2))]
    subprocess.run(copy, check=True)
    chance = random.Random(SEED + 1)
    with data.image(2).open("r+b", buffering=0) as file:
        runs = _choose_runs(file.fileno(), data.size, chance)
        for start, length in runs:
            old = os.pread(file.fileno(), length, start)
            os.pwrite(file.fileno(), _changed(old, chance), start)
        os.fsync(file.fileno())
    data.changes.write_text("".join(f"{start} {length}\n" for start, length in sorted(runs)))
    return runs


def _choose_runs(image: int, size: int, chance: random.Random) -> list[tuple[int, int]]:
    """Choose runs that do not overlap, most of them where there is data."""
    runs: list[tuple[int, int]] = []
    total = 0
    while total < CHANGED_SHARE * size:
        length = chance.choice(RUN_BYTES)
        start = chance.randrange(0, size - length) // 4096 * 4096
        try:
            in_data = os.lseek(image, start, os.SEEK_DATA) == start
        except OSError:  # nothing but a hole follows
            continue
        if not in_data and chance.random() > HOLE_SHARE:
            continue
        if any(at < start + length and start < at + count for at, count in runs):
            continue
        runs.append((start, length))
        total += length
    return runs


def _changed(old: bytes, chance: random.Random) -> bytes:
    """Return new content: small runs are overwritten, in large ones the old moves back by half."""
    half = len(old) // 2
    fresh = chance.randbytes(half)
    if len(old) <= 65536:
        return fresh + bytes(byte ^ 1 for byte in old[half:])
    return fresh + old[: len(old) - half]
