"""Instant restores of this host: started, listed, resumed, stopped, migrated."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruchu import commands
from ruchu.clock import SYSTEM
from ruchu.errors import RuchuError, UsageError
from ruchu.operations import points
from ruchu.operations.platforms import Platforms
from ruchu.operations.standby import Standby
from ruchu.operations.storages import Storages
from ruchu.recovery import instants, keeping, migration
from ruchu.recovery.instant_records import FOLDER, Instant, Instants
from ruchu.recovery.instants import InstantRestores, Launched
from ruchu.recovery.running import Run, leased

# The port stays over a restart, since clients connect again to the one that they found.
NFS_PORT = 2049
RUNTIME_VARIABLE = "RUCHU_RUNTIME"
# An export that is asked to end flushes its cache; one that hangs is killed.
END_LIMIT_S = 30.0
END_POLL_S = 0.1


def runtime_directory() -> Path:
    """Return where sockets are: short, and empty after a restart of the host."""
    if named := os.environ.get(RUNTIME_VARIABLE):
        return Path(named)
    if os.getuid() == 0:
        return Path("/run/ruchu")
    if home := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(home) / "ruchu"
    return Path(f"/tmp/ruchu-{os.getuid()}")  # noqa: S108 - its owner is checked


@dataclass(frozen=True, slots=True)
class Services:
    """What instant restores need of this host: its storages, its platforms."""

    storages: Storages
    platforms: Platforms

    @property
    def known(self) -> Instants:
        """The instant restores."""
        return Instants(self.storages.registry.directory / FOLDER, runtime_directory())

    def restores(self, owner: str = "", standby: Standby | None = None) -> InstantRestores:
        """Return what starts and ends them.

        Args:
            owner: QEMU's user.
            standby: the export of one of them, started already.
        """

        def launch(instant: Instant) -> Launched:
            return self._launch(instant, owner, standby)

        return InstantRestores(self.known, launch)

    def _launch(self, instant: Instant, owner: str, standby: Standby | None) -> Launched:
        """Start the export of an instant restore as a process of its own."""
        entry = self.storages.registry.storage(instant.storage)
        if entry.secret == "prompt":  # noqa: S105 - the name of a method
            hint = "Let the state remember a file: `ruchu storage rotate`, or `adopt` it with one."
            raise UsageError(f"(the passphrase of {entry.name} can only be asked for)", hint=hint)
        known = self.known
        log = known.folder(instant) / "export.log"
        args = [instant.protocol, instant.point]
        args += [f"--disk={key}" for key in instant.disks]
        args += [f"--writable={instant.cache}", f"--control={known.control(instant)}"]
        if instant.protocol == "nbd":
            args += [f"--socket={known.nbd(instant)}"]
        else:
            args += [
                f"--listen={instant.host}:{NFS_PORT}",
                "--portmapper",
                f"--path={instant.export}",
            ]
            args += [f"--nbd-socket={known.nbd(instant)}"]
            args += [f"--allow={network}" for network in instant.clients]
        if owner:
            args += [f"--socket-owner={owner}"]
        if standby is not None and standby.instant == instant.id:
            pid = standby.order(args, log)
        else:
            state = str(self.storages.registry.directory.absolute())
            program = [sys.executable, "-m", "ruchu", "--state", state, "export"]
            pid = commands.start_detached([*program, *args], log=str(log))
        return Launched(lambda: _lives(pid), lambda: instants.log_text(log), lambda: _end(pid))


def _end(pid: int) -> None:
    """End a process of ours, and return when it has ended."""
    deadline = SYSTEM.monotonic() + END_LIMIT_S
    number = signal.SIGTERM
    while _lives(pid):
        commands.signal_process(pid, number)
        if SYSTEM.monotonic() > deadline:
            number = signal.SIGKILL
        SYSTEM.sleep(END_POLL_S)


def _lives(pid: int) -> bool:
    """Tell whether a process of ours runs; one that ended is taken note of."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def start(
    services: Services, prefix: str, order: instants.Order, standby: Standby | None = None
) -> dict[str, Any]:
    """Run a machine of a point; see `recovery.instants`."""
    found = points.find(services.storages, prefix)
    entry = services.platforms.entry(order.platform or None)
    identity = standby.instant if standby is not None else ""
    order = replace(order, storage=found.storage, platform=entry.name, identity=identity)
    with services.platforms.open(entry) as platform:
        restores = services.restores(platform.socket_owner(), standby)
        done = restores.start(platform, found.chain, found.head, order)
    return {
        **restores.fields(done.instant),
        "seconds_served": round(done.served_s, 3),
        "seconds_started": round(done.started_s, 3),
        "seconds_agent": round(done.agent_s, 3) if done.agent_s is not None else None,
    }


