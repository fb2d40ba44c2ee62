"""The services that hold definitions, all of them within one transaction of the caller."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.accounts.groups import Groups
from ruchu.control.alarms.rules import RuleBook
from ruchu.control.audit.trail import Recording, Trail
from ruchu.control.database.database import Database
from ruchu.control.events.stream import Events
from ruchu.control.inventory.inventory import Inventory
from ruchu.control.nodes.records import NodeRecords
from ruchu.control.policies.policies import Policies
from ruchu.control.settings.settings import Settings
from ruchu.control.storages.storages import StorageDefinitions
from ruchu.control.vault.tables import VAULT_SECRETS
from ruchu.control.vault.vault import Owner, Vault
from ruchu.model.principals import Principal


class Joined(Database):
    """A database whose transactions are parts of one that is under way. For one thread.

    A service over it does what it always does; its changes stand when the outer transaction does.
    """

    def __init__(self, database: Database, connection: sa.Connection) -> None:
        self.url = database.url
        self.is_sqlite = database.is_sqlite
        self._connection = connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield the connection of the outer transaction."""
        yield self._connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Yield the connection of the outer transaction."""
        yield self._connection


@dataclass(frozen=True, slots=True)
class Bench:
    """What reads and writes definitions within one transaction.

    Attributes:
        connection: of the transaction.
        by: who asked.
        clock: tells the time.
    """

    connection: sa.Connection
    by: Principal
    clock: Clock
    vault: Vault
    trail: Trail
    groups: Groups
    nodes: NodeRecords
    inventory: Inventory
    storages: StorageDefinitions
    rules: RuleBook
    policies: Policies
    settings: Settings

    def recording(self) -> Recording:
        """Return what services take that write with the audit trail; use it once."""
        return Recording(self.connection, to_text(self.clock.now()))

    def secrets(self, kind: str, owner: str) -> Mapping[str, str]:
        """Return all secrets of an owner by field."""
        columns = VAULT_SECRETS.c
        same = sa.and_(columns.kind == kind, columns.owner == owner)
        fields = self.connection.execute(sa.select(columns.field).where(same)).scalars().all()
        return {
            field: self.vault.get(Owner(kind, owner, field), self.connection) for field in fields
        }

    def keep(self, kind: str, owner: str, secrets: Mapping[str, str]) -> None:
        """Keep secrets of an owner; others of it stay."""
        for field, value in secrets.items():
            self.vault.put(Owner(kind, owner, field), value, self.connection)

    def node_ids(self, names: list[str]) -> list[str]:
        """Return the ids of nodes by name.

        Raises:
            NotFound: one is not there.
        """
        return [self.nodes.get(name).id for name in names]

    def node_names(self) -> Mapping[str, str]:
        """Return the names of all nodes by id."""
        return {row.id: row.name for row in self.nodes.all()}


@dataclass(frozen=True, slots=True)
class Workshop:
    """Makes benches: for reading, and for writing everything or nothing."""

    database: Database
    clock: Clock
    vault: Vault
    trail: Trail

    @contextlib.contextmanager
    def reading(self, by: Principal) -> Iterator[Bench]:
        """Yield a bench that sees one moment."""
        with self.database.reading() as connection:
            yield self._bench(connection, by)

    @contextlib.contextmanager
    def writing(self, by: Principal) -> Iterator[Bench]:
        """Yield a bench whose changes take effect together on leaving, or not at all."""
        # The lock of the audit trail comes first, as for everybody who writes with it.
        with self.trail.writing() as recording:
            yield self._bench(recording.connection, by)

    def _bench(self, connection: sa.Connection, by: Principal) -> Bench:
        joined = Joined(self.database, connection)
        events = Events(joined, self.clock)
        trail = Trail(joined, self.clock)
        return Bench(
            connection=connection,
            by=by,
            clock=self.clock,
            vault=self.vault,
            trail=trail,
            groups=Groups(joined, trail),
            nodes=NodeRecords(joined, self.clock),
            inventory=Inventory(joined, self.clock, events),
            storages=StorageDefinitions(joined, self.clock, events),
            rules=RuleBook(joined),
            policies=Policies(joined, self.clock, events),
            settings=Settings(joined),
        )
