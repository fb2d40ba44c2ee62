"""Files out of a point as a zip or tar archive, into a file or a stream, in bounded memory.

Tar keeps all but holes and alternate streams as such (they become files `name:stream`). Zip keeps
content, names, modes, times to the second, symbolic links and owners in the way of Info-ZIP (fields
0x5455 and 0x7875 of its `extrafld.txt`); attributes, ACLs, hard links and special files it cannot.
"""

import contextlib
import datetime
import errno
import os
import secrets
import stat as modes
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol, cast

from ruchu.errors import (
    AlreadyExists,
    GuestDamaged,
    GuestUnsupported,
    RuchuError,
    StorageError,
    StorageFull,
    UsageError,
)
from ruchu.guests import browsing
from ruchu.guests.browsing import CONTAINED, Item
from ruchu.guests.contract import NodeKind, Stat
from ruchu.recovery import granular
from ruchu.recovery.granular import LINKS_KEPT_MAX, Content, Fetched
from ruchu.recovery.granular_tar import LINK, TYPES, Member, TarStream

ZIP_ENTRIES_MAX = 1_000_000
"""A zip ends with the list of all entries, which is kept in memory: about 600 bytes each."""
PLAIN_BYTES_MAX = 1 << 44
"""Bytes of one file: the largest of ext4. Holes are written out, and cost a hostile guest none."""
_NS = 1_000_000_000
_DOS_FIRST = datetime.datetime(1980, 1, 1, tzinfo=datetime.UTC)
_DOS_LAST = datetime.datetime(2107, 12, 31, tzinfo=datetime.UTC)
_UNIX = 3
_TIMES, _OWNERS = 0x5455, 0x7875
_NO_ZIP = "zip keeps no owners' attributes and ACLs, and times to the second"


class Archive(Protocol):
    """What an archive is told, in the order of a walk."""

    def add(self, name: bytes, item: Item, stat: Stat) -> None:
        """Write a directory, link, file or special file; what it cannot keep it notes.

        Raises:
            RuchuError: it could not be read, and nothing was written.
        """

    def add_stream(self, name: bytes, item: Item, stat: Stat, stream: str) -> None:
        """Write an alternate data stream of `stat.size` bytes as a file."""

    def add_text(self, name: bytes, content: bytes) -> None:
        """Write a file that was in no guest, such as one that says what is missing."""

    def finish(self) -> None:
        """Write the end."""


class Written(Protocol):
    """What a zip is written to, from the beginning to the end."""

    def write(self, piece: bytes | memoryview) -> int:
        """Write everything."""

    def flush(self) -> None:
        """Write what waits."""


class _Reading:
    """Reads content for an archive: an entry that was begun is filled up, whatever happens."""

    def __init__(self, done: Fetched, cancelled: Callable[[], bool]) -> None:
        self.done = done
        self.content = Content(cancelled)

    def of(self, item: Item, size: int, stream: str = "") -> Iterator[memoryview]:
        """Return the pieces of a file, the first of them read already.

        Raises:
            RuchuError: it cannot be read from the beginning.
        """
        if size > PLAIN_BYTES_MAX:
            raise GuestUnsupported(f"({browsing.shown(item.path)}: {size} bytes in an archive)")
        pieces = granular.plain(self.content, item, size, stream)
        first = next(pieces, None)
        self.done.size += size
        return self._rest(item, first, pieces, size)

    def _rest(
        self, item: Item, first: memoryview | None, pieces: Iterator[memoryview], size: int
    ) -> Iterator[memoryview]:
        at = 0
        try:
            if first is not None:
                yield first
                at = len(first)
            for piece in pieces:
                yield piece
                at += len(piece)
        except CONTAINED as error:
            self.done.fail(item.path, _cut_short(error, at))
            zeros = memoryview(bytes(granular.PIECE_BYTES))
            while at < size:
                self.content.check()
                yield zeros[: size - at]
                at += len(zeros)


def _cut_short(error: RuchuError, at: int) -> RuchuError:
    return type(error)(f"{error.detail} (in the archive it is zeros from byte {at} on)")


