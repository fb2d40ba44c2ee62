"""Mounting: the thread in which libfuse serves, and how the mount ends.

A mount ends in order even while programs use it: a look-up of a path that only this process knows
tells libfuse to leave its loop, and libfuse detaches the mount. Programs that still hold a file
get ENOTCONN.
"""

import contextlib
import errno
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ruchu import commands
from ruchu.errors import CommandFailed, ExportError, NotFound, UsageError
from ruchu.exports.fuse.operations import Operations
from ruchu.exports.fuse.tree import Report, Tree

# What a mount is called in /proc/self/mountinfo.
_SUBTYPE = "ruchu"
_TYPE = f"fuse.{_SUBTYPE}"
# Nothing that is shown changes its name or size while it is mounted.
_KEPT_S = 86400
# Requests that are answered at the same time; libfuse can be told since version 3.12.
_THREADS_MAX = 16
_WITH_THREAD_LIMIT = (3, 12)
_POLL_S = 0.1
_MOUNT_LIMIT_S = 30.0
_END_LIMIT_S = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOUNTINFO = Path("/proc/self/mountinfo")


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a mount has nobody else to tell


class Mount:
    """A mount that is being served."""

    def __init__(self, mountpoint: Path, operations: Operations, farewell: str) -> None:
        self.mountpoint = mountpoint
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self._operations = operations
        self._farewell = farewell
        self._thread: threading.Thread | None = None

    def begin(self, fuse: Any, options: dict[str, Any]) -> None:
        """Mount, and return when the kernel is connected.

        Raises:
            ExportError: it could not be mounted.
        """

        def work() -> None:
            try:
                fuse(self._operations, str(self.mountpoint), **options)
            except BaseException as error:  # noqa: BLE001 - kept for whoever waits
                self.failure = error
            finally:
                self.ended.set()

        self._thread = threading.Thread(target=work, name="fuse", daemon=True)
        self._thread.start()
        waited = 0.0
        while not self._operations.mounted.wait(_POLL_S):
            waited += _POLL_S
            if self.ended.is_set() or waited > _MOUNT_LIMIT_S:
                why = f"status {self.failure}" if self.failure else "the kernel does not answer"
                hint = "Is /dev/fuse there, and fusermount3 (fuse3) installed?"
                raise ExportError(f"({self.mountpoint} was not mounted: {why})", hint=hint)

    def end(self) -> None:
        """Detach the mount and wait for libfuse. Idempotent.

        Raises:
            ExportError: libfuse does not end.
        """
        if self._thread is None:
            return
        with contextlib.suppress(OSError):
            Path(f"{self.mountpoint}{self._farewell}").stat()
        self._thread.join(_END_LIMIT_S)
        if self._thread.is_alive():
            raise ExportError(f"({self.mountpoint} is still mounted)")


@contextlib.contextmanager
def mounted(
    mountpoint: Path, tree: Tree, *, allow_other: bool = False, report: Report = _print
) -> Iterator[Mount]:
    """Mount a tree as long as the context lasts.

    Args:
        mountpoint: an empty directory.
        tree: what is shown.
        allow_other: other users than this one may look, as far as the modes of the guest's
            files let them.
        report: told why a request failed.

    Raises:
        NotFound, UsageError: the mount point cannot be one.
        ExportError: it could not be mounted, or mfusepy or libfuse is not installed.
    """
    mountpoint = mountpoint.absolute()
    _check(mountpoint)
    library = _library()
    farewell = f"/.{secrets.token_hex(16)}"
    operations = Operations(tree, farewell=farewell, leave=library.fuse_exit, report=report)
    mount = Mount(mountpoint, operations, farewell)
    with _ending_in_order():
        try:
            mount.begin(library.FUSE, _options(library, tree, allow_other=allow_other))
            yield mount
        finally:
            mount.end()


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Make signals that nobody took over leave the contexts that are open.

    libfuse would take them: it then notes that it shall end, and sleeps on until the next request.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    raise SystemExit(128 + number)


