"""Quotas of resource groups, checked before a backup begins. A restore is never refused by one."""

from dataclasses import dataclass

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.accounts.groups import Groups, Quota, Usage
from ruchu.control.database.database import Database
from ruchu.control.inventory.inventory import Inventory
from ruchu.control.jobs.runs import RunRow
from ruchu.control.jobs.tables import RUNS
from ruchu.control.policies import selecting
from ruchu.control.policies.policies import Policies
from ruchu.control.policies.selecting import Machine
from ruchu.control.storages.tables import POINTS, STORAGES
from ruchu.errors import NotFound
from ruchu.model.policies import Policy


@dataclass(frozen=True, slots=True)
class Quotas:
    """The quotas of a server. Safe in several threads.

    A group uses the bytes that points added to its storages, the machines that its policies
    select, and the backups that were created since midnight, UTC.
    """

    database: Database
    clock: Clock
    groups: Groups
    policies: Policies
    inventory: Inventory

    def check_backup(self, policy: Policy, run: RunRow | None = None) -> None:
        """Refuse a backup that would exceed the quota of the group of its policy.

        Args:
            policy: that is to be carried out.
            run: the run, if it has been created; None before that.

        Raises:
            QuotaExceeded: it would.
        """
        try:
            quota = self.groups.get(policy.group).quota
        except NotFound:
            return  # a group that was removed limits nothing
        if quota == Quota():
            return
        mine = self._machines(policy)
        others = set().union(*(
            self._machines(row.policy)
            for row in self.policies.all()
            if row.policy.enabled and row.policy.group == policy.group
            and row.policy.name != policy.name
        ))  # fmt: skip
        usage = Usage(self._bytes(policy.group), len(others), self._runs(policy.group, run))
        self.groups.check_quota(policy.group, usage, Usage(1, len(mine - others), 1))

    def usage(self, group: str) -> Usage:
        """Return what a group uses now."""
        machines = set().union(*(
            self._machines(row.policy)
            for row in self.policies.all()
            if row.policy.enabled and row.policy.group == group
        ))  # fmt: skip
        return Usage(self._bytes(group), len(machines), self._runs(group, None))

    def _machines(self, policy: Policy) -> set[tuple[str, str]]:
        rows = self.inventory.machines(policy.selection.platform)
        machines = [
            Machine(row.platform, row.id, row.name, row.host, row.folder, tuple(row.tags))
            for row in rows
        ]
        return {(each.platform, each.id) for each in selecting.selected(policy.selection, machines)}

    def _bytes(self, group: str) -> int:
        mine = sa.select(STORAGES.c.name).where(STORAGES.c.resource_group == group)
        query = sa.select(sa.func.sum(POINTS.c.bytes_stored)).where(POINTS.c.storage.in_(mine))
        with self.database.reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def _runs(self, group: str, run: RunRow | None) -> int:
        """Return how many backups were created today, before a run if there is one."""
        midnight = self.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        query = sa.select(sa.func.count()).where(
            RUNS.c.kind == "backup", RUNS.c.resource_group == group,
            RUNS.c.created >= to_text(midnight),
        )  # fmt: skip
        if run is not None:
            same = sa.and_(RUNS.c.created == run.created, RUNS.c.id < run.id)
            query = query.where(sa.or_(RUNS.c.created < run.created, same))
        with self.database.reading() as connection:
            return int(connection.execute(query).scalar_one())
