"""From a location to a storage: what must be connected, mounted or formatted on the way."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ruchu.clock import Clock
from ruchu.errors import StorageError, StorageGone, StorageRefused, UsageError
from ruchu.operations.secrets import NO_CREDENTIALS, Credentials
from ruchu.storage import locations
from ruchu.storage.contract import Storage
from ruchu.storage.directory import DirectoryStorage
from ruchu.storage.free_space import RESERVE_DEFAULT
from ruchu.storage.locations import Location
from ruchu.storage.mounting import devices, iscsi, shares
from ruchu.storage.mounting.mounts import Mounts

if TYPE_CHECKING:
    from ruchu.storage.s3.bucket import Bucket

_EXT4_OPTIONS = ("errors=remount-ro",)
_EXTRA_HINT = "Install Ruchu with the extra `s3` (boto3)."


@dataclass(frozen=True, slots=True)
class Place:
    """Where a storage is, and what it takes to get there.

    Attributes:
        name: of the storage.
        location: where it is.
        credentials: what its server knows us by.
        probe: what a server of S3 can do.
        writer: what this host is called there.
    """

    name: str
    location: Location
    credentials: Credentials = NO_CREDENTIALS
    probe: Mapping[str, bool] = field(default_factory=dict)
    writer: str = ""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a new storage may need.

    Attributes:
        file_system: make this one on the device; empty: the one that is there is used.
        erase: the path of the device, typed by a person: what is on it may go.
        one_writer: it is agreed that one host alone will write.
        take_over: this host writes from now on.
    """

    file_system: str = ""
    erase: str = ""
    one_writer: bool = False
    take_over: bool = False


class Places:
    """Opens what storages lie in. Threads may use it at the same time.

    Args:
        state: the state directory; mounts go below it.
        clock: waits for disks to appear.
    """

    def __init__(self, state: Path, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self.mounts = Mounts(state / "mounts")

    def open(self, place: Place, reserve_bytes: int = RESERVE_DEFAULT) -> Storage:
        """Return the storage; what it lies on is mounted if need be.

        Raises:
            StorageGone, StorageRefused: it is not there, or does not let us in.
        """
        if place.location.scheme == "s3":
            return self._open_bucket(place)
        return DirectoryStorage(self.directory(place), reserve_bytes=reserve_bytes)

    def directory(self, place: Place) -> Path:
        """Return the directory of a storage that has one; it is mounted if need be."""
        location = place.location
        if not location.mounted:
            return Path(location.path)
        with self._source(place) as (kind, source, options, expect):
            return self.mounts.mount(place.name, kind, source, options, expect)

    def prepare(self, place: Place, wanted: Preparation, identity: bytes) -> Location:
        """Make a place ready for a new storage; return the location to remember.

        Raises:
            ForeignDirectory: something is on the device, and nobody said that it may go.
            UsageError: what is asked for does not go with the location.
        """
        location = place.location
        if location.scheme not in locations.ON_DEVICES:
            if wanted.file_system or wanted.erase:
                raise UsageError("(--format and --erase are for devices)")
            return location
        path = self._device(place)
        if wanted.file_system:
            if wanted.file_system not in devices.FILE_SYSTEMS:
                raise UsageError(f"(--format: one of {', '.join(devices.FILE_SYSTEMS)})")
            if wanted.erase and wanted.erase != path:
                raise UsageError(f"(--erase {wanted.erase!r}: the device is {path})")
            devices.make_file_system(path, wanted.file_system, identity, erase=wanted.erase == path)
        kind, label = devices.file_system_of(path)
        if kind not in devices.FILE_SYSTEMS or not label:
            found = devices.inspect(path)
            hint = "Give --format ext4 or --format xfs to make a new file system."
            raise UsageError(f"({path} holds: {found})", hint=hint)
        return location.with_options(uuid=label)

    def leave(self, place: Place) -> None:
        """Unmount, and log out where we logged in.

        Raises:
            StorageError: something still uses it.
        """
        if place.location.mounted:
            self.mounts.unmount(place.name)
        if place.location.scheme == "iscsi":
            iscsi.log_out(place.location)

    def grow(self, place: Place) -> tuple[int, int]:
        """Grow the file system to the size that its device has now; return bytes before, after.

        Raises:
            UsageError: it does not lie on a device of ours.
        """
        if place.location.scheme not in locations.ON_DEVICES:
            hint = "Grow what it lies on; Ruchu sees the new size by itself."
            raise UsageError(f"({place.location} is not on a device of ours)", hint=hint)
        point = self.directory(place)
        if place.location.scheme == "iscsi":
            iscsi.rescan(place.location)
        mount = self.mounts.find(place.name)
        if mount is None:
            raise StorageGone(f"({point} is not mounted)")
        return devices.grow(mount.source, mount.kind, point)

    def room(self, place: Place) -> tuple[int, int] | None:
        """Return the bytes there are and the bytes free; None: there is no telling."""
        if place.location.scheme == "s3":
            return None
        point = self.directory(place)
        try:
            found = os.statvfs(point)
        except OSError as error:
            raise StorageGone(f"({point}: {error.strerror})") from None
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    @contextlib.contextmanager
    def _source(self, place: Place) -> Iterator[tuple[str, str, list[str], str]]:
        """Yield kind, source and options of a mount, and the device number that must be there."""
        location = place.location
        if location.scheme == "nfs":
            yield "nfs", shares.nfs_source(location), shares.nfs_options(location), ""
        elif location.scheme == "smb":
            with self._credentials(place) as options:
                yield "cifs", shares.smb_source(location), options, ""
        else:
            path = self._device(place)
            kind, label = devices.file_system_of(path)
            if label != location.options.get("uuid", label):
                raise StorageGone(f"({path}: another file system is on it)")
            options = list(_EXT4_OPTIONS) if kind == "ext4" else []
            yield kind, path, options, devices.number_of(path)

    @contextlib.contextmanager
    def _credentials(self, place: Place) -> Iterator[list[str]]:
        options = shares.smb_options(place.location)
        given = place.credentials
        if not given.user:
            yield [*options, "guest"]
            return
        try:
            self.mounts.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"({self.mounts.directory}: {error.strerror})") from None
        domain = given.domain or place.location.options.get("domain", "")
        with shares.credentials_file(
            self.mounts.directory, given.user, given.password, domain
        ) as path:
            yield [*options, f"credentials={path}"]

    def _device(self, place: Place) -> str:
        location = place.location
        if location.scheme == "iscsi":
            given = place.credentials
            return iscsi.log_in(location, given.user, given.password, self._clock)
        return devices.find(location.path, location.options.get("uuid", ""))

    # ------------------------------------------------------------------------------ buckets

    def _open_bucket(self, place: Place) -> Storage:
        bucket = bucket_of(place)
        # boto3 is an extra: only a host that has such storages needs it.
        from ruchu.storage.s3 import creating, storage  # noqa: PLC0415

        names = ("conditional_put", "conditional_complete", "versioned", "lockable")
        traits = creating.Traits(**{name: bool(place.probe.get(name)) for name in names})
        lock = self._state / "locks" / f"{place.name}.lock"
        one_writer = creating.OneWriter(place.writer, lock) if place.writer else None
        return storage.S3Storage(bucket, traits, one_writer, self._clock)


