"""What a run that died leaves on a host, and its removal.

Only what carries the owner's mark is touched. The caller makes sure that no other run of the same
owner works on the same machine (it holds the lock of the chain).
"""

import re

import libvirt

from ruchu.clock import Clock
from ruchu.errors import SourceBusy
from ruchu.model.machines import PowerState
from ruchu.platforms.libvirt import naming, quiesce
from ruchu.platforms.libvirt.client import Domain, translated
from ruchu.platforms.libvirt.hosts import Host

# Ending a backup job waits for QEMU to finish its requests in flight.
JOB_LIMIT_S = 60.0
# qemu-nbd ends at once when asked; a dead storage under it may hold it.
PROCESS_LIMIT_S = 10.0
POLL_S = 0.02
_PID = re.compile(rb"\s*(\d{1,10})\s*")


def reconcile(
    domain: Domain, owner: str, host: Host, directories: frozenset[str], clock: Clock
) -> list[str]:
    """Remove what died runs of this owner left of one machine; say what was done.

    Raises:
        SourceBusy: another job works on the machine.
        PlatformError: something could not be removed.
    """
    naming.check_owner(owner)
    with translated(f"machine {domain.name()}"):
        identity = domain.UUIDString()
        done = []
        if quiesce.state(domain) is not PowerState.OFF:
            done += _end_job(domain, owner, identity, clock)
            if quiesce.left_frozen_by(domain, owner):
                quiesce.thaw(domain)
                done.append("thawed the guest")
    for directory in sorted(directories):
        for name in host.names(directory):
            if naming.is_mark_of(name, owner, identity):
                done += _remove(host, f"{directory}/{name}", clock)
    return done


def job_mark(domain: Domain) -> str | None:
    """Return the file name of the socket of the running backup job; None if there is no job.

    Raises:
        libvirt.libvirtError: libvirt failed.
    """
    try:
        text: str = domain.backupGetXMLDesc(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP or not domain.isActive():
            return None
        raise
    found = re.search(r"socket='([^']*)'", text)
    return found[1].rpartition("/")[2] if found else ""


def end_job(domain: Domain, clock: Clock) -> None:
    """Abort the backup job of a machine and wait until it is gone.

    Raises:
        SourceBusy: it does not end.
    """
    deadline = clock.monotonic() + JOB_LIMIT_S
    asked = False
    while domain.isActive() and job_mark(domain) is not None:
        if not asked:
            asked = _abort(domain)
        if clock.monotonic() > deadline:
            raise SourceBusy(f"the backup job of {domain.name()} does not end")
        clock.sleep(POLL_S)


def _end_job(domain: Domain, owner: str, identity: str, clock: Clock) -> list[str]:
    mark = job_mark(domain)
    if mark is not None:
        if not naming.is_mark_of(mark, owner, identity):
            raise SourceBusy(f"{domain.name()}: a backup job that is not ours runs")
        end_job(domain, clock)
        return [f"ended a stale backup job ({mark})"]
    if domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
        raise SourceBusy(f"{domain.name()}: a migration, save or dump runs")
    return []


def _abort(domain: Domain) -> bool:
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        # It ended by itself, or another call holds the machine: look again.
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
            return False
    return True


def _remove(host: Host, path: str, clock: Clock) -> list[str]:
    done = []
    if path.endswith(".pid"):
        done += _end_process(host, path, clock)
    host.remove(path)
    return [*done, f"removed {path}"]


def sweep_restores(host: Host, directory: str) -> None:
    """Remove sockets and pid files of restores whose qemu-nbd has ended; touch no living one."""
    for name in host.names(directory):
        path = f"{directory}/{name}"
        ours = naming.is_mark_of_owner(name, naming.RESTORES)
        if ours and name.endswith(".pid") and _server(host, path) is None:
            host.remove(path.removesuffix(".pid") + ".sock")
            host.remove(path)


def _end_process(host: Host, pid_file: str, clock: Clock) -> list[str]:
    deadline = clock.monotonic() + PROCESS_LIMIT_S
    ended: list[str] = []
    while (pid := _server(host, pid_file)) is not None:
        signal = "TERM" if clock.monotonic() < deadline else "KILL"
        host.run(["sh", "-c", f"kill -{signal} {pid} 2>/dev/null || true"])
        ended = [f"ended a stale qemu-nbd ({pid})"]
        clock.sleep(POLL_S)
    return ended


def _server(host: Host, pid_file: str) -> int | None:
    """Return the process id of the qemu-nbd that wrote a pid file, None if it has ended."""
    found = _PID.fullmatch(host.read(pid_file)) if host.exists(pid_file) else None
    if found is None:
        return None
    pid = int(found[1])
    done = host.run(["sh", "-c", f"cat /proc/{pid}/cmdline 2>/dev/null || true"])
    # The id may long be another process's: only a qemu-nbd with this very pid file is ours.
    ours = b"qemu-nbd" in done.stdout and pid_file.encode() in done.stdout
    return pid if ours else None