class TarArchive:
    """A pax tar stream."""

    def __init__(
        self,
        write: Callable[[bytes | memoryview], None],
        done: Fetched,
        cancelled: Callable[[], bool],
    ) -> None:
        self._tar = TarStream(write)
        self._done = done
        self._reading = _Reading(done, cancelled)
        self._linked: dict[tuple[str, int], bytes] = {}

    def add(self, name: bytes, item: Item, stat: Stat) -> None:
        """Write a member; see `Archive.add`."""
        kind, system = stat.kind, item.tree.system
        if kind not in TYPES:
            self._done.notes[f"left out: {kind.value}, which tar cannot hold"] += 1
            return
        first = self._linked.get((item.tree.name, item.node)) if stat.links > 1 else None
        if kind is NodeKind.FILE and first is not None:
            self._tar.add(Member(name, LINK, stat, target=first))
            self._done.counts["hard_links"] += 1
            return
        xattrs = system.xattrs(item.node)
        if kind is NodeKind.FILE:
            pieces = self._reading.of(item, stat.size)
            self._tar.add(Member(name, TYPES[kind], stat, stat.size, xattrs=xattrs), pieces)
            if stat.links > 1 and len(self._linked) < LINKS_KEPT_MAX:
                self._linked[item.tree.name, item.node] = name
        elif kind is NodeKind.SYMLINK:
            target = system.link_target(item.node)
            self._tar.add(Member(name, TYPES[kind], stat, target=target, xattrs=xattrs))
        else:
            full = name + b"/" if kind is NodeKind.DIRECTORY else name
            self._tar.add(Member(full, TYPES[kind], stat, xattrs=xattrs))
        self._done.counts[_COUNTED.get(kind, "special")] += 1

    def add_stream(self, name: bytes, item: Item, stat: Stat, stream: str) -> None:
        """Write a stream; see `Archive.add_stream`."""
        pieces = self._reading.of(item, stat.size, stream)
        self._tar.add(Member(name, TYPES[NodeKind.FILE], stat, stat.size), pieces)

    def add_text(self, name: bytes, content: bytes) -> None:
        """Write a file of our own; see `Archive.add_text`."""
        stat = Stat(NodeKind.FILE, len(content), len(content), 0o644)
        self._tar.add(Member(name, TYPES[NodeKind.FILE], stat, stat.size), [content])

    def finish(self) -> None:
        """Write the end."""
        self._tar.finish()


_COUNTED = {
    NodeKind.FILE: "files",
    NodeKind.DIRECTORY: "directories",
    NodeKind.SYMLINK: "links",
}


class ZipArchive:
    """A zip, with ZIP64 where it is needed. Entries that cannot be held are noted."""

    def __init__(self, file: Written, done: Fetched, cancelled: Callable[[], bool]) -> None:
        # A stream that cannot seek is enough for it.
        self._zip = zipfile.ZipFile(
            cast("IO[bytes]", file), "w", zipfile.ZIP_DEFLATED, allowZip64=True
        )
        self._done = done
        self._reading = _Reading(done, cancelled)
        self._entries = 0
        done.notes[_NO_ZIP] += 1

    def add(self, name: bytes, item: Item, stat: Stat) -> None:
        """Write an entry; see `Archive.add`."""
        if stat.kind not in _COUNTED:
            self._done.notes[f"left out: {stat.kind.value}, which zip cannot hold"] += 1
            return
        if stat.kind is NodeKind.DIRECTORY:
            self._put(self._info(name + b"/", stat, modes.S_IFDIR), iter(()))
        elif stat.kind is NodeKind.SYMLINK:
            target = item.tree.system.link_target(item.node)
            self._put(self._info(name, stat, modes.S_IFLNK), iter([memoryview(target)]))
        else:
            if stat.links > 1:
                self._done.notes["hard links became copies: zip has none"] += 1
            pieces = self._reading.of(item, stat.size)
            self._put(self._info(name, stat, modes.S_IFREG), pieces)
        self._done.counts[_COUNTED[stat.kind]] += 1

    def add_stream(self, name: bytes, item: Item, stat: Stat, stream: str) -> None:
        """Write a stream; see `Archive.add_stream`."""
        pieces = self._reading.of(item, stat.size, stream)
        self._put(self._info(name, stat, modes.S_IFREG), pieces)

    def add_text(self, name: bytes, content: bytes) -> None:
        """Write a file of our own; see `Archive.add_text`."""
        stat = Stat(NodeKind.FILE, len(content), len(content), 0o644)
        self._put(self._info(name, stat, modes.S_IFREG), iter([memoryview(content)]))

    def finish(self) -> None:
        """Write the list of entries."""
        self._zip.close()

    def _put(self, info: zipfile.ZipInfo, pieces: Iterator[memoryview]) -> None:
        with self._zip.open(info, "w") as entry:
            for piece in pieces:
                entry.write(piece)

    def _info(self, name: bytes, stat: Stat, kind: int) -> zipfile.ZipInfo:
        self._entries += 1
        if self._entries > ZIP_ENTRIES_MAX:
            hint = "Fetch less, or take --tar, which has no limit."
            raise UsageError(f"(more than {ZIP_ENTRIES_MAX} entries in a zip)", hint=hint)
        text, changed = _zip_name(name)
        if changed:
            self._done.notes["names that zip cannot hold have %HH for some bytes"] += 1
        seconds = stat.modified // _NS
        info = zipfile.ZipInfo(text, _dos_time(seconds))
        info.create_system = _UNIX
        info.external_attr = (kind | stat.mode & 0o7777) << 16
        if kind == modes.S_IFDIR:
            info.external_attr |= 0x10
        else:
            info.compress_type = zipfile.ZIP_DEFLATED
        info.file_size = stat.size if kind == modes.S_IFREG else 0
        info.extra = _extra(seconds, stat)
        return info


