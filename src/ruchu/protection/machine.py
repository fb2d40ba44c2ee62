"""Backing up machines of a platform: many in one run, and the failure of one is its own."""

import concurrent.futures
import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ruchu.errors import Cancelled, NotFound
from ruchu.model import configurations
from ruchu.model.machines import MachineSpec
from ruchu.model.sources import ChangeRef, Consistency, Kind, Reason, SnapshotOrder
from ruchu.platforms.contract import OpenRequest, Platform, SourceDisk, SourcePoint
from ruchu.protection import bases, plans, trimming
from ruchu.protection.bases import Base
from ruchu.protection.plans import Plan
from ruchu.protection.running import Run
from ruchu.protection.sampling import Sample
from ruchu.protection.trimming import Trim
from ruchu.repository.chains import Chain, ProtectedObject
from ruchu.repository.heads import Head
from ruchu.repository.locking import ChainLock
from ruchu.repository.repositories import Repository
from ruchu.repository.writing import PointWriter

OBJECT_KIND = "vm"
PARALLEL_DEFAULT = 2
# Each machine brings its own threads, connections and buffers.
PARALLEL_MAX = 64


@dataclass(frozen=True, slots=True)
class Order:
    """What to back up.

    Attributes:
        names: ids or names of machines.
        kind: a machine without a base gets a full.
        disks: keys of the disks, for every machine; empty means all.
        snapshots: one machine after the other, or all at once before any is copied.
        quiesce: freeze the guests' file systems where the agent is there.
        parallel: machines that are copied at the same time.
    """

    names: tuple[str, ...]
    kind: Kind = Kind.INCREMENTAL
    disks: tuple[str, ...] = ()
    snapshots: SnapshotOrder = SnapshotOrder.SERIAL
    quiesce: bool = True
    parallel: int = PARALLEL_DEFAULT


@dataclass(frozen=True, slots=True)
class Saved:
    """The point that was made of a machine.

    Attributes:
        chain, head: where it is.
        bytes_read, bytes_stored, seconds: what it took.
        reasons: why something is weaker than what was asked for.
        samples: by disk, the cross-check of the blocks that were not read.
        cleaned: what an earlier run had left on the source, and was removed.
    """

    chain: str
    head: Head
    bytes_read: int
    bytes_stored: int
    seconds: float
    reasons: tuple[Reason, ...]
    samples: dict[str, Sample]
    cleaned: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MachineResult:
    """What became of one machine: either it was saved, or there is an error."""

    name: str
    saved: Saved | None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class _Machine:
    """A machine that is locked, cleaned and ready to be opened."""

    spec: MachineSpec
    chain: Chain
    lock: ChainLock
    base: Base
    request: OpenRequest
    cleaned: tuple[str, ...]
    began: float