def serve(
    mountpoint: Path,
    tree: Tree,
    *,
    ready: Callable[[], None],
    cancelled: Callable[[], bool],
    allow_other: bool = False,
    report: Report = _print,
) -> None:
    """Serve a mount until somebody unmounts it or it is cancelled; see `mounted`.

    Args:
        mountpoint: an empty directory.
        tree: what is shown.
        ready: told when it is mounted.
        cancelled: asked now and then.
        allow_other: whether other users may look.
        report: told why a request failed.

    Raises:
        ExportError: libfuse failed while it served.
    """
    with mounted(mountpoint, tree, allow_other=allow_other, report=report) as mount:
        ready()
        while not mount.ended.wait(_POLL_S) and not cancelled():
            pass
    if mount.failure is not None:
        raise ExportError(f"(the mount ended: {mount.failure})")


def _options(library: Any, tree: Tree, *, allow_other: bool) -> dict[str, Any]:
    options = {
        "foreground": True,
        "raw_fi": True,
        "fsname": _SUBTYPE,
        "subtype": _SUBTYPE,
        "nodev": True,
        "nosuid": True,
        "noexec": True,
        "ro": not tree.writable,
        "allow_other": allow_other,
        "default_permissions": allow_other,
        "use_ino": True,
        "entry_timeout": _KEPT_S,
        "attr_timeout": _KEPT_S,
        # Version 3.14 complains of its own default.
        "max_idle_threads": _THREADS_MAX,
    }
    if (library.fuse_version_major, library.fuse_version_minor) >= _WITH_THREAD_LIMIT:
        options["max_threads"] = _THREADS_MAX
    return options


def _library() -> Any:
    """Import mfusepy, bound to libfuse 3: version 2, which it prefers, knows no subtype."""
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        import mfusepy  # noqa: PLC0415 - an extra; only a mount needs it
    except ImportError:
        raise ExportError(
            "(mfusepy is not installed)", hint="Install it with `pip install ruchu[mount]`."
        ) from None
    except OSError:
        raise ExportError(
            "(libfuse 3 is not installed)", hint="Install the package fuse3 (or libfuse3)."
        ) from None
    return mfusepy


def _check(mountpoint: Path) -> None:
    """See that the mount point can be one; what a dead process left there is unmounted."""
    try:
        names = list(mountpoint.iterdir())
    except FileNotFoundError:
        raise NotFound(f"(directory {mountpoint})") from None
    except NotADirectoryError:
        raise UsageError(f"({mountpoint} is no directory)") from None
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise UsageError(f"({mountpoint}: {error.strerror})") from None
        _clear(mountpoint)
        names = list(mountpoint.iterdir())
    if names:
        raise UsageError(f"({mountpoint} is not empty)", hint="Name an empty directory.")


def _clear(mountpoint: Path) -> None:
    """Unmount what the process that served it has left, if it was one of ours.

    Raises:
        ExportError: it was not, or it cannot be unmounted.
    """
    hint = f"Unmount it: fusermount3 -u -z {mountpoint}"
    if _type_of(mountpoint) != _TYPE:
        raise ExportError(f"({mountpoint} is a mount whose process died)", hint=hint)
    try:
        commands.run(["fusermount3", "-u", "-z", str(mountpoint)], timeout_s=_END_LIMIT_S)
    except CommandFailed as error:
        raise ExportError(f"({mountpoint}: {error.detail})", hint=hint) from None


def _type_of(mountpoint: Path) -> str:
    """Return the type of the topmost file system that is mounted there; empty if none is."""
    found = ""
    for line in _MOUNTINFO.read_bytes().splitlines():
        # proc(5): fields, optional fields up to `-`, then type, source and options.
        front, _, rest = line.partition(b" - ")
        place = front.split(b" ")[4].decode("unicode_escape").encode("latin-1")
        if place == os.fsencode(mountpoint):
            found = rest.split(b" ")[0].decode()
    return found
