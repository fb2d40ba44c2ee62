"""The programs in the kernel: who is admitted, what was refused."""

import contextlib
import errno
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from ruchu.errors import GuardUnsupported
from ruchu.storage.guarding.bpf import calls, programs, structures
from ruchu.storage.guarding.bpf.programs import HOOKS, REQUIRED, Maps

_ROOTS_MAX = 64
ADMITTED_MAX = 1024
# Refusals that wait for the guard; it looks several times a second.
_EVENTS_MAX = 4096
_FLAG = b"\1\0\0\0"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the kernel refused.

    Attributes:
        what: open for writing, remove, rename, …
        pid: of the process.
        uid: its user.
        comm: its short name.
        started: clock ticks since the boot at its start.
        directory: inode of the directory that the entry lies in.
        name: the entry, cut off after 63 bytes.
    """

    what: str
    pid: int
    uid: int
    comm: str
    started: int
    directory: int
    name: str


class Enforcement:
    """Programs on the hooks of the LSM. They end with this process, whatever becomes of it.

    Raises:
        GuardUnsupported: this kernel has no BPF LSM, does not describe itself, or refuses.
    """

    def __init__(self) -> None:
        kernel = structures.of_this_kernel()
        with contextlib.ExitStack() as opened:
            try:
                self._maps = Maps(
                    *(
                        _kept(opened, calls.create_map(*shape))
                        for shape in (
                            (calls.HASH, 8, 4, _ROOTS_MAX),
                            (calls.HASH, 16, 4, _ROOTS_MAX),
                            (calls.HASH, 8, 8, ADMITTED_MAX),
                            (calls.QUEUE, 0, programs.EVENT.size, _EVENTS_MAX),
                        )
                    )
                )
                attached = (self._hook(n, kernel, opened) for n in range(len(HOOKS)))
                self.hooks = tuple(filter(None, attached))
            except OSError as error:
                raise GuardUnsupported(f"the kernel refuses a program: {error.strerror}") from error
            missing = sorted(REQUIRED - set(self.hooks))
            if missing:
                raise GuardUnsupported(f"this kernel has no hook {', '.join(missing)}")
            self._opened = opened.pop_all()

    def _hook(
        self, number: int, kernel: structures.Structures, opened: contextlib.ExitStack
    ) -> str:
        name = HOOKS[number].name
        function = kernel.function(f"bpf_lsm_{name}")
        if function is None:
            return ""
        code = programs.build(number, function, self._maps, kernel)
        program = _kept(opened, calls.load(code, function, f"ruchu_{name}"))
        _kept(opened, calls.attach(program))
        return name

    def guard(self, directory: str) -> None:
        """Guard a directory and all below it.

        Raises:
            OSError: it is not there.
        """
        number, inode = _place(directory)
        calls.update(self._maps.roots, struct.pack("<QQ", number, inode), _FLAG)
        calls.update(self._maps.devices, struct.pack("<Q", number), _FLAG)

    def admit(self, pid: int, started: int) -> None:
        """Let a process do what it wants."""
        calls.update(self._maps.admitted, struct.pack("<Q", pid), struct.pack("<Q", started))

    def dismiss(self, pid: int) -> None:
        """Forget a process; one that is not known is no error."""
        with contextlib.suppress(FileNotFoundError):
            calls.delete(self._maps.admitted, struct.pack("<Q", pid))

    def refusals(self) -> list[Refusal]:
        """Return what was refused since the last call."""
        found: list[Refusal] = []
        while len(found) < _EVENTS_MAX:
            event = calls.take(self._maps.events, programs.EVENT.size)
            if event is None:
                break
            found.append(_refusal(event))
        return found

    def close(self) -> None:
        """Take the programs off."""
        self._opened.close()


def _kept(opened: contextlib.ExitStack, descriptor: int) -> int:
    opened.callback(os.close, descriptor)
    return descriptor


def _place(directory: str) -> tuple[int, int]:
    """Return the device and inode of a directory as the kernel itself numbers them.

    The device is that of the mount: Btrfs tells stat(2) another one for each subvolume.
    """
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inode = os.fstat(handle).st_ino
        facts = Path(f"/proc/self/fdinfo/{handle}").read_text(encoding="ascii")
    finally:
        os.close(handle)
    mount = next(line.split()[1] for line in facts.splitlines() if line.startswith("mnt_id:"))
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    for line in mounts.splitlines():
        words = line.split()
        if words[0] == mount:
            major, minor = words[2].split(":")
            return int(major) << 20 | int(minor), inode
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)


def _refusal(event: bytes) -> Refusal:
    hook, pid, uid, _, _, directory, started, comm, name = programs.EVENT.unpack(event)
    texts = (each.partition(b"\0")[0].decode("utf-8", "replace") for each in (comm, name))
    short, entry = texts
    ticks = started // programs.NANOSECONDS_PER_TICK
    return Refusal(HOOKS[hook].verb, pid, uid, short, ticks, directory, entry)
