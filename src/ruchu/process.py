"""This process among others of its host: its memory, and directories that only one may use."""

import contextlib
import ctypes
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from ruchu.errors import ControlError, StorageError
from ruchu.units import MIB

_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Buffers of a few megabytes come and go all the time. glibc would map and unmap each of them,
# and the kernel would hand out zeroed pages anew; kept on the heap they are used again.
_MMAP_THRESHOLD = 32 * MIB
_TRIM_THRESHOLD = 256 * MIB
# Threads that encode share their memory; an arena for each would only hold what others freed.
_ARENAS = 2


def tune_memory() -> None:
    """Keep freed memory for the next buffer; where the C library is not glibc, it stays as it is.

    Called before numpy is imported: its linear algebra, which we do not use, would otherwise start
    a thread for each core.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
    mallopt(_M_ARENA_MAX, _ARENAS)


def end_with_parent() -> None:
    """Be asked to end (SIGTERM) when the thread that started this process ends."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Keep every other process away from what a lock file stands for; it holds our process id.

    Raises:
        ControlError: another one has it.
        StorageError: the file cannot be made.
    """
    descriptor = _opened(lock)
    try:
        if not _taken(descriptor):
            hint = "End that process first, or take another directory."
            raise ControlError(f"(another process uses {lock.parent})", hint=hint)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(lock: Path) -> int | None:
    """Return the id of the process that holds a lock file; None if none does."""
    if not lock.exists():
        return None
    descriptor = _opened(lock)
    try:
        if _taken(descriptor):
            return None
        text = os.pread(descriptor, 20, 0)
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)


def _opened(lock: Path) -> int:
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StorageError(f"({lock}: {error.strerror})") from None


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