def listed(services: Services) -> list[dict[str, Any]]:
    """Return all instant restores."""
    restores = services.restores()
    return [restores.fields(instant) for instant in services.known.all()]


def picture(services: Services, name: str) -> tuple[Instant, bytes]:
    """Return an instant restore, and what its display shows, as PNG."""
    instant = services.known.find(name)
    entry = services.platforms.entry(instant.platform)
    with services.platforms.open(entry) as platform:
        return instant, platform.picture(instant.machine)


def resume(services: Services, name: str | None) -> list[dict[str, Any]]:
    """Start again what does not run, of one instant restore or of all; one's failure is its own."""
    known = services.known
    chosen = known.all() if name is None else [known.find(name)]
    found = []
    for instant in chosen:
        line: dict[str, Any] = {"instant": instant.id, "name": instant.name}
        try:
            entry = services.platforms.entry(instant.platform)
            with services.platforms.open(entry) as platform:
                line["resumed"] = services.restores(platform.socket_owner()).resume(
                    platform, instant
                )
        except RuchuError as error:
            if name is not None:
                raise
            line["error"] = str(error)
        found.append(line)
    return found


def stop(services: Services, name: str, *, keep: bool, run: Run) -> dict[str, Any]:
    """End an instant restore; with `keep`, what was written becomes a new point first."""
    instant = services.known.find(name)
    entry = services.platforms.entry(instant.platform)
    kept: list[str] = []
    with services.platforms.open(entry) as platform, contextlib.ExitStack() as stack:
        keeper = None
        if keep:
            found = points.find(services.storages, instant.point)
            # The export gives its own lease back before the point is needed again.
            stack.enter_context(leased(found.chain, found.head, "keep"))

            def keeper() -> None:
                kept.append(keeping.keep(found.chain, found.head, instant, run).point)

        removed = services.restores().stop(platform, instant, keeper)
    return {
        "instant": instant.id,
        "name": instant.name,
        "kept": kept[0] if kept else None,
        "machine_removed": removed,
    }


def migrate(
    services: Services, name: str, order: migration.Order, run: Run, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Move an instant restore to production, then end what served it."""
    known = services.known
    instant = known.find(name)
    entry = services.platforms.entry(instant.platform)
    done = migration.Migrated(order.method, 0, 0, 0, 0.0, 0.0)
    with services.platforms.open(entry) as platform:
        restores = services.restores(platform.socket_owner())
        with known.exclusive(instant) as found:
            instant = restores.settled(platform, found)
            if instant.state != "moved":
                restores.ready(platform, instant)
                point = points.find(services.storages, instant.point)
                work = migration.Migration(known, instant, point.chain, point.head, order, run)
                done = work.migrate(platform)
            else:
                tell(f"{instant.name} was moved before; tidying up")
        restores.stop(platform, instant, None)
    return {
        "instant": instant.id,
        "machine": instant.machine,
        "name": instant.name,
        "method": done.method,
        "size": done.size,
        "bytes": done.bytes,
        "rounds": done.rounds,
        "pause_s": round(done.pause_s, 3),
        "seconds": round(done.seconds, 3),
    }
