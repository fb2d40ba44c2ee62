"""Migration of an instant restore to production: by the hypervisor, or by our own means.

Our own: copy the point into new disks while the machine runs, then copy what it wrote meanwhile,
in rounds that get smaller; hold the machine, copy the last round, switch it over. The point is read
from its storage, not through the export, so the guest keeps the export for itself.

Interrupted, it goes on where it was: the new disks stay under names made from the instant
restore, a watermark says how far the point was copied, and the export hands out again every round
that was not acknowledged. All of that is of one place: where the new disks are to lie elsewhere,
the old ones are removed, and everything begins anew.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ruchu.blocks import copying, nbd
from ruchu.errors import Incomplete, PlatformError, UsageError
from ruchu.exports import control
from ruchu.model.extents import Extent, total
from ruchu.model.machines import MachineSpec, Placement
from ruchu.platforms.contract import Landing, Platform, SinkDisk
from ruchu.recovery import landings
from ruchu.recovery.full import machine_of
from ruchu.recovery.instant_records import Instant, Instants
from ruchu.recovery.running import Run, leased
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head

METHODS = ("hypervisor", "own")
# After this much of a disk the target is flushed, and the watermark written.
STRIDE = 4 << 30
# A last round of this size is a fraction of a second.
SMALL_BYTES = 16 << 20
ROUNDS_MAX = 60
PAUSE_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Order:
    """How to migrate.

    Attributes:
        method: `hypervisor` or `own`.
        directory: on the platform; empty: where the machine's disks were.
        format: of the new disks; empty: the platform's default.
        pause_limit_s: own: the machine is held only if the last round promises to take less.
    """

    method: str = "hypervisor"
    directory: str = ""
    format: str = ""
    pause_limit_s: float = PAUSE_LIMIT_S


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration did.

    Attributes:
        method: which way.
        size: bytes of the disks.
        bytes: bytes copied by us; 0 if the hypervisor did it.
        rounds: copies of what was written meanwhile.
        pause_s: how long the machine stood still.
        seconds: all of it.
    """

    method: str
    size: int
    bytes: int
    rounds: int
    pause_s: float
    seconds: float


