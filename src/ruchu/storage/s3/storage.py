"""A storage in a bucket of an S3 server."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from ruchu import clock, errors
from ruchu.storage import failures as directory_failures
from ruchu.storage import names
from ruchu.storage.contract import Buffer, ObjectInfo, ObjectWriter
from ruchu.storage.s3 import failures
from ruchu.storage.s3.bucket import Bucket
from ruchu.storage.s3.creating import INTERNAL, Creator, OneWriter, Traits
from ruchu.storage.s3.writing import S3Writer, Uploads, abort_upload

# An answer that breaks off is asked for again from where it broke; a line so bad that this does
# not help is no line.
_RESUMES_MAX = 5
_HELD_HINT = "The object is under a legal hold. Release it first, if it may go."
_NO_HOLD = {"NoSuchObjectLockConfiguration", "InvalidRequest", "ObjectLockConfigurationNotFound"}


class S3Storage:
    """A storage in a bucket. See `contract.Storage` for the methods.

    Args:
        bucket: where it is.
        traits: what the server can do, as it was found out when the storage was added.
        one_writer: who may write, where the server does not decide between writers.
        clock: for the pauses between attempts.
    """

    def __init__(
        self,
        bucket: Bucket,
        traits: Traits,
        one_writer: OneWriter | None = None,
        clock: clock.Clock = clock.SYSTEM,
    ) -> None:
        self._bucket = bucket
        self._client = bucket.client
        self._traits = traits
        self._creator = Creator(bucket, traits, one_writer, clock)
        self._uploads = Uploads()
        bucket.require()

    def put(self, name: str, data: Buffer) -> None:
        """Store an object, durably."""
        self._creator.put(names.check(name), data)

    @contextlib.contextmanager
    def open_writer(self, name: str) -> Iterator[ObjectWriter]:
        """Begin an object. Leaving without `commit` drops it."""
        names.check(name)
        with S3Writer(self._bucket, self._creator, self._uploads, name) as writer:
            yield writer

    def get(self, name: str, size_max: int) -> bytes:
        """Return a whole object."""
        names.check(name)
        answer = self._bucket.call(self._client.get_object, name)
        size = int(answer["ContentLength"])
        if size > size_max:
            answer["Body"].close()
            where = self._bucket.show(name)
            raise directory_failures.ObjectTooLarge(f"({where}: {size} bytes, {size_max} allowed)")
        content = bytearray(size)
        view = memoryview(content)
        done = self._take(answer["Body"], view)
        if done < size:
            # All of it must be of one object; an object is never rewritten, only its name reused.
            self._read(name, done, view[done:], if_match=str(answer["ETag"]))
        return bytes(content)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `start` of an object."""
        names.check(name)
        view = buffer.cast("B")
        if not view.nbytes:
            if start > self.size(name):
                raise errors.ObjectShort(f"({self._bucket.show(name)})")
            return
        self._read(name, start, view)

    def size(self, name: str) -> int:
        """Return the bytes of an object."""
        return int(self._bucket.head(names.check(name))["ContentLength"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object below the directory `prefix`, `""` being the top."""
        for name, size in self._walk(_top(prefix)):
            if names.is_safe(name):
                yield ObjectInfo(name, size)

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the directories right below a directory of the storage."""
        below = self._bucket.key(_top(prefix))
        for page in self._bucket.pages(Prefix=below, Delimiter="/"):
            for each in page.get("CommonPrefixes", ()):
                name = str(each["Prefix"])[len(below) :].removesuffix("/")
                if names.is_safe(_top(prefix) + name):
                    yield name

    def foreign(self) -> Sequence[str]:
        """Return the names in the storage that are no object names."""
        return sorted(name for name, _ in self._walk("") if not names.is_safe(name))

    def delete(self, name: str) -> None:
        """Remove an object, durably; in a bucket with versions, every one of them."""
        names.check(name)
        with self._creator.writing():
            if self._traits.versioned and self._delete_versions(name):
                return
            with contextlib.suppress(errors.ObjectMissing):
                if self._traits.versioned:
                    self._bucket.head(name)  # a second mark of deletion would be of no use
                self._bucket.call(self._client.delete_object, name)

    def sweep_unfinished(self, prefix: str) -> int:
        """End the uploads that dead writers left below `prefix`, not those of our own."""
        top = _top(prefix)
        live = self._uploads.live()
        left = [
            (name, upload)
            for name, upload in self._unfinished(top)
            if names.is_safe(name) and name not in live
        ]
        for name, upload in left:
            abort_upload(self._bucket, name, upload)
        return len(left)

    def free_space(self) -> None:
        """Return None: a bucket does not tell."""

    def protect(self, name: str) -> None:
        """Put an object under a legal hold and check that it is there."""
        names.check(name)
        if not self._traits.lockable:
            self.size(name)
            raise errors.ImmutableNotApplied(f"({self._bucket.show(name)}: no object lock)")
        self._bucket.call(self._client.put_object_legal_hold, name, LegalHold={"Status": "ON"})
        if not self.is_protected(name):
            raise errors.ImmutableNotApplied(f"({self._bucket.show(name)})")

    def release(self, name: str) -> None:
        """Take the legal hold off and check that it is gone."""
        if not self.is_protected(name):
            return
        self._bucket.call(self._client.put_object_legal_hold, name, LegalHold={"Status": "OFF"})
        if self.is_protected(name):
            raise errors.StorageReadOnly(f"({self._bucket.show(name)} is still held)")

    def is_protected(self, name: str) -> bool:
        """Tell whether an object is under a legal hold."""
        names.check(name)
        if not self._traits.lockable:
            self.size(name)
            return False
        try:
            answer = self._client.get_object_legal_hold(
                Bucket=self._bucket.name, Key=self._bucket.key(name)
            )
        except failures.FAILURES as error:
            if failures.code_of(error) in _NO_HOLD:
                return False
            raise failures.translate(error, self._bucket.show(name)) from error
        return answer.get("LegalHold", {}).get("Status") == "ON"

    def close(self) -> None:
        """Give threads and connections back; the storage stays usable."""
        self._uploads.close()

    def _read(self, name: str, start: int, view: memoryview, if_match: str = "") -> None:
        """Fill the view, going on where a broken answer ended."""
        condition = {"IfMatch": if_match} if if_match else {}
        done = 0
        for _ in range(_RESUMES_MAX):
            first, last = start + done, start + view.nbytes - 1
            answer = self._bucket.call(
                self._client.get_object, name, Range=f"bytes={first}-{last}", **condition
            )
            if not str(answer.get("ContentRange", "")).startswith(f"bytes {first}-"):
                answer["Body"].close()
                where = self._bucket.show(name)
                raise errors.StorageRefused(f"({where}: the server gives no ranges)")
            length = int(answer["ContentLength"])
            if length < view.nbytes - done:
                answer["Body"].close()
                where, wanted = self._bucket.show(name), f"{view.nbytes} bytes from {start}"
                raise errors.ObjectShort(f"({where}: {wanted} wanted, it ends before)")
            done += self._take(answer["Body"], view[done:])
            if done == view.nbytes:
                return
        raise errors.StorageGone(f"({self._bucket.show(name)}: the answers break off)")

    def _take(self, body: Any, view: memoryview) -> int:
        """Read the answer as far as it comes; return how many bytes came."""
        done = 0
        try:
            while done < view.nbytes:
                count = body.readinto(view[done:])
                if not count:
                    break
                done += count
        except failures.FAILURES:
            pass  # the caller asks again, for the rest
        finally:
            body.close()
        return done

    def _walk(self, top: str) -> Iterator[tuple[str, int]]:
        """Yield name and size of what is below a directory, apart from what is ours alone."""
        own = len(self._bucket.top)
        for page in self._bucket.pages(Prefix=self._bucket.key(top)):
            for each in page.get("Contents", ()):
                name = str(each["Key"])[own:]
                # Consoles show folders by empty objects whose names end with a slash.
                if name and not name.endswith("/") and not name.startswith(f"{INTERNAL}/"):
                    yield name, int(each["Size"])

    def _unfinished(self, top: str) -> Iterator[tuple[str, str]]:
        own = len(self._bucket.top)
        more: dict[str, str] = {}
        while True:
            try:
                page = self._bucket.ask(
                    self._client.list_multipart_uploads, Prefix=self._bucket.key(top), **more
                )
            except errors.ObjectMissing:
                return  # so some servers say that there are none
            for each in page.get("Uploads", ()):
                if str(each["Key"]).startswith(self._bucket.key(top)):
                    yield str(each["Key"])[own:], str(each["UploadId"])
            if not page.get("IsTruncated"):
                return
            following = {
                "KeyMarker": str(page.get("NextKeyMarker", "")),
                "UploadIdMarker": str(page.get("NextUploadIdMarker", "")),
            }
            if following == more or not following["KeyMarker"]:
                raise errors.StorageError(f"({self._bucket.name}: a listing that does not go on)")
            more = following

    def _delete_versions(self, name: str) -> bool:
        """Remove all versions of an object, the oldest first; False: it must be hidden instead."""
        for version in reversed(list(self._versions(name))):
            try:
                self._bucket.call(self._client.delete_object, name, VersionId=version)
            except errors.StorageRefused as error:
                if self._is_held(name):
                    where = self._bucket.show(name)
                    raise errors.StorageReadOnly(f"({where})", hint=_HELD_HINT) from error
                # Kept for a time by a rule of the bucket: hidden now, removed by a rule of its own.
                return False
        return True

    def _is_held(self, name: str) -> bool:
        try:
            return self._traits.lockable and self.is_protected(name)
        except errors.ObjectMissing:
            return False

    def _versions(self, name: str) -> Iterator[str]:
        """Yield the versions of an object and its marks of deletion, the newest first."""
        key = self._bucket.key(name)
        found: list[tuple[Any, str]] = []
        more: dict[str, str] = {}
        while True:
            page = self._bucket.ask(self._client.list_object_versions, Prefix=key, **more)
            every = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            found += [(e["LastModified"], str(e["VersionId"])) for e in every if e["Key"] == key]
            # Keys are sorted: what comes after ours is not ours.
            past = any(str(each["Key"]) > key for each in every)
            if past or not page.get("IsTruncated"):
                break
            more = {
                "KeyMarker": str(page.get("NextKeyMarker", "")),
                "VersionIdMarker": str(page.get("NextVersionIdMarker", "")),
            }
        yield from (version for _, version in sorted(found, key=_first, reverse=True))


def _first(pair: tuple[Any, str]) -> Any:
    return pair[0]


def _top(prefix: str) -> str:
    return names.check(prefix.removesuffix("/")) + "/" if prefix else ""
