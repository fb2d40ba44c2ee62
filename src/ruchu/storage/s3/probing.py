"""Finds out what an S3 server can do, by trying it. Leaves nothing behind."""

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ruchu import errors
from ruchu.storage.s3 import creating, failures
from ruchu.storage.s3.bucket import Bucket
from ruchu.storage.s3.creating import Traits

_CONTENT = bytes(range(256)) * 8
# Writers of one name at the same time, and how often: a server that decides nothing is found out
# at once, one that decides wrongly now and then may need a few rounds.
_RIVALS = 4
_ROUNDS = 3
# Objects of a probe that died, at most; a page of a listing is the most anyway.
_LEFT_MAX = 1000


@dataclass(frozen=True, slots=True)
class Probe:
    """What was found out.

    Attributes:
        read_after_write: what was written is read at once, and what was removed is gone.
        listed_at_once: a listing shows it at once, too.
        ranges: a part of an object can be read.
        parts: objects can be uploaded in parts, and such uploads be found and ended.
        conditional_put: of several writers of a name, the server lets one win.
        conditional_complete: the same for uploads in parts.
        versioned: the bucket keeps what is deleted and overwritten.
        lockable: objects can be put under a legal hold.
    """

    read_after_write: bool
    listed_at_once: bool
    ranges: bool
    parts: bool
    conditional_put: bool
    conditional_complete: bool
    versioned: bool
    lockable: bool

    def fields(self) -> dict[str, bool]:
        """Return it for a document."""
        return asdict(self)

    def lacking(self) -> list[str]:
        """Return what a storage cannot do without and this server does not have."""
        needed = {
            "what was written is not read at once": self.read_after_write,
            "listings lag behind": self.listed_at_once,
            "no ranges can be read": self.ranges,
            "no uploads in parts": self.parts,
        }
        return [text for text, there in needed.items() if not there]

    def traits(self) -> Traits:
        """Return what the storage has to know."""
        return Traits(
            self.conditional_put, self.conditional_complete, self.versioned, self.lockable
        )


def probe(bucket: Bucket) -> Probe:
    """Try what a storage needs, upon objects of our own.

    Raises:
        StorageGone: there is no such bucket or server.
        StorageRefused: the credentials do not allow it.
    """
    bucket.require()
    with _place(bucket) as place:
        read = _reads_what_was_written(bucket, f"{place}/read")
        listed = _lists_what_is_there(bucket, place)
        ranges = _gives_ranges(bucket, f"{place}/ranges")
        conditional = all(_one_wins(bucket, f"{place}/race-{number}") for number in range(_ROUNDS))
        parts, complete = _takes_parts(bucket, f"{place}/parts")
    versioned = _is_versioned(bucket)
    lockable = versioned and _has_object_lock(bucket)
    return Probe(read, listed, ranges, parts, conditional, complete, versioned, lockable)


@contextlib.contextmanager
def _place(bucket: Bucket) -> Iterator[str]:
    place = f"{creating.INTERNAL}/probe-{creating.new_token()}"
    try:
        yield place
    finally:
        for name in _names_below(bucket, place):
            bucket.call(bucket.client.delete_object, name)


def _names_below(bucket: Bucket, place: str) -> list[str]:
    page = next(bucket.pages(Prefix=f"{bucket.key(place)}/", MaxKeys=_LEFT_MAX))
    return [str(each["Key"])[len(bucket.top) :] for each in page.get("Contents", ())]


def _put(bucket: Bucket, name: str, data: bytes) -> None:
    bucket.call(bucket.client.put_object, name, Body=data)


def _get(bucket: Bucket, name: str, **more: Any) -> bytes:
    answer = bucket.call(bucket.client.get_object, name, **more)
    return bytes(answer["Body"].read(2 * len(_CONTENT)))


def _reads_what_was_written(bucket: Bucket, name: str) -> bool:
    _put(bucket, name, _CONTENT)
    if _get(bucket, name) != _CONTENT:
        return False
    bucket.call(bucket.client.delete_object, name)
    try:
        bucket.call(bucket.client.head_object, name)
    except errors.ObjectMissing:
        return True
    return False


