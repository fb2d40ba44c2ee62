"""All definitions of a server in one document: written, and read into another server.

Format, version 1: `format`, `version`, `release`, `at`, `server` say what it is. `definitions` holds
fields by kind and name, `secrets` their secrets in the same way; a document without secrets has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruchu import __version__
from ruchu.clock import to_text
from ruchu.control.definitions import agreeing, diffing, keepers, kinds
from ruchu.control.definitions.agreeing import PolicyGuard
from ruchu.control.definitions.bench import Bench, Workshop
from ruchu.control.definitions.diffing import Action, Change
from ruchu.control.definitions.keepers import Keeper
from ruchu.errors import LaterFormat, UsageError
from ruchu.model.principals import Principal, Right

FORMAT, VERSION = "ruchu-definitions", 1
PEOPLE = ("users",)


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """What to export.

    Attributes:
        secrets: with passphrases, and the secrets of channels and providers.
        passwords: also the hashes of passwords and the keys of authenticators.
    """

    secrets: bool = True
    passwords: bool = False


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """How to import.

    Attributes:
        replace: make what differs like the document; else it stays and is told.
        dry_run: only say what would be done.
        locations: where storages are now, by name, if not where the document says.
    """

    replace: bool = False
    dry_run: bool = False
    locations: Mapping[str, str] = field(default_factory=dict)


class _DryRun(Exception):
    """Takes back what was tried."""


class Exchange:
    """Exports and imports the definitions of a server."""

    def __init__(self, workshop: Workshop, guard: PolicyGuard) -> None:
        self._workshop = workshop
        self._guard = guard

    def export(self, by: Principal, order: ExportOrder) -> dict[str, Any]:
        """Return all definitions.

        Raises:
            Forbidden: they may not see everything.
        """
        _demand(by)
        document: dict[str, Any] = {
            "format": FORMAT, "version": VERSION, "release": __version__,
            "at": to_text(self._workshop.clock.now()), "server": "",
        }  # fmt: skip
        with self._workshop.reading(by) as bench:
            document["server"] = bench.settings.get()[0].server_name
            found = {kind: keeper.all(bench) for kind, keeper in kinds.KEEPERS.items()}
            document["definitions"] = found
            if order.secrets:
                document["secrets"] = _all_secrets(bench, found, passwords=order.passwords)
        return document

    def import_(
        self, by: Principal, document: Mapping[str, Any], order: ImportOrder
    ) -> Sequence[Change]:
        """Make what is missing; return what was done with every definition of the document.

        All of it happens, or nothing.

        Raises:
            Forbidden: they may not.
            LaterFormat: a later release wrote it.
            UsageError: it is no document of ours, or something in it cannot be.
        """
        _demand(by)
        wanted, secrets = checked(document)
        for name, location in order.locations.items():
            if name not in wanted.get("storages", {}):
                raise UsageError(f"(no storage {name[:80]!r} is in the document)")
            wanted["storages"][name]["location"] = location
        done: list[Change] = []
        try:
            with self._workshop.writing(by) as bench:
                for kind, keeper in kinds.KEEPERS.items():
                    of_kind = (wanted.get(kind, {}), secrets.get(kind, {}))
                    done += self._import_kind(bench, keeper, of_kind, replace=order.replace)
                facts = {"replace": order.replace, "definitions": len(done)}
                bench.recording().record(by.actor, "definitions.import", "server", facts=facts)
                if order.dry_run:
                    raise _DryRun  # noqa: TRY301 - the transaction is what it ends
        except _DryRun:
            pass
        return done

    def _import_kind(
        self, bench: Bench, keeper: Keeper, of_kind: tuple[Any, Any], *, replace: bool
    ) -> list[Change]:
        wanted, secrets = of_kind
        current = keeper.all(bench)
        done = []
        for name in sorted(wanted):
            fields = keeper.normal(name, wanted[name])
            given = texts(f"{keeper.kind} {name}", secrets.get(name, {}))
            if name not in current:
                self._check(bench, keeper, name, fields)
                keeper.create(bench, name, fields, given)
                done.append(Change(keeper.kind, name, Action.CREATE))
                continue
            differs = diffing.differences(current[name], fields)
            differs += diffing.secret_changes(keeper.secrets(bench, name), given)
            action = Action.SAME if not differs else Action.CHANGE if replace else Action.KEEP
            if action is Action.CHANGE:
                self._check(bench, keeper, name, fields)
                keeper.change(bench, name, fields, given)
            done.append(Change(keeper.kind, name, action, differs))
        return done

    def _check(self, bench: Bench, keeper: Keeper, name: str, fields: Mapping[str, Any]) -> None:
        if keeper.kind == "policies":
            agreeing.demand(bench, self._guard, name, fields)


def _demand(by: Principal) -> None:
    for right in (Right.CONFIGURE, Right.OPERATE, Right.ACCOUNTS):
        by.demand(right)


def _all_secrets(
    bench: Bench, found: Mapping[str, Mapping[str, Any]], *, passwords: bool
) -> dict[str, dict[str, dict[str, str]]]:
    all_secrets: dict[str, dict[str, dict[str, str]]] = {}
    for kind, names in found.items():
        if kind in PEOPLE and not passwords:
            continue
        for name in names:
            secrets = dict(kinds.KEEPERS[kind].secrets(bench, name))
            if secrets:
                all_secrets.setdefault(kind, {})[name] = secrets
    return all_secrets


World = dict[str, dict[str, dict[str, Any]]]


def checked(document: Mapping[str, Any]) -> tuple[World, World]:
    """Return fields and secrets of a document by kind and name.

    Raises:
        LaterFormat: a later release wrote it.
        UsageError: it is no document of ours.
    """
    if document.get("format") != FORMAT:
        raise UsageError("(the file holds no definitions of Ruchu)")
    version = document.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UsageError("(the version of the file)")
    if version > VERSION:
        release = str(document.get("release"))[:40]
        raise LaterFormat(f"(version {version} of release {release}; this one knows {VERSION})")
    return (
        by_kind(document.get("definitions", {}), kinds.KEEPERS),
        by_kind(document.get("secrets", {}), kinds.KEEPERS),
    )


def by_kind(value: Any, known: Mapping[str, Any] | Sequence[str]) -> World:
    """Return mappings of mappings by kind and name.

    Raises:
        UsageError: it is something else, of an unknown kind, or too much.
    """
    if not isinstance(value, Mapping):
        raise UsageError("(definitions are mappings by kind and name)")
    if unknown := sorted(str(kind) for kind in set(value) - set(known)):
        hint = f"Known: {', '.join(known)}."
        raise UsageError(f"(the kind {unknown[0][:80]!r})", hint=hint)
    found: World = {}
    for kind, names in value.items():
        if not isinstance(names, Mapping) or len(names) > kinds.NAMES_MAX:
            raise UsageError(f"({kind} are no mapping by name, or more than {kinds.NAMES_MAX})")
        for name, fields in names.items():
            if not isinstance(name, str) or not 0 < len(name) <= keepers.NAME_MAX:
                raise UsageError(f"({kind}: a name)")
            if not isinstance(fields, Mapping):
                raise UsageError(f"({kind} {name} is no mapping)")
            found.setdefault(kind, {})[name] = dict(fields)
    return found


def texts(what: str, secrets: Mapping[str, Any]) -> dict[str, str]:
    """Return secrets by field.

    Raises:
        UsageError: one is no text.
    """
    if not all(isinstance(each, str) for pair in secrets.items() for each in pair):
        raise UsageError(f"({what}: a secret is no text)")
    return dict(secrets)
