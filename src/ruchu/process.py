"""How this process uses the memory of its host; called once, at its start."""

import ctypes
import os

from ruchu.units import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# Buffers of a few megabytes come and go all the time. glibc would map and unmap each of them,
# and the kernel would hand out zeroed pages anew; kept on the heap they are used again.
_MMAP_THRESHOLD = 32 * MIB
_TRIM_THRESHOLD = 256 * MIB
# Threads that encode share their memory; an arena for each would only hold what others freed.
_ARENAS = 2


def tune_memory() -> None:
    """Keep freed memory for the next buffer; where the C library is not glibc, it stays as it is.

    Called before numpy is imported: its linear algebra, which we do not use, would otherwise start
    a thread for each core.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
    mallopt(_M_ARENA_MAX, _ARENAS)
