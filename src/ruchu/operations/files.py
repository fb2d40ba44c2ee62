"""Files in points: listed, read, searched, fetched, without restoring anything."""

import base64
import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu.errors import NotFound, RuchuError, UsageError
from ruchu.guests import browsing
from ruchu.guests.browsing import CONTAINED, Browser, Item, Pattern, Tree, shown, text_of
from ruchu.guests.contract import NodeKind, Stat
from ruchu.guests.volumes import Volume
from ruchu.operations import points
from ruchu.operations.platforms import Platforms
from ruchu.operations.storages import Storages
from ruchu.recovery import granular, granular_archives, granular_sending, granular_trees
from ruchu.recovery.granular import Content, Fetched
from ruchu.recovery.granular_archives import Output, TarArchive, ZipArchive

CONTENT_MAX = 16 << 20
"""Bytes of a file in a document: base64 makes a third more of it, and a reader holds it twice."""
_NS = 1_000_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# What nobody looks for files in; any other volume that cannot be searched is told.
NO_FILES = {"swap", "lvm-pv", "empty"}

Document = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """Where fetched files go; exactly one of the first four is given.

    Attributes:
        directory: on this host.
        zip, tar: an archive; `-` is standard output.
        guest: name of a running machine; `guest_path` is a directory in it.
        platform: of the machine; None is the only one.
        overwrite: what exists may be replaced.
    """

    directory: Path | None = None
    zip: str = ""
    tar: str = ""
    guest: str = ""
    guest_path: str = ""
    platform: str | None = None
    overwrite: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether standard output is taken by an archive."""
        return "-" in {self.zip, self.tar}

    def check(self) -> None:
        """Raise UsageError unless it is one target."""
        if sum(map(bool, (self.directory, self.zip, self.tar, self.guest))) != 1:
            raise UsageError("(one of --to, --zip, --tar and --guest)")
        if bool(self.guest) is not bool(self.guest_path):
            raise UsageError("(--guest and --guest-path belong together)")


# -------------------------------------------------------------------------------------- listing


def listing(storages: Storages, prefix: str, path: bytes, *, recursive: bool) -> Iterator[Document]:
    """Yield what a directory of a point holds, as documents; of `/`, the volumes.

    A document of something that could not be read has a `problem`.

    Raises:
        NotFound, UsageError, GuestError: the path leads nowhere.
    """
    found = points.find(storages, prefix)
    with granular.opened(found.chain, found.head) as browser:
        if browsing.is_root(path):
            yield from _volumes(browser, recursive=recursive)
            return
        start = _followed(browser, path)
        if start.kind is not NodeKind.DIRECTORY:
            yield entry_fields(start)
            return
        items = browsing.walk(start) if recursive else browsing.children(start)
        for item in items:
            # The directory itself is what was asked for; it is shown if it is damaged.
            if item.path != start.path or item.problem is not None:
                yield entry_fields(item)


def _volumes(browser: Browser, *, recursive: bool) -> Iterator[Document]:
    for name, volume in browser.volumes.items():
        fields, tree = volume_fields(browser, name, volume)
        yield fields
        if recursive and tree is not None:
            for item in browsing.walk(browsing.top(tree)):
                if item.depth or item.problem is not None:
                    yield entry_fields(item)


def volume_fields(browser: Browser, name: str, volume: Volume) -> tuple[Document, Tree | None]:
    """Return a volume as a document, and its files if they can be read."""
    reason, label, uuid, kind = volume.reason, "", "", volume.kind
    notes: tuple[str, ...] = ()
    tree = None
    try:
        tree = browser.tree(name)
    except CONTAINED as error:
        reason = reason or error.detail
        if volume.container:
            reason = "it holds logical volumes"
    else:
        facts = tree.system.facts
        label, uuid, notes, kind = facts.label, facts.uuid, facts.notes, facts.kind
    fields = {
        "name": name,
        "path": f"/{name}",
        "kind": kind,
        "size": volume.device.size,
        "label": label,
        "uuid": uuid,
        "volume": volume.name,
        "role": volume.role,
        "partition_label": volume.label,
        "notes": list(notes),
        "reason": reason,
    }
    return fields, tree


def _followed(browser: Browser, path: bytes) -> Item:
    """Return what a path names: a link to a directory stands for it, any other for itself."""
    try:
        item = browser.resolve(path)
    except NotFound:
        return browser.resolve(path, follow=False)
    if item.kind is NodeKind.DIRECTORY:
        return item
    return browser.resolve(path, follow=False)


def entry_fields(item: Item) -> Document:
    """Return a file or directory as a document; what could not be read is a `problem`."""
    problem = item.problem
    stat: Stat | None = None
    target: bytes | None = None
    if problem is None:
        try:
            stat = item.tree.system.stat(item.node)
            if stat.kind is NodeKind.SYMLINK:
                target = item.tree.system.link_target(item.node)
        except CONTAINED as error:
            problem = error
    name = item.name if item.path.count(b"/") > 1 else b"/"
    fields: Document = {"name": text_of(name), "path": text_of(item.path), "kind": item.kind.value}
    fields |= _stat_fields(stat)
    fields["target"] = text_of(target) if target is not None else None
    fields["node"] = item.node
    for key, value in (("name", name), ("path", item.path), ("target", target or b"")):
        if not _is_text(value):
            fields[f"{key}_base64"] = base64.b64encode(value).decode()
    if problem is not None:
        fields["problem"] = str(problem)
        fields["code"] = problem.code
    return fields


def _stat_fields(stat: Stat | None) -> Document:
    if stat is None:
        names = "size allocated mode owner group links modified accessed changed created device"
        return dict.fromkeys(names.split())
    device = stat.kind in {NodeKind.CHARACTER_DEVICE, NodeKind.BLOCK_DEVICE}
    return {
        "kind": stat.kind.value,
        "size": stat.size,
        "allocated": stat.allocated,
        "mode": f"{stat.mode:04o}",
        "owner": stat.owner,
        "group": stat.group,
        "links": stat.links,
        "modified": time_text(stat.modified),
        "accessed": time_text(stat.accessed),
        "changed": time_text(stat.changed),
        "created": time_text(stat.created) if stat.created is not None else None,
        "device": list(stat.device) if device else None,
    }


def time_text(nanoseconds: int) -> str | None:
    """Return a moment as RFC 3339 with nanoseconds; None beyond the years that it knows."""
    seconds, rest = divmod(nanoseconds, _NS)
    try:
        moment = _EPOCH + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z".rjust(30, "0")


def _is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


# -------------------------------------------------------------------------------------- reading


@contextlib.contextmanager
def reading(
    storages: Storages, prefix: str, path: bytes, stream: str, cancelled: Callable[[], bool]
) -> Iterator[tuple[Document, int, Iterator[memoryview]]]:
    """Open a file of a point; yield its document, its size, and its content in pieces.

    Raises:
        NotFound, UsageError, GuestError: there is no such file or stream, or it is none.
    """
    found = points.find(storages, prefix)
    with granular.opened(found.chain, found.head) as browser:
        item = browser.resolve(path)
        if item.kind is not NodeKind.FILE:
            raise UsageError(f"({shown(path)} is a {item.kind.value}, not a file)")
        stat = item.tree.system.stat(item.node)
        found_streams = granular.streams_of(item, stat)
        # As text, a name of Windows may be none: lone surrogates.
        streams = {text_of(name.encode("utf-8", "surrogatepass")): name for name in found_streams}
        size = stat.size
        if stream:
            if stream not in streams:
                names = ", ".join(map(repr, streams)) or "none"
                raise NotFound(f"(stream {stream!r} of {shown(path)}; there are: {names})")
            stream = streams[stream]
            size = found_streams[stream]
        sizes = {text: found_streams[name] for text, name in streams.items()}
        fields = entry_fields(item) | {"streams": sizes}
        yield fields, size, granular.plain(Content(cancelled), item, size, stream)


def document(
    storages: Storages, prefix: str, path: bytes, stream: str, head: int | None
) -> Document:
    """Return a file of a point with its content, up to CONTENT_MAX bytes, as a document."""
    limit = CONTENT_MAX if head is None else min(head, CONTENT_MAX)
    with reading(storages, prefix, path, stream, lambda: False) as (fields, size, pieces):
        content = b"".join(bytes(piece) for piece in limited(pieces, limit))
    more = {"content_base64": base64.b64encode(content).decode(), "truncated": size > len(content)}
    return fields | {"stream": stream, "content_size": size} | more


def limited(pieces: Iterator[memoryview], limit: int) -> Iterator[memoryview]:
    """Yield pieces up to so many bytes."""
    while limit > 0 and (piece := next(pieces, None)) is not None:
        yield piece[:limit]
        limit -= len(piece)


# ------------------------------------------------------------------------------------- searching


def find(
    storages: Storages, prefixes: Sequence[str], pattern: Pattern, tell: Tell
) -> Iterator[Document]:
    """Yield what matches in points, one point after the other; each document names its point.

    Volumes that cannot be searched are told. One that is damaged comes as a `problem`, too.
    """
    for prefix in prefixes:
        found = points.find(storages, prefix)
        head = {"point": found.head.point, "object": found.chain.object.name}
        with granular.opened(found.chain, found.head) as browser:
            for name, volume in browser.volumes.items():
                if not pattern.goes_on(pattern.step(pattern.start, name.encode())):
                    continue
                if volume.reason or volume.container:
                    if volume.kind not in NO_FILES and not volume.container:
                        tell(f"{found.head.point[:8]}: /{name} was not searched: {volume.reason}")
                    continue
                for fields in _found(browser, name, pattern):
                    yield head | fields


def _found(browser: Browser, name: str, pattern: Pattern) -> Iterator[Document]:
    try:
        tree = browser.tree(name)
    except CONTAINED as error:
        yield {"name": name, "path": f"/{name}", "problem": str(error), "code": error.code}
        return
    for item in browsing.find(tree, pattern):
        yield entry_fields(item)


def points_of(storages: Storages, name: str) -> list[str]:
    """Return the points of all objects of a name, the oldest first, each once.

    Raises:
        NotFound: there is none.
        RuchuError: there is none, and a storage that may have some cannot be read.
    """
    listed = points.list_points(storages, None)
    found = dict.fromkeys(each["point"] for each in listed.points if each["name"] == name)
    if not found and listed.problems:
        raise listed.problems[0]
    if not found:
        raise NotFound(f"(points of {name!r})", hint="See `ruchu points list`.")
    return list(found)


# -------------------------------------------------------------------------------------- fetching


def fetch(
    storages: Storages,
    platforms: Platforms,
    prefix: str,
    paths: Sequence[bytes],
    target: Target,
    cancelled: Callable[[], bool],
) -> Fetched:
    """Fetch files and directories of a point; what failed is in the answer, the rest was done.

    Raises:
        NotFound, UsageError, GuestError: a path leads nowhere, or the target cannot be used.
        StorageError, PlatformError: the target takes no more.
    """
    target.check()
    done = Fetched()
    found = points.find(storages, prefix)
    with granular.opened(found.chain, found.head) as browser:
        items = granular.chosen(browser, paths, done)
        if target.directory is not None:
            granular_trees.fetch(
                items, target.directory, done, overwrite=target.overwrite, cancelled=cancelled
            )
        elif target.guest:
            _send(platforms, items, target, done, cancelled)
        else:
            with _archive_output(target) as output:
                if target.tar:
                    tar = TarArchive(output.put, done, cancelled)
                    granular_archives.fetch(items, tar, done)
                else:
                    packed = ZipArchive(output, done, cancelled)
                    granular_archives.fetch(items, packed, done)
                output.flush()
    return done


@contextlib.contextmanager
def _archive_output(target: Target) -> Iterator[Output]:
    if target.is_stream:
        yield Output(1)
        return
    path = Path(target.tar or target.zip)
    with granular_archives.new_file(path, overwrite=target.overwrite) as output:
        yield output


def _send(
    platforms: Platforms,
    items: dict[bytes, Item],
    target: Target,
    done: Fetched,
    cancelled: Callable[[], bool],
) -> None:
    with platforms.open(platforms.entry(target.platform)) as platform:
        sender = granular_sending.GuestSender(
            platform.guest_channel(target.guest), target.guest_path, done,
            overwrite=target.overwrite, cancelled=cancelled,
        )  # fmt: skip
        for name, item in items.items():
            sender.fetch(item, name)
        sender.finish()


def fetched_fields(done: Fetched) -> Document:
    """Return what was fetched as a document."""
    kinds = ("files", "directories", "links", "hard_links", "special", "streams")
    error = done.error()
    return {
        **{kind: done.counts[kind] for kind in kinds},
        "bytes": done.size,
        "entries": done.entries,
        "failed": done.failed,
        "problems": [_problem_fields(each.path, each.error) for each in done.problems],
        "notes": [{"text": text, "count": count} for text, count in done.notes.items()],
        "error": None if error is None else _error_fields(error) | {"retry": error.retry},
    }


def _problem_fields(path: bytes, error: RuchuError) -> Document:
    return {"path": text_of(path)} | _error_fields(error)


def _error_fields(error: RuchuError) -> Document:
    return {"code": error.code, "message": str(error), "hint": error.advice}
