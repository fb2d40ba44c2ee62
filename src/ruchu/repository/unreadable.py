"""Bad sectors: a file that is there, of which the system cannot give a part."""

import errno

from ruchu.errors import StorageError
from ruchu.repository import layout
from ruchu.storage.contract import Storage

# A medium error; ext4, XFS and Btrfs on a checksum of theirs that is wrong; a bad encoding.
_MEDIUM = {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EILSEQ}
_MARKER_BYTES_MAX = 64 << 10


def is_unreadable(storage: Storage, error: StorageError) -> bool:
    """Tell whether an error is about one place of the medium and not about the whole storage.

    A disk that was pulled out answers with the same error as a bad sector does, to everything: so
    the marker of the storage must still be readable.
    """
    cause = error.__cause__
    if type(error) is not StorageError or not isinstance(cause, OSError):
        return False
    if cause.errno not in _MEDIUM:
        return False
    try:
        storage.get(layout.STORAGE, _MARKER_BYTES_MAX)
    except StorageError:
        return False
    return True
