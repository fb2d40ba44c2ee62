"""Makes an object appear under its name once, and never in the place of another.

Where the server enforces conditions, it decides among writers. Where it does not, only one host
may write, and a lock on that host decides; see `docs/operators/storages.md`.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu import clock, errors
from ruchu.storage.contract import Buffer
from ruchu.storage.s3 import failures
from ruchu.storage.s3.bucket import Bucket

INTERNAL = ".ruchu"  # begins with a dot, so no name of an object can lead there
WRITER = f"{INTERNAL}/writer"
_WRITER_BYTES_MAX = 256
_TOKEN = "ruchu-token"  # noqa: S105 - the name of a field
# Two writers of one name at the same time: the server tells both to try again.
_CONFLICT = "ConditionalRequestConflict"
_CONFLICTS_MAX = 5
_CONFLICT_DELAY_S = 0.2
_OTHER_HINT = (
    "This S3 server decides nothing between writers, so one host alone may write. Use that host, "
    "or take the storage over with `ruchu storage adopt --take-over` once it writes no more."
)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a server can do, as `probing` found out.

    Attributes:
        conditional_put: a put with a condition is refused where the name is taken.
        conditional_complete: so is the end of an upload in parts.
        versioned: the bucket keeps what is deleted and overwritten as older versions.
        lockable: objects can be put under a legal hold.
    """

    conditional_put: bool = True
    conditional_complete: bool = True
    versioned: bool = False
    lockable: bool = False


@dataclass(frozen=True, slots=True)
class OneWriter:
    """Who may write where the server decides nothing: this id, holding this file's lock."""

    id: str
    lock: Path

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep all other writers of this host out."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self.lock, flags, 0o600)
        except OSError as error:
            raise errors.StorageError(f"({self.lock}: {error.strerror})") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


class Creator:
    """Creates objects in a bucket. Usable from several threads.

    Args:
        bucket: where.
        traits: what the server can do.
        one_writer: who may write if the server decides nothing.
        clock: waits between attempts.
    """

    def __init__(
        self, bucket: Bucket, traits: Traits, one_writer: OneWriter | None, clock: clock.Clock
    ) -> None:
        self._bucket = bucket
        self._traits = traits
        self._one_writer = one_writer
        self._clock = clock

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be allowed to write, for the time of the context.

        Raises:
            StorageReadOnly: another host is the one that writes.
        """
        if self._traits.conditional_put:
            yield
            return
        if self._one_writer is None:
            raise errors.StorageReadOnly(f"({self._bucket.show('')})", hint=_OTHER_HINT)
        with self._one_writer.held():
            if writer_of(self._bucket) != self._one_writer.id:
                raise errors.StorageReadOnly(f"({self._bucket.show('')})", hint=_OTHER_HINT)
            yield

    def put(self, name: str, data: Buffer) -> None:
        """Store a whole object.

        Raises:
            ObjectExists: the name is taken.
        """
        token = new_token()
        client = self._bucket.client
        body = data if isinstance(data, bytes | bytearray) else bytes(data)
        self._create(
            name,
            token,
            memoryview(data).nbytes,
            conditional=self._traits.conditional_put,
            operation=lambda **more: client.put_object(
                **more,
                Body=body,  # type: ignore[arg-type]  # a bytearray, too, or each pack is copied
                Metadata={_TOKEN: token},
            ),
        )

    def begin(self, name: str) -> tuple[str, str]:
        """Begin an upload in parts; return its id and the token by which its object is known."""
        token = new_token()
        client = self._bucket.client
        with self.writing():
            answer = self._bucket.call(
                client.create_multipart_upload, name, Metadata={_TOKEN: token}
            )
        return answer["UploadId"], token

    def complete(self, name: str, upload: str, token: str, parts: Any, length: int) -> None:
        """Make the parts the object.

        Raises:
            ObjectExists: the name is taken.
        """
        client = self._bucket.client
        self._create(
            name,
            token,
            length,
            conditional=self._traits.conditional_complete,
            operation=lambda **more: client.complete_multipart_upload(
                **more, UploadId=upload, MultipartUpload={"Parts": parts}
            ),
        )

    def _create(
        self,
        name: str,
        token: str,
        length: int,
        *,
        conditional: bool,
        operation: Callable[..., Any],
    ) -> None:
        condition = {"IfNoneMatch": "*"} if conditional else {}
        with self.writing():
            if not conditional:
                self._require_absent(name)
            for attempt in range(_CONFLICTS_MAX):
                if attempt:
                    self._clock.sleep(_CONFLICT_DELAY_S * 2**attempt)
                try:
                    operation(Bucket=self._bucket.name, Key=self._bucket.key(name), **condition)
                    break
                except failures.FAILURES as error:
                    if failures.code_of(error) == _CONFLICT and attempt < _CONFLICTS_MAX - 1:
                        continue
                    if not self._was_ours(name, token, error):
                        raise failures.translate(error, self._bucket.show(name)) from error
                    break
            self._check(name, length)

    def _require_absent(self, name: str) -> None:
        try:
            self._bucket.head(name)
        except errors.ObjectMissing:
            return
        raise errors.ObjectExists(f"({self._bucket.show(name)})")

    def _was_ours(self, name: str, token: str, error: Exception) -> bool:
        """Tell whether the call succeeded before, and only its answer was lost on the way."""
        if not failures.retries_of(error):
            return False
        try:
            found = self._bucket.head(name)
        except errors.ObjectMissing:
            return False
        fields = {key.lower(): value for key, value in found.get("Metadata", {}).items()}
        return bool(fields.get(_TOKEN) == token)

    def _check(self, name: str, length: int) -> None:
        size = int(self._bucket.head(name)["ContentLength"])
        if size != length:
            where = self._bucket.show(name)
            raise errors.StorageError(f"({where}: {length} bytes written, {size} there)")


def new_token() -> str:
    """Return a mark that no other writer has."""
    return secrets.token_hex(16)


def writer_of(bucket: Bucket) -> str:
    """Return the id of the one that may write, empty if nobody is named."""
    try:
        answer = bucket.call(bucket.client.get_object, WRITER)
        return str(answer["Body"].read(_WRITER_BYTES_MAX), "ascii", "replace")
    except errors.ObjectMissing:
        return ""


def take_over(bucket: Bucket, writer: str) -> None:
    """Name the one that may write from now on."""
    bucket.call(bucket.client.put_object, WRITER, Body=writer.encode())
    if writer_of(bucket) != writer:
        raise errors.StorageRefused(f"({bucket.show(WRITER)}: another host took it just now)")
