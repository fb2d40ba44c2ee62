"""What destroys backups, or lets them be destroyed: acts for four eyes, and how each is done.

Each names what will be lost, for the person who agrees. Each may be carried out twice (a crash in
between): the second time it finds that it is done.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ruchu.control.anomalies.watch import AnomalyWatch, Decision
from ruchu.control.approvals.acts import LOSSES_MAX, Act, Kind
from ruchu.control.approvals.approvals import Approvals
from ruchu.control.inventory.inventory import Inventory
from ruchu.control.jobs.runs import NewRun, RunRow, Runs
from ruchu.control.policies import documents, selecting
from ruchu.control.policies.policies import Policies, PolicyRow
from ruchu.control.policies.selecting import Machine
from ruchu.control.questions.asker import Asker
from ruchu.control.storages.catalogue import Catalogue, PointFilter, PointRow
from ruchu.control.storages.storages import StorageDefinitions, StorageRow
from ruchu.control.vault.vault import Vault
from ruchu.errors import ControlError, NotFound, PointProtected, Stale, UsageError
from ruchu.model.policies import Policy, Retention
from ruchu.model.principals import Principal
from ruchu.units import format_size

# What somebody can read before agreeing to it.
POINTS_MAX = 500
GRACE_DAYS_MAX = 365
_STAR, _FREEZE = "star", "freeze"


@dataclass(frozen=True, slots=True)
class Acts:
    """The acts of a server. Safe in several threads.

    The caller has seen to it that whoever asks has the right for the act itself. Every method
    raises NeedsApproval if four eyes are on.
    """

    approvals: Approvals
    storages: StorageDefinitions
    catalogue: Catalogue
    inventory: Inventory
    policies: Policies
    runs: Runs
    vault: Vault
    asker: Asker
    watch: AnomalyWatch

    def register(self) -> None:
        """Say what carries them out."""
        for kind, handler in (
            (Kind.DELETE_POINTS, self._delete),
            (Kind.REMOVE_STORAGE, self._remove),
            (Kind.SHORTEN_RETENTION, self._shorten),
            (Kind.RELEASE_PROTECTION, self._release),
        ):
            self.approvals.register(kind, handler)

    # Points.

    def delete_points(
        self, by: Principal, storage: StorageRow, points: Sequence[str], grace_days: int
    ) -> RunRow:
        """Delete exactly these points of a storage; return the run that does.

        Raises:
            NotFound: one is not there.
            PointProtected: one is starred or locked.
            UsageError: there are none, or too many.
            NeedsApproval: it was entered as a request.
        """
        wanted = sorted(set(points))
        if not 0 < len(wanted) <= POINTS_MAX:
            raise UsageError(f"(1 to {POINTS_MAX} points at once)")
        found = [self._point(storage, point) for point in wanted]
        for row in found:
            if row.starred:
                raise PointProtected(f"({row.id[:8]} of {row.name})")
        arguments = {
            "storage": storage.id, "points": [row.id for row in found],
            "grace_days": grace_days, "by": by.name,
        }  # fmt: skip
        losses = tuple(point_line(row) for row in _newest_first(found))
        act = Act(Kind.DELETE_POINTS, storage.name, arguments, losses, storage.resource_group)
        return self.runs.get(str(self.approvals.carry_out(act, by)["run"]))

    def _point(self, storage: StorageRow, point: str) -> PointRow:
        for row in self.catalogue.find(point):
            if row.storage == storage.name:
                return row
        raise NotFound(f"(point {point[:40]!r} on storage {storage.name})")

    def _delete(self, request: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        storage = self.storages.get(arguments["storage"])
        body = {
            "storage": storage.name,
            "points": list(arguments["points"]),
            "grace_days": arguments["grace_days"],
        }
        name = f"{len(body['points'])} points of {storage.name}"
        return self._run(request, "delete-points", name, storage, body | {"by": arguments["by"]})

    def _run(
        self, request: str, kind: str, name: str, storage: StorageRow, body: dict[str, Any]
    ) -> Mapping[str, Any]:
        """Start a run, once for a request: it has the id of the request."""
        by = str(body.pop("by"))
        try:
            self.runs.get(request)
        except NotFound:
            group = storage.resource_group
            self.runs.create(NewRun(kind, name, body, None, by, group=group, id=request))
        return {"run": request}

    # Storages.

    def remove_storage(self, by: Principal, storage: StorageRow, version: int) -> None:
        """Forget a storage and the points on it, with the passphrase; what lies on it stays.

        Raises:
            Stale: it was changed in the meantime.
            ControlError: a policy goes to it.
            NeedsApproval: it was entered as a request.
        """
        if storage.version != version:
            raise Stale(f"(storage {storage.name})")
        self._unused(storage)
        ids = self.catalogue.ids(storage.name)
        arguments = {"storage": storage.id, "name": storage.name, "points": _digest(ids)}
        losses = self._storage_losses(storage, len(ids))
        group = storage.resource_group
        self.approvals.carry_out(
            Act(Kind.REMOVE_STORAGE, storage.name, arguments, losses, group), by
        )

    def _unused(self, storage: StorageRow) -> None:
        for row in self.policies.all():
            if row.policy.storage == storage.name:
                hint = "Change or remove the policy first."
                raise ControlError(f"(policy {row.policy.name} goes to {storage.name})", hint=hint)

    def _storage_losses(self, storage: StorageRow, count: int) -> tuple[str, ...]:
        lines = [f"The storage {storage.name} at {storage.location}; what lies there stays."]
        if storage.encrypted:
            lines.append(
                "The passphrase that this server keeps for it. Without it nobody reads the points."
            )
        shown = self.catalogue.page(PointFilter(storage=storage.name), LOSSES_MAX - 4)
        lines += [f"No longer known: {point_line(row)}" for row in shown]
        if count > len(shown):
            lines.append(f"No longer known: {count - len(shown)} older points.")
        return tuple(lines)

    def _remove(self, request: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        del request  # removing what is removed already does nothing
        done = {"storage": arguments["name"]}
        try:
            storage = self.storages.get(arguments["storage"])
        except NotFound:
            return done
        if _digest(self.catalogue.ids(storage.name)) != arguments["points"]:
            raise Stale("(the points on the storage)", hint="Ask again.")
        self._unused(storage)
        self.vault.delete_all("storage", storage.id)
        self.catalogue.saw(storage.name, [])
        self.storages.remove(storage.id)
        return done

    # Retention.

    def write_policy(self, by: Principal, before: PolicyRow | None, wanted: Policy) -> PolicyRow:
        """Add a policy, or replace one; what lets points go sooner is an act.

        Raises:
            NotFound, AlreadyExists, Stale: it cannot be written.
            NeedsApproval: it was entered as a request.
        """
        losses = self.sooner(before.policy if before is not None else None, wanted)
        identity, version = (before.id, before.version) if before is not None else ("", 0)
        if not losses:
            return self._put(identity, version, wanted)
        document = documents.to_document(wanted)
        arguments = {"policy": identity, "version": version, "document": document}
        act = Act(Kind.SHORTEN_RETENTION, wanted.name, arguments, tuple(losses), wanted.group)
        return self.policies.get(str(self.approvals.carry_out(act, by)["policy"]))

    def sooner(self, before: Policy | None, wanted: Policy) -> list[str]:
        """Return what points a policy would let go sooner than is agreed."""
        if before is not None and _decides(before) == _decides(wanted):
            return []
        found = keeps_less(before, wanted) if before is not None else []
        others = [row.policy for row in self.policies.all() if row.policy.name not in {
            wanted.name, before.name if before is not None else wanted.name}]  # fmt: skip
        mine = self._machines(wanted)
        for other in others:
            same = other.storage == wanted.storage and other.enabled
            lines = keeps_less(other, wanted) if same else []
            if lines and any(selecting.selects(other.selection, each) for each in mine):
                found += [f"Machines of the policy {other.name}, too: {line}" for line in lines]
        return found[:LOSSES_MAX]

    def _machines(self, policy: Policy) -> list[Machine]:
        machines = [
            Machine(row.platform, row.id, row.name, row.host, row.folder, tuple(row.tags))
            for row in self.inventory.machines(policy.selection.platform)
        ]
        return selecting.selected(policy.selection, machines)

    def _shorten(self, request: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if "retention" in arguments:
            storage = self.storages.get(arguments["storage"])
            body = {key: arguments[key] for key in ("retention", "object", "grace_days", "by")}
            return self._run(request, "merge", storage.name, storage,
                             body | {"storage": storage.name})  # fmt: skip
        identity, version = str(arguments["policy"]), int(arguments["version"])
        wanted = documents.from_document(arguments["document"])
        for row in self.policies.all():
            if row.policy == wanted and row.version == version + 1:
                return {"policy": row.id}
        return {"policy": self._put(identity, version, wanted).id}

    def _put(self, identity: str, version: int, wanted: Policy) -> PolicyRow:
        if not identity:
            return self.policies.add(wanted)
        return self.policies.change(identity, wanted, version)

    def apply_retention(
        self, by: Principal, storage: StorageRow, body: Mapping[str, Any]
    ) -> RunRow:
        """Apply retention rules to a storage by hand; return the run that does.

        `body` has the rules as `retention`, and may have `object` and `grace_days`.

        Raises:
            UsageError: the rules cannot be.
            NeedsApproval: it was entered as a request.
        """
        rules, name = _rules(body.get("retention")), body.get("object")
        grace = body.get("grace_days") or 0
        if not isinstance(name, str | None) or not isinstance(grace, int):
            raise UsageError("(object is a name, grace_days a whole number)")
        arguments = {
            "storage": storage.id, "retention": rules, "object": name,
            "grace_days": min(max(grace, 0), GRACE_DAYS_MAX), "by": by.name,
        }  # fmt: skip
        what = str(arguments["object"] or "every object")
        kept = ", ".join(f"{key} {value}" for key, value in rules.items())
        losses = (f"Points of {what} on {storage.name} that these rules do not keep: {kept}.",)
        group = storage.resource_group
        act = Act(Kind.SHORTEN_RETENTION, storage.name, arguments, losses, group)
        return self.runs.get(str(self.approvals.carry_out(act, by)["run"]))

    # Protection.

    def release_star(self, by: Principal, storage: StorageRow, row: PointRow) -> None:
        """Take the star of a point away, so that retention may remove it.

        Raises:
            NodeAway, NodeFailed: no node did it.
            NeedsApproval: it was entered as a request.
        """
        arguments = {"what": _STAR, "storage": storage.id, "point": row.id}
        losses = (f"Retention may remove: {point_line(row)}",)
        group = storage.resource_group
        self.approvals.carry_out(
            Act(Kind.RELEASE_PROTECTION, row.name, arguments, losses, group), by
        )

    def release_freeze(self, by: Principal, chain: str, note: str) -> None:
        """Let retention go on with a chain that was frozen.

        Raises:
            NotFound: it is not frozen.
            NeedsApproval: it was entered as a request.
        """
        found = next((each for each in self.watch.freezes() if each.chain == chain), None)
        if found is None:
            raise NotFound(f"(a freeze of the chain {chain[:80]})")
        arguments = {"what": _FREEZE, "chain": chain, "since": found.since, "by": by.name,
                     "note": note}  # fmt: skip
        why = f"Retention of {found.subject} goes on. It stopped at {found.since}: {found.why}"
        self.approvals.carry_out(Act(Kind.RELEASE_PROTECTION, found.subject, arguments, (why,)), by)

    def _release(self, request: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        del request  # doing it twice does nothing
        if arguments["what"] == _STAR:
            storage = self.storages.get(arguments["storage"])
            self.asker.star(storage, arguments["point"], starred=False)
            return {"point": arguments["point"]}
        chain, since = arguments["chain"], arguments["since"]
        if any((each.chain, each.since) == (chain, since) for each in self.watch.freezes()):
            self.watch.decide(chain, Decision.RELEASE, arguments["by"], arguments["note"])
        return {"chain": chain}


def point_line(row: PointRow) -> str:
    """Return a point as a line for people: when, of what, which kind, how large, where."""
    size = format_size(row.bytes_stored) if row.bytes_stored is not None else "size unknown"
    return f"{row.time} {row.name} ({row.kind}, {size}) on {row.storage}, {row.id[:8]}"


def keeps_less(before: Policy, after: Policy) -> list[str]:
    """Return what a policy keeps less than another one, a line for each rule.

    A rule that became weaker counts even if another one makes up for it: which points stay depends
    on when they are made, and nobody should have to compute that to be safe.
    """
    if not any(asdict(after.retention).values()):
        return []  # no rule, nothing is removed
    everything = not any(asdict(before.retention).values())
    found = []
    for field in fields(Retention):
        old, new = getattr(before.retention, field.name), getattr(after.retention, field.name)
        if everything and new:
            found.append(f"Points beyond {field.name} {new}; before, all of them stayed.")
        elif new < old:
            found.append(f"Points kept by {field.name}: {old} before, {new} from now on.")
    old_grace, new_grace = (float(each.options.get("grace_days") or 0) for each in (before, after))
    if new_grace < old_grace:
        found.append(
            f"Removed points can be brought back for {new_grace:g} days, not {old_grace:g}."
        )
    return found


def _decides(policy: Policy) -> tuple[Any, ...]:
    """Return everything that decides which points a policy removes."""
    grace = policy.options.get("grace_days")
    return policy.retention, policy.selection, policy.storage, policy.enabled, grace


def _rules(retention: Any) -> dict[str, int]:
    known = {field.name for field in fields(Retention)}
    if not isinstance(retention, Mapping):
        raise UsageError("(retention is no object)")
    rules = {key: value for key, value in retention.items() if value}
    numbers = all(isinstance(value, int) and value > 0 for value in rules.values())
    if not rules or set(rules) - known or not numbers:
        raise UsageError("(the rules of retention)", hint=f"Some of: {', '.join(sorted(known))}.")
    return rules


def _newest_first(rows: Sequence[PointRow]) -> list[PointRow]:
    return sorted(rows, key=lambda row: (row.time, row.id), reverse=True)


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
