"""A process of Ruchu makes itself known to the guard of a storage, if there is one.

The guard listens on a socket that only root can reach, named after the storage's directory. It
asks the kernel who is at the other end, not the process itself.
"""

import contextlib
import functools
import os
import stat
from pathlib import Path

FOLDER = Path("/run/ruchu/guard")
REQUEST = b"admit\n"
ADMITTED = b"admitted\n"
ANSWER_BYTES_MAX = 200
# A guard answers within milliseconds; one that hangs is killed by its supervisor after a few
# seconds, and then nobody refuses us any more.
_ANSWER_LIMIT_S = 10.0
# Guards that know this process: the storage, and which socket in which life of it.
_KNOWN: dict[tuple[int, int], tuple[int, int, int]] = {}


@functools.lru_cache(maxsize=64)
def socket_path(identity: tuple[int, int]) -> Path:
    """Return where the guard of a storage listens, by device and inode of its directory."""
    device, inode = identity
    return FOLDER / f"{os.major(device)}.{os.minor(device)}.{inode}"


def announce(identity: tuple[int, int]) -> None:
    """Make this process known to the guard of a storage; without a guard nothing happens.

    Cheap when it is known already. A guard that refuses or is gone is no error here: whether the
    process may write is told by the write itself.
    """
    path = socket_path(identity)
    try:
        found = path.stat()
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        return
    life = (os.getpid(), found.st_ino, found.st_mtime_ns)
    if _KNOWN.get(identity) == life:
        return
    if _ask(path):
        _KNOWN[identity] = life


def is_guarded(identity: tuple[int, int]) -> bool:
    """Tell whether a guard of a storage answers."""
    import socket  # noqa: PLC0415 - see `_ask`

    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_LIMIT_S)
        connection.connect(str(socket_path(identity)))
        return True
    return False


def _ask(path: Path) -> bool:
    import socket  # noqa: PLC0415 - most hosts have no guard, and every command opens a storage

    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_LIMIT_S)
        connection.connect(str(path))
        connection.sendall(REQUEST)
        return bool(connection.recv(ANSWER_BYTES_MAX))
    return False
