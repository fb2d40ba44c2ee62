"""What a repository needs of the world around it, passed in so that tests can steer it."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruchu.clock import SYSTEM, Clock
from ruchu.model.ids import Entropy
from ruchu.repository.holders import HostProcesses, Processes


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Clock, randomness, knowledge of processes, and a directory for what is only cache.

    Attributes:
        cache: directory for indexes and ledgers; None keeps them in memory only.
        needed: returns points that this host needs although no process reads them now (an instant
            restore whose export died, or whose host was restarted): by id, what for.
    """

    clock: Clock = SYSTEM
    entropy: Entropy = os.urandom
    processes: Processes = field(default_factory=HostProcesses)
    cache: Path | None = None
    needed: Callable[[], Mapping[str, str]] = dict
