"""Whether an open of a file in a storage is let through. Pure: everything is handed in."""

import enum
import os
from dataclasses import dataclass


class Verdict(enum.Enum):
    """What becomes of an open, and why."""

    OURS = "by Ruchu"
    READING = "for reading"
    REFUSED_WRITING = "open for writing"
    REFUSED_READING = "open for reading"

    @property
    def allowed(self) -> bool:
        """Whether the open is let through."""
        return self in {Verdict.OURS, Verdict.READING}


@dataclass(frozen=True, slots=True)
class Rules:
    """Who besides Ruchu may read.

    Attributes:
        readers: paths of programs that may (a virus scanner, say); None: everybody.
    """

    readers: frozenset[str] | None = None


def judge(rules: Rules, *, admitted: bool, flags: int | None, exe: str) -> Verdict:
    """Decide about one open.

    Args:
        rules: who may read.
        admitted: whether it is a process of Ruchu.
        flags: those of open(2); None if they cannot be told, which counts as writing.
        exe: the file that the process runs.
    """
    if admitted:
        return Verdict.OURS
    if flags is None or flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
        return Verdict.REFUSED_WRITING
    if rules.readers is not None and exe not in rules.readers:
        return Verdict.REFUSED_READING
    return Verdict.READING
