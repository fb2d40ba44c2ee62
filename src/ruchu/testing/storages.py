"""What every storage must do. A test class inherits the suite and has a fixture `storage`."""

import threading
from collections.abc import Callable
from typing import ClassVar, TypeVar

from ruchu import errors, units
from ruchu.storage.contract import ObjectInfo, Storage

_Error = TypeVar("_Error", bound=Exception)

UNSAFE_NAMES = (
    "",
    "/etc/passwd",
    "../outside",
    "chains/../../outside",
    "a//b",
    "a/",
    ".hidden",
    "a/.b",
    "a b",
    "a\nb",
    "a\0b",
    "ä",
    "a\\b",
    "x.partial",
    "x.partial-0123456789abcdef",
    "/".join("abcdefghi"),
    "n" * 256,
)
_WRITERS = 8


class StorageContract:
    """The suite. Each test gets an empty storage.

    Attributes:
        can_protect: whether the storage has immutable flags; if not, it must say so.
    """

    can_protect: ClassVar[bool] = True

    def test_what_is_put_is_got(self, storage: Storage) -> None:
        """Contents of all sizes and kinds of buffers come back."""
        contents = {
            "empty": b"",
            "small": b"x",
            "deep/er/and/deeper": b"y" * 1000,
            "large": bytes(range(256)) * 8 * units.KIB,
            "Aa0._-": b"z",
        }
        for name, content in contents.items():
            storage.put(name, content)
        storage.put("array", bytearray(b"array"))
        storage.put("view", memoryview(b"a view of it")[2:6])
        for name, content in contents.items():
            assert storage.get(name, len(content)) == content
            assert storage.size(name) == len(content)
        assert storage.get("array", 10) == b"array"
        assert storage.get("view", 10) == b"view"

    def test_a_put_never_replaces(self, storage: Storage) -> None:
        """The second put of a name is refused, whatever it brings."""
        storage.put("a/b", b"first")
        for content in (b"second", b"first"):
            refuses(errors.ObjectExists, storage.put, "a/b", content)
        assert storage.get("a/b", 100) == b"first"
        assert [info.name for info in storage.list("")] == ["a/b"]

    def test_what_is_not_there_is_missing(self, storage: Storage) -> None:
        """Nothing is made up, neither for an object nor for a directory."""
        storage.put("a/b", b"content")
        for name in ("c", "a/c", "c/d/e", "a", "a/b/c"):
            refuses(errors.ObjectMissing, storage.get, name, 100)
            refuses(errors.ObjectMissing, storage.size, name)
            refuses(errors.ObjectMissing, read, storage, name, 0, 1)
            refuses(errors.ObjectMissing, storage.is_protected, name)
        storage.delete("c")
        storage.delete("c/d/e")

    def test_a_get_is_bounded(self, storage: Storage) -> None:
        """An object larger than allowed is refused."""
        storage.put("a", b"12345")
        refuses(errors.StorageError, storage.get, "a", 4)
        assert storage.get("a", 5) == b"12345"

    def test_ranges_are_read(self, storage: Storage) -> None:
        """A range comes whole or not at all."""
        content = bytes(range(256)) * 100
        storage.put("a", content)
        for start, length in ((0, 1), (0, len(content)), (255, 2), (25599, 1), (100, 0)):
            assert read(storage, "a", start, length) == content[start : start + length]
        for start, length in ((0, len(content) + 1), (25599, 2), (25600, 1), (1 << 40, 1)):
            refuses(errors.ObjectShort, read, storage, "a", start, length)

    def test_a_writer_joins_its_parts(self, storage: Storage) -> None:
        """Many parts, empty ones and none at all make one object."""
        parts = [bytes([number % 256]) * (number % 7) for number in range(3000)]
        with storage.open_writer("packs/a") as writer:
            writer.write(parts)
            writer.write([])
            writer.write([b"", memoryview(b"tail"), bytearray(b"!")])
            writer.commit()
        with storage.open_writer("packs/empty") as writer:
            writer.commit()
        expected = b"".join(parts) + b"tail!"
        assert storage.get("packs/a", 100_000) == expected
        assert storage.get("packs/empty", 0) == b""

    def test_what_is_not_committed_is_not_there(self, storage: Storage) -> None:
        """Before the commit, and without it, nobody sees anything."""
        with storage.open_writer("a/b") as writer:
            writer.write([b"content"])
            refuses(errors.ObjectMissing, storage.size, "a/b")
            assert not tuple(storage.list(""))
        refuses(errors.ObjectMissing, storage.size, "a/b")
        assert not tuple(storage.list(""))
        assert not storage.foreign()
        assert storage.sweep_unfinished("") == 0

    def test_an_error_while_writing_comes_through(self, storage: Storage) -> None:
        """The caller's own error drops the object and is not disguised."""

        def write() -> None:
            with storage.open_writer("a") as writer:
                writer.write([b"content"])
                raise ConnectionResetError

        refuses(ConnectionResetError, write)
        assert not tuple(storage.list(""))
        assert storage.sweep_unfinished("") == 0

    def test_a_commit_never_replaces(self, storage: Storage) -> None:
        """The writer that commits later is refused and leaves nothing."""
        with storage.open_writer("a") as first, storage.open_writer("a") as second:
            first.write([b"first"])
            second.write([b"second"])
            second.commit()
            refuses(errors.ObjectExists, first.commit)
        assert storage.get("a", 10) == b"second"
        assert storage.sweep_unfinished("") == 0

    def test_a_committed_writer_is_closed(self, storage: Storage) -> None:
        """Nothing can be added to what is committed."""
        with storage.open_writer("a") as writer:
            writer.write([b"content"])
            writer.commit()
            refuses(errors.StorageError, writer.write, [b"more"])
            refuses(errors.StorageError, writer.commit)
        assert storage.get("a", 100) == b"content"

    def test_listings_are_of_directories(self, storage: Storage) -> None:
        """A prefix is a directory, with or without a slash, and never part of a name."""
        names = {"top", "a/1", "a/b/2", "ab/3", "a.b/4"}
        for name in names:
            storage.put(name, name.encode())
        assert {info.name for info in storage.list("")} == names
        inside = {ObjectInfo("a/1", 3), ObjectInfo("a/b/2", 5)}
        assert set(storage.list("a")) == set(storage.list("a/")) == inside
        for nothing in ("b", "a/c", "a/1", "top"):
            assert not tuple(storage.list(nothing))
        refuses(errors.UnsafeName, lambda: tuple(storage.list("..")))

    def test_folders_are_right_below(self, storage: Storage) -> None:
        """Directories only, by their own names, and none deeper."""
        for name in ("top", "a/1", "a/b/2", "a/c/d/3", "ab/4"):
            storage.put(name, b"")
        assert set(storage.folders("")) == {"a", "ab"}
        assert set(storage.folders("a")) == set(storage.folders("a/")) == {"b", "c"}
        for nothing in ("ab", "missing", "missing/too", "top"):
            assert not tuple(storage.folders(nothing))
        refuses(errors.UnsafeName, lambda: tuple(storage.folders("..")))

    def test_what_is_deleted_is_gone(self, storage: Storage) -> None:
        """Also where it was read a moment ago; and its name is free again."""
        storage.put("a/b", b"first")
        assert read(storage, "a/b", 0, 5) == b"first"
        storage.delete("a/b")
        storage.delete("a/b")
        refuses(errors.ObjectMissing, read, storage, "a/b", 0, 5)
        assert not tuple(storage.list(""))
        storage.put("a/b", b"other")
        assert read(storage, "a/b", 0, 5) == b"other"

    def test_unsafe_names_are_refused(self, storage: Storage) -> None:
        """By every verb that takes a name."""
        for name in UNSAFE_NAMES:
            refuses(errors.UnsafeName, storage.put, name, b"")
            refuses(errors.UnsafeName, storage.open_writer(name).__enter__)
            refuses(errors.UnsafeName, storage.get, name, 1)
            refuses(errors.UnsafeName, read, storage, name, 0, 1)
            refuses(errors.UnsafeName, storage.size, name)
            refuses(errors.UnsafeName, storage.delete, name)
            refuses(errors.UnsafeName, storage.protect, name)
            refuses(errors.UnsafeName, storage.release, name)
            refuses(errors.UnsafeName, storage.is_protected, name)

    def test_a_protected_object_stays(self, storage: Storage) -> None:
        """Until it is released."""
        storage.put("a", b"content")
        assert not storage.is_protected("a")
        if not self.can_protect:
            refuses(errors.ImmutableNotApplied, storage.protect, "a")
            storage.release("a")
            return
        storage.protect("a")
        try:
            assert storage.is_protected("a")
            storage.protect("a")
            refused = refuses(errors.StorageReadOnly, storage.delete, "a")
            assert "release" in refused.advice.lower()
            assert storage.get("a", 100) == b"content"
        finally:
            storage.release("a")
        storage.release("a")
        assert not storage.is_protected("a")
        storage.delete("a")
        assert not tuple(storage.list(""))

    def test_one_of_many_writers_wins(self, storage: Storage) -> None:
        """Puts of one name at the same time: one object, and only its writer is told so."""
        winners: list[bytes] = []

        def put(number: int) -> None:
            content = b"%d" % number * 1000
            try:
                storage.put("a/b", content)
            except errors.ObjectExists:
                return
            winners.append(content)

        in_parallel(put)
        assert len(winners) == 1
        assert storage.get("a/b", 1000) == winners[0]
        assert storage.sweep_unfinished("") == 0

    def test_threads_do_not_disturb_one_another(self, storage: Storage) -> None:
        """Writers and readers of different objects in the same directories."""

        def work(number: int) -> None:
            for turn in range(10):
                name = f"shared/{turn}/{number}"
                with storage.open_writer(name) as writer:
                    writer.write([name.encode(), b"!"])
                    writer.commit()
                assert read(storage, name, 0, len(name)) == name.encode()

        in_parallel(work)
        assert len(tuple(storage.list("shared"))) == 10 * _WRITERS

    def test_there_is_room(self, storage: Storage) -> None:
        """An empty storage takes something, or does not know."""
        free = storage.free_space()
        assert free is None or free > 0

    def test_closing_loses_nothing(self, storage: Storage) -> None:
        """Handles are given back, twice if need be."""
        storage.put("a", b"content")
        read(storage, "a", 0, 1)
        storage.close()
        storage.close()


def read(storage: Storage, name: str, start: int, length: int) -> bytes:
    """Return a range of an object."""
    buffer = bytearray(length)
    storage.read_into(name, start, memoryview(buffer))
    return bytes(buffer)


def refuses(kind: type[_Error], call: Callable[..., object], *arguments: object) -> _Error:
    """Return the error of this kind that the call must raise."""
    try:
        call(*arguments)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def in_parallel(work: Callable[[int], None]) -> None:
    """Run the work in several threads that start together; their first error is raised."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(_WRITERS)

    def run(number: int) -> None:
        barrier.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - it is handed to the caller below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
