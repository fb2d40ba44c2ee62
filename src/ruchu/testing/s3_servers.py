"""S3 servers made by others, run for tests: moto (conditions, object lock), rclone (neither)."""

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ruchu import clock, commands, errors
from ruchu.storage.s3 import probing
from ruchu.storage.s3.bucket import Address, Bucket, Keys
from ruchu.storage.s3.creating import OneWriter, take_over
from ruchu.storage.s3.storage import S3Storage

KEYS = Keys("ruchu", "correct-horse-battery")
START_LIMIT_S = 60.0
_POLL_S = 0.05
_PROGRAMS = Path(sys.executable).parent


def free_port() -> int:
    """Return a port on the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """Run moto's server; yield its address. It forgets everything at the end."""
    port = free_port()
    args = [str(_PROGRAMS / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with serving(args, port) as address:
        yield address


@contextlib.contextmanager
def rclone(directory: Path, port: int = 0) -> Iterator[str]:
    """Run `rclone serve s3` on a directory, whose folders are the buckets; yield its address."""
    port = port or free_port()
    args = [str(_PROGRAMS / "rclone"), "serve", "s3", str(directory), "--config", "/dev/null"]
    args += ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEYS.access},{KEYS.secret}"]
    with serving(args, port) as address:
        yield address


@contextlib.contextmanager
def serving(args: list[str], port: int) -> Iterator[str]:
    """Run a server until the end of the context; yield its address when it answers.

    Raises:
        StorageGone: it does not come up.
    """
    with commands.start(args) as process:
        deadline = clock.SYSTEM.monotonic() + START_LIMIT_S
        while not _answers(port):
            if process.status() is not None or clock.SYSTEM.monotonic() > deadline:
                raise errors.StorageGone(f"({args[0]}: {process.said()})")
            clock.SYSTEM.sleep(_POLL_S)
        yield f"http://127.0.0.1:{port}"


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def new_bucket(endpoint: str, name: str, *, locking: bool = False) -> Bucket:
    """Make a bucket, with object lock if asked for."""
    bucket = Bucket(Address(name, "", endpoint, attempts_max=2), KEYS)
    bucket.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=locking)
    return bucket


def storages_of(bucket: Bucket, lock: Path) -> Callable[[str], S3Storage]:
    """Probe a bucket once; return what makes a storage below a prefix in it."""
    found = probing.probe(bucket)
    assert not found.lacking()

    def made(prefix: str) -> S3Storage:
        below = bucket.below(prefix)
        if found.conditional_put:
            return S3Storage(below, found.traits())
        take_over(below, "test")
        return S3Storage(below, found.traits(), OneWriter("test", lock))

    return made
