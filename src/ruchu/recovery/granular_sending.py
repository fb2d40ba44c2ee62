"""Files out of a point, sent into a running guest through its agent.

Each file is made under another name beside its place, with a mode that lets nobody read it, is
filled, compared by size and SHA-256 inside the guest, given its owner, mode and time, and renamed.
What fails is removed. Scripts are constant; paths reach them as arguments, never as text.

A guest without a shell (Windows) gets single files only, under their names at once, unverified.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator

from ruchu.errors import (
    AlreadyExists,
    GuestAgentError,
    Unsupported,
    UsageError,
)
from ruchu.guests import browsing
from ruchu.guests.browsing import CONTAINED, Item
from ruchu.guests.contract import NodeKind, Stat
from ruchu.platforms.contract import GuestChannel, GuestRun
from ruchu.recovery import granular
from ruchu.recovery.granular import LINKS_KEPT_MAX, Content, Fetched
from ruchu.recovery.granular_archives import PLAIN_BYTES_MAX

_SHELL = "/bin/sh"
_EXISTS, _NO_DIRECTORY, _WRONG_SIZE, _WRONG_SUM, _UNSUMMED = 41, 42, 43, 44, 45
_NS = 1_000_000_000
# $1: the place; $2: `yes` if it may exist. Nothing replaces a directory.
_FREE = f"""
if [ -d "$1" ] && [ ! -L "$1" ]; then exit {_EXISTS}; fi
if [ "$2" != yes ]; then
    if [ -e "$1" ] || [ -L "$1" ]; then exit {_EXISTS}; fi
fi
"""
# $3: the part. It is made by us alone: `set -C` never writes into what is there.
_BEGIN = (
    _FREE
    + f"""
[ -d "${{3%/*}}/" ] || exit {_NO_DIRECTORY}
umask 077
set -C
: > "$3"
"""
)
# $3: the part, $4: size, $5: SHA-256, $6: owner and group, $7: mode, $8: time.
_END = (
    _FREE
    + f"""
[ "$(wc -c < "$3")" -eq "$4" ] || exit {_WRONG_SIZE}
said=0
if command -v sha256sum > /dev/null; then
    sum=$(sha256sum < "$3") || exit 1
    [ "${{sum%% *}}" = "$5" ] || exit {_WRONG_SUM}
else
    said={_UNSUMMED}
