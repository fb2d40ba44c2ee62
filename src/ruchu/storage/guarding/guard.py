"""The guard of one storage, in a process of its own: everything that watches it, put together."""

import contextlib
import os
import queue
import select
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu import errors
from ruchu.clock import Clock
from ruchu.model.tasks import Severity
from ruchu.storage.guarding import admission, processes, tampering, trees
from ruchu.storage.guarding.admitting import Admitted, Reception
from ruchu.storage.guarding.bpf.enforcing import Enforcement
from ruchu.storage.guarding.deciding import Decider
from ruchu.storage.guarding.journal import Journal
from ruchu.storage.guarding.processes import Program
from ruchu.storage.guarding.reporting import Emit, Limiter, Report
from ruchu.storage.guarding.tampering import Comparison
from ruchu.storage.guarding.verdicts import Rules, Verdict
from ruchu.storage.guarding.watching import TICK_S, People, Watch

# Processes that asked to be admitted since the last round; more are admitted and not told.
_ARRIVALS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Settings:
    """What is guarded, and how.

    Attributes:
        root: the directory of the storage.
        journal: the directory where the guard keeps what it saw.
        readers: programs that may read besides Ruchu; None: every one may.
        seals: whether objects are sealed.
        kernel: whether the BPF LSM is used where this host offers it.
    """

    root: str
    journal: Path
    readers: frozenset[str] | None = None
    seals: bool = True
    kernel: bool = True


