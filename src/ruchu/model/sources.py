"""What a backup asks of a source, and what the source answers."""

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """Kind of a backup."""

    FULL = "full"
    INCREMENTAL = "incremental"
    DIFFERENTIAL = "differential"


class Consistency(enum.Enum):
    """How the guest's file systems stood when the point was taken."""

    APPLICATION = "application"
    FILESYSTEM = "filesystem"  # frozen through the guest agent
    CRASH = "crash"  # as after a power cut
    OFFLINE = "offline"  # the machine was off


class SnapshotOrder(enum.Enum):
    """How several machines of one run are snapshotted."""

    SERIAL = "serial"
    PARALLEL = "parallel"
    BARRIER = "barrier"  # freeze all, snapshot all, thaw all


@dataclass(frozen=True, slots=True)
class ChangeRef:
    """A moment that the platform can tell changes since.

    Attributes:
        name: the platform's name of it (libvirt: checkpoint name).
        disks: keys of the disks that it covers.
    """

    name: str
    disks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a disk was read in full, or something is weaker than asked. `disk` may be empty.

    `code` is stable: `no-reference`, `bitmap-lost`, `bitmap-broken`, `disk-resized`, `disk-new`,
    `format-untracked`, `machine-off`, `agent-missing`, `sample-mismatch`, …
    """

    code: str
    text: str
    disk: str = ""
