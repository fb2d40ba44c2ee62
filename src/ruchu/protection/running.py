"""What every backup run is told besides what to back up."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from ruchu.blocks.copying import WORKERS_DEFAULT, Progress
from ruchu.chunks import codec


def _nobody_watches(label: str, progress: Progress) -> None:
    """Take note of a copy that begins; here nobody does."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a backup runs.

    Attributes:
        level: zstd level, 0 stores chunks as they are.
        workers: threads that read, encode and store one disk.
        watch: told of each copy that begins: a label, and the progress to look at any time.
        cancelled: asked before each piece; the run ends with Cancelled once it says yes.
        choose: picks the blocks of the cross-check.
        sample: blocks of a disk that are cross-checked; 0 turns it off.
        leave_out: what does not count in the guest and is not saved (`guests.extraction`).
    """

    level: int = codec.LEVEL_DEFAULT
    workers: int = WORKERS_DEFAULT
    watch: Callable[[str, Progress], None] = _nobody_watches
    cancelled: Callable[[], bool] = lambda: False
    choose: random.Random = field(default_factory=random.SystemRandom)
    sample: int = 64
    leave_out: frozenset[str] = frozenset()
