"""What a verification finds and says. No storage here."""

import enum
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ruchu.errors import Cancelled


class Depth(enum.StrEnum):
    """How deep a verification looks."""

    STRUCTURAL = "structural"
    SAMPLED = "sampled"
    FULL = "full"


class Severity(enum.StrEnum):
    """Whether a finding means that something is wrong, or is only worth knowing."""

    DAMAGE = "damage"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: what kind of finding; stable.
        object: name of the object in the storage.
        text: what is wrong, for people.
        points: ids of the points that it affects, sorted.
        severity: damage, or notice only.
    """

    code: str
    object: str
    text: str
    points: tuple[str, ...] = ()
    severity: Severity = Severity.DAMAGE


@dataclass(frozen=True, slots=True)
class Counts:
    """How much was looked at; `bytes` are those of packs that were read and checked."""

    documents: int = 0
    points: int = 0
    packs: int = 0
    chunks: int = 0
    bytes: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.documents + other.documents,
            self.points + other.points,
            self.packs + other.packs,
            self.chunks + other.chunks,
            self.bytes + other.bytes,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A random sample of the data records: how many were read, of how many."""

    records: int
    total: int

    def missed(self, fraction: float) -> float:
        """Return the chance that a damage of this fraction of the records was not seen."""
        assert 0 <= fraction <= 1
        if self.records >= self.total:
            return 0.0 if fraction else 1.0
        return float((1.0 - fraction) ** self.records)

    def __str__(self) -> str:
        said = f"{self.records} of {self.total} data records were read"
        if self.records >= self.total:
            return f"{said}: all of them."
        return (
            f"{said}. If a fraction p of the records were damaged, the chance to have missed it "
            f"is (1-p)^{self.records}: {self.missed(0.01):.2g} for 1 %, "
            f"{self.missed(0.001):.2g} for 0.1 %."
        )


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verification.

    Attributes:
        depth: how deep it looked.
        counts: what it looked at.
        findings: what it found.
        samples: of each chain, if it was sampled.
        covered: chains that were looked at whole, each with the sequence of its last point then:
            of its points up to that one, those that no damage affects are sound.
    """

    depth: Depth
    counts: Counts = field(default_factory=Counts)
    findings: tuple[Finding, ...] = ()
    samples: tuple[Sample, ...] = ()
    covered: tuple[tuple[str, int], ...] = ()

    @property
    def damages(self) -> tuple[Finding, ...]:
        """The findings that mean damage."""
        return tuple(found for found in self.findings if found.severity is Severity.DAMAGE)

    @property
    def clean(self) -> bool:
        """Whether no damage was found."""
        return not self.damages

    @property
    def affected_points(self) -> tuple[str, ...]:
        """Ids of the points that some damage affects, sorted."""
        return tuple(sorted({point for found in self.damages for point in found.points}))


class Findings:
    """Collects findings; those of one code about one object become one."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], tuple[str, Severity]] = {}
        self._points: dict[tuple[str, str], set[str]] = {}

    def damage(self, code: str, name: str, text: str, points: Iterable[str] = ()) -> None:
        """Note damage. The first text about an object stays, the points are joined."""
        self._texts.setdefault((code, name), (text, Severity.DAMAGE))
        self._points.setdefault((code, name), set()).update(points)

    def notice(self, code: str, name: str, text: str) -> None:
        """Note what is worth knowing."""
        self._texts.setdefault((code, name), (text, Severity.NOTICE))

    def result(self) -> tuple[Finding, ...]:
        """Return all, sorted by object."""
        found = [
            Finding(code, name, text, tuple(sorted(self._points.get((code, name), ()))), severity)
            for (code, name), (text, severity) in self._texts.items()
        ]
        return tuple(sorted(found, key=lambda one: (one.object, one.code)))


def _no_progress(done: int, total: int) -> None:
    """Say nothing."""


def _never() -> bool:
    return False


class Watch:
    """Tells how far a verification is, and asks whether to stop. Safe in several threads."""

    def __init__(
        self,
        progress: Callable[[int, int], None] = _no_progress,
        cancelled: Callable[[], bool] = _never,
    ) -> None:
        self._progress = progress
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._done = self._total = 0

    def expect(self, size: int) -> None:
        """So many bytes more will be looked at."""
        with self._lock:
            self._total += size
            self._progress(self._done, self._total)

    def advance(self, size: int) -> None:
        """So many bytes were looked at.

        Raises:
            Cancelled: somebody wants to stop.
        """
        with self._lock:
            self._done += size
            # What appeared meanwhile was not expected; it must not push the bar beyond its end.
            self._total = max(self._total, self._done)
            self._progress(self._done, self._total)
        self.check()

    def check(self) -> None:
        """Raise Cancelled if somebody wants to stop."""
        if self._cancelled():
            raise Cancelled
