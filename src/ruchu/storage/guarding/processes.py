"""Who a process is, and what the system call that it waits in wants; out of /proc."""

import contextlib
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# A command line can be 2 MB long; a report needs its beginning.
COMMAND_LENGTH_MAX = 300
_STAT_START = 19  # field 22 of proc(5), counted after the name of the command
# Numbers of the calls that open a file: the argument with the flags; None: only for reading.
# Whatever is not here (a 32-bit program, io_uring, openat2 whose flags lie in memory that another
# thread may change) could be opening for writing, and counts as that.
_OPENING = {
    "x86_64": {2: 1, 257: 2, 59: None, 322: None},
    "aarch64": {56: 2, 221: None, 281: None},
    "riscv64": {56: 2, 221: None, 281: None},
    "loongarch64": {56: 2, 221: None, 281: None},
}


@dataclass(frozen=True, slots=True)
class Program:
    """A process as it was when it was looked at; what could not be found out is empty.

    Attributes:
        pid: process id.
        uid: its user, -1 if unknown.
        comm: its short name.
        exe: the file that it runs.
        command: its command line, cut off.
        started: clock ticks since the boot, 0 if unknown; a reused pid has another.
    """

    pid: int
    uid: int = -1
    comm: str = ""
    exe: str = ""
    command: str = ""
    started: int = 0

    def fields(self) -> dict[str, Any]:
        """Return it for a document."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.exe or self.comm or 'a process that is gone'} (process {self.pid})"


def look(pid: int) -> Program:
    """Describe a process; one that is gone has a pid and nothing else."""
    words = _text(pid, "cmdline").replace("\0", " ").strip()
    exe, uid = "", -1
    with contextlib.suppress(OSError):
        exe = str(Path(f"/proc/{pid}/exe").readlink())
    with contextlib.suppress(OSError):
        uid = Path(f"/proc/{pid}").stat().st_uid
    return Program(
        pid, uid, _text(pid, "comm").strip(), exe, words[:COMMAND_LENGTH_MAX], started(pid) or 0
    )


def started(pid: int) -> int | None:
    """Return when a process started, None if it does not run (or is a zombie)."""
    fields = _text(pid, "stat").rpartition(")")[2].split()
    if len(fields) <= _STAT_START or fields[0] in {"Z", "X"}:
        return None
    return int(fields[_STAT_START])


def group_of(thread: int) -> int:
    """Return the process that a thread belongs to; the thread itself if nobody can tell."""
    for line in _text(thread, "status").splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    return thread


def open_flags(thread: int) -> int | None:
    """Return the flags with which a thread that waits within open(2) opens; None: cannot be told.

    They are in its registers, which nobody changes while it waits.
    """
    words = _text(thread, "syscall").split()
    opening = _OPENING.get(platform.machine(), {})
    if not words or not words[0].isdigit() or int(words[0]) not in opening:
        return None
    argument = opening[int(words[0])]
    return os.O_RDONLY if argument is None else int(words[1 + argument], 16)


def runs_same_file(pid: int) -> bool:
    """Tell whether a process runs the very file that this one runs."""
    try:
        theirs, ours = Path(f"/proc/{pid}/exe").stat(), Path("/proc/self/exe").stat()
    except OSError:
        return False
    return os.path.samestat(theirs, ours)


def _text(pid: int, name: str) -> str:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:  # noqa: PTH123 - called for every open
            return file.read(4096).decode("utf-8", "replace")
    except OSError:
        return ""
