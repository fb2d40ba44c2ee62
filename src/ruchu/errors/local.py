"""Errors of what one host does: storages, repositories, platforms, guests, exports."""

from typing import Any

from ruchu.errors.root import RuchuError


class UsageError(RuchuError):
    """The request cannot be carried out."""

    code = "usage"
    exit_status = 2


class InvalidName(UsageError):
    """This name is not allowed."""

    code = "invalid-name"
    hint = "Use letters, digits, dots, dashes and underscores."


class NotFound(UsageError):
    """There is no such thing."""

    code = "not-found"
    exit_status = 3


class AlreadyExists(UsageError):
    """It exists already."""

    code = "already-exists"


class PointProtected(UsageError):
    """The point is starred or locked and stays."""

    code = "point-protected"
    exit_status = 4
    hint = "Remove the star first; a lock ends by itself on its date."


class WeakPassword(UsageError):
    """This password would soon be guessed:"""

    code = "weak-password"
    hint = "Take several words that do not belong together, or let a password manager make one."


class Cancelled(RuchuError):
    """Cancelled; nothing was left behind."""

    code = "cancelled"
    exit_status = 130


class PartlyFailed(RuchuError):
    """Not everything that was asked for was done."""

    code = "partly-failed"
    exit_status = 16

    def __init__(
        self, detail: str = "", *, hint: str = "", result: dict[str, Any], again: bool
    ) -> None:
        """Say what was done all the same, and whether trying again may help."""
        super().__init__(detail, hint=hint)
        self.result = result
        self.again = again


class StorageError(RuchuError):
    """The storage failed."""

    code = "storage"
    exit_status = 5
    retry = True
    hint = "Check the disk or the mount, then run the same command again."


class StorageFull(StorageError):
    """The storage is full (or down to its reserve)."""

    code = "storage-full"
    retry = False
    hint = "Free space or grow the storage; committed points are untouched. Then run again."


class StorageReadOnly(StorageError):
    """The storage is mounted read-only or may not be written by this user."""

    code = "storage-read-only"
    retry = False
    hint = "Remount it read-write or fix its permissions, then run again."


class StorageGone(StorageError):
    """The storage is not there: unplugged, unmounted, or not a Ruchu storage."""

    code = "storage-gone"
    hint = "Mount or plug in the storage again, then run the same command."


class ObjectMissing(StorageError):
    """An object is missing in the storage."""

    code = "object-missing"
    retry = False
    hint = "Run `ruchu storage verify`; repair the chain from a copy."


class ObjectShort(StorageError):
    """An object is shorter than what was asked of it."""

    code = "object-short"
    retry = False
    hint = "It was cut off. Run `ruchu storage verify`; repair the chain from a copy."


class ObjectExists(StorageError):
    """An object of this name exists already; data written is never rewritten."""

    code = "object-exists"
    retry = False


class UnsafeName(StorageError):
    """A name from outside would leave its directory or has odd characters."""

    code = "unsafe-name"
    retry = False
    hint = "Somebody tampered with the storage, or it is no Ruchu storage. Do not trust it."


class ForeignDirectory(StorageError):
    """The directory holds files that are not Ruchu's."""

    code = "foreign-directory"
    retry = False
    hint = "Choose an empty directory, or `ruchu storage adopt` one that is a Ruchu storage."


class ImmutableNotApplied(StorageError):
    """The immutable flag was set without an error, yet it is not there."""

    code = "immutable-not-applied"
    retry = False
    hint = "This file system or user cannot protect files; see `ruchu doctor`."


class ImageDamaged(StorageError):
    """The disk image contradicts itself:"""

    code = "image-damaged"
    retry = False
    hint = "Check it with the program that made it, such as `qemu-img check`."


class StorageRefused(StorageError):
    """The storage refuses:"""

    code = "storage-refused"
    retry = False
    hint = "Check the credentials, what they allow, and the address of the storage."