def _zip_name(name: bytes) -> tuple[str, bool]:
    r"""Return a name that every reader takes for one: some would take `\` for a slash."""
    text = name.decode("utf-8", "surrogateescape")
    plain = "".join(
        character
        if character.isprintable() and character not in "\\%"
        else "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
        for character in text
    )
    unchanged = plain.replace("%25", "%") == text
    # A percent sign alone is no reason to write a name in another way.
    return (text, False) if unchanged else (plain, True)


def _dos_time(seconds: int) -> tuple[int, int, int, int, int, int]:
    least, most = _DOS_FIRST.timestamp(), _DOS_LAST.timestamp()
    moment = datetime.datetime.fromtimestamp(min(max(seconds, least), most), datetime.UTC)
    return moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second


def _extra(seconds: int, stat: Stat) -> bytes:
    extra = b""
    if -(1 << 31) <= seconds < 1 << 31:
        extra += struct.pack("<HHBi", _TIMES, 5, 1, seconds)
    owner, group = stat.owner & 0xFFFFFFFF, stat.group & 0xFFFFFFFF
    return extra + struct.pack("<HHBBIBI", _OWNERS, 11, 1, 4, owner, 4, group)


# ----------------------------------------------------------------------------------- what is done


def fetch(items: dict[bytes, Item], archive: Archive, done: Fetched) -> None:
    """Write what was chosen (see `granular.chosen`) into an archive, and its end.

    Raises:
        UsageError: it has more entries than a zip may have.
        StorageError: the archive cannot be written.
        Cancelled: somebody wants it to end.
    """
    readable = True

    def enter(_: Item) -> bool:
        # What is not there fails once, and not again as a directory.
        return readable

    for name, start in items.items():
        for item in browsing.walk(start, enter):
            if item.problem is not None:
                done.fail(item.path, item.problem)
                continue
            with done.counted():
                readable = False
                try:
                    stat = item.tree.system.stat(item.node)
                    readable = True
                    _add(archive, granular.below(item, start, name), item, stat, done)
                except CONTAINED as error:
                    done.fail(item.path, error)
    archive.finish()


def _add(archive: Archive, place: bytes, item: Item, stat: Stat, done: Fetched) -> None:
    archive.add(place, item, stat)
    for stream, size in granular.streams_of(item, stat).items():
        name = granular.stream_name(place, stream)
        if not browsing.is_name(name.rpartition(b"/")[2]) or b"/" in name[len(place) :]:
            raise GuestDamaged(f"({browsing.shown(item.path)}: a stream has an odd name)")
        shape = Stat(
            NodeKind.FILE, size, size, stat.mode & 0o666, stat.owner, stat.group,
            modified=stat.modified, accessed=stat.accessed,
        )  # fmt: skip
        archive.add_stream(name, item, shape, stream)
        done.counts["streams"] += 1


class Output:
    """A file or stream that is written from the beginning to the end, unbuffered below 64 KiB."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting = bytearray()

    def write(self, piece: bytes | memoryview) -> int:
        """Write everything.

        Raises:
            StorageError: it could not be written.
        """
        if len(self._waiting) + len(piece) < granular.SMALL_BYTES:
            self._waiting += piece
            return len(piece)
        self.flush()
        self._all(memoryview(piece))
        return len(piece)

    def put(self, piece: bytes | memoryview) -> None:
        """Write everything, as `write` does."""
        self.write(piece)

    def flush(self) -> None:
        """Write what waits."""
        waiting, self._waiting = self._waiting, bytearray()
        self._all(memoryview(waiting))

    def _all(self, view: memoryview) -> None:
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    raise StorageFull("(the archive)") from error
                raise StorageError(f"(the archive: {error.strerror})") from error


@contextlib.contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[Output]:
    """Yield a new file, which appears under its name only when it is whole.

    Raises:
        AlreadyExists: there is one, and `overwrite` was not given.
        UsageError: it cannot be made there.
    """
    if not overwrite and path.exists():
        raise AlreadyExists(f"({path})", hint="Choose another name, or give --overwrite.")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"({path}: {error.strerror})") from None
    try:
        output = Output(descriptor)
        yield output
        output.flush()
        os.fsync(descriptor)
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
