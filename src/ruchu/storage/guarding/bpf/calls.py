"""The system call bpf(2): maps, programs, links; each is a file descriptor."""

import ctypes
import os
import platform
import struct

from ruchu.errors import GuardUnsupported

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "ppc64le": 361}
_MAP_CREATE, _MAP_UPDATE, _MAP_DELETE, _MAP_TAKE = 0, 2, 3, 21
_PROGRAM_LOAD, _ATTACH = 5, 17  # BPF_RAW_TRACEPOINT_OPEN attaches an LSM program
HASH, QUEUE = 1, 22
_TYPE_LSM, _ATTACH_LSM = 29, 27
# Helpers of the kernel are open to programs that say so. The instructions in this package may be
# used under the GPL version 2 or the BSD licence, too.
_LICENCE = b"Dual BSD/GPL\0"
_LOG_SIZE = 1024 * 1024  # what the verifier says about a program of some hundred instructions
_LOG_SHOWN = 600
_LIBC = ctypes.CDLL(None, use_errno=True)


def _call(command: int, attributes: bytes) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise GuardUnsupported(f"bpf(2) is not known on {platform.machine()}")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    answer = _LIBC.syscall(number, command, buffer, len(attributes))
    if answer < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(answer)


def create_map(kind: int, key_bytes: int, value_bytes: int, entries_max: int) -> int:
    """Make a map."""
    return _call(
        _MAP_CREATE, struct.pack("<IIIII44x", kind, key_bytes, value_bytes, entries_max, 0)
    )


def update(descriptor: int, key: bytes, value: bytes) -> None:
    """Put a value under a key."""
    with_key, with_value = (ctypes.create_string_buffer(each, len(each)) for each in (key, value))
    pointers = ctypes.addressof(with_key), ctypes.addressof(with_value)
    _call(_MAP_UPDATE, struct.pack("<IxxxxQQQ", descriptor, *pointers, 0))


def delete(descriptor: int, key: bytes) -> None:
    """Remove a key; FileNotFoundError if it is not there."""
    with_key = ctypes.create_string_buffer(key, len(key))
    _call(_MAP_DELETE, struct.pack("<IxxxxQQQ", descriptor, ctypes.addressof(with_key), 0, 0))


def take(queue: int, value_bytes: int) -> bytes | None:
    """Take the oldest value off a queue, None if it is empty."""
    value = ctypes.create_string_buffer(value_bytes)
    try:
        _call(_MAP_TAKE, struct.pack("<IxxxxQQQ", queue, 0, ctypes.addressof(value), 0))
    except FileNotFoundError:
        return None
    return value.raw


def load(code: bytes, function: int, name: str) -> int:
    """Load a program for an LSM hook.

    Raises:
        OSError: the kernel refuses it; the end of what the verifier says is in the text.
    """
    try:
        return _load(code, function, name, None)
    except OSError as error:
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return _load(code, function, name, log)
        except OSError:
            said = log.value.decode("utf-8", "replace")[-_LOG_SHOWN:]
            why = f"{os.strerror(error.errno or 0)}{': ' if said else ''}{said}"
            raise OSError(error.errno, why) from error


def _load(code: bytes, function: int, name: str, log: "ctypes.Array[ctypes.c_char] | None") -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(_LICENCE)
    attributes = struct.pack(
        "<IIQQIIQII16sIIIIQIIQII",
        _TYPE_LSM, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(licence),
        1 if log else 0, _LOG_SIZE if log else 0, ctypes.addressof(log) if log else 0,
        0, 0, name.encode()[:15], 0, _ATTACH_LSM, 0, 0, 0, 0, 0, 0, 0, function,
    )  # fmt: skip
    return _call(_PROGRAM_LOAD, attributes + b"\0" * 16)


def attach(program: int) -> int:
    """Attach a program to its hook, for as long as the descriptor returned is open."""
    return _call(_ATTACH, struct.pack("<QIxxxxQ", 0, program, 0))