fi
chown "$6" "$3" && chmod "$7" "$3" || exit 1
touch -d "@$8" "$3" 2> /dev/null
mv -f "$3" "$1" || exit 1
exit $said
"""
)
# $2: owner and group, $3: mode. A directory that is there stays as it is.
_DIRECTORY = f"""
if [ -L "$1" ]; then exit {_EXISTS}; fi
if [ -d "$1" ]; then exit 0; fi
mkdir "$1" && chown "$2" "$1" && chmod "$3" "$1"
"""
_LINK = _FREE + 'if [ "$2" = yes ]; then rm -f "$1"; fi\nln -s "$3" "$1" && chown -h "$4" "$1"\n'
_HARD_LINK = _FREE + 'if [ "$2" = yes ]; then rm -f "$1"; fi\nln "$3" "$1"\n'
_TIME = 'touch -d "@$2" "$1" 2> /dev/null; exit 0\n'
_PARENTS = 'mkdir -p "$1"\n'
_REMOVE = 'rm -f "$1"\n'
_REASONS = {
    _NO_DIRECTORY: "its directory is not there",
    _WRONG_SIZE: "the guest has fewer or more bytes than were sent",
    _WRONG_SUM: "the guest has other bytes than were sent",
}


class GuestSender:
    """Sends files and directories into a running guest. For one thread.

    Args:
        channel: the way into the guest.
        path: an existing or new directory in the guest, absolute; single files go into it, too.
        done: where it is told what was done.
        overwrite: replace files that exist; directories are always gone into.
        cancelled: asked now and then.
    """

    def __init__(
        self,
        channel: GuestChannel,
        path: str,
        done: Fetched,
        *,
        overwrite: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._channel = channel
        self._done = done
        self._overwrite = "yes" if overwrite else "no"
        self._content = Content(cancelled)
        self._linked: dict[tuple[str, int], str] = {}
        self._path = path.rstrip("/")
        self._has_shell = _has_shell(channel)
        if self._has_shell:
            if not path.startswith("/"):
                raise UsageError(f"(--guest-path {path}: it must begin with /)")
            made = self._script(_PARENTS, path)
            if made.status:
                raise GuestAgentError(f"({path}: {made.said.strip()})")
        else:
            done.notes[
                "no shell in the guest: sizes, owners and modes were not checked or set"
            ] += 1

    def fetch(self, start: Item, name: bytes) -> None:
        """Send a file, or a directory with all below it, under a name.

        Raises:
            GuestAgentError: the agent does not answer any more.
            Cancelled: somebody wants it to end; what was whole by then stays.
        """
        times: list[tuple[int, str, int]] = []
        entered = False

        def enter(_: Item) -> bool:
            return entered

        for item in browsing.walk(start, enter):
            if item.problem is not None:
                self._done.fail(item.path, item.problem)
                continue
            entered = False
            self._content.check()
            try:
                place = self._place(granular.below(item, start, name))
                stat = item.tree.system.stat(item.node)
                self._settle(times, item.depth)
                self._one(item, place, stat)
            except (*CONTAINED, AlreadyExists, UsageError, Unsupported, _Refused) as error:
                self._done.fail(item.path, error)
                continue
            self._done.whole += 1
            if item.kind is NodeKind.DIRECTORY:
                entered = True
                times.append((item.depth, place, stat.modified))
        self._settle(times, 0)

    def finish(self) -> None:
        """Let the guest write everything to its disks."""
        if self._has_shell:
            self._script("sync")

    def _place(self, below: bytes) -> str:
        try:
            text = below.decode()
        except UnicodeDecodeError:
            raise UsageError("(the agent takes only names that are UTF-8)") from None
        return f"{self._path}/{text}"

    def _settle(self, times: list[tuple[int, str, int]], depth: int) -> None:
        """Set the times of directories that are full."""
        while times and times[-1][0] >= depth:
            _, place, modified = times.pop()
            if self._has_shell:
                self._script(_TIME, place, str(modified // _NS))

    def _one(self, item: Item, place: str, stat: Stat) -> None:
        kind, owner = stat.kind, f"{stat.owner}:{stat.group}"
        if (kind is NodeKind.DIRECTORY) is not (item.kind is NodeKind.DIRECTORY):
            raise UsageError("(it is not what its directory says)")
        if kind is NodeKind.FILE:
            self._file(item, place, stat)
        elif not self._has_shell:
            raise Unsupported("(a guest without a shell takes single files only)")
        elif kind is NodeKind.DIRECTORY:
            self._checked(_DIRECTORY, place, owner, _mode(stat))
            self._done.counts["directories"] += 1
        elif kind is NodeKind.SYMLINK:
            target = item.tree.system.link_target(item.node)
            self._checked(_LINK, place, self._overwrite, _text(target), owner)
            self._done.counts["links"] += 1
        else:
            self._done.notes[f"left out: {kind.value}, which is not sent"] += 1
        if kind is NodeKind.FILE and item.tree.system.xattrs(item.node):
            self._done.notes["attributes and ACLs are not sent"] += 1
        if granular.streams_of(item, stat):
            self._done.notes["alternate streams are not sent"] += 1

    def _file(self, item: Item, place: str, stat: Stat) -> None:
        if stat.size > PLAIN_BYTES_MAX:
            raise Unsupported(f"(a file of {stat.size} bytes)")
        if not self._has_shell:
            self._fill(item, stat, place)
        else:
            key = (item.tree.name, item.node)
            first = self._linked.get(key) if stat.links > 1 else None
            if first is not None:
                self._checked(_HARD_LINK, place, self._overwrite, first)
                self._done.counts["hard_links"] += 1
                return
            self._whole(item, place, stat)
            if stat.links > 1 and len(self._linked) < LINKS_KEPT_MAX:
                self._linked[key] = place
        self._done.counts["files"] += 1
        self._done.size += stat.size

    def _whole(self, item: Item, place: str, stat: Stat) -> None:
        """Send a file under another name, compare it, and give it its own."""
        part = f"{place.rpartition('/')[0]}/.ruchu-{secrets.token_hex(8)}.part"
        self._checked(_BEGIN, place, self._overwrite, part)
        with self._removed(part):
            total = self._fill(item, stat, part)
            status = self._checked(
                _END, place, self._overwrite, part, str(stat.size), total,
                f"{stat.owner}:{stat.group}", _mode(stat), str(stat.modified // _NS),
            )  # fmt: skip
        if status == _UNSUMMED:
            self._done.notes["no sha256sum in the guest: only sizes were compared"] += 1

    @contextlib.contextmanager
    def _removed(self, part: str) -> Iterator[None]:
        """Remove a part if it does not become whole; the first error is the one that counts."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(GuestAgentError):
                self._script(_REMOVE, part)
            raise

    def _fill(self, item: Item, stat: Stat, place: str) -> str:
        """Write the content of a file; return its SHA-256."""
        digest = hashlib.sha256()
        try:
            handle = self._channel.open(place)
        except GuestAgentError as error:
            raise _Refused(f"({place!r}: {error.detail})") from error
        try:
            for piece in granular.plain(self._content, item, stat.size):
                digest.update(piece)
                self._channel.write(handle, piece)
        except BaseException:
            # The handle would stay open in the guest; the first error is the one that counts.
            with contextlib.suppress(GuestAgentError):
                self._channel.close(handle)
            raise
        self._channel.close(handle)
        return digest.hexdigest()

    def _script(self, script: str, *arguments: str) -> GuestRun:
        return self._channel.run(_SHELL, ["-c", script, "ruchu", *arguments])

    def _checked(self, script: str, *arguments: str) -> int:
        """Run a script whose first argument is the place; raise what its status says."""
        done = self._script(script, *arguments)
        if done.status in {0, _UNSUMMED}:
            return done.status
        if done.status == _EXISTS:
            hint = "Choose an empty directory, or replace what is there: --overwrite."
            raise AlreadyExists(f"(in the guest: {arguments[0]!r})", hint=hint)
        said = _REASONS.get(done.status) or done.said.strip()[-200:] or f"status {done.status}"
        raise _Refused(f"({arguments[0]!r}: {said})")


class _Refused(GuestAgentError):
    """The guest did not take the file."""

    code = "guest-refused"
    retry = False
    hint = "Check room and rights in the guest."


def _has_shell(channel: GuestChannel) -> bool:
    try:
        return channel.run(_SHELL, ["-c", "exit 0"]).status == 0
    except GuestAgentError:
        return False


def _mode(stat: Stat) -> str:
    return f"{stat.mode & 0o7777:o}"


def _text(target: bytes) -> str:
    try:
        return target.decode()
    except UnicodeDecodeError:
        raise UsageError("(the agent takes only targets that are UTF-8)") from None
