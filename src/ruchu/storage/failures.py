"""What an error of the operating system means for a storage."""

import errno
import os

from ruchu import errors


class ObjectTooLarge(errors.StorageError):
    """An object is larger than it can be."""

    code = "object-too-large"
    retry = False
    hint = "Somebody tampered with the storage, or it is damaged: run `ruchu storage verify`."


_MEANINGS: dict[int, type[errors.StorageError]] = {
    errno.ENOSPC: errors.StorageFull,
    errno.EDQUOT: errors.StorageFull,
    errno.EROFS: errors.StorageReadOnly,
    errno.EACCES: errors.StorageReadOnly,
    errno.EPERM: errors.StorageReadOnly,
    errno.ENODEV: errors.StorageGone,
    errno.ENXIO: errors.StorageGone,
    errno.ENOTCONN: errors.StorageGone,
    errno.ESTALE: errors.StorageGone,
    errno.ESHUTDOWN: errors.StorageGone,
    errno.EHOSTDOWN: errors.StorageGone,
    errno.ENOENT: errors.ObjectMissing,
    errno.ENOTDIR: errors.ObjectMissing,
    errno.EEXIST: errors.ObjectExists,
    errno.ELOOP: errors.UnsafeName,
}
_HINTS = {
    errno.ELOOP: "There is a symbolic link in the storage. Ruchu makes none and follows none.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n), then run again.",
    errno.ENFILE: "This host has too many open files. Close some, then run again.",
}


def translate(error: OSError, path: str) -> errors.StorageError:
    """Return our error for one of the operating system, with the path and its text."""
    number = error.errno or errno.EIO
    kind = _MEANINGS.get(number, errors.StorageError)
    return kind(f"{path}: {os.strerror(number)}", hint=_HINTS.get(number, ""))
