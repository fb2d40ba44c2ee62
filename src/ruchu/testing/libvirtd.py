"""A libvirt daemon for tests.

If one answers already, it is used as it is. Otherwise this starts one, with its own `qemu.conf`
and capability cache bind-mounted in a mount namespace of its own, so that no file of the host's
configuration changes. Several processes share it: each holds a shared lock as long as it needs
the daemon, the last one stops it, and a process that dies gives its lock back by dying.
"""

import contextlib
import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ruchu import clock, commands
from ruchu.errors import Unreachable

URI = "qemu:///system"
STATE = Path("/run/ruchu-test-libvirtd")
# Probing QEMU takes the daemon about 5 s on a slow machine, and tests may load it.
START_LIMIT_S = 90.0
STOP_LIMIT_S = 20.0
POLL_S = 0.1
# `user = root` ends all permission trouble; without it and with a /dev/kvm only for root, libvirt
# probes QEMU anew on each look-up (100 s for a start). `file` needs no virtlogd. The rest is what
# a container lacks.
CONFIGURATION = """\
user = "root"
group = "root"
dynamic_ownership = 1
remember_owner = 0
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
security_driver = "none"
"""
_BOUND = ("/etc/libvirt/qemu.conf", "/var/cache/libvirt/qemu")


@contextlib.contextmanager
def running(state: Path = STATE) -> Iterator[str]:
    """Yield the URI of a libvirt daemon that answers.

    Raises:
        Unreachable: none runs, and none could be started (not root, not installed).
    """
    if not _ours(state) and answers():
        yield URI
        return
    if os.getuid() != 0:
        raise Unreachable("no libvirtd answers, and only root can start one")
    state.mkdir(mode=0o755, exist_ok=True)
    with (state / "users.lock").open("a") as users:
        with _locked(state / "change.lock"):
            if not answers():
                _start(state)
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield URI
        finally:
            with _locked(state / "change.lock"):
                fcntl.flock(users, fcntl.LOCK_UN)
                if _is_last(users):
                    _stop(state)


def answers() -> bool:
    """Tell whether a libvirt daemon answers for the system's QEMU driver."""
    import libvirt  # noqa: PLC0415 - an extra; only who calls this needs it

    libvirt.registerErrorHandler(_silent, None)
    try:
        connection = libvirt.open(URI)
    except libvirt.libvirtError:
        return False
    connection.close()
    return True


def _silent(_context: object, _error: object) -> None:
    """Keep libvirt from printing to standard error; the exception says it all."""


def _start(state: Path) -> None:
    (state / "qemu.conf").write_text(CONFIGURATION)
    (state / "cache").mkdir(exist_ok=True)
    for path in _BOUND:
        if not Path(path).exists():
            raise Unreachable(f"{path} is missing: is libvirt-daemon-system installed?")
    # Where the root file system is private, what others have mounted for a moment would stay mounted
    # here, after they unmounted it, as long as the daemon runs.
    binds = (
        "awk '$2 ~ \"^(/tmp|/var/tmp)/\" {print $2}' /proc/self/mounts | xargs -r umount -l; "
        f"mount --bind {state}/qemu.conf {_BOUND[0]} && "
        f"mount --bind {state}/cache {_BOUND[1]} && exec libvirtd"
    )
    args = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", binds]
    # unshare and sh exec what follows, so this is the daemon's own process id.
    pid = commands.start_detached(args, log=str(state / "log"))
    _write(state / "pid", f"{pid} {_started_at(pid)}")
    deadline = clock.SYSTEM.monotonic() + START_LIMIT_S
    while not answers():
        if not _alive(pid) or clock.SYSTEM.monotonic() > deadline:
            said = (state / "log").read_text(errors="replace")[-2000:]
            _stop(state)
            raise Unreachable(f"libvirtd did not start: {said}")
        clock.SYSTEM.sleep(POLL_S)


def _stop(state: Path) -> None:
    pid = _ours(state)
    if pid is None:
        return
    commands.signal_process(pid)
    deadline = clock.SYSTEM.monotonic() + STOP_LIMIT_S
    while _alive(pid):
        if clock.SYSTEM.monotonic() > deadline:
            commands.signal_process(pid, signal.SIGKILL)
        clock.SYSTEM.sleep(POLL_S)
    (state / "pid").unlink(missing_ok=True)


def _ours(state: Path) -> int | None:
    """Return the process id of the daemon that one of us started, None if there is none."""
    try:
        text = (state / "pid").read_text()
    except FileNotFoundError:
        return None
    pid, _, started_at = text.partition(" ")
    return int(pid) if _started_at(int(pid)) == started_at and _alive(int(pid)) else None


def _alive(pid: int) -> bool:
    # A zombie (its parent is a test process that still runs) is as good as gone.
    state = _stat(pid)
    return bool(state) and state[0] != "Z"


def _started_at(pid: int) -> str:
    # Field 22 of /proc/PID/stat; with it a process id that was given anew is told apart.
    fields = _stat(pid)
    return fields[19] if fields else ""


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_last(users: TextIO) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(users, fcntl.LOCK_UN)
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, text: str) -> None:
    # Never half a file: another process may read it at any time.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).rename(path)