class Migration:
    """One migration of one instant restore."""

    def __init__(
        self, known: Instants, instant: Instant, chain: Chain, head: Head, order: Order, run: Run
    ) -> None:
        if order.method not in METHODS:
            hint = f"{' or '.join(METHODS)}."
            raise UsageError(f"(--method {order.method!r})", hint=hint)
        if instant.state != "running":
            raise UsageError(f"({instant.name} is {instant.state})", hint="It must be running.")
        self._known = known
        self._instant = instant
        self._chain = chain
        self._head = head
        self._order = order
        self._run = run
        self._clock = chain.surroundings.clock
        self._move = landings.of(known.folder(instant))
        self._bytes = 0
        self._rounds = 0

    def migrate(self, platform: Platform) -> Migrated:
        """Move the machine; afterwards nothing needs the export any more.

        Raises:
            Cancelled: it runs on where it was; `own` goes on from here the next time.
            PlatformError: it could not be moved, and runs on where it was.
        """
        began = self._clock.monotonic()
        machine = self._instant.machine
        placement = self._placement()
        size = sum(disk.size for disk in self._spec().disks)
        self._head_for(platform, placement)
        if self._order.method == "hypervisor":
            progress = copying.Progress()
            self._run.watch(self._instant.name, progress)
            watch = _watching(progress)
            platform.mirror(machine, placement, watch, self._run.cancelled)
            pause_s = 0.0
        else:
            pause_s = self._migrate_own(platform, placement)
        self._known.change(self._instant, state="moved")
        took = self._clock.monotonic() - began
        return Migrated(self._order.method, size, self._bytes, self._rounds, pause_s, took)

    def _head_for(self, platform: Platform, placement: Placement) -> None:
        """Remember where the new disks go, before there are any."""
        if self._move.leads_to(placement):
            return
        wanted = landings.Move(self._move.path, placement.directory, placement.format)
        for move in (self._move, wanted):
            # What lies at the new place is of a migration whose rounds were forgotten since.
            if move.directory:
                platform.abandon(move.placement(self._instant), self._instant.token)
        self._move = wanted
        self._move.store()

    def _spec(self) -> MachineSpec:
        spec = machine_of(self._chain, self._head)
        chosen = tuple(disk for disk in spec.disks if disk.key in self._instant.disks)
        return replace(spec, disks=chosen)

    def _placement(self) -> Placement:
        directory = self._order.directory
        if not directory:
            places = [disk.location.rpartition("/")[0] for disk in self._spec().disks]
            directory = next((place for place in places if place.startswith("/")), "")
            if not directory:
                hint = "Say where: --directory."
                raise UsageError("(the machine's disks had no directory)", hint=hint)
        return Placement(directory=directory, format=self._order.format)

    def _migrate_own(self, platform: Platform, placement: Placement) -> float:
        with (
            leased(self._chain, self._head, "migration"),
            platform.landing(self._instant.machine, placement, self._instant.token) as landing,
        ):
            # What was acknowledged is in these disks only if they have been there since.
            anew = not (landing.continued and self._move.begun)
            if anew:
                self._move.copied = {}
                self._move.begun = False
                self._move.store()
            acknowledged = self._ask_round(None, anew=anew)
            self._move.begun = True
            self._move.store()
            for sink in landing.sinks:
                self._copy_point(sink)
            acknowledged = self._converge(landing, acknowledged)
            return self._switch(landing, acknowledged)

    def _copy_point(self, sink: SinkDisk) -> None:
        """Copy a disk of the point from its watermark on."""
        entry = self._head.disk(sink.key)
        assert entry is not None
        disk = self._chain.disk(self._head, entry)
        mark = self._move.copied.get(sink.key, 0)
        data = [each for each in disk.extents() if not each.reads_as_zeros and each.end > mark]
        progress = copying.Progress(total(data))
        self._run.watch(sink.key, progress)
        for first in range(mark // STRIDE * STRIDE, disk.size, STRIDE):
            end = min(first + STRIDE, disk.size)
            stride = list(_within(data, max(first, mark), end))
            copying.copy(
                disk, stride, sink,
                workers=self._run.workers, progress=progress, cancelled=self._run.cancelled,
            )  # fmt: skip
            self._move.copied[sink.key] = end
            self._move.store()
        self._bytes += progress.data

    def _converge(self, landing: Landing, known: "_Round") -> "_Round":
        """Copy rounds until the next one promises a short pause."""
        found = known
        for _ in range(ROUNDS_MAX):
            began = self._clock.monotonic()
            self._copy_round(landing, found)
            moved, took = found.bytes, self._clock.monotonic() - began
            found = self._ask_round(found)
            rate = moved / took if took > 0 else 0.0
            if found.bytes <= max(SMALL_BYTES, rate * self._order.pause_limit_s / 2):
                return found
        hint = "Let it write less for a while, or allow a longer pause: --pause-limit."
        raise PlatformError(
            f"({self._instant.name} writes faster than it is copied: {found.bytes} bytes are "
            f"left after {ROUNDS_MAX} rounds)",
            hint=hint,
        )

    def _switch(self, landing: Landing, found: "_Round") -> float:
        """Copy the round at hand while the machine runs, hold it, copy the rest, switch."""
        self._copy_round(landing, found)
        began = self._clock.monotonic()
        landing.pause()
        try:
            last = self._ask_round(found)
            self._copy_round(landing, last)
            self._require_still(last)
            landing.switch()
        except BaseException:
            landing.resume()
            raise
        return self._clock.monotonic() - began

    def _require_still(self, last: "_Round") -> None:
        """Check that the machine that is held wrote nothing since the last round."""
        if left := self._ask_round(last).bytes:
            raise Incomplete(f"({left} bytes were written while the machine was held)")

    def _ask_round(self, before: "_Round | None", *, anew: bool = False) -> "_Round":
        """Ask the export what was written since; what `before` held is in the new disks."""
        arguments: dict[str, Any] = {"anew": anew}
        if before is not None:
            arguments["acknowledge"] = before.number
        answer = control.ask(self._known.control(self._instant), "round", **arguments)
        disks = {
            key: [Extent(start, length) for start, length in answer["disks"].get(key, [])]
            for key in self._instant.disks
        }
        return _Round(int(answer["round"]), disks)

    def _copy_round(self, landing: Landing, found: "_Round") -> None:
        self._rounds += 1
        for sink in landing.sinks:
            extents = found.disks[sink.key]
            if not extents:
                continue
            address = nbd.Address(export=sink.key, path=str(self._known.nbd(self._instant)))
            with nbd.NbdDisk(address) as source:
                progress = copying.copy(
                    source, extents, sink,
                    workers=self._run.workers, cancelled=self._run.cancelled,
                )  # fmt: skip
            self._bytes += progress.data


@dataclass(frozen=True, slots=True)
class _Round:
    """What was written since the round before, by disk."""

    number: int
    disks: dict[str, list[Extent]]

    @property
    def bytes(self) -> int:
        return sum(total(extents) for extents in self.disks.values())


def _within(extents: list[Extent], first: int, end: int) -> list[Extent]:
    """Return the parts of extents that lie in first..end."""
    return [
        Extent(max(each.start, first), min(each.end, end) - max(each.start, first), each.content)
        for each in extents
        if each.end > first and each.start < end
    ]


def _watching(progress: copying.Progress) -> Callable[[int, int], None]:
    def watch(done: int, planned: int) -> None:
        progress.data, progress.total = done, planned

    return watch