class MachineRun:
    """One run over many machines of one platform, into one repository."""

    def __init__(
        self, platform: Platform, platform_name: str, repository: Repository, order: Order,
        run: Run,
    ) -> None:  # fmt: skip
        assert 1 <= order.parallel <= PARALLEL_MAX
        self._platform = platform
        self._platform_name = platform_name
        self._repository = repository
        self._clock = repository.surroundings.clock
        self._order = order
        self._run = run
        # Serial: no two machines are frozen at the same time.
        self._gate = threading.Lock()
        # Two machines must not both find that a chain is missing and make it.
        self._chains = threading.Lock()

    def results(self) -> list[MachineResult]:
        """Back them all up; return what became of each, in the order of the names."""
        names = list(dict.fromkeys(self._order.names))
        with concurrent.futures.ThreadPoolExecutor(self._order.parallel, "ruchu-vm") as pool:
            if self._order.snapshots is SnapshotOrder.SERIAL:
                return list(pool.map(self._one, names))
            return self._together(names, pool)

    def _one(self, name: str) -> MachineResult:
        def back_up() -> Saved:
            self._require_wanted()
            saved: Saved | None = None
            try:
                with contextlib.ExitStack() as stack:
                    machine = self._prepare(name, stack)
                    with self._gate:
                        opened = self._platform.open_points([machine.request], "serial")
                        (point,) = stack.enter_context(opened)
                    saved = self._save(machine, point)
            except Exception as error:
                if saved is None:
                    raise
                saved = _not_cleaned(saved, error)
            return saved

        return _caught(name, back_up)

    def _together(
        self, names: list[str], pool: concurrent.futures.ThreadPoolExecutor
    ) -> list[MachineResult]:
        """Open all machines, then copy them; each stays open until the last is done."""
        results: dict[str, MachineResult] = {}
        ready: dict[str, _Machine] = {}
        try:
            with contextlib.ExitStack() as stack:
                for name in names:
                    try:
                        self._require_wanted()
                        ready[name] = self._prepare(name, stack)
                    except Exception as error:  # noqa: BLE001 - the others go on
                        results[name] = MachineResult(name, None, error)
                requests = [machine.request for machine in ready.values()]
                opened = self._platform.open_points(requests, self._order.snapshots.value)
                points = stack.enter_context(opened) if requests else []
                futures = {
                    name: pool.submit(_caught, name, _bound(self._save, machine, point))
                    for (name, machine), point in zip(ready.items(), points, strict=True)
                }
                results |= {name: future.result() for name, future in futures.items()}
        except Exception as error:
            if len(results) < len(names):
                raise
            # All are settled: what could not be closed must not hide that.
            results = {name: _with_error(result, error) for name, result in results.items()}
        return [results[name] for name in names]

    def _require_wanted(self) -> None:
        if self._run.cancelled():
            raise Cancelled

    def _prepare(self, name: str, stack: contextlib.ExitStack) -> _Machine:
        """Lock the chain of a machine, choose the base, and clean up after earlier runs."""
        began = self._clock.monotonic()
        spec = self._platform.describe(name)
        missing = set(self._order.disks) - {disk.key for disk in spec.disks}
        if missing:
            raise NotFound(f"(disk {', '.join(sorted(missing))} of {spec.name})")
        chain = self._chain(spec)
        lock = stack.enter_context(chain.exclusive("backup"))
        # Before anything is frozen: a dead run may have left a job, a freeze, scratch files.
        cleaned = tuple(self._platform.reconcile(spec.id, chain.id))
        base = bases.choose(chain, self._order.kind)
        kept = (change_ref(chain.latest()), change_ref(bases.last_full(chain)))
        request = OpenRequest(
            machine=spec.id,
            owner=chain.id,
            disks=self._order.disks,
            base=change_ref(base.head),
            quiesce=self._order.quiesce,
            keep=tuple(dict.fromkeys(ref.name for ref in kept if ref is not None)),
        )
        return _Machine(spec, chain, lock, base, request, cleaned, began)

    def _chain(self, spec: MachineSpec) -> Chain:
        what = ProtectedObject(OBJECT_KIND, spec.name, self._platform_name, spec.id)
        with self._chains:
            found = self._repository.find_chain(what)
            largest = max((disk.size for disk in spec.disks), default=0)
            return found or self._repository.create_chain(what, largest)

    def _save(self, machine: _Machine, point: SourcePoint | BaseException) -> Saved:
        """Copy the disks of an open machine, commit, and keep the reference."""
        if isinstance(point, BaseException):
            raise point
        chain, base = machine.chain, machine.base
        writer = PointWriter(chain, machine.lock, base.kind, base.head, level=self._run.level)
        with writer:
            trims = self._survey(chain, point)
            disks = [
                self._save_disk(machine, writer, point, disk, trims.get(disk.key))
                for disk in point.disks
            ]
            _attach(writer, point.spec, secrets=chain.identity.encrypted)
            seconds = self._clock.monotonic() - machine.began
            bytes_read = sum(disk.bytes_read for disk in disks)
            facts = _facts(point, self._platform_name, bytes_read, seconds)
            head = writer.commit(point.time, facts)
        reasons = (*base.reasons, *point.degraded)
        reasons += tuple(reason for disk in disks for reason in disk.reasons)
        if point.change_ref is not None:
            reasons += self._keep(point)
        return Saved(
            chain=chain.id,
            head=head,
            bytes_read=bytes_read,
            bytes_stored=writer.bytes_stored,
            seconds=self._clock.monotonic() - machine.began,
            reasons=tuple(dict.fromkeys(reasons)),
            samples={d.key: d.plan.sample for d in disks if d.plan.sample is not None},
            cleaned=machine.cleaned,
        )

    def _keep(self, point: SourcePoint) -> tuple[Reason, ...]:
        """Keep the reference of a committed point; without it the next run reads everything."""
        try:
            self._platform.keep_reference(point)
        except Exception as error:  # noqa: BLE001 - the point is made; this is told with it
            return (Reason("reference-not-kept", str(error)),)
        return ()

    def _survey(self, chain: Chain, point: SourcePoint) -> dict[str, Trim]:
        """Return what may be left out of each disk."""
        disks = {disk.key: disk for disk in point.disks}
        # A machine that is off may have been switched off hard: its journals tell.
        frozen = point.consistency in {Consistency.APPLICATION, Consistency.FILESYSTEM}
        return trimming.survey(disks, self._run.leave_out, chain.block_size, frozen=frozen)

    def _save_disk(
        self,
        machine: _Machine,
        writer: PointWriter,
        point: SourcePoint,
        disk: SourceDisk,
        trim: Trim | None,
    ) -> "_SavedDisk":
        job = plans.Job(disk, machine.chain, writer, disk.key, trim)
        plan = self._plan(machine, point, disk, job)
        done = plans.carry_out(plan, job, f"{machine.spec.name}/{disk.key}", self._run)
        reasons = plan.reasons + (trim.reasons if trim is not None else ())
        told = tuple(each for each in point.degraded if each.disk == disk.key) + reasons
        facts = {**plan.facts(), **done.facts(), "degraded": plans.reason_fields(told)}
        writer.describe_disk(disk.key, facts)
        return _SavedDisk(disk.key, done.progress.data, plan, reasons)

    def _plan(
        self, machine: _Machine, point: SourcePoint, disk: SourceDisk, job: plans.Job
    ) -> Plan:
        if job.writer.base is None:
            return plans.everything()
        if machine.request.base is None:
            text = "the base names no moment that changes could be told since"
            return plans.everything(Reason("no-reference", text, disk.key))
        changes = disk.changed()
        if changes is not None:
            return plans.changes_only(job, changes, self._run)
        if any(reason.disk == disk.key for reason in point.degraded):
            return plans.everything()
        text = "the platform does not tell what changed"
        return plans.everything(Reason("no-changes", text, disk.key))


