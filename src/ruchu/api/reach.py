"""Things by name, for whoever may see them. What one may not see is not there: 404, not 403.

So nobody learns from an answer that a thing of another group exists. What one sees and may not
change is refused: 403.
"""

from collections.abc import Mapping
from typing import Any

from ruchu.control.alarms.records import Alarm
from ruchu.control.approvals.approvals import Request
from ruchu.control.inventory.inventory import PlatformRow
from ruchu.control.jobs.runs import RunRow
from ruchu.control.policies.policies import PolicyRow
from ruchu.control.server.services import Services
from ruchu.control.storages.catalogue import PointRow
from ruchu.control.storages.storages import StorageRow
from ruchu.errors import NotFound, UsageError
from ruchu.model.policies import Policy
from ruchu.model.principals import ALL_GROUPS, Principal, Right

RESTORING = frozenset({"restore", "instant", "instant-stop", "migration", "files-return"})


def require(by: Principal, right: Right, group: str, missing: str) -> None:
    """Refuse unless somebody has a right in the group of an object.

    Raises:
        NotFound: they may not even see it; `missing` is what is said if there is none.
        Forbidden: they see it, and have not the right.
    """
    if not by.may(Right.VIEW, group) and not by.may(right, group):
        raise NotFound(missing)
    by.demand(right, group)


def storage(services: Services, by: Principal, name: str, right: Right = Right.VIEW) -> StorageRow:
    """Return a storage by name or id.

    Raises:
        NotFound, Forbidden: see `require`.
    """
    row = services.storages.get(name)
    require(by, right, row.resource_group, f"(storage {name[:80]!r})")
    return row


def platform(
    services: Services, by: Principal, name: str, right: Right = Right.VIEW
) -> PlatformRow:
    """Return a platform by name or id.

    Raises:
        NotFound, Forbidden: see `require`.
    """
    row = services.inventory.platform(name)
    require(by, right, row.resource_group, f"(platform {name[:80]!r})")
    return row


def policy(services: Services, by: Principal, name: str, right: Right = Right.VIEW) -> PolicyRow:
    """Return a policy by name or id.

    Raises:
        NotFound, Forbidden: see `require`.
    """
    row = services.policies.get(name)
    require(by, right, row.policy.group, f"(policy {name[:100]!r})")
    return row


def run(services: Services, by: Principal, name: str, right: Right | None = Right.VIEW) -> RunRow:
    """Return a run; a right of None is the one that such a run takes.

    Raises:
        NotFound, Forbidden: see `require`.
    """
    row = services.runs.get(name)
    wanted = right if right is not None else right_of(row.kind)
    require(by, wanted, row.resource_group, f"(run {name[:40]!r})")
    return row


def right_of(kind: str) -> Right:
    """Return the right that runs of a kind take."""
    return Right.RESTORE if kind in RESTORING else Right.OPERATE


def points(
    services: Services, by: Principal, prefix: str, right: Right = Right.VIEW
) -> list[PointRow]:
    """Return a point on each storage where somebody may see it.

    Raises:
        NotFound: there is none that they may see.
        Forbidden: they have not the right on one of those storages.
    """
    groups = {row.name: row.resource_group for row in services.storages.all()}
    seen = [name for name, group in groups.items() if by.may(Right.VIEW, group)
            or by.may(right, group)]  # fmt: skip
    found = services.catalogue.find(prefix, seen)
    for row in found:
        require(by, right, groups[row.storage], f"(point {prefix[:40]!r})")
    return found


def point(
    services: Services, by: Principal, prefix: str, right: Right, name: str = ""
) -> tuple[PointRow, StorageRow]:
    """Return a point and the storage to read it from: the one that is named, or the best one.

    Raises:
        NotFound, Forbidden: see `require`.
    """
    at = storage(services, by, name, right) if name else None
    row = _on(services, by, prefix, at, right)
    return row, storage(services, by, row.storage, right)


def alarm(services: Services, by: Principal, name: str, right: Right = Right.VIEW) -> Alarm:
    """Return an alarm.

    Raises:
        NotFound, Forbidden: see `require`.
    """
    found = services.alarms.get(name)
    require(by, right, found.group or ALL_GROUPS, f"(the alarm {name})")
    return found


def approval(services: Services, by: Principal, name: str, right: Right = Right.VIEW) -> Request:
    """Return a request; its requester always may see it.

    Raises:
        NotFound, Forbidden: see `require`.
    """
    found = services.approvals.get(name)
    if right is not Right.VIEW or not by.user or found.requester != by.user:
        require(by, right, found.act.group, "(the request)")
    return found


def group(services: Services, name: str) -> None:
    """Refuse a resource group that is not there.

    Raises:
        InvalidName, NotFound: it is not.
    """
    services.accounts.groups.get(name)


def for_policy(services: Services, by: Principal, wanted: Policy) -> None:
    """Refuse a policy that reaches into groups where somebody may not operate.

    Raises:
        NotFound: its group, platform or storage is not there, or they may not see it.
        Forbidden: they may not operate there.
    """
    by.demand(Right.OPERATE, wanted.group)
    group(services, wanted.group)
    platform(services, by, wanted.selection.platform, Right.OPERATE)
    storage(services, by, wanted.storage, Right.OPERATE)


def for_run(
    services: Services, by: Principal, kind: str, body: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the group of work that is started by hand, and its body with everything named.

    Raises:
        NotFound: it names what is not there, or what they may not see.
        Forbidden: they may not do that in a group that it reaches into.
        UsageError: it names no storage and no point.
    """
    right = right_of(kind)
    named = {key: _text(body, key) for key in ("point", "storage", "platform", "from")}
    found = dict(body)
    at = storage(services, by, named["storage"], right) if named["storage"] else None
    if named["point"]:
        row = _on(services, by, named["point"], at, right)
        at = storage(services, by, row.storage, right)
        found |= {"point": row.id}
        if kind in RESTORING:
            named["platform"] = named["platform"] or row.platform
    if at is None:
        raise UsageError(f"(a run of kind {kind} names a point or a storage)")
    if named["platform"]:
        found["platform"] = platform(services, by, named["platform"], right).name
    if named["from"]:
        found["from"] = storage(services, by, named["from"], right).name
    return at.resource_group, found | {"storage": at.name}


def _on(
    services: Services, by: Principal, prefix: str, at: StorageRow | None, right: Right
) -> PointRow:
    """Return a point on the storage that is named, or on the best one where they may."""
    if at is None:
        rows = {row.name: row for row in services.storages.all()}
        seen = points(services, by, prefix)
        able = [row for row in seen if by.may(right, rows[row.storage].resource_group)]
        # A backup is read before its copy; who may read none of them is refused for the first.
        ranked = sorted(able or seen, key=lambda row: rows[row.storage].role != "backup")
    else:
        ranked = services.catalogue.find(prefix, [at.name])
    return ranked[0]


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key) or ""
    if not isinstance(value, str):
        raise UsageError(f"({key} is no text)")
    return value
