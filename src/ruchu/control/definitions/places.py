"""Groups, nodes, platforms and storages as definitions."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ruchu.control.accounts.groups import Group, Quota
from ruchu.control.definitions import keepers
from ruchu.control.definitions.bench import Bench
from ruchu.control.definitions.keepers import Fields, Secrets
from ruchu.control.storages.tables import STORAGES
from ruchu.errors import NotFound, Stale, UsageError
from ruchu.model.ids import is_id
from ruchu.model.principals import Right

_ROLES = ("backup", "copy")


class GroupKeeper:
    """Resource groups."""

    kind = "groups"
    right = Right.ACCOUNTS
    _DEFAULTS: ClassVar[Mapping[str, Any]] = {"title": "", "bytes": 0, "machines": 0, "runs": 0}

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields."""
        return keepers.whole(f"group {name}", fields, self._DEFAULTS)

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return all groups."""
        return {
            row.name: {"title": row.title, **keepers.as_lists(row.quota)}
            for row in bench.groups.list()
        }

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return none."""
        del bench, name
        return {}

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Make a group."""
        del secrets
        bench.groups.create(bench.by, _group(name, fields))

    def change(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Change a group."""
        del secrets
        bench.groups.change(bench.by, _group(name, fields))

    def remove(self, bench: Bench, name: str) -> None:
        """Remove a group that nothing belongs to.

        Raises:
            UsageError: something does.
        """
        used = [row.name for row in bench.inventory.platforms() if row.resource_group == name]
        used += [row.name for row in bench.storages.all() if row.resource_group == name]
        used += [row.policy.name for row in bench.policies.all() if row.policy.group == name]
        if used:
            raise UsageError(f"(the group {name} holds {', '.join(used)[:200]})")
        bench.groups.remove(bench.by, name)


def _group(name: str, fields: Fields) -> Group:
    return Group(name, fields["title"], Quota(fields["bytes"], fields["machines"], fields["runs"]))


