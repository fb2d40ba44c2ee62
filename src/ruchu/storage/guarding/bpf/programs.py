"""The programs: whoever is not admitted changes nothing below a guarded directory.

One shape for every hook. The dentry that the hook is about is followed upwards; if it lies below a
guarded directory and the process is not admitted, an event is queued and the answer is EPERM.
Devices without a guarded directory are left after one look into a small map.
"""

import struct
from dataclasses import dataclass

from ruchu.errors import GuardUnsupported
from ruchu.storage.guarding.bpf.assembling import Assembler
from ruchu.storage.guarding.bpf.structures import Structures

# A storage has 8 levels below its top at most (`storage.names`); the rest is what intruders make.
LEVELS_MAX = 12
NAME_BYTES = 64
COMMAND_BYTES = 16
EVENT = struct.Struct(f"<IIIIQQQ{COMMAND_BYTES}s{NAME_BYTES}s")
"""Hook, process, user, device, inode, inode of the directory, start of the process in ns, command,
name."""

NANOSECONDS_PER_TICK = 10_000_000  # USER_HZ is 100 wherever Linux runs
_REFUSED = -1  # EPERM
_MODE_WRITE = 2  # FMODE_WRITE
# FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, and the first as a program of 32 bits says it.
_FLAG_REQUESTS = (0x4008_6602, 0x401C_5820, 0x4004_6602)

# Helpers, by their numbers in linux/bpf.h.
_LOOKUP, _PID, _UID, _COMMAND, _PUSH, _READ_TEXT, _TASK = 1, 14, 15, 16, 87, 115, 158

# Places on the stack: a key of two words, below it the event.
_KEY = -16
_SMALL_KEY = -24
_EVENT = _SMALL_KEY - EVENT.size - EVENT.size % 8
_TARGET, _WALKER, _CONTEXT, _FOUND = 6, 7, 9, 8
_FRAME = 10


@dataclass(frozen=True, slots=True)
class Hook:
    """A hook of the LSM.

    Attributes:
        name: as in the kernel, without `bpf_lsm_`.
        verb: what was refused, for people.
        about: what it is about: all its arguments of this kind.
        when: `always`; `writing` if a file is opened for it; `flags` if a request sets them.
    """

    name: str
    verb: str
    about: str
    when: str = "always"


