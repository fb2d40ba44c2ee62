"""The guards of a node: one for each storage that lies in a directory of its host.

Orders name the storages; the node's local registry keeps them. A guard begins soon after its
storage is known, also before the server answers after a start, and begins again when it ended.
"""

import contextlib
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from ruchu.clock import Clock
from ruchu.errors import RuchuError, StorageGone
from ruchu.model.tasks import Severity
from ruchu.operations import guards
from ruchu.operations.registry import Registry, StorageEntry
from ruchu.repository import repositories
from ruchu.storage.directory import DirectoryStorage
from ruchu.storage.guarding.reporting import Report

# How often the list of storages is looked at: the look is one `stat`.
_LOOK_S = 1.0
# How long until a storage is tried again whose guard could not begin.
_RETRY_S = 60.0
# Each guard is a process; a node with more storages in directories is not what this was made for.
GUARDS_MAX = 64
_STATES = ("guard-unsupported", "guard-ended", "guard-hung")


class Alarms(Protocol):
    """Tells the people of the server. Safe in several threads."""

    def raise_alarm(
        self, code: str, severity: Severity, subject: str, text: str, facts: Mapping[str, Any]
    ) -> None:
        """Open an alarm, or count the one that is open for this code and subject."""

    def clear(self, code: str, subject: str) -> None:
        """Close the open alarm for this code and subject."""


class Guarding:
    """Guards what a node knows. A context manager.

    Args:
        state: the directory of the node's local state.
        alarms: told of what happens.
        clock: for all intervals.
        tell: hears what an administrator may want to read in the log.
    """

    def __init__(
        self, state: Path, alarms: Alarms, clock: Clock, tell: Callable[[str], None]
    ) -> None:
        self._registry = Registry(state)
        self._file = state / "storages.json"
        self._alarms = alarms
        self._clock = clock
        self._tell = tell
        self._seen: tuple[int, int] | None = None
        self._wanted: dict[str, StorageEntry] = {}
        self._guards: dict[str, _StorageGuard] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ruchu-guards", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        running = list(self._guards.values())
        for each in running:
            each.ask_to_end()
        for each in running:
            each.join()

    def guarded(self) -> list[str]:
        """Return the names of the storages that are guarded at this moment."""
        return sorted(each.entry.name for each in list(self._guards.values()) if each.is_up)

    def _work(self) -> None:
        while True:
            try:
                self._look()
            except (RuchuError, OSError) as error:
                self._tell(f"the storages of this node cannot be read: {error}")
            if self._end.wait(_LOOK_S):
                return

    def _look(self) -> None:
        """Take note of storages that came or went; begin and end their guards."""
        self._read()
        for root, each in list(self._guards.items()):
            wanted = self._wanted.get(root)
            if wanted is None or (wanted.name, wanted.id) != (each.entry.name, each.entry.id):
                each.ask_to_end()
            if each.has_ended and (wanted is None or each.is_due()):
                del self._guards[root]
        for root, entry in self._wanted.items():
            if root not in self._guards and len(self._guards) < GUARDS_MAX:
                self._guards[root] = self._guard(entry)

    def _guard(self, entry: StorageEntry) -> "_StorageGuard":
        state = self._registry.directory
        guard = _StorageGuard(entry, state, self._alarms, self._clock, self._tell)
        guard.begin()
        return guard

    def _read(self) -> None:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            return
        seen = status.st_ino, status.st_mtime_ns
        if seen == self._seen:
            return
        found = self._registry.storages()
        self._wanted = {each.directory: each for each in found if each.place.scheme == "file"}
        self._seen = seen


class _StorageGuard:
    """The guard of one storage, supervised by a thread of its own."""

    def __init__(
        self, entry: StorageEntry, state: Path, alarms: Alarms, clock: Clock,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.entry = entry
        self.is_up = False
        self._state = state
        self._alarms = alarms
        self._clock = clock
        self._tell = tell
        self._forward = guards.forwarding(_Named(alarms, entry.name))
        self._end = threading.Event()
        self._retry_at: float | None = None
        self._thread = threading.Thread(target=self._work, name="ruchu-guard", daemon=True)

    def begin(self) -> None:
        """Guard from now on."""
        self._thread.start()

    def ask_to_end(self) -> None:
        """Guard no more, soon."""
        self._end.set()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs."""
        return not self._thread.is_alive()

    def is_due(self) -> bool:
        """Tell whether one that has ended shall begin again."""
        return self._retry_at is None or self._clock.monotonic() >= self._retry_at

    def _work(self) -> None:
        """Guard, and tell why if that ends; the whole life of the thread."""
        try:
            self._guard()
        except StorageGone as error:
            # The server sees for itself that the storage is gone, and tells.
            self._later(f"is not guarded: {error}")
        except RuchuError as error:
            self._later(f"is not guarded: {error}")
            self._raise("guard-unsupported", Severity.ERROR, str(error))
        except Exception as error:  # noqa: BLE001 - the edge of the thread
            self._later(f"is not guarded: {traceback.format_exc()}")
            self._raise("guard-ended", Severity.CRITICAL, f"its supervisor failed: {error!r}")

    def _later(self, why: str) -> None:
        self.is_up = False
        self._retry_at = self._clock.monotonic() + _RETRY_S
        self._tell(f"storage {self.entry.name} {why}")

    def _raise(self, code: str, severity: Severity, text: str) -> None:
        facts = {"path": self.entry.directory}
        self._alarms.raise_alarm(code, severity, self.entry.name, text, facts)

    def _guard(self) -> None:
        self._require_storage()
        path = Path(self.entry.directory)
        wanted = guards.settings(self._state, [path], guards.Options())
        guards.guard(wanted, self._emit, self._ready, self._end.is_set, self._clock)
        self.is_up = False

    def _emit(self, report: Report) -> None:
        if report.code in _STATES:
            self.is_up = report.clears
        self._forward(report)

    def _require_storage(self) -> None:
        """Check that the directory is this storage: an empty mount point must not be sealed.

        Raises:
            StorageGone: it is not.
        """
        with contextlib.closing(DirectoryStorage(self.entry.directory)) as storage:
            found = repositories.read_facts(storage)
        if found.id != self.entry.id:
            raise StorageGone(f"({self.entry.directory} holds another storage)")

    def _ready(self, settings: object, facts: Mapping[str, Any]) -> None:
        del settings
        if self.is_up:
            return
        self.is_up = True
        kernel = "with BPF LSM" if facts["kernel"] else f"no BPF LSM ({facts['kernel_problem']})"
        self._tell(f"guarding {self.entry.name}: {facts['objects']} objects, {kernel}")
        # An earlier life of this node may have raised them.
        for code in _STATES:
            self._alarms.clear(code, self.entry.name)


class _Named:
    """Alarms of a guard, by the name of its storage and the program instead of a path.

    Each program gets an alarm of its own, so that people are told of a second one, too.
    """

    def __init__(self, alarms: Alarms, name: str) -> None:
        self._alarms = alarms
        self._name = name

    def raise_alarm(
        self, code: str, severity: Severity, subject: str, text: str, facts: Mapping[str, Any]
    ) -> None:
        """Tell of a storage, and of who did it."""
        program = facts.get("program")
        who = str(program.get("comm") or "") if isinstance(program, Mapping) else ""
        named = f"{self._name} ({who})" if who else self._name
        facts = {**facts, "storage": self._name, "path": subject}
        self._alarms.raise_alarm(code, severity, named, text, facts)

    def clear(self, code: str, subject: str) -> None:
        """Say that it is over."""
        del subject
        self._alarms.clear(code, self._name)
