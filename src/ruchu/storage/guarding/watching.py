"""Follows what is done to a storage: keeps the journal up to date, tells of foreign changes.

Notices of the kernel say who touched what. Neither raising nor lifting a flag makes one, so whatever
a foreign program opened is looked at, and besides every object is looked at in turn: a few hundred
in each round, so that the cost is bounded whatever the size of the storage.
"""

import itertools
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ruchu import errors
from ruchu.clock import Clock
from ruchu.model.tasks import Severity
from ruchu.storage import names
from ruchu.storage.guarding import fanotify, inodes, processes, tampering, trees
from ruchu.storage.guarding.admitting import Admitted
from ruchu.storage.guarding.fanotify import Notice
from ruchu.storage.guarding.journal import Journal
from ruchu.storage.guarding.processes import Program
from ruchu.storage.guarding.reporting import Limiter, Report
from ruchu.storage.guarding.trees import Seen

TICK_S = 0.2
# 500 looks of some 15 µs: 4 % of a core at most, and 2,500 objects within a second.
LOOKS_MAX = 500
# Ruchu names an object and seals it a moment later; what is still bare after this was left so by a
# process that died in between.
SETTLE_S = 10.0
# The journal is written at most so often: each time costs an fsync.
RECORD_S = 1.0
# A flag that is off twice, so far apart, is off. Ruchu lifts one for microseconds, right before it
# removes the object; on a busy host it may take longer for what it touched last.
CONFIRM_S = 0.15
_CONFIRM_OURS_S = 0.6
# Objects that are looked at in every round: those that foreign programs opened last.
_SUSPECTS_MAX = 500

_VERBS = (
    (fanotify.MODIFY, "changed"),
    (fanotify.DELETE | fanotify.DELETE_SELF, "removed"),
    (fanotify.MOVED_FROM | fanotify.MOVED_TO | fanotify.MOVE_SELF, "renamed"),
    (fanotify.CREATE, "made"),
    (fanotify.ATTRIB, "changed the attributes of"),
)


@dataclass(slots=True)
class _Suspect:
    since: float
    program: Program | None
    confirm_s: float = CONFIRM_S
    seen_bare: float | None = None


@dataclass(slots=True)
class _Marks:
    """Directories by their handles, and by their inodes."""

    by_handle: dict[bytes, str] = field(default_factory=dict)
    by_inode: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class People:
    """Who may be behind a notice: processes of Ruchu, and foreign ones that opened something."""

    admitted: Admitted
    who_was: Callable[[int], Program | None]


