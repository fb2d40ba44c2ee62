"""What every restore is told besides what to restore, and what keeps its point from going."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ruchu.blocks.copying import WORKERS_DEFAULT, Progress
from ruchu.errors import StorageFull, StorageReadOnly
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head


def _nobody_watches(label: str, progress: Progress) -> None:
    """Take note of a copy that begins; here nobody does."""


@dataclass(frozen=True, slots=True)
class Run:
    """How a restore runs.

    Attributes:
        workers: threads that read, decode and write one disk.
        watch: told of each copy that begins: a label, and the progress to look at any time.
        cancelled: asked before each piece; the run ends with Cancelled once it says yes.
    """

    workers: int = WORKERS_DEFAULT
    watch: Callable[[str, Progress], None] = _nobody_watches
    cancelled: Callable[[], bool] = lambda: False


@contextlib.contextmanager
def leased(chain: Chain, head: Head, what: str) -> Iterator[bool]:
    """Hold a lease on a point; yield whether that was possible.

    A storage that takes no lease, because it is full or read-only, must still give back its data;
    where nothing can be written, no point can be removed either.

    Raises:
        NotFound: the point was deleted.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(chain.reading(head, what))
        except (StorageReadOnly, StorageFull):
            yield False
        else:
            yield True
