"""Files out of a point, written into a directory of this host, as they were.

The image may be hostile, and so may be what lies in the target already: every call names one file
in a directory that is held open, no link is followed, and each name was checked. So nothing is
written outside the target directory.
"""

import contextlib
import errno
import os
import secrets
import stat as modes
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ruchu.errors import (
    AlreadyExists,
    GuestDamaged,
    RuchuError,
    StorageError,
    StorageFull,
    StorageReadOnly,
    UsageError,
)
from ruchu.guests import browsing
from ruchu.guests.browsing import CONTAINED, Item
from ruchu.guests.contract import NodeKind, Stat
from ruchu.recovery import granular
from ruchu.recovery.granular import LINKS_KEPT_MAX, Content, Fetched

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o7777
_OWNER_MAX = (1 << 32) - 2
_EXISTS_HINT = "Choose an empty directory, or replace what is there: --overwrite."
_SPECIAL = {
    NodeKind.CHARACTER_DEVICE: modes.S_IFCHR,
    NodeKind.BLOCK_DEVICE: modes.S_IFBLK,
    NodeKind.FIFO: modes.S_IFIFO,
    NodeKind.SOCKET: modes.S_IFSOCK,
}
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_PRIVILEGED = {NodeKind.CHARACTER_DEVICE, NodeKind.BLOCK_DEVICE}
_UNTAKEN = {errno.ENOTSUP, errno.EPERM, errno.EINVAL, errno.EACCES, errno.ENOSPC, errno.E2BIG}
"""Why a file system or user does not take an extended attribute; ENOSPC is that of its block."""


@dataclass(frozen=True, slots=True)
class _Level:
    """A directory that is being written.

    Attributes:
        descriptor: it is open.
        item, stat: what it is given when it is full; None if it stays as it is.
    """

    descriptor: int
    item: Item | None = None
    stat: Stat | None = None


