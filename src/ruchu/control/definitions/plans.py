"""Files of definitions: what one would change, carried out exactly as it was shown, and drift.

A file has an owner, a label. What was made from a file with a label is removed when it is no longer
in it; whatever else there is stays untouched.
"""

import hashlib
import hmac
import json
import re
import secrets as random_words
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from ruchu.clock import to_text
from ruchu.control.definitions import agreeing, diffing, exchange, kinds
from ruchu.control.definitions.agreeing import PolicyGuard
from ruchu.control.definitions.bench import Bench, Workshop
from ruchu.control.definitions.diffing import Action, Change, Compared, FieldChange
from ruchu.control.definitions.keepers import Fields, group_of
from ruchu.control.definitions.tables import OWNED
from ruchu.control.vault.vault import Owner
from ruchu.errors import NotFound, Stale, UsageError
from ruchu.model.principals import ALL_GROUPS, Principal

FORMAT = 1
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = Owner("server", "plans", "key")
# What a storage says of itself; no file decides on it.
_OF_STORAGE_ITSELF = ("id", "encrypted", "facts")
# Points on a storage outlive every file.
_LASTING = ("storages",)
_IN_GROUPS = {"platforms", "storages", "policies"}


class StorageMaker(Protocol):
    """Lets a node adopt a storage; with `create` it makes one where there is none."""

    def __call__(
        self, name: str, fields: Mapping[str, Any], secrets: Mapping[str, str], *, create: bool
    ) -> Mapping[str, Any]:
        """Return `storage` (what the node says of it) and `points` if there are any.

        Raises:
            RuchuError: it cannot be made.
        """


