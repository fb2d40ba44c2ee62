"""What a run tells about the data, and what is thought of it."""

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunSigns:
    """What an incremental run saw. Full runs say nothing about change and are left out.

    Attributes:
        chain: id.
        run: id; a run counts once.
        subject: the machine, for people.
        at: when it began, RFC 3339.
        size_bytes: of the disks; 0 if not known.
        changed_bytes: that it read because they had changed.
        stored_bytes: that it wrote, after deduplication and compression.
        ratio: compressed length by length of the chunks that were new; 1 does not compress. None if
            not known; then it is taken from the two figures above.
        entropy: bits in a byte of the new chunks, 0 to 8; None if not known.
        renamed: files, as far as the guest's file systems were read.
        removed: files.
    """

    chain: str
    run: str
    subject: str
    at: str
    size_bytes: int
    changed_bytes: int
    stored_bytes: int
    ratio: float | None = None
    entropy: float | None = None
    renamed: int | None = None
    removed: int | None = None

    @property
    def density(self) -> float | None:
        """How little the new data compresses: 0 to 1; None if nothing changed."""
        if self.ratio is not None:
            return min(1.0, max(0.0, self.ratio))
        return min(1.0, self.stored_bytes / self.changed_bytes) if self.changed_bytes else None

    @property
    def dense_bytes(self) -> float:
        """The changed data, weighed by how little it compresses."""
        return self.changed_bytes * (self.density or 0.0)


class Level(enum.StrEnum):
    """What is thought of a run."""

    LEARNING = "learning"  # too few runs before it
    NORMAL = "normal"
    UNUSUAL = "unusual"  # worth a look; nothing is frozen
    SUSPICIOUS = "suspicious"  # as if data was being encrypted or destroyed


class Standing(enum.StrEnum):
    """Whether later runs are compared with a run."""

    USUAL = "usual"
    DOUBTED = "doubted"
    ACCEPTED = "accepted"  # it was doubted, and a person said that all is well


@dataclass(frozen=True, slots=True)
class Past:
    """An earlier run.

    Attributes:
        signs: what it saw.
        standing: what it counts for.
    """

    signs: RunSigns
    standing: Standing = Standing.USUAL


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of a run, and why, in sentences with figures."""

    level: Level
    reasons: tuple[str, ...] = ()