class TreeWriter:
    """Writes files and directories into a directory. A context manager. For one thread.

    Existing directories are gone into, and stay as they are unless `overwrite`. Existing files are
    never touched, unless `overwrite`: then they are replaced when the new one is whole. What
    fails is taken down in `done`, and the rest goes on; only a full or read-only target ends it.

    Args:
        target: the directory; it is made if its parent is there.
        done: where it is told what was done.
        overwrite: replace what exists.
        cancelled: asked now and then.
    """

    def __init__(
        self,
        target: Path,
        done: Fetched,
        *,
        overwrite: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._done = done
        self._overwrite = overwrite
        self._content = Content(cancelled)
        self._root = os.geteuid() == 0
        # Directories that are open and have a default ACL, which what is new in them inherits.
        self._inheriting: set[int] = set()
        # First name, from the target on, of files that have several.
        self._linked: dict[tuple[str, int], bytes] = {}
        try:
            if not target.exists():
                target.mkdir()
            # The directory that was named may be reached through links: the user wants it so.
            self._base = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"({target}: {error.strerror})") from None
        if _has_default(self._base):
            self._inheriting.add(self._base)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._base)

    def fetch(self, start: Item, name: bytes) -> None:
        """Write a file, or a directory with all below it, under a name.

        Raises:
            StorageFull, StorageReadOnly: the target takes no more.
            Cancelled: somebody wants it to end; what was whole by then stays.
        """
        levels = [_Level(self._base)]
        entered = False

        def enter(_: Item) -> bool:
            return entered

        try:
            for item in browsing.walk(start, enter):
                if item.problem is not None:
                    self._done.fail(item.path, item.problem)
                    continue
                self._leave(levels, item.depth + 1)
                entered = False
                with self._done.counted(), self._contained(item):
                    place = granular.below(item, start, name)
                    self._one(item, place, levels)
                    entered = item.kind is NodeKind.DIRECTORY
            self._leave(levels, 1)
        finally:
            for level in levels[1:]:
                self._close(level)

    @contextlib.contextmanager
    def _contained(self, item: Item) -> Iterator[None]:
        """Take down what fails with one file; let pass what fails with all."""
        try:
            yield
        except (*CONTAINED, AlreadyExists) as error:
            self._done.fail(item.path, error)
        except (ValueError, OverflowError) as error:
            # A target with a zero byte, a number that no system has.
            text = f"({browsing.shown(item.path)}: {error})"
            self._done.fail(item.path, GuestDamaged(text))
        except OSError as error:
            failure = _translated(item, error)
            if isinstance(failure, StorageFull | StorageReadOnly):
                raise failure from error
            self._done.fail(item.path, failure)

    def _leave(self, levels: list[_Level], depth: int) -> None:
        """Close directories until `depth` are open; what they are given is given now."""
        while len(levels) > depth:
            level = levels.pop()
            try:
                if level.item is not None and level.stat is not None:
                    with self._contained(level.item):
                        self._dress(level.descriptor, level.item, level.stat)
            finally:
                self._close(level)

    def _close(self, level: _Level) -> None:
        self._inheriting.discard(level.descriptor)
        os.close(level.descriptor)

    def _one(self, item: Item, place: bytes, levels: list[_Level]) -> None:
        self._content.check()
        inside = levels[-1].descriptor
        name = place.rpartition(b"/")[2]
        stat = item.tree.system.stat(item.node)
        if (stat.kind is NodeKind.DIRECTORY) is not (item.kind is NodeKind.DIRECTORY):
            raise GuestDamaged(f"({browsing.shown(item.path)} is not what its directory says)")
        item = replace(item, kind=stat.kind)
        if item.kind is NodeKind.DIRECTORY:
            levels.append(self._directory(inside, name, item, stat))
            self._done.counts["directories"] += 1
        elif item.kind is NodeKind.FILE:
            self._file(inside, name, place, item, stat)
        elif item.kind is NodeKind.SYMLINK:
            target = item.tree.system.link_target(item.node)
            self._made(inside, name, lambda new: os.symlink(target, new, dir_fd=inside))
            self._dress_path(inside, name, item, stat)
            self._done.counts["links"] += 1
        elif item.kind in _SPECIAL:
            self._special(inside, name, item, stat)
        else:
            self._done.notes["left out: files of a kind that is not known"] += 1
        for stream, size in granular.streams_of(item, stat).items():
            with self._contained(item):
                self._stream(inside, name, item, stat, (stream, size))

    # --------------------------------------------------------------------------- what is made

    def _directory(self, inside: int, name: bytes, item: Item, stat: Stat) -> _Level:
        made = True
        try:
            # Nobody else looks in before it is whole.
            os.mkdir(name, 0o700, dir_fd=inside)
        except FileExistsError:
            made = False
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=inside)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                raise AlreadyExists(_exists(item), hint=_EXISTS_HINT) from None
            raise
        try:
            if made and inside in self._inheriting:
                _strip(descriptor)
            if _has_default(descriptor):
                self._inheriting.add(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return _Level(descriptor, item, stat if made or self._overwrite else None)

    def _file(self, inside: int, name: bytes, place: bytes, item: Item, stat: Stat) -> None:
        key = (item.tree.name, item.node)
        if stat.links > 1:
            first = self._linked.get(key)
            if first is not None and self._link(inside, name, first):
                self._done.counts["hard_links"] += 1
                return
        self._write(inside, name, item, stat, ("", stat.size))
        self._done.counts["files"] += 1
        if stat.links > 1:
            if len(self._linked) < LINKS_KEPT_MAX:
                self._linked.setdefault(key, place)
            else:
                self._done.notes["too many hard links: further names became copies"] += 1

    def _stream(
        self, inside: int, name: bytes, item: Item, stat: Stat, stream: tuple[str, int]
    ) -> None:
        full = granular.stream_name(name, stream[0])
        if not browsing.is_name(full):
            raise GuestDamaged(f"({browsing.shown(item.path)}: a stream has an odd name)")
        self._write(inside, full, item, stat, stream)
        self._done.counts["streams"] += 1

    def _write(
        self, inside: int, name: bytes, item: Item, stat: Stat, stream: tuple[str, int]
    ) -> None:
        """Write a new file; if that fails, nothing of it is left."""
        label, size = stream

        def make(new: bytes) -> None:
            descriptor = os.open(new, _NEW, 0o600, dir_fd=inside)
            try:
                if inside in self._inheriting:
                    _strip(descriptor)
                self._fill(descriptor, item, size, label)
                self._dress(descriptor, item, stat, main=not label)
            except BaseException:
                os.unlink(new, dir_fd=inside)
                raise
            finally:
                os.close(descriptor)

        self._made(inside, name, make)
        self._done.size += size

    def _fill(self, descriptor: int, item: Item, size: int, stream: str) -> None:
        end = 0
        for start, piece in self._content.pieces(item.tree.system, item.node, size, stream):
            written = 0
            while written < len(piece):
                written += os.pwrite(descriptor, piece[written:], start + written)
            end = start + len(piece)
        if end < size:
            os.ftruncate(descriptor, size)

    def _made(self, inside: int, name: bytes, make: Callable[[bytes], None]) -> None:
        """Make something new under a name, or, with `overwrite`, in the place of what is there."""
        try:
            make(name)
        except FileExistsError:
            if not self._overwrite:
                raise
        else:
            return
        other = b".ruchu-" + secrets.token_hex(8).encode()
        make(other)
        try:
            os.rename(other, name, src_dir_fd=inside, dst_dir_fd=inside)
        finally:
            # It is still there if that failed, or if both are names of one file.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(other, dir_fd=inside)

    def _link(self, inside: int, name: bytes, first: bytes) -> bool:
        """Give a file that was fetched one more name; return whether that is possible here."""
        *way, last = first.split(b"/")
        descriptor = os.dup(self._base)
        try:
            for part in way:
                following = os.open(part, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = following
            source = descriptor

            def make(new: bytes) -> None:
                os.link(last, new, src_dir_fd=source, dst_dir_fd=inside, follow_symlinks=False)

            self._made(inside, name, make)
        except FileExistsError:
            raise
        except OSError as error:
            # Not on this file system, or there are too many already.
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EMLINK}:
                raise
            self._done.notes["hard links became copies: the target takes none"] += 1
            return False
        finally:
            os.close(descriptor)
        return True

    def _special(self, inside: int, name: bytes, item: Item, stat: Stat) -> None:
        if item.kind in _PRIVILEGED and not self._root:
            self._done.notes["left out: devices, which only root can make"] += 1
            return
        device = os.makedev(*stat.device) if item.kind in _PRIVILEGED else 0
        mode = _SPECIAL[item.kind] | 0o600
        self._made(inside, name, lambda new: os.mknod(new, mode, device, dir_fd=inside))
        self._dress_path(inside, name, item, stat)
        self._done.counts["special"] += 1

    # ------------------------------------------------------------------ owners, modes and times

    def _dress(self, descriptor: int, item: Item, stat: Stat, *, main: bool = True) -> None:
        """Give an open file or directory what it had: owner, attributes, mode, times."""
        mode = stat.mode & _MODE
        if self._root:
            os.fchown(descriptor, *_owners(stat))
        else:
            # A program that runs as somebody must not run as somebody else.
            mode &= ~(modes.S_ISUID | modes.S_ISGID)
            self._done.notes["owners were not set: only root can"] += 1
        if main:
            # After the owner, which clears capabilities; before the mode, which ACLs change.
            self._attributes(descriptor, item)
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(stat.accessed, stat.modified))

    def _dress_path(self, inside: int, name: bytes, item: Item, stat: Stat) -> None:
        """Give a link or special file what it had; its name is not followed."""
        if self._root:
            os.chown(name, *_owners(stat), dir_fd=inside, follow_symlinks=False)
        path = b"/proc/self/fd/%d/%s" % (inside, name)
        if inside in self._inheriting:
            _strip(path)
        self._attributes(path, item)
        if item.kind is not NodeKind.SYMLINK:
            flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=inside)
            try:
                Path(f"/proc/self/fd/{descriptor}").chmod(stat.mode & _MODE)
            finally:
                os.close(descriptor)
        times = (stat.accessed, stat.modified)
        os.utime(name, ns=times, dir_fd=inside, follow_symlinks=False)

    def _attributes(self, place: int | bytes, item: Item) -> None:
        for name, value in item.tree.system.xattrs(item.node).items():
            try:
                if isinstance(place, int):
                    os.setxattr(place, name, value)
                else:
                    os.setxattr(place, name, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _UNTAKEN:
                    raise
                space = name.partition(".")[0]
                what = name if space == "system" else f"{space}.*"
                self._done.notes[f"attributes {what}: the target takes none"] += 1


def fetch(
    items: dict[bytes, Item],
    target: Path,
    done: Fetched,
    *,
    overwrite: bool,
    cancelled: Callable[[], bool],
) -> None:
    """Write what was chosen (see `granular.chosen`) into a directory.

    Raises:
        UsageError: the directory cannot be opened or made.
        StorageFull, StorageReadOnly: it takes no more.
        Cancelled: somebody wants it to end; what was whole by then stays.
    """
    with TreeWriter(target, done, overwrite=overwrite, cancelled=cancelled) as writer:
        for name, item in items.items():
            writer.fetch(item, name)


def _owners(stat: Stat) -> tuple[int, int]:
    # The largest number stands for "as it is", which would be root here.
    return min(stat.owner, _OWNER_MAX), min(stat.group, _OWNER_MAX)


def _has_default(descriptor: int) -> bool:
    """Tell whether a directory has a default ACL; where there are no ACLs, it has none."""
    try:
        return bool(os.getxattr(descriptor, _ACLS[1]))
    except OSError:
        return False


def _strip(place: int | bytes) -> None:
    """Remove the ACLs that something new was given by the directory that it is in."""
    for name in _ACLS:
        try:
            if isinstance(place, int):
                os.removexattr(place, name)
            else:
                os.removexattr(place, name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in {errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.EACCES}:
                raise


def _exists(item: Item) -> str:
    return f"(for {browsing.shown(item.path)})"


def _translated(item: Item, error: OSError) -> RuchuError:
    text = f"({browsing.shown(item.path)}: {error.strerror})"
    if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR}:
        return AlreadyExists(_exists(item), hint=_EXISTS_HINT)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(text, hint="Free space, then fetch what is missing.")
    return StorageReadOnly(text) if error.errno == errno.EROFS else StorageError(text)
