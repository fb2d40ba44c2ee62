"""A bucket on an S3 server, with one prefix in it: calls with time limits, and our errors."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config

from ruchu import errors
from ruchu.storage.s3 import failures

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
else:
    S3Client = Any

T = TypeVar("T")

REGION_DEFAULT = "us-east-1"  # what servers other than Amazon's take, whatever they are called
# A server that needs longer to accept a connection is not there.
CONNECT_LIMIT_S = 10.0
# Between two pieces of an answer. Storing a part may take a busy server half a minute.
READ_LIMIT_S = 60.0
# Together about a minute, later and later: a server that fails over is back by then.
ATTEMPTS_MAX = 6
# Uploads, and the readers of a restore beside them.
CONNECTIONS_MAX = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """What the server knows us by; without an access key, what the host's environment has."""

    access: str = ""
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bucket is.

    Attributes:
        bucket: its name.
        prefix: directory in it, empty or without slashes at its ends.
        endpoint: URL of the server; empty for Amazon's.
        region: region of the bucket.
        path_style: the name of the bucket stands in the path, not in the host name.
        authority: file with the certificate authority of the server; empty for the host's own.
        attempts_max: how often a call is tried.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = REGION_DEFAULT
    path_style: bool = True
    authority: str = ""
    attempts_max: int = ATTEMPTS_MAX


class Bucket:
    """A bucket and a prefix in it. Usable from several threads."""

    def __init__(self, address: Address, keys: Keys, client: S3Client | None = None) -> None:
        self.address = address
        self.name = address.bucket
        self.top = f"{address.prefix}/" if address.prefix else ""
        self._keys = keys
        self.client = client or _client(address, keys)

    def below(self, prefix: str) -> "Bucket":
        """Return the same bucket with another prefix; both share their connections."""
        return Bucket(dataclasses.replace(self.address, prefix=prefix), self._keys, self.client)

    def key(self, name: str) -> str:
        """Return the key of an object."""
        return self.top + name

    def show(self, name: str) -> str:
        """Return where an object is, for messages."""
        return f"s3://{self.name}/{self.key(name)}"

    def call(self, operation: Callable[..., T], name: str, **more: Any) -> T:
        """Call an operation upon an object.

        Raises:
            StorageError: the server or the way to it failed; its subclasses say how.
        """
        try:
            return operation(Bucket=self.name, Key=self.key(name), **more)
        except failures.FAILURES as error:
            raise failures.translate(error, self.show(name)) from error

    def ask(self, operation: Callable[..., T], **more: Any) -> T:
        """Call an operation upon the bucket; for errors see `call`."""
        try:
            return operation(Bucket=self.name, **more)
        except failures.FAILURES as error:
            if failures.code_of(error) == "NoSuchUpload":
                raise failures.translate(error, f"s3://{self.name}") from error
            raise self._of_the_bucket(failures.translate(error, f"s3://{self.name}")) from error

    def require(self) -> None:
        """Raise StorageGone unless the bucket is there."""
        self.ask(self.client.head_bucket)

    def head(self, name: str) -> Any:
        """Return the head of an object.

        Raises:
            ObjectMissing: there is none; StorageGone: there is no bucket either.
        """
        try:
            return self.call(self.client.head_object, name)
        except errors.ObjectMissing:
            self.require()  # the answer to HEAD has no body that could say which of them it is
            raise

    def pages(self, **more: Any) -> Iterator[Any]:
        """Yield the answers of a listing."""
        token: dict[str, str] = {}
        while True:
            page = self.ask(self.client.list_objects_v2, **more, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            following = page.get("NextContinuationToken", "")
            if not following or following == token.get("ContinuationToken"):
                raise errors.StorageError(f"(s3://{self.name}: a listing that does not go on)")
            token = {"ContinuationToken": following}

    def _of_the_bucket(self, error: errors.StorageError) -> errors.StorageError:
        if isinstance(error, errors.ObjectMissing):
            return errors.StorageGone(f"(there is no bucket {self.name!r})")
        return error


def _client(address: Address, keys: Keys) -> S3Client:
    config = Config(
        connect_timeout=CONNECT_LIMIT_S,
        read_timeout=READ_LIMIT_S,
        max_pool_connections=CONNECTIONS_MAX,
        retries={"mode": "standard", "total_max_attempts": address.attempts_max},
        # The hash of what is sent is part of its signature, so that the server checks it. The
        # trailing checksums of newer clients are refused by older servers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": "path" if address.path_style else "virtual",
            "payload_signing_enabled": True,
        },
    )
    session = boto3.session.Session(
        aws_access_key_id=keys.access or None,
        aws_secret_access_key=keys.secret or None,
        aws_session_token=keys.token or None,
        region_name=address.region,
    )
    try:
        return session.client(
            "s3",
            endpoint_url=address.endpoint or None,
            verify=address.authority or None,
            config=config,
        )
    except (ValueError, *failures.FAILURES) as error:
        raise errors.StorageRefused(f"{address.endpoint}: {error}") from error
