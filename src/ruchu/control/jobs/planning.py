"""Turns a run into tasks: what to do, which nodes may do it, what it must not exceed."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ruchu.control.inventory.inventory import Inventory, MachineRow, PlatformRow
from ruchu.control.jobs.runs import RunRow
from ruchu.control.nodes.tasks import Planned
from ruchu.control.policies import documents, selecting
from ruchu.control.storages.catalogue import Catalogue, PointRow
from ruchu.control.storages.storages import StorageDefinitions, StorageRow
from ruchu.errors import NotFound, RuchuError, UsageError
from ruchu.model.policies import OnLostNode, Policy

# All machines of one task are snapshotted by one process: that is what "at the same time" takes.
TOGETHER = {"parallel", "barrier"}


class Freezes(Protocol):
    """Chains whose points must all stay for now."""

    def frozen_chains(self) -> Sequence[str]:
        """Return their ids."""


class Asking(Protocol):
    """Short questions to nodes."""

    def refresh(self, platform: PlatformRow) -> None:
        """Bring the machines of a platform up to date.

        Raises:
            RuchuError: nobody could tell.
        """

    def node_ids(self, names: Sequence[str]) -> Sequence[str]:
        """Return the ids of nodes by their names or ids.

        Raises:
            NotFound: one is not there.
        """


Limits = Callable[[Policy], Sequence[tuple[str, int]]]
"""The bandwidth that a policy allows: moments (RFC 3339), each with bytes a second from then on."""


class Quotas(Protocol):
    """What resource groups may use."""

    def check_backup(self, policy: Policy, run: RunRow) -> None:
        """Refuse a backup that would exceed the quota of its group.

        Raises:
            QuotaExceeded: it would.
        """


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run consists of, and what could not be planned: each with `label` and `message`."""

    tasks: Sequence[Planned]
    problems: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans the runs of a server."""

    inventory: Inventory
    storages: StorageDefinitions
    catalogue: Catalogue
    freezes: Freezes
    asking: Asking
    limits: Limits
    quotas: Quotas | None = None

    def plan(self, run: RunRow) -> Plan:
        """Return the tasks of a run.

        Raises:
            RuchuError: it cannot be planned.
        """
        plan = _PLANS.get(run.kind)
        if plan is None:
            raise UsageError(f"(runs of kind {run.kind!r})", hint=f"One of: {', '.join(KINDS)}.")
        return plan(self, run)

    def task(
        self, run: RunRow, label: str, body: Mapping[str, Any], *, platform: PlatformRow | None,
        storages: Sequence[tuple[StorageRow, str]],
    ) -> Planned:  # fmt: skip
        """Return a task on storages (each with `writers` or `readers`) and perhaps a platform."""
        rows = [storage for storage, _ in storages]
        limits = {f"{use}:{row.name}": getattr(row, use) for row, use in storages}
        reaching = [row.nodes for row in rows if row.nodes]
        if platform is not None:
            limits[f"platform:{platform.name}"] = platform.parallel
            reaching += [platform.nodes] if platform.nodes else []
        wanted = run.body.get("nodes") or ()
        if wanted:
            reaching.append(self.asking.node_ids(wanted))
        nodes = sorted(set.intersection(*map(set, reaching))) if reaching else []
        if reaching and not nodes:
            hint = "Let a node reach the platform and the storages, or take another policy."
            raise UsageError(f"({label}: no node reaches everything it takes)", hint=hint)
        return Planned(
            id=hashlib.sha256(f"{run.id} {label}".encode()).hexdigest()[:32],
            run=run.id,
            kind=run.kind,
            label=label,
            body={
                **body,
                "storages": [row.order_fields() for row in rows],
                "platforms": [_platform_fields(platform)] if platform is not None else [],
            },
            secrets=tuple(name for row in rows for name in row.secret_names()),
            nodes=tuple(nodes),
            limits=limits,
            priority=run.priority,
        )


def _platform_fields(row: PlatformRow) -> dict[str, str]:
    return {"name": row.name, "uri": row.uri, "scratch": row.scratch}


# ------------------------------------------------------------------------------------ backups


def _plan_backup(planner: Planner, run: RunRow) -> Plan:
    policy = documents.from_document(run.body["policy"])
    platform = planner.inventory.platform(policy.selection.platform)
    storage = planner.storages.get(policy.storage)
    problems = _refreshed(planner, platform)
    if planner.quotas is not None:
        planner.quotas.check_backup(policy, run)
    machines = planner.inventory.machines(platform.name)
    only = set(run.body.get("machines") or ())
    chosen = [
        each
        for each in selecting.selected(policy.selection, machines)
        if not only or not only.isdisjoint({each.id, each.name})
    ]
    absent = selecting.missing(policy.selection, machines)
    problems += [
        {"label": name, "message": "There is no such machine on the platform."}
        for name in absent
        if not only or name in only
    ]
    if not chosen and not problems:
        problems = [{"label": policy.name, "message": "The policy selects no machine."}]
    body = _backup_body(planner, run, policy)
    groups = [chosen] if policy.options.get("snapshots") in TOGETHER and chosen else [
        [each] for each in chosen
    ]  # fmt: skip
    tasks = [
        _backup_task(planner, run, policy, (platform, storage), (body, group)) for group in groups
    ]
    return Plan(tasks, problems)


def _refreshed(planner: Planner, platform: PlatformRow) -> list[dict[str, str]]:
    """Bring the machines up to date; a platform that does not answer is known from before."""
    try:
        planner.asking.refresh(platform)
    except RuchuError as error:
        if planner.inventory.platform(platform.id).seen is None:
            raise
        return [] if platform.seen else [{"label": platform.name, "message": str(error)}]
    return []


def _backup_body(planner: Planner, run: RunRow, policy: Policy) -> dict[str, Any]:
    options = dict(policy.options)
    return {
        "storage": policy.storage,
        "platform": policy.selection.platform,
        "kind": run.body.get("kind", "incremental"),
        "parallel": policy.parallel,
        "retention": {key: value for key, value in asdict(policy.retention).items() if value},
        "zone": policy.zone,
        "frozen": list(planner.freezes.frozen_chains()),
        "before": list(policy.before),
        "after": list(policy.after),
        "limits": [[at, rate] for at, rate in planner.limits(policy)],
        **options,
    }


def _backup_task(
    planner: Planner,
    run: RunRow,
    policy: Policy,
    places: tuple[PlatformRow, StorageRow],
    work: tuple[dict[str, Any], list[MachineRow]],
) -> Planned:
    (platform, storage), (body, machines) = places, work
    label = machines[0].name if len(machines) == 1 else policy.name
    identity = ",".join(each.id for each in machines)
    names = {
        "machines": [each.id for each in machines],
        "names": {each.id: each.name for each in machines},
    }
    planned = planner.task(
        run, label, {**body, **names}, platform=platform, storages=[(storage, "writers")]
    )
    limits = {**planned.limits, f"policy:{policy.name}": policy.parallel}
    limits |= {f"host:{platform.name}/{m.host}": platform.host_parallel for m in machines if m.host}
    # Never two writers of one machine: the second would find its chain busy.
    limits |= {f"machine:{platform.name}/{each.id}": 1 for each in machines}
    digest = hashlib.sha256(f"{run.id} {identity}".encode()).hexdigest()[:32]
    return Planned(
        digest, run.id, run.kind, label, planned.body, planned.secrets, planned.nodes, limits,
        policy.priority, policy.on_lost_node is OnLostNode.MOVE,
    )  # fmt: skip


# --------------------------------------------------------------------------- work on points


def _point(planner: Planner, run: RunRow) -> tuple[PointRow, StorageRow]:
    """Return the point of a run, on the storage it names or the first that holds it."""
    found = planner.catalogue.find(str(run.body.get("point", "")))
    wanted = run.body.get("storage")
    by_role = sorted(found, key=lambda row: planner.storages.get(row.storage).role != "backup")
    for row in by_role:
        if not wanted or row.storage == wanted:
            return row, planner.storages.get(row.storage)
    raise NotFound(f"(point {found[0].id[:8]} on storage {wanted!r})")


def _plan_restore(planner: Planner, run: RunRow) -> Plan:
    point, storage = _point(planner, run)
    platform = planner.inventory.platform(str(run.body.get("platform") or point.platform))
    body = {**run.body, "point": point.id, "platform": platform.name}
    task = planner.task(run, point.name, body, platform=platform, storages=[(storage, "readers")])
    return Plan([task])


def _plan_instant_work(planner: Planner, run: RunRow) -> Plan:
    """Plan what goes on with an instant restore: on the node that runs it."""
    platform = planner.inventory.platform(str(run.body["platform"]))
    storage = planner.storages.get(str(run.body["storage"]))
    task = planner.task(run, run.name, run.body, platform=platform, storages=[(storage, "readers")])
    return Plan([task])


def _plan_on_storage(planner: Planner, run: RunRow) -> Plan:
    storage = planner.storages.get(str(run.body.get("storage", "")))
    use = "readers" if run.kind == "verify" else "writers"
    storages = [(storage, use)]
    if run.body.get("from"):
        storages.append((planner.storages.get(str(run.body["from"])), "readers"))
    body = {**run.body, "storage": storage.name, "frozen": list(planner.freezes.frozen_chains())}
    return Plan([planner.task(run, storage.name, body, platform=None, storages=storages)])


def _plan_evacuation(planner: Planner, run: RunRow) -> Plan:
    storage = planner.storages.get(str(run.body.get("storage", "")))
    target = planner.storages.get(str(run.body.get("to", "")))
    body = {**run.body, "storage": storage.name, "to": target.name}
    storages = [(storage, "readers"), (target, "writers")]
    return Plan([planner.task(run, storage.name, body, platform=None, storages=storages)])


_PLANS: Mapping[str, Callable[[Planner, RunRow], Plan]] = {
    "backup": _plan_backup,
    "restore": _plan_restore,
    "instant": _plan_restore,
    "instant-stop": _plan_instant_work,
    "migration": _plan_instant_work,
    "verify": _plan_on_storage,
    "merge": _plan_on_storage,
    "repair": _plan_on_storage,
    "evacuate": _plan_evacuation,
    "delete-points": _plan_on_storage,
    "files-return": _plan_restore,
}
KINDS = tuple(_PLANS)