def bucket_of(place: Place) -> "Bucket":
    """Return the bucket of a place.

    Raises:
        UsageError: this host has no boto3.
    """
    if importlib.util.find_spec("boto3") is None:
        raise UsageError("(boto3 is not installed)", hint=_EXTRA_HINT)
    from ruchu.storage.s3 import bucket  # noqa: PLC0415 - an extra

    location, given = place.location, place.credentials
    options = location.options
    endpoint = options.get("endpoint", "")
    style = options.get("style", "path" if endpoint else "virtual")
    address = bucket.Address(
        location.host,
        location.path,
        endpoint,
        options.get("region", bucket.REGION_DEFAULT),
        style == "path",
        options.get("ca", ""),
    )
    return bucket.Bucket(address, bucket.Keys(given.user, given.password, given.token))


def probe_bucket(place: Place, wanted: Preparation, *, known: bool = False) -> dict[str, bool]:
    """Find out what a server of S3 can do.

    Args:
        place: where.
        wanted: what a person agreed to.
        known: a storage is there already: it may also be one that others write, and we read.

    Raises:
        StorageRefused: it lacks what a storage cannot do without.
        UsageError: it decides nothing among writers, and nobody agreed to that.
    """
    bucket = bucket_of(place)
    from ruchu.storage.s3 import creating, probing  # noqa: PLC0415 - an extra

    found = probing.probe(bucket)
    if found.lacking():
        raise StorageRefused(f"({place.location}: {'; '.join(found.lacking())})")
    if found.conditional_put:
        return found.fields()
    other = creating.writer_of(bucket)
    if other in {"", place.writer} or wanted.take_over:
        if not wanted.one_writer and not wanted.take_over and other != place.writer:
            hint = "If no other host will ever write there: --one-writer. Others can still read."
            raise UsageError("(this server does not decide among writers of one name)", hint=hint)
        creating.take_over(bucket, place.writer)
    elif not known:
        raise StorageRefused("(another host is the one that writes there)")
    return found.fields()