class NodeKeeper:
    """Nodes: their names and limits. Who they are is proved by enrolling."""

    kind = "nodes"
    right = Right.CONFIGURE

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields.

        Raises:
            UsageError: they cannot be.
        """
        found = keepers.whole(f"node {name}", fields, {"parallel": 2})
        if not 1 <= found["parallel"] <= 64:
            raise UsageError(f"(node {name}: parallel)", hint="1 to 64.")
        return found

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return all nodes that may connect."""
        return {
            row.name: {"parallel": row.parallel} for row in bench.nodes.all() if not row.revoked
        }

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return none."""
        del bench, name
        return {}

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Expect a node of this name."""
        del secrets
        bench.nodes.expect(name, fields["parallel"])

    def change(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Change the limits of a node."""
        del secrets
        row = bench.nodes.get(name)
        bench.nodes.change(row.id, row.version, fields["parallel"])

    def remove(self, bench: Bench, name: str) -> None:
        """Revoke a node."""
        bench.nodes.revoke(bench.nodes.get(name).id)


class PlatformKeeper:
    """Platforms."""

    kind = "platforms"
    right = Right.CONFIGURE
    _DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "uri": ..., "scratch": "", "nodes": [], "parallel": 4, "host_parallel": 2,
        "group": "default",
    }  # fmt: skip

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields."""
        return keepers.whole(f"platform {name}", fields, self._DEFAULTS)

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return all platforms."""
        names = bench.node_names()
        return {
            row.name: {
                "uri": row.uri, "scratch": row.scratch,
                "nodes": sorted(names.get(each, each) for each in row.nodes),
                "parallel": row.parallel, "host_parallel": row.host_parallel,
                "group": row.resource_group,
            }
            for row in bench.inventory.platforms()
        }  # fmt: skip

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return the secrets of a platform."""
        try:
            return bench.secrets("platform", bench.inventory.platform(name).id)
        except NotFound:
            return {}

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Know a platform."""
        values = _values(bench, fields)
        row = bench.inventory.add(name, values.pop("uri"), **values)
        bench.keep("platform", row.id, secrets)

    def change(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Change a platform."""
        row = bench.inventory.platform(name)
        bench.inventory.change(row.id, row.version, _values(bench, fields))
        bench.keep("platform", row.id, secrets)

    def remove(self, bench: Bench, name: str) -> None:
        """Forget a platform.

        Raises:
            UsageError: a policy selects machines of it.
        """
        rows = bench.policies.all()
        used = [each.policy.name for each in rows if each.policy.selection.platform == name]
        if used:
            raise UsageError(f"(platform {name} is used by {', '.join(used)[:200]})")
        row = bench.inventory.platform(name)
        bench.inventory.remove(row.id, row.version)
        bench.vault.delete_all("platform", row.id, bench.connection)


class StorageKeeper:
    """Storages: where they are and how they are used. What lies on them is not touched here."""

    kind = "storages"
    right = Right.CONFIGURE
    _DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "id": "", "location": ..., "role": "backup", "encrypted": True, "facts": {}, "nodes": [],
        "writers": 4, "readers": 2, "warn_percent": 80, "stop_percent": 95, "group": "default",
    }  # fmt: skip

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields.

        Raises:
            UsageError: they cannot be.
        """
        found = keepers.whole(f"storage {name}", fields, self._DEFAULTS)
        if found["role"] not in _ROLES:
            raise UsageError(f"(storage {name}: role)", hint=f"One of: {', '.join(_ROLES)}.")
        if found["id"] and not is_id(found["id"]):
            raise UsageError(f"(storage {name}: id)")
        return found

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return all storages."""
        names = bench.node_names()
        return {
            row.name: {
                "id": row.id, "location": row.location, "role": row.role,
                "encrypted": row.encrypted, "facts": dict(row.facts),
                "nodes": sorted(names.get(each, each) for each in row.nodes),
                "writers": row.writers, "readers": row.readers,
                "warn_percent": row.warn_percent, "stop_percent": row.stop_percent,
                "group": row.resource_group,
            }
            for row in bench.storages.all()
        }  # fmt: skip

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return the passphrase of a storage, and whatever else opens it."""
        try:
            return bench.secrets("storage", bench.storages.get(name).id)
        except NotFound:
            return {}

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Know a storage that exists; its id says which one it is.

        Raises:
            UsageError: no id is given.
        """
        if not fields["id"]:
            raise UsageError(f"(storage {name}: id is missing)")
        made = {key: fields[key] for key in ("id", "role", "encrypted")}
        found = {**fields["facts"], **made, "name": name}
        row = bench.storages.add(found, fields["location"], _limits(bench, fields))
        bench.keep("storage", row.id, secrets)

    def change(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Change how a storage is used, or where it is.

        Raises:
            UsageError: it is another storage.
            Stale: somebody else changed it.
        """
        row = bench.storages.get(name)
        if fields["id"] not in {"", row.id}:
            hint = "Call one of them by another name, or remove the one that is known here."
            raise UsageError(f"(storage {name} is another one than that known here)", hint=hint)
        changed = bench.storages.change(row.id, row.version, _limits(bench, fields))
        moved = {key: fields[key] for key in ("location", "role")}
        update = STORAGES.update().where(STORAGES.c.id == row.id)
        update = update.where(STORAGES.c.version == changed.version)
        if not bench.connection.execute(update.values(moved)).rowcount:
            raise Stale(f"(storage {name})")
        bench.keep("storage", row.id, secrets)

    def remove(self, bench: Bench, name: str) -> None:
        """Refuse: a storage is removed by people who know what lies on it.

        Raises:
            UsageError: always.
        """
        del bench
        raise UsageError(f"(storage {name} is not removed by a file)")


def _values(bench: Bench, fields: Fields) -> dict[str, Any]:
    """Return fields as the services call them."""
    values = {key: value for key, value in fields.items() if key != "group"}
    nodes = bench.node_ids([str(each) for each in fields["nodes"]])
    return {**values, "resource_group": fields["group"], "nodes": nodes}


def _limits(bench: Bench, fields: Fields) -> dict[str, Any]:
    values = _values(bench, fields)
    itself = {"id", "location", "role", "encrypted", "facts"}
    return {key: values[key] for key in values.keys() - itself}