class Watch:
    """Watches one storage. For one thread, that calls `tick` every `TICK_S`.

    Args:
        root: the directory.
        journal: what was seen last.
        people: which processes are Ruchu's, and who the others were.
        limiter: where to tell.
        clock: for all intervals.
        seals: whether objects without a seal are sealed.
    """

    def __init__(
        self, root: str, journal: Journal, people: People, limiter: Limiter, clock: Clock,
        *, seals: bool,
    ) -> None:  # fmt: skip
        self._root = root
        self._journal = journal
        self._admitted, self._who_was = people.admitted, people.who_was
        self._limiter = limiter
        self._clock = clock
        self._seals = seals
        self._notices = fanotify.Notices()
        self._marks = _Marks()
        self._fresh: list[str] = []
        self._dirty: dict[str, float] = {}
        self._bare: dict[str, float] = {}
        self._suspects: dict[str, _Suspect] = {}
        self._round: Iterator[str] = iter(())
        self._recorded = 0.0

    @property
    def descriptor(self) -> int:
        """What becomes readable when there are notices."""
        return self._notices.descriptor

    def close(self) -> None:
        """Note what is known, and watch no more."""
        self._record(force=True)
        self._notices.close()

    def mark(self, directory: str) -> None:
        """Watch a directory of the storage (`""` is the top).

        Raises:
            OSError: it is not there.
        """
        path = f"{self._root}/{directory}" if directory else self._root
        self._notices.mark(path)
        self._marks.by_handle[fanotify.handle_of(path)] = directory
        self._marks.by_inode[inodes.look(path).inode] = directory

    def new_directories(self) -> list[str]:
        """Return the directories that appeared since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def adopt(self, directory: str) -> None:
        """Take note of what lies in a directory that appeared before it was watched."""
        now = self._clock.monotonic()
        self._dirty.update(dict.fromkeys(trees.objects_in(self._root, directory), now))

    def path_of(self, inode: int, name: str) -> str:
        """Return an entry by the inode of its directory; its name if that is not known."""
        directory = self._marks.by_inode.get(inode)
        return name if directory is None else names.join(directory, name)

    def tick(self) -> None:
        """Read what is new, look at what is due."""
        overflow = False
        while notices := self._notices.read():
            for notice in notices:
                if notice.mask & fanotify.OVERFLOW:
                    overflow = True
                else:
                    self._take(notice)
        if overflow:
            self._catch_up()
        self._look_in_turn()
        self._judge_suspects()
        self._settle()
        self._record()
        self._limiter.tick()

    def _take(self, notice: Notice) -> None:
        directory = self._marks.by_handle.get(notice.directory)
        if directory is None:
            return  # a directory that was removed
        name = directory if notice.name in {"", "."} else names.join(directory, notice.name)
        made_directory = notice.mask & fanotify.ON_DIRECTORY and notice.mask & (
            fanotify.CREATE | fanotify.MOVED_TO
        )
        if made_directory and names.is_safe(name):
            self._fresh.append(name)
        if self._admitted.had(notice.pid):
            if not notice.mask & fanotify.ON_DIRECTORY and names.is_safe(name):
                self._dirty[name] = self._clock.monotonic()
            return
        program = self._program(notice.pid)
        changes = notice.mask & fanotify.CHANGES
        if changes:
            self._tell_change(name, changes, program)
        if name in self._journal.seen or notice.mask & fanotify.ON_DIRECTORY:
            self._suspect(name, program)

    def _program(self, pid: int) -> Program:
        """Describe a process; as it was when it opened something if it is gone by now."""
        found, known = processes.look(pid), self._who_was(pid)
        # One that is ending has its start still, and neither command line nor file any more.
        is_known = known is not None and found.started in {0, known.started}
        return known if known is not None and is_known else found

    def _tell_change(self, name: str, mask: int, program: Program) -> None:
        verb = next(verb for bits, verb in _VERBS if mask & bits)
        text = f"{program} {verb} {name or 'the top of the storage'}"
        self._tell("guard-changed", Severity.CRITICAL, text, name, program)

    def _tell(
        self, code: str, severity: Severity, text: str, name: str, program: Program | None
    ) -> None:
        facts = {"object": name, "program": program.fields() if program else None}
        who = (program.exe or program.comm) if program else ""
        self._limiter.report((code, name, who), Report(code, severity, self._root, text, facts))

    def _suspect(self, name: str, program: Program | None, confirm_s: float = CONFIRM_S) -> None:
        known = self._suspects.get(name)
        if known is None:
            if len(self._suspects) >= _SUSPECTS_MAX:
                del self._suspects[next(iter(self._suspects))]
            self._suspects[name] = _Suspect(self._clock.monotonic(), program, confirm_s)
        elif program is not None:
            known.program, known.since = program, self._clock.monotonic()

    def _look_in_turn(self) -> None:
        """Look at the next objects and directories, whoever touched them."""
        due = list(itertools.islice(self._round, LOOKS_MAX))
        if len(due) < LOOKS_MAX:
            self._round = iter([*self._marks.by_handle.values(), *self._journal.seen])
        for name in due:
            if not self._is_as_recorded(name) and name not in self._dirty:
                self._suspect(name, None)

    def _is_as_recorded(self, name: str) -> bool:
        """Tell whether an object or directory carries the flags that it should."""
        recorded = self._journal.seen.get(name)
        if recorded is None:
            return not self._lost_seal(name)
        found = trees.look(self._root, name)
        if found is None:
            return False
        return found.content == recorded.content and (found.protected or not recorded.protected)

    def _lost_seal(self, directory: str) -> bool:
        """Tell whether a directory should be append-only, and is not."""
        if not self._seals:
            return False
        try:
            found = inodes.look(f"{self._root}/{directory}" if directory else self._root)
        except OSError:
            return False
        is_bare = stat.S_ISDIR(found.mode) and not found.append
        return is_bare and not trees.should_be_open(self._root, directory)

    def _judge_suspects(self) -> None:
        now = self._clock.monotonic()
        for name, suspect in list(self._suspects.items()):
            if name in self._dirty or self._is_as_recorded(name):
                if now - suspect.since > SETTLE_S or name in self._dirty:
                    del self._suspects[name]
                suspect.seen_bare = None
            elif suspect.seen_bare is None:
                suspect.seen_bare = now
            elif now - suspect.seen_bare >= suspect.confirm_s:
                del self._suspects[name]
                self._convict(name, suspect.program)

    def _convict(self, name: str, program: Program | None) -> None:
        recorded = self._journal.seen.get(name)
        found = trees.look(self._root, name) if recorded else None
        who = str(program) if program else "a program that nobody saw"
        if recorded is not None and (found is None or found.content != recorded.content):
            what = "is gone" if found is None else "was changed"
            text = f"{name} {what}; opened last by {who}"
            self._tell("guard-changed", Severity.CRITICAL, text, name, program)
        else:
            label = name or "the top of the storage"
            text = f"the flags of {label} were lifted by {who}"
            text += self._sealed_again(name)
            self._tell("guard-flags-lifted", Severity.CRITICAL, text, name, program)
        if recorded is not None:
            self._dirty[name] = self._clock.monotonic()

    def _sealed_again(self, name: str) -> str:
        try:
            trees.seal(self._root, name)
        except errors.ImmutableNotApplied as error:
            return f"; they could not be set again: {error.detail}"
        return "; they are set again"

    def _settle(self) -> None:
        """Seal what a process left without a seal."""
        now = self._clock.monotonic()
        for name, since in list(self._bare.items()):
            if now - since < SETTLE_S:
                continue
            del self._bare[name]
            found = trees.look(self._root, name)
            if found is not None and not found.protected:
                self._sealed_again(name)
                self._dirty[name] = now

    def _record(self, *, force: bool = False) -> None:
        now = self._clock.monotonic()
        if not self._dirty or (now - self._recorded < RECORD_S and not force):
            return
        self._recorded = now
        changes = {}
        for name in self._dirty:
            found, recorded = trees.look(self._root, name), self._journal.seen.get(name)
            if found is not None and recorded is not None and _lost_flags(recorded, found):
                # Not by Ruchu, which removes what it lifts the flags of.
                self._suspect(name, None, _CONFIRM_OURS_S)
                continue
            if found != recorded:
                changes[name] = found
            if self._seals and found is not None and not found.protected:
                self._bare.setdefault(name, now)
        self._dirty = {}
        self._journal.record(changes)

    def _catch_up(self) -> None:
        """Notices were lost: compare everything, and watch what appeared."""
        text = "more happened than the kernel keeps for the guard; everything is compared"
        self._tell("guard-overflow", Severity.ERROR, text, "", None)
        known = set(self._marks.by_handle.values())
        self._fresh += [name for name in trees.directories(self._root) if name not in known]
        found = dict(trees.objects(self._root))
        comparison = tampering.compare(self._journal.seen, found)
        for report in tampering.reports(self._root, comparison):
            self._limiter.report((report.code, "overflow"), report)
        names_changed = [*comparison.changed, *comparison.removed, *comparison.added]
        now = self._clock.monotonic()
        self._dirty.update(dict.fromkeys([*names_changed, *comparison.unsealed], now))


def _lost_flags(recorded: Seen, found: Seen) -> bool:
    same = recorded.content == found.content
    return same and recorded.protected and not found.protected
