"""Writes one object of any length: in parts that travel side by side, seen when it is whole."""

import concurrent.futures
import contextlib
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from ruchu import errors, units
from ruchu.storage.contract import Buffer
from ruchu.storage.s3.bucket import Bucket
from ruchu.storage.s3.creating import Creator

# S3 takes parts of 5 MiB and more, and 10,000 of them. Parts grow as the object does, so that
# small packs stay small in memory and the largest object is still possible.
PART_BYTES_FIRST = 8 * units.MIB
PARTS_OF_ONE_SIZE = 1000
PARTS_MAX = 10_000
# What several lines of a storage carry at the same time, and what waits in memory for them.
UPLOADS_MAX = 4
PARTS_WAITING_MAX = 6


class Uploads:
    """The threads that send parts, and the bound on what waits for them. One for each storage."""

    def __init__(self) -> None:
        self.room = threading.BoundedSemaphore(PARTS_WAITING_MAX)
        self._lock = threading.Lock()
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._live: dict[object, str] = {}

    def submit(self, work: Any, *arguments: Any) -> concurrent.futures.Future[Any]:
        """Send a part in a thread as soon as there is room for it in memory."""
        self.room.acquire()
        try:
            with self._lock:
                if self._pool is None:
                    self._pool = concurrent.futures.ThreadPoolExecutor(UPLOADS_MAX, "ruchu-s3")
                future = self._pool.submit(work, *arguments)
        except BaseException:
            self.room.release()
            raise
        future.add_done_callback(lambda _: self.room.release())
        return future

    def begin(self, writer: object, name: str) -> None:
        """Take note that an object is being written here."""
        with self._lock:
            self._live[writer] = name

    def end(self, writer: object) -> None:
        """Take note that it is not any more."""
        with self._lock:
            self._live.pop(writer, None)

    def live(self) -> set[str]:
        """Return the names of the objects that are being written here."""
        with self._lock:
            return set(self._live.values())

    def close(self) -> None:
        """Give the threads back."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)


class S3Writer:
    """The writer of `S3Storage`. For one thread at a time."""

    def __init__(self, bucket: Bucket, creator: Creator, uploads: Uploads, name: str) -> None:
        self._bucket = bucket
        self._creator = creator
        self._uploads = uploads
        self._name = name
        self._buffer = bytearray()
        self._length = 0
        self._upload = ""
        self._token = ""
        self._parts: list[concurrent.futures.Future[dict[str, Any]]] = []
        self._state = "new"

    def __enter__(self) -> Self:
        self._uploads.begin(self, self._name)
        self._state = "open"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        done = self._state == "committed"
        self._state = "closed"
        self._buffer = bytearray()
        try:
            if self._upload and not done:
                self._abort()
        except errors.StorageError as failure:
            if error is None:
                raise
            error.add_note(f"Cleaning up failed, too: {failure}")
        finally:
            self._uploads.end(self)

    def write(self, parts: Sequence[Buffer]) -> None:
        """Append the parts, in order."""
        self._require_open()
        # Broken until proven otherwise: an error from wherever leaves it so.
        self._state = "broken"
        for part in parts:
            view = memoryview(part).cast("B")
            while view.nbytes:
                room = self._part_bytes() - len(self._buffer)
                self._buffer += view[:room]
                view = view[room:]
                if len(self._buffer) == self._part_bytes():
                    self._send()
        self._state = "open"

    def commit(self) -> None:
        """Make the object durable and visible, whole, under its name."""
        self._require_open()
        self._state = "broken"
        if not self._upload:
            self._creator.put(self._name, self._buffer)
        else:
            if self._buffer:
                self._send()
            parts = [each.result() for each in self._parts]
            self._creator.complete(self._name, self._upload, self._token, parts, self._length)
        self._state = "committed"

    def _part_bytes(self) -> int:
        return PART_BYTES_FIRST * (1 + len(self._parts) // PARTS_OF_ONE_SIZE)

    def _send(self) -> None:
        for part in self._parts:
            if part.done():
                part.result()  # a part that failed ends the object, before more is sent
        if len(self._parts) >= PARTS_MAX:
            raise errors.StorageError(f"({self._bucket.show(self._name)}: too large for S3)")
        if not self._upload:
            self._upload, self._token = self._creator.begin(self._name)
        data, self._buffer = self._buffer, bytearray()
        number = len(self._parts) + 1
        self._length += len(data)
        self._parts.append(self._uploads.submit(self._send_part, number, data))

    def _send_part(self, number: int, data: bytearray) -> dict[str, Any]:
        client = self._bucket.client
        answer = self._bucket.call(
            client.upload_part, self._name, UploadId=self._upload, PartNumber=number, Body=data
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _abort(self) -> None:
        # A part that arrives after the end of its upload would stay there, and cost money.
        concurrent.futures.wait(self._parts)
        abort_upload(self._bucket, self._name, self._upload)

    def _require_open(self) -> None:
        if self._state != "open":
            where = self._bucket.show(self._name)
            raise errors.StorageError(f"({where}: its writer is {self._state})")


def abort_upload(bucket: Bucket, name: str, upload: str) -> None:
    """End an upload in parts, and give its parts up; one that is over is no error."""
    with contextlib.suppress(errors.ObjectMissing):
        bucket.call(bucket.client.abort_multipart_upload, name, UploadId=upload)