@dataclass(frozen=True, slots=True)
class Plan:
    """What a file would change.

    Attributes:
        owner: label of the file.
        digest: stands for exactly these changes; an apply says it back.
        changes: in the order in which they are made.
        drift: what was changed by hand since the file was applied last.
    """

    owner: str
    digest: str
    changes: tuple[Change, ...]
    drift: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file, checked."""

    owner: str
    fields: Mapping[str, Mapping[str, Fields]]
    secrets: Mapping[str, Mapping[str, Mapping[str, str]]]
    created: frozenset[str]

    def of(self, kind: str, name: str) -> Mapping[str, str]:
        """Return the secrets that the file gives for something."""
        return self.secrets.get(kind, {}).get(name, {})


class Plans:
    """Plans and applies files of definitions. Safe in several threads."""

    def __init__(self, workshop: Workshop, make: StorageMaker, guard: PolicyGuard) -> None:
        self._workshop = workshop
        self._make = make
        self._guard = guard

    def plan(self, by: Principal, document: Mapping[str, Any], secrets: Mapping[str, Any]) -> Plan:
        """Return what a file would change.

        Raises:
            Forbidden: they may not define what it does.
            UsageError: the file cannot be.
        """
        wanted = _checked(document, secrets)
        key = self._key()
        with self._workshop.reading(by) as bench:
            return _planned(bench, wanted, key)

    def apply(
        self, by: Principal, document: Mapping[str, Any], secrets: Mapping[str, Any], digest: str
    ) -> tuple[Plan, Mapping[str, Mapping[str, Any]]]:
        """Carry out a plan; return it, and what nodes said of new storages, by name.

        All definitions change, or none.

        Raises:
            Forbidden: they may not.
            Stale: it is not the plan that was shown: the file or the server changed.
            RuchuError: something in it cannot be done.
        """
        wanted = _checked(document, secrets)
        key = self._key()
        with self._workshop.reading(by) as bench:
            plan = _same(_planned(bench, wanted, key), digest)
        made = {
            change.name: self._make(
                change.name,
                wanted.fields["storages"][change.name],
                wanted.of("storages", change.name),
                create=change.name in wanted.created,
            )
            for change in plan.changes
            if change.kind == "storages" and change.action is Action.CREATE
        }  # fmt: skip
        with self._workshop.writing(by) as bench:
            plan = _same(_planned(bench, wanted, key), digest)
            resolved = _resolved(bench, made)
            for change in plan.changes:
                if change.kind == "policies" and change.action in {Action.CREATE, Action.CHANGE}:
                    fields = wanted.fields["policies"][change.name]
                    agreeing.demand(bench, self._guard, change.name, fields)
                _carry_out(bench, wanted, change, made)
            _remember(bench, wanted, key, resolved)
            facts = {"owner": plan.owner, "changes": len(plan.changes), "plan": plan.digest}
            bench.recording().record(by.actor, "definitions.apply", plan.owner, facts=facts)
        return plan, made

    def _key(self) -> bytes:
        """Return the key of digests: without it nobody can try secrets out on a digest."""
        vault = self._workshop.vault
        try:
            return vault.get(_KEY).encode()
        except NotFound:
            vault.put(_KEY, random_words.token_hex(32))
            return vault.get(_KEY).encode()


# ---------------------------------------------------------------------------------- the file


def _checked(document: Mapping[str, Any], secrets: Mapping[str, Any]) -> _Wanted:
    found = dict(document)
    version = found.pop("ruchu", None)
    if version != FORMAT:
        raise UsageError("(the file does not say `ruchu: 1`)")
    owner = found.pop("owner", "")
    if not isinstance(owner, str) or not _LABEL.fullmatch(owner):
        raise UsageError("(the file has no owner)", hint="A label, such as `owner: team-a`.")
    read = exchange.by_kind(found, kinds.OF_FILES)
    # Whether one may be made is said for the moment of an apply; it is no field of a storage.
    created = frozenset(
        name for name, each in read.get("storages", {}).items() if each.pop("create", False) is True
    )
    fields = {
        kind: {name: kinds.KEEPERS[kind].normal(name, each) for name, each in names.items()}
        for kind, names in read.items()
    }
    given: dict[str, dict[str, dict[str, str]]] = {}
    for kind, names in exchange.by_kind(secrets, kinds.OF_FILES).items():
        for name, each in names.items():
            if name not in fields.get(kind, {}):
                raise UsageError(f"(a secret of {kind} {name}, which the file does not define)")
            given.setdefault(kind, {})[name] = exchange.texts(f"{kind} {name}", each)
    return _Wanted(owner, _shown(fields), given, created)


def _shown(world: Mapping[str, Mapping[str, Fields]]) -> dict[str, dict[str, Fields]]:
    """Return fields without those that no file decides on; lists of nodes in one order."""
    found = {}
    for kind, names in world.items():
        found[kind] = {
            name: {
                key: sorted(value) if key == "nodes" and kind != "policies" else value
                for key, value in fields.items()
                if kind != "storages" or key not in _OF_STORAGE_ITSELF
            }
            for name, fields in names.items()
        }
    return found


# ---------------------------------------------------------------------------------- the plan


def _planned(bench: Bench, wanted: _Wanted, key: bytes) -> Plan:
    current = _shown({kind: kinds.KEEPERS[kind].all(bench) for kind in kinds.OF_FILES})
    rows = bench.connection.execute(sa.select(OWNED)).all()
    for row in rows:
        _as_written(row, current.get(row.kind, {}).get(row.name))
    owners = {(row.kind, row.name): row.owner for row in rows}
    changed: dict[tuple[str, str], Sequence[FieldChange]] = {}
    for kind, names in wanted.secrets.items():
        for name, given in names.items():
            before = kinds.KEEPERS[kind].secrets(bench, name)
            changed[kind, name] = diffing.secret_changes(before, given)
    compared = Compared(wanted.fields, current, changed, owners)
    named = {(kind, name) for kind, names in wanted.fields.items() for name in names}
    _demand(bench.by, wanted, current, named)
    changes = diffing.plan(wanted.owner, compared, kinds.OF_FILES, _LASTING)
    _demand(bench.by, wanted, current, {(each.kind, each.name) for each in changes})
    drift = _drift(bench, [row for row in rows if row.owner == wanted.owner], current, key)
    return Plan(wanted.owner, _digest(wanted, changes, key), tuple(changes), tuple(drift))


def _as_written(row: Any, current: Fields | None) -> None:
    """Show a field that a node completed as the file has it, unless somebody changed it since."""
    if current is not None:
        for field, value in row.resolved.items():
            if current[field] == value:
                current[field] = row.applied[field]


def _demand(
    by: Principal, wanted: _Wanted, current: diffing.World, places: set[tuple[str, str]]
) -> None:
    """Refuse whoever may not define something, as it is or as the file has it."""
    for kind, name in sorted(places):
        for world in (wanted.fields, current):
            fields = world.get(kind, {}).get(name)
            if fields is None:
                continue
            groups = {group_of(fields)} if kind in _IN_GROUPS else {ALL_GROUPS}
            if kind == "policies":
                groups |= _reached(fields, (wanted.fields, current))
            elif name not in current.get(kind, {}):
                # An address is an address of everybody's machines, a location one of all points.
                groups = {ALL_GROUPS}
            for group in groups:
                by.demand(kinds.KEEPERS[kind].right, group)


def _reached(policy: Mapping[str, Any], worlds: Sequence[diffing.World]) -> set[str]:
    """Return the groups of the platform and the storage of a policy.

    Raises:
        NotFound: one of them is neither in the file nor on the server.
    """
    found = set()
    places = {"platforms": policy["selection"]["platform"], "storages": policy["storage"]}
    for kind, name in places.items():
        known = [world[kind][name] for world in worlds if name in world.get(kind, {})]
        if not known:
            raise NotFound(f"({kind.removesuffix('s')} {name[:80]!r} of a policy)")
        found |= {group_of(fields) for fields in known}
    return found


def _digest(wanted: _Wanted, changes: Sequence[Change], key: bytes) -> str:
    """Return what stands for a plan: its changes, what was there before, and the secrets."""
    shown = [wanted.owner, [asdict(each) for each in changes], wanted.fields, wanted.secrets]
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, b"ruchu plan\0" + text.encode(), hashlib.sha256).hexdigest()


def _same(plan: Plan, digest: str) -> Plan:
    """Return a plan if it is the one that was shown.

    Raises:
        Stale: it is another one.
    """
    if not hmac.compare_digest(plan.digest.encode(), digest.encode()):
        hint = "The file, its secrets or the server changed since. Plan again, and look."
        raise Stale("(this is not the plan that was shown)", hint=hint)
    return plan


def _secret_digest(key: bytes, place: Sequence[str], value: str) -> str:
    return hmac.new(key, "\0".join([*place, value]).encode(), hashlib.sha256).hexdigest()


def _drift(bench: Bench, rows: Sequence[Any], current: diffing.World, key: bytes) -> list[Change]:
    applied: dict[str, dict[str, Fields]] = {}
    for row in rows:
        applied.setdefault(row.kind, {})[row.name] = row.applied
    found = {(each.kind, each.name): each for each in diffing.drifted(applied, current)}
    for row in rows:
        now = kinds.KEEPERS[row.kind].secrets(bench, row.name) if row.digests else {}
        fields = tuple(
            FieldChange(f"{diffing.SECRET}{field}", diffing.GIVEN, diffing.OTHER)
            for field, digest in sorted(row.digests.items())
            if _secret_digest(key, (row.kind, row.name, field), now.get(field, "")) != digest
        )
        known = found.get((row.kind, row.name), Change(row.kind, row.name, Action.CHANGE))
        if fields and known.action is Action.CHANGE:
            found[row.kind, row.name] = Change(
                row.kind, row.name, Action.CHANGE, known.fields + fields
            )
    return [found[place] for place in sorted(found)]


# ------------------------------------------------------------------------------- carrying out


def _resolved(bench: Bench, made: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return where nodes found storages, by name: of those that were made now, and before."""
    query = sa.select(OWNED.c.name, OWNED.c.resolved).where(OWNED.c.kind == "storages")
    found = {name: dict(resolved) for name, resolved in bench.connection.execute(query)}
    return found | {
        name: {"location": str(each["storage"]["location"])} for name, each in made.items()
    }