class GuardUnsupported(StorageError):
    """This host cannot guard a storage in this way:"""

    code = "guard-unsupported"
    retry = False
    hint = "`ruchu doctor --path DIRECTORY` says what it can."


class RepositoryError(RuchuError):
    """The repository refuses."""

    code = "repository"
    exit_status = 6


class Damaged(RepositoryError):
    """Damaged backup data:"""

    code = "damaged"
    exit_status = 7
    hint = "Run `ruchu storage verify --full`; other points may be whole; repair from a copy."


class UnknownFormat(RepositoryError):
    """The format version is unknown to this release."""

    code = "unknown-format"
    hint = "Use a newer Ruchu, or the restore.py that lies in the storage."


class WrongKey(RepositoryError):
    """The passphrase or key file does not open this storage."""

    code = "wrong-key"
    exit_status = 8
    hint = "Give the right one with --passphrase-file; the data is untouched."


class ChainBusy(RepositoryError):
    """Another writer works on this chain:"""

    code = "chain-busy"
    exit_status = 9
    retry = True
    hint = "Wait for it to end. If that process is dead, the next run takes over by itself."


class PointInUse(RepositoryError):
    """The point is being read:"""

    code = "point-in-use"
    exit_status = 9
    retry = True
    hint = "Wait for that restore, verification or copy to end."


class LockLost(RepositoryError):
    """Another writer took this chain over while this one was thought dead."""

    code = "lock-lost"
    exit_status = 9
    retry = True


class ClockWentBack(RepositoryError):
    """The clock of this host is behind the newest point; nothing is removed by age."""

    code = "clock-went-back"
    hint = "Set the clock (NTP); then apply the retention again."


class Incomplete(RepositoryError):
    """Fewer bytes were moved than should have been."""

    code = "incomplete"
    hint = "The point was not committed. Run again; report this if it comes back."


class PlatformError(RuchuError):
    """The platform failed."""

    code = "platform"
    exit_status = 10
    retry = True


class Unreachable(PlatformError):
    """The platform does not answer."""

    code = "platform-unreachable"
    hint = "Check the address, the network and the credentials: `ruchu platform check`."


class Unsupported(PlatformError):
    """The platform cannot do this."""

    code = "platform-unsupported"
    retry = False


class SourceBusy(PlatformError):
    """Another job works on this machine."""

    code = "source-busy"
    hint = "Wait for it to end (a migration, a block job, another backup)."


class SourceChanged(PlatformError):
    """The source changed under the backup."""

    code = "source-changed"


class GuestAgentError(PlatformError):
    """The guest agent failed."""

    code = "guest-agent"
    hint = "Check that qemu-guest-agent runs in the guest, or use --no-quiesce."


class NbdError(PlatformError):
    """The NBD server failed or broke the protocol."""

    code = "nbd"


class GuestError(RuchuError):
    """What is inside the disk could not be read."""

    code = "guest"
    exit_status = 12


class GuestDamaged(GuestError):
    """The guest's file system or partition table contradicts itself:"""

    code = "guest-damaged"
    hint = "The point holds it as the guest had it. Mount another point, or run the guest's fsck."


class GuestUnsupported(GuestError):
    """The guest's file system uses something that this release does not understand:"""

    code = "guest-unsupported"
    hint = "Export the disk (`ruchu export nbd`) or run the point and read it with the guest."


class GuestIncomplete(GuestError):
    """Not everything inside the disk could be read:"""

    code = "guest-incomplete"
    hint = "Each failure was told, the rest was read. Another point may have what is missing."


class ExportError(RuchuError):
    """The point could not be served."""

    code = "export"
    exit_status = 13


class CacheDamaged(ExportError):
    """The write cache is damaged:"""

    code = "cache-damaged"
    hint = "The point itself is whole. Start again with a new write cache."


class CacheMismatch(ExportError):
    """The write cache belongs to another point or disk:"""

    code = "cache-mismatch"
    hint = "Give the cache that was made for this point, or a new path."


class CommandFailed(RuchuError):
    """An external program failed:"""

    code = "command-failed"
    exit_status = 11
