"""Definitions of a server: exported and imported, applied from files; storages read afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruchu.control.definitions.diffing import Change
from ruchu.control.definitions.exchange import Exchange, ExportOrder, ImportOrder
from ruchu.control.definitions.plans import Plan, Plans
from ruchu.control.events.stream import Events
from ruchu.control.questions.asker import Asker
from ruchu.control.schedules.scheduler import Scheduler
from ruchu.control.storages.catalogue import Catalogue
from ruchu.control.storages.storages import StorageDefinitions
from ruchu.errors import NodeFailed, RuchuError, StorageGone
from ruchu.model.principals import Principal


@dataclass(frozen=True, slots=True)
class StorageRead:
    """What reading the points of a storage into the catalogue came to."""

    name: str
    points: int
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did with each definition, and with the storages of the document."""

    changes: Sequence[Change]
    storages: Sequence[StorageRead]


@dataclass(frozen=True, slots=True)
class Defining:
    """Definitions of a server. Safe in several threads."""

    exchange: Exchange
    plans: Plans
    storages: StorageDefinitions
    catalogue: Catalogue
    asker: Asker
    events: Events
    scheduler: Scheduler

    def export(self, by: Principal, order: ExportOrder) -> dict[str, Any]:
        """Return all definitions.

        Raises:
            Forbidden: they may not see everything.
        """
        return self.exchange.export(by, order)

    def import_(
        self, by: Principal, document: Mapping[str, Any], order: ImportOrder, *, read: bool
    ) -> Imported:
        """Take a document of definitions in; then read the points of its storages, if wanted.

        Raises:
            RuchuError: nothing was imported.
        """
        changes = self.exchange.import_(by, document, order)
        if order.dry_run:
            return Imported(changes, ())
        self._changed("import")
        names = [each.name for each in changes if each.kind == "storages"] if read else []
        return Imported(changes, [self._read(name) for name in names])

    def apply(
        self, by: Principal, document: Mapping[str, Any], secrets: Mapping[str, Any], digest: str
    ) -> Plan:
        """Carry a plan out, exactly as it was shown.

        Raises:
            RuchuError: no definition was changed.
        """
        plan, made = self.plans.apply(by, document, secrets, digest)
        self._changed("apply")
        for name, each in made.items():
            if each.get("points"):
                self._read(name)
        return plan

    def _changed(self, what: str) -> None:
        """Let everybody look anew who keeps something in mind."""
        self.events.publish("definitions", what, {})
        self.scheduler.changed()

    def _read(self, name: str) -> StorageRead:
        """Read the points of a storage; one that cannot be read now can be refreshed later."""
        row = self.storages.get(name)
        try:
            problems = list(self.asker.list_points(row))
            self.asker.look(row)
        except RuchuError as error:
            return StorageRead(name, 0, [str(error)])
        return StorageRead(name, len(self.catalogue.ids(name)), problems)


@dataclass(frozen=True, slots=True)
class NodeStorages:
    """Makes storages through nodes, as `plans` asks for it."""

    asker: Asker

    def __call__(
        self, name: str, fields: Mapping[str, Any], secrets: Mapping[str, str], *, create: bool
    ) -> Mapping[str, Any]:
        """Adopt a storage, or make it where there is none and that is wanted.

        Raises:
            RuchuError: it is not there, or cannot be made.
        """
        node = str(fields["nodes"][0]) if fields["nodes"] else ""
        order = {"name": name, "directory": fields["location"], "role": fields["role"]}
        try:
            return self.asker.make_storage(node, {**order, "adopt": True}, secrets)
        except NodeFailed as error:
            if error.remote_code != StorageGone.code or not create:
                raise
        return self.asker.make_storage(node, {**order, "adopt": False}, secrets)