@dataclass(frozen=True, slots=True)
class _SavedDisk:
    """What was done with one disk."""

    key: str
    bytes_read: int
    plan: Plan
    reasons: tuple[Reason, ...]


def back_up_machines(
    platform: Platform,
    platform_name: str,
    repository: Repository,
    order: Order,
    run: Run | None = None,
) -> list[MachineResult]:
    """Back up machines; return what became of each.

    A machine that fails does not stop the others. When it is cancelled, the machines that were
    not done have the error Cancelled, and nothing of them is left on the source.
    """
    return MachineRun(platform, platform_name, repository, order, run or Run()).results()


def change_ref(head: Head | None) -> ChangeRef | None:
    """Return the moment on the source that a point was taken at, if it names one."""
    value = head.facts.get("change_ref") if head is not None else None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    disks = value.get("disks")
    keys = tuple(str(key) for key in disks) if isinstance(disks, list) else ()
    return ChangeRef(value["name"], keys)


def _caught(name: str, back_up: Callable[[], Saved]) -> MachineResult:
    try:
        return MachineResult(name, back_up())
    except Exception as error:  # noqa: BLE001 - the boundary of one machine: the others go on
        return MachineResult(name, None, error)


def _not_cleaned(saved: Saved, error: Exception) -> Saved:
    """Return what was saved, with what was left on the source; the next run removes it."""
    return replace(saved, reasons=(*saved.reasons, Reason("not-cleaned", str(error))))


def _with_error(result: MachineResult, error: Exception) -> MachineResult:
    if result.saved is None:
        return result
    return replace(result, saved=_not_cleaned(result.saved, error))


def _bound(
    save: Callable[[_Machine, SourcePoint | BaseException], Saved],
    machine: _Machine,
    point: SourcePoint | BaseException,
) -> Callable[[], Saved]:
    return lambda: save(machine, point)


def _attach(writer: PointWriter, spec: MachineSpec, *, secrets: bool) -> None:
    native = spec.native if secrets else configurations.without_secrets(spec.native)
    document = configurations.to_document(spec)
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    writer.attach(configurations.SPEC, text.encode())
    writer.attach(configurations.NATIVE, native.encode())
    if spec.nvram:
        writer.attach(configurations.NVRAM, spec.nvram)


def _facts(point: SourcePoint, platform: str, bytes_read: int, seconds: float) -> dict[str, Any]:
    ref = point.change_ref
    return {
        "bytes_read": bytes_read,
        "seconds": round(seconds, 3),
        "consistency": point.consistency.value,
        "frozen_s": round(point.frozen_s, 3),
        "change_ref": {"name": ref.name, "disks": list(ref.disks)} if ref is not None else None,
        "platform": platform,
        "platform_kind": point.spec.platform,
        "machine": {"id": point.spec.id, "name": point.spec.name},
        "degraded": plans.reason_fields(reason for reason in point.degraded if not reason.disk),
    }