def _carry_out(
    bench: Bench, wanted: _Wanted, change: Change, made: Mapping[str, Mapping[str, Any]]
) -> None:
    keeper, name = kinds.KEEPERS[change.kind], change.name
    given = wanted.of(change.kind, name)
    fields = wanted.fields.get(change.kind, {}).get(name, {})
    if change.kind == "storages" and change.action in {Action.CREATE, Action.CHANGE}:
        fields = {**fields, **_of_storage(bench, change, made)}
    if change.action is Action.CREATE:
        keeper.create(bench, name, dict(fields), given)
    elif change.action is Action.CHANGE:
        keeper.change(bench, name, dict(fields), given)
    elif change.action is Action.REMOVE:
        keeper.remove(bench, name)


def _of_storage(
    bench: Bench, change: Change, made: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the fields of a storage that no file decides on."""
    if change.action is Action.CREATE:
        known = made[change.name]["storage"]
        facts = {key: known.get(key) for key in ("probe", "writer", "credentials")}
        return {
            "id": str(known["id"]), "encrypted": bool(known["encrypted"]), "facts": facts,
            "location": str(known["location"]), "role": str(known["role"]),
        }  # fmt: skip
    row = bench.storages.get(change.name)
    found: dict[str, Any] = {"id": row.id, "encrypted": row.encrypted, "facts": dict(row.facts)}
    # Where a node found it stays, unless the file says another place.
    if all(field.field != "location" for field in change.fields):
        found["location"] = row.location
    return found


def _remember(
    bench: Bench, wanted: _Wanted, key: bytes, resolved: Mapping[str, Mapping[str, str]]
) -> None:
    """Write down what belongs to the file now, and how it was applied."""
    bench.connection.execute(OWNED.delete().where(OWNED.c.owner == wanted.owner))
    now = to_text(bench.clock.now())
    rows = [
        {
            "kind": kind, "name": name, "owner": wanted.owner, "applied": dict(fields), "at": now,
            "resolved": dict(resolved.get(name, {})) if kind == "storages" else {},
            "digests": {
                field: _secret_digest(key, (kind, name, field), value)
                for field, value in wanted.of(kind, name).items()
            },
        }
        for kind, names in wanted.fields.items()
        for name, fields in names.items()
    ]  # fmt: skip
    if rows:
        bench.connection.execute(OWNED.insert(), rows)