def _lists_what_is_there(bucket: Bucket, place: str) -> bool:
    names = [f"{place}/list/{number}" for number in range(_ROUNDS)]
    for number, name in enumerate(names):
        _put(bucket, name, b"x")
        if set(_names_below(bucket, f"{place}/list")) != set(names[: number + 1]):
            return False
    bucket.call(bucket.client.delete_object, names[0])
    return set(_names_below(bucket, f"{place}/list")) == set(names[1:])


def _gives_ranges(bucket: Bucket, name: str) -> bool:
    _put(bucket, name, _CONTENT)
    if _get(bucket, name, Range="bytes=100-1099") != _CONTENT[100:1100]:
        return False
    try:
        _get(bucket, name, Range=f"bytes={len(_CONTENT)}-{len(_CONTENT)}")
    except errors.ObjectShort:
        return True
    return False


def _one_wins(bucket: Bucket, name: str) -> bool:
    """Tell whether exactly one of several writers stores its object, and none comes later."""

    def put(number: int) -> bool:
        body = b"%d" % number
        return _is_made(
            lambda: bucket.call(bucket.client.put_object, name, Body=body, IfNoneMatch="*")
        )

    with concurrent.futures.ThreadPoolExecutor(_RIVALS) as pool:
        won = [number for number, made in enumerate(pool.map(put, range(_RIVALS))) if made]
    return len(won) == 1 and not put(_RIVALS) and _get(bucket, name) == b"%d" % won[0]


def _is_made(call: Callable[[], object]) -> bool:
    try:
        call()
    except errors.ObjectExists:
        return False
    except errors.StorageGone:
        raise
    except errors.StorageError:
        return False  # a conflict, or the server knows no conditions
    return True


def _takes_parts(bucket: Bucket, name: str) -> tuple[bool, bool]:
    """Tell whether uploads in parts work, and whether their end can be made conditional."""
    try:
        if not _upload(bucket, name) or _get(bucket, name) != _CONTENT:
            return False, False
        again = _upload(bucket, name)
        open_upload = _begin(bucket, f"{name}-open")
        found = bucket.ask(bucket.client.list_multipart_uploads, Prefix=bucket.key(f"{name}-open"))
        seen = open_upload in [each["UploadId"] for each in found.get("Uploads", ())]
        _abort(bucket, f"{name}-open", open_upload)
    except errors.StorageGone:
        raise
    except errors.StorageError:
        return False, False
    return seen, not again


def _begin(bucket: Bucket, name: str) -> str:
    return str(bucket.call(bucket.client.create_multipart_upload, name)["UploadId"])


def _abort(bucket: Bucket, name: str, upload: str) -> None:
    with contextlib.suppress(errors.ObjectMissing):
        bucket.call(bucket.client.abort_multipart_upload, name, UploadId=upload)


def _upload(bucket: Bucket, name: str) -> bool:
    """Upload an object in one part, unless its name is taken; tell whether it was made."""
    client, upload = bucket.client, _begin(bucket, name)
    part = bucket.call(client.upload_part, name, UploadId=upload, PartNumber=1, Body=_CONTENT)
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    try:
        bucket.call(
            client.complete_multipart_upload,
            name,
            UploadId=upload,
            MultipartUpload={"Parts": parts},
            IfNoneMatch="*",
        )
    except errors.ObjectExists:
        _abort(bucket, name, upload)
        return False
    return True


def _is_versioned(bucket: Bucket) -> bool:
    answer = _asked(bucket, bucket.client.get_bucket_versioning)
    # Suspended, older versions are still there.
    return answer.get("Status") in {"Enabled", "Suspended"}


def _has_object_lock(bucket: Bucket) -> bool:
    answer = _asked(bucket, bucket.client.get_object_lock_configuration)
    configuration = answer.get("ObjectLockConfiguration", {})
    return bool(configuration.get("ObjectLockEnabled") == "Enabled")


def _asked(bucket: Bucket, operation: Callable[..., Any]) -> Any:
    """Ask for a setting of the bucket; one that cannot be read counts as not set."""
    try:
        return operation(Bucket=bucket.name)
    except failures.FAILURES as error:
        if failures.code_of(error):
            return {}
        raise failures.translate(error, f"s3://{bucket.name}") from error