# path_* are asked before the flags are looked at, so that an attempt that the flags would refuse
# anyway is reported, too; inode_* also cover the kernel's own servers (NFS, SMB).
HOOKS = (
    Hook("file_open", "open for writing", "file", "writing"),
    Hook("file_ioctl", "change flags", "file", "flags"),
    Hook("file_ioctl_compat", "change flags", "file", "flags"),
    Hook("inode_file_setattr", "change flags", "dentry"),
    Hook("path_unlink", "remove", "dentry"),
    Hook("path_rmdir", "remove", "dentry"),
    Hook("path_rename", "rename", "dentry"),
    Hook("path_truncate", "truncate", "path"),
    Hook("path_link", "link", "dentry"),
    Hook("path_chmod", "change the mode", "path"),
    Hook("path_chown", "change the owner", "path"),
    Hook("inode_unlink", "remove", "dentry"),
    Hook("inode_rmdir", "remove", "dentry"),
    Hook("inode_rename", "rename", "dentry"),
    Hook("inode_link", "link", "dentry"),
    Hook("inode_create", "create", "dentry"),
    Hook("inode_mkdir", "create", "dentry"),
    Hook("inode_mknod", "create", "dentry"),
    Hook("inode_symlink", "create", "dentry"),
    Hook("inode_setattr", "change attributes", "dentry"),
    Hook("inode_setxattr", "change attributes", "dentry"),
    Hook("inode_removexattr", "change attributes", "dentry"),
)
# Without these the guard would have holes; the others come and go with releases and options.
REQUIRED = frozenset({
    "file_open", "file_ioctl", "inode_unlink", "inode_rmdir", "inode_rename", "inode_link",
    "inode_setattr",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Maps:
    """Descriptors of the maps that all programs share.

    Attributes:
        devices: which devices hold a guarded directory.
        roots: device and inode of the guarded directories.
        admitted: start in ticks of each admitted process, by its id.
        events: queue of what was refused.
    """

    devices: int
    roots: int
    admitted: int
    events: int


def build(number: int, function: int, maps: Maps, kernel: Structures) -> bytes:
    """Return the program for a hook, by its number and its function in the kernel.

    Raises:
        GuardUnsupported: this kernel's structures are not what they were.
    """
    hook = HOOKS[number]
    arguments = kernel.arguments(function, hook.about)
    if not arguments:
        raise GuardUnsupported(f"{hook.name} of this kernel is about no {hook.about}")
    code = Assembler()
    code.move(_CONTEXT, 1)
    for argument in arguments:
        _look_at(code, hook, argument, maps, kernel)
    code.jump("allow")
    code.label("guarded")
    _leave_if_admitted(code, maps, kernel)
    _report(code, number, maps, kernel)
    code.leave(_REFUSED)
    code.label("allow")
    code.leave(0)
    return code.assembled()


def _look_at(code: Assembler, hook: Hook, argument: int, maps: Maps, kernel: Structures) -> None:
    """Jump to `guarded` if an argument lies below a guarded directory."""
    code.load(_TARGET, _CONTEXT, 8 * argument)
    if hook.when == "writing":
        code.load(1, _TARGET, kernel.offset("file", "f_mode"), 4)
        code.mask(1, _MODE_WRITE)
        code.jump_equal(1, 0, "allow")
    elif hook.when == "flags":
        code.load(1, _CONTEXT, 8, 4)
        for request in _FLAG_REQUESTS:
            code.jump_equal(1, request, "flags")
        code.jump("allow")
        code.label("flags")
    if hook.about == "file":
        code.load(_TARGET, _TARGET, kernel.offset("file", "f_path", "dentry"))
    elif hook.about == "path":
        code.load(_TARGET, _TARGET, kernel.offset("path", "dentry"))
    _walk(code, f"{argument}", maps, kernel)


def _walk(code: Assembler, name: str, maps: Maps, kernel: Structures) -> None:
    code.load(1, _TARGET, kernel.offset("dentry", "d_sb"))
    code.load(1, 1, kernel.offset("super_block", "s_dev"), 4)
    code.store(_FRAME, _KEY, 1)
    _lookup(code, maps.devices, _KEY)
    code.jump_equal(0, 0, f"next {name}")
    code.move(_WALKER, _TARGET)
    for level in range(LEVELS_MAX):
        _inode_number(code, f"{name} {level}", kernel)
        code.store(_FRAME, _KEY + 8, 2)
        _lookup(code, maps.roots, _KEY)
        code.jump_unequal(0, 0, "guarded")
        code.load(1, _WALKER, kernel.offset("dentry", "d_parent"))
        code.jump_same(1, _WALKER, f"next {name}")
        code.move(_WALKER, 1)
    code.label(f"next {name}")


def _inode_number(code: Assembler, name: str, kernel: Structures) -> None:
    """Put the number of the walker's inode into register 2; 0 if it has none (yet)."""
    code.load(1, _WALKER, kernel.offset("dentry", "d_inode"))
    code.number(2, 0)
    code.jump_equal(1, 0, f"no inode {name}")
    code.load(2, 1, kernel.offset("inode", "i_ino"))
    code.label(f"no inode {name}")


def _lookup(code: Assembler, descriptor: int, key: int) -> None:
    code.map(1, descriptor)
    code.move(2, _FRAME)
    code.add(2, key)
    code.call(_LOOKUP)


def _leave_if_admitted(code: Assembler, maps: Maps, kernel: Structures) -> None:
    """Allow what an admitted process does. Leaves the start of the process in the event."""
    code.call(_TASK)
    code.load(1, 0, kernel.offset("task_struct", "group_leader"))
    code.load(_FOUND, 1, kernel.offset("task_struct", "start_boottime"))
    code.call(_PID)
    code.shift_right(0, 32)
    code.store(_FRAME, _SMALL_KEY, 0)
    _lookup(code, maps.admitted, _SMALL_KEY)
    code.jump_equal(0, 0, "foreign")
    code.load(2, 0, 0)
    code.move(3, _FOUND)
    code.divide(3, NANOSECONDS_PER_TICK)
    code.jump_same(2, 3, "allow")
    code.label("foreign")


def _report(code: Assembler, number: int, maps: Maps, kernel: Structures) -> None:
    """Queue an event; a full queue loses it, which the reader of the queue finds out by counting."""
    code.number(1, 0)
    for offset in range(_EVENT, _SMALL_KEY, 8):
        code.store(_FRAME, offset, 1)
    code.number(1, number)
    code.store(_FRAME, _EVENT, 1, 4)
    code.load(1, _FRAME, _SMALL_KEY)
    code.store(_FRAME, _EVENT + 4, 1, 4)
    code.call(_UID)
    code.store(_FRAME, _EVENT + 8, 0, 4)
    code.load(1, _FRAME, _KEY)
    code.store(_FRAME, _EVENT + 12, 1, 4)
    code.move(_WALKER, _TARGET)
    _inode_number(code, "event", kernel)
    code.store(_FRAME, _EVENT + 16, 2)
    code.load(_WALKER, _TARGET, kernel.offset("dentry", "d_parent"))
    _inode_number(code, "directory", kernel)
    code.store(_FRAME, _EVENT + 24, 2)
    code.store(_FRAME, _EVENT + 32, _FOUND)
    code.move(1, _FRAME)
    code.add(1, _EVENT + 40)
    code.number(2, COMMAND_BYTES)
    code.call(_COMMAND)
    code.load(3, _TARGET, kernel.offset("dentry", "d_name", "name"))
    code.move(1, _FRAME)
    code.add(1, _EVENT + 40 + COMMAND_BYTES)
    code.number(2, NAME_BYTES)
    code.call(_READ_TEXT)
    code.map(1, maps.events)
    code.move(2, _FRAME)
    code.add(2, _EVENT)
    code.number(3, 0)
    code.call(_PUSH)
