"""Guards of storages on this host: run, check, release. Called by the command line and the node."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ruchu.clock import SYSTEM, Clock
from ruchu.errors import NotFound, StorageGone, UsageError
from ruchu.model.tasks import Severity
from ruchu.storage.guarding import admission, tampering, trees
from ruchu.storage.guarding.guard import Settings
from ruchu.storage.guarding.journal import Journal
from ruchu.storage.guarding.reporting import Emit, Report
from ruchu.storage.guarding.supervising import Ready, Supervisor
from ruchu.storage.guarding.tampering import Comparison

# In the state directory: what guards saw, a directory for each storage.
_FOLDER = "guard"
_NAME_LENGTH = 16  # of a hash: enough to keep the storages of one host apart


class Alarms(Protocol):
    """Tells people. Safe in several threads."""

    def raise_alarm(
        self, code: str, severity: Severity, subject: str, text: str, facts: Mapping[str, Any]
    ) -> None:
        """Open an alarm, or count the one that is open for this code and subject."""

    def clear(self, code: str, subject: str) -> None:
        """Close the open alarm for this code and subject."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to guard; see `guard.Settings`."""

    readers: frozenset[str] | None = None
    seals: bool = True
    kernel: bool = True


def settings(state: Path, paths: Sequence[Path], options: Options) -> list[Settings]:
    """Return the settings for some storages, by their directories.

    Raises:
        StorageGone: one is not there.
        UsageError: one is named twice.
    """
    found = [_settings(state, path, options) for path in paths]
    if len({each.root for each in found}) < len(found):
        raise UsageError("(a storage is named twice)")
    return found


def _settings(state: Path, path: Path, options: Options) -> Settings:
    if not path.is_dir():
        raise StorageGone(f"({path} is no directory)")
    root = str(path.resolve())
    name = hashlib.sha256(root.encode()).hexdigest()[:_NAME_LENGTH]
    journal = state.absolute() / _FOLDER / name
    return Settings(root, journal, options.readers, seals=options.seals, kernel=options.kernel)


def guard(
    wanted: Sequence[Settings],
    emit: Emit,
    ready: Ready,
    cancelled: Callable[[], bool],
    clock: Clock = SYSTEM,
) -> None:
    """Guard storages until it is cancelled, from this thread.

    Raises:
        GuardUnsupported: this host or user cannot.
        StorageGone: one is not there.
    """
    Supervisor(wanted, emit, ready, clock).run(cancelled)


def forwarding(alarms: Alarms) -> Emit:
    """Return what hands the reports of guards to alarms; what is for the record only is left out."""

    def emit(report: Report) -> None:
        if report.clears:
            alarms.clear(report.code, report.subject)
        elif report.severity is not Severity.INFO:
            alarms.raise_alarm(
                report.code, report.severity, report.subject, report.text, report.facts
            )

    return emit


def check(wanted: Settings) -> Comparison:
    """Compare a storage with what its guard saw last, whether or not it runs.

    Raises:
        Damaged: somebody changed what the guard wrote.
        NotFound: no guard ever saw this storage.
    """
    journal = Journal(wanted.journal, writable=False)
    if journal.is_new:
        raise NotFound(f"(no guard of this host has seen {wanted.root})")
    return tampering.compare(journal.seen, dict(trees.objects(wanted.root)))


def release(wanted: Settings) -> int:
    """Lift the seals of a storage; return of how many files and directories. Locks stay.

    Raises:
        UsageError: its guard runs.
        ImmutableNotApplied: this user cannot.
    """
    found = Path(wanted.root).stat()
    if admission.is_guarded((found.st_dev, found.st_ino)):
        raise UsageError("(its guard runs)", hint="End `ruchu guard` first.")
    return trees.unseal_all(wanted.root)