class Guard:
    """Guards a storage from `open` to `close`.

    Args:
        settings: what and how.
        emit: where to tell; called from the thread that runs `tick`.
        beat: is called while opens are being decided upon.
        clock: for all intervals.

    Raises:
        GuardUnsupported: this host or user cannot watch opens.
    """

    def __init__(
        self, settings: Settings, emit: Emit, beat: Callable[[], None], clock: Clock
    ) -> None:
        self._settings = settings
        self._root = settings.root
        self._limiter = Limiter(emit, clock)
        self._clock = clock
        self._beat = beat
        self._admitted = Admitted()
        self._opened = contextlib.ExitStack()
        self._kernel: Enforcement | None = None
        self._kernel_problem = "not asked for"
        self._arrivals: queue.Queue[tuple[Program, bool]] = queue.Queue(_ARRIVALS_MAX)
        self._sealed = False

    def open(self) -> dict[str, Any]:
        """Begin; return what is guarded and how.

        Raises:
            GuardUnsupported: this host or user cannot watch opens.
            StorageGone: the directory is not there.
        """
        try:
            with contextlib.ExitStack() as opened:
                self._open(opened)
                self._opened = opened.pop_all()
        except OSError as error:
            raise errors.GuardUnsupported(f"{self._root}: {error.strerror}") from error
        return {
            "objects": len(self._journal.seen),
            "sealed": self._sealed,
            "kernel": self._kernel is not None,
            "kernel_problem": self._kernel_problem,
        }

    def _open(self, opened: contextlib.ExitStack) -> None:
        root = _status(self._root)
        # The top first: from now on Ruchu seals what it adds.
        self._seal("")
        self._admit_self()
        self._decider = Decider(Rules(self._settings.readers), self._admitted, self._beat)
        self._decider.open()
        opened.callback(self._decider.close)
        # Whoever is refused from here on can make itself known.
        reception = Reception(
            admission.socket_path((root.st_dev, root.st_ino)),
            self._admitted, self._arrive, self._admit, self._dismiss,
        )  # fmt: skip
        reception.open()
        opened.callback(reception.close)
        self._enforce(opened)
        self._journal = self._opened_journal()
        people = People(self._admitted, self._decider.who_was)
        self._watch = Watch(
            self._root, self._journal, people, self._limiter, self._clock,
            seals=self._sealed,
        )  # fmt: skip
        opened.callback(self._watch.close)
        for directory in trees.directories(self._root):
            self._mark(directory)
        self._compare()
        self._seal(None)
        self._journal.record(self._differences())

    def close(self) -> None:
        """Guard no more; the flags stay."""
        self._limiter.flush()
        self._opened.close()

    def tick(self) -> None:
        """Wait for news until the next round, and deal with it; call it again and again."""
        poller = select.poll()
        poller.register(self._watch.descriptor, select.POLLIN)
        poller.poll(TICK_S * 1000)
        self._watch.tick()
        for directory in self._watch.new_directories():
            # Each is watched before it is listed: what is made in between is seen either way.
            for name in trees.directories(self._root, directory):
                # Removed again: nothing to watch.
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    self._mark(name)
                    self._watch.adopt(name)
        self._tell_arrivals()
        for refused in self._decider.refused():
            self._tell_refused(refused.verdict.value, refused.path, refused.program)
        for refusal in self._kernel.refusals() if self._kernel else ():
            program = processes.look(refusal.pid)
            if program.started != refusal.started:
                program = Program(refusal.pid, refusal.uid, refusal.comm, started=refusal.started)
            path = self._watch.path_of(refusal.directory, refusal.name)
            self._tell_refused(refusal.what, path, program)

    def check(self) -> Comparison:
        """Compare what is there with what was recorded."""
        return tampering.compare(self._journal.seen, dict(trees.objects(self._root)))

    def _mark(self, directory: str) -> None:
        self._decider.mark(f"{self._root}/{directory}" if directory else self._root)
        self._watch.mark(directory)

    def _admit_self(self) -> None:
        me = processes.look(os.getpid())
        self._admitted.add(me.pid, me.started)

    def _enforce(self, opened: contextlib.ExitStack) -> None:
        if not self._settings.kernel:
            return
        try:
            self._kernel = Enforcement()
        except errors.GuardUnsupported as error:
            self._kernel_problem = error.detail
            return
        opened.callback(self._kernel.close)
        self._kernel_problem = ""
        me = processes.look(os.getpid())
        self._kernel.admit(me.pid, me.started)
        self._kernel.guard(self._root)

    def _opened_journal(self) -> Journal:
        try:
            return Journal(self._settings.journal)
        except errors.Damaged as error:
            text = f"the guard's own record of this storage was tampered with: {error.detail}"
            self._tell("guard-journal-damaged", Severity.CRITICAL, text, {})
            for name in ("journal", "head", "key"):
                path = self._settings.journal / name
                path.replace(path.with_suffix(".damaged"))
            return Journal(self._settings.journal)

    def _compare(self) -> None:
        if self._journal.is_new:
            self._journal.rewrite(dict(trees.objects(self._root)))
            return
        for report in tampering.reports(self._root, self.check()):
            self._limiter.report((report.code,), report)

    def _seal(self, name: str | None) -> None:
        """Seal one object or directory; None: everything."""
        if not self._settings.seals or (name is None and not self._sealed):
            return
        try:
            if name is None:
                trees.seal_all(self._root)
            else:
                trees.seal(self._root, name)
            self._sealed = True
        except errors.ImmutableNotApplied as error:
            text = f"objects cannot be made immutable here: {error.detail}"
            self._tell("guard-without-flags", Severity.WARNING, text, {})

    def _differences(self) -> dict[str, trees.Seen | None]:
        found = dict(trees.objects(self._root))
        recorded = self._journal.seen
        if self._journal.is_long():
            self._journal.rewrite(found)
            return {}
        gone: dict[str, trees.Seen | None] = dict.fromkeys(recorded.keys() - found.keys())
        return gone | {name: seen for name, seen in found.items() if recorded.get(name) != seen}

    def _admit(self, pid: int, started: int) -> None:
        if self._kernel is not None:
            self._kernel.admit(pid, started)

    def _dismiss(self, pid: int) -> None:
        if self._kernel is not None:
            self._kernel.dismiss(pid)

    def _arrive(self, program: Program, admitted: bool) -> None:  # noqa: FBT001 - see `Told`
        with contextlib.suppress(queue.Full):
            self._arrivals.put_nowait((program, admitted))

    def _tell_arrivals(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._tell_arrival(*self._arrivals.get_nowait())

    def _tell_arrival(self, program: Program, admitted: bool) -> None:  # noqa: FBT001 - see `Told`
        code = "guard-admitted" if admitted else "guard-not-admitted"
        severity = Severity.INFO if admitted else Severity.WARNING
        text = f"{program} {'is' if admitted else 'asked to be, and is not,'} admitted as Ruchu"
        self._tell(code, severity, text, {"program": program.fields()}, program.exe)

    def _tell_refused(self, what: str, path: str, program: Program) -> None:
        name = path.removeprefix(f"{self._root}/")
        text = f"{program} was refused to {what}: {name}"
        facts = {"object": name, "what": what, "program": program.fields()}
        is_reading = what == Verdict.REFUSED_READING.value
        severity = Severity.WARNING if is_reading else Severity.CRITICAL
        self._tell("guard-refused", severity, text, facts, name, program.exe or program.comm)

    def _tell(
        self, code: str, severity: Severity, text: str, facts: dict[str, Any], *key: str
    ) -> None:
        self._limiter.report((code, *key), Report(code, severity, self._root, text, facts))


def _status(root: str) -> os.stat_result:
    try:
        found = Path(root).stat()
    except OSError as error:
        raise errors.StorageGone(f"({root}: {error.strerror})") from error
    if not stat.S_ISDIR(found.st_mode):
        raise errors.StorageGone(f"({root} is no directory)")
    return found
