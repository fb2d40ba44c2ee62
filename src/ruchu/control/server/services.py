"""Every service of a server, put together in the order in which they need one another."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from ruchu.clock import Clock, from_text, to_text
from ruchu.control.accounts.accounts import Accounts
from ruchu.control.alarms.rules import RuleBook
from ruchu.control.alarms.service import AlarmService
from ruchu.control.anomalies.signs import RunSigns
from ruchu.control.anomalies.watch import AnomalyWatch
from ruchu.control.approvals.approvals import Approvals
from ruchu.control.approvals.user_removal import UserRemoval
from ruchu.control.audit.anchors import AnchorFile
from ruchu.control.audit.trail import Trail
from ruchu.control.database.database import Database
from ruchu.control.definitions.bench import Workshop
from ruchu.control.definitions.exchange import Exchange
from ruchu.control.definitions.plans import Plans
from ruchu.control.events.stream import Events
from ruchu.control.inventory.inventory import Inventory
from ruchu.control.jobs.admission import Admission
from ruchu.control.jobs.attempts import Attempts, Outcomes, Outside
from ruchu.control.jobs.planning import Planner
from ruchu.control.jobs.results import Results
from ruchu.control.jobs.runs import RunRow, Runs
from ruchu.control.nodes.hub import Hub, Told
from ruchu.control.nodes.records import NodeRecords, NodeRow
from ruchu.control.nodes.tasks import News, TaskRow, Tasks
from ruchu.control.policies import selecting
from ruchu.control.policies.policies import Policies, PolicyRow
from ruchu.control.policies.selecting import Machine
from ruchu.control.questions.asker import Asker, secret_owners
from ruchu.control.questions.point_asker import PointAsker
from ruchu.control.reports.figures import Figures, Known
from ruchu.control.schedules import windows
from ruchu.control.schedules.scheduler import Scheduler
from ruchu.control.server import scheduling
from ruchu.control.server.acts import Acts
from ruchu.control.server.coverage import Coverage
from ruchu.control.server.defining import Defining, NodeStorages
from ruchu.control.server.quotas import Quotas
from ruchu.control.server.scheduling import ScheduledRuns
from ruchu.control.server.state import ServerState
from ruchu.control.settings.settings import Settings
from ruchu.control.sites.sites import Sites
from ruchu.control.storages.catalogue import Catalogue
from ruchu.control.storages.storages import StorageDefinitions
from ruchu.control.vault import keys
from ruchu.control.vault.vault import Owner, Vault
from ruchu.errors import NotFound, UsageError
from ruchu.model.policies import Policy
from ruchu.model.tasks import Severity
from ruchu.wire.authority import Authority
from ruchu.wire.calling import Address
from ruchu.wire.listener import Listener

# A run that takes longer is told its limits anew with its next attempt.
LIMITS_FOR = timedelta(days=7)
_AUTHORITY = Owner("server", "authority", "key")
_AUTHORITY_PASSPHRASE = Owner("server", "authority", "passphrase")


@dataclass(slots=True)
class Services:
    """The services of a server."""

    state: ServerState
    clock: Clock
    database: Database
    events: Events = field(init=False)
    vault: Vault = field(init=False)
    anchors: AnchorFile = field(init=False)
    trail: Trail = field(init=False)
    accounts: Accounts = field(init=False)
    approvals: Approvals = field(init=False)
    user_removal: UserRemoval = field(init=False)
    alarms: AlarmService = field(init=False)
    rules: RuleBook = field(init=False)
    settings: Settings = field(init=False)
    watch: AnomalyWatch = field(init=False)
    inventory: Inventory = field(init=False)
    storages: StorageDefinitions = field(init=False)
    catalogue: Catalogue = field(init=False)
    policies: Policies = field(init=False)
    runs: Runs = field(init=False)
    nodes: NodeRecords = field(init=False)
    tasks: Tasks = field(init=False)
    authority: Authority = field(init=False)
    hub: Hub = field(init=False)
    asker: Asker = field(init=False)
    point_asker: PointAsker = field(init=False)
    results: Results = field(init=False)
    outcomes: Outcomes = field(init=False)
    scheduled: ScheduledRuns = field(init=False)
    scheduler: Scheduler = field(init=False)
    attempts: Attempts = field(init=False)
    admission: Admission = field(init=False)
    acts: Acts = field(init=False)
    defining: Defining = field(init=False)
    sites: Sites = field(init=False)
    figures: Figures = field(init=False)
    quotas: Quotas = field(init=False)
    coverage: Coverage = field(init=False)
    # Set while the server listens.
    listener: Listener | None = None

    def __post_init__(self) -> None:
        """Put them together."""
        database, clock = self.database, self.clock
        self.events = Events(database, clock)
        self.vault = Vault(database, keys.source(self.state.directory, os.environ), clock)
        self.anchors = AnchorFile(self.state.anchors)
        self.trail = Trail(database, clock, self.anchors)
        self.accounts = Accounts(database, clock, self.trail, self.vault)
        self.approvals = Approvals(database, clock, self.trail)
        self.user_removal = UserRemoval(self.accounts.users, self.approvals)
        self.alarms = AlarmService(database, clock, self.events)
        self.rules = RuleBook(database)
        self.settings = Settings(database)
        self.watch = AnomalyWatch(database, clock, self.alarms)
        self.inventory = Inventory(database, clock, self.events)
        self.storages = StorageDefinitions(database, clock, self.events)
        self.catalogue = Catalogue(database, self.events)
        self.policies = Policies(database, clock, self.events)
        self.runs = Runs(database, clock, self.events)
        self.coverage = Coverage(self.inventory, self.policies)
        groups = self.accounts.groups
        self.quotas = Quotas(database, clock, groups, self.policies, self.inventory)
        self._of_nodes(database, clock)
        self._of_jobs(clock)
        self.acts = Acts(
            self.approvals, self.storages, self.catalogue, self.inventory, self.policies,
            self.runs, self.vault, self.asker, self.watch,
        )  # fmt: skip
        self.acts.register()
        self._of_definitions()
        self.sites = Sites(database, clock, self.events, self.vault, self.alarms)
        known = Known(
            self.inventory, self.policies, self.storages, self.catalogue, self.settings,
            self.alarms, self.next_starts,
        )  # fmt: skip
        self.figures = Figures(database, clock, known)

    def _of_nodes(self, database: Database, clock: Clock) -> None:
        self.nodes = NodeRecords(database, clock)
        self.tasks = Tasks(database, clock)
        self.authority = self._authority()
        told = Told(
            self.alarms.raise_alarm, self.alarms.clear, self._tasks_told, self._node_changed
        )
        self.hub = Hub(self.nodes, self.tasks, self.authority, self.secrets_of, told, clock)
        places = (self.storages, self.catalogue)
        self.asker = Asker(self.hub, self.nodes, self.inventory, places, self.secrets_of, clock)
        self.point_asker = PointAsker(self.hub, self.secrets_of)

    def _of_jobs(self, clock: Clock) -> None:
        places = (self.storages, self.catalogue)
        self.results = Results(places, self.alarms, _Watching(self.watch), clock)
        freezes = _Freezes(self.watch)
        planner = Planner(
            self.inventory,
            self.storages,
            self.catalogue,
            freezes,
            self.asker,
            lambda policy: limits_of(policy, clock.now()),
            self.quotas,
        )
        outcomes = _Outcomes(self)
        outside = Outside(self.hub, outcomes, opens_at)
        self.outcomes = outcomes
        self.attempts = Attempts(self.runs, self.tasks, planner, outside, clock)
        self.admission = Admission(self.runs, self.policies, opens_at, clock)
        self.scheduled = ScheduledRuns(self.policies, self.runs, self.alarms)
        self.scheduler = Scheduler(
            self.database, clock, self.scheduled, self.scheduled, self.scheduled
        )
        self.policies.listen(self.scheduler.changed)

    def _of_definitions(self) -> None:
        workshop = Workshop(self.database, self.clock, self.vault, self.trail)
        plans = Plans(workshop, NodeStorages(self.asker), self._losses)
        self.defining = Defining(
            Exchange(workshop, self._losses), plans, self.storages, self.catalogue, self.asker,
            self.events, self.scheduler,
        )  # fmt: skip

    def _losses(self, before: Policy | None, after: Policy) -> Sequence[str]:
        """Return what a policy would lose that takes a second person to agree to."""
        if not self.approvals.four_eyes():
            return ()
        return self.acts.sooner(before, after)

    def _authority(self) -> Authority:
        """Load the certificate authority, or make it on the first start."""
        try:
            known = self.vault.get(_AUTHORITY_PASSPHRASE).encode()
            return Authority.load(self.vault.get(_AUTHORITY).encode(), known, self.clock)
        except NotFound:
            made = Authority.create(self.clock)
            passphrase = os.urandom(32).hex()
            with self.database.writing() as connection:
                self.vault.put(_AUTHORITY_PASSPHRASE, passphrase, connection)
                pem = made.to_pem(passphrase.encode()).decode()
                self.vault.put(_AUTHORITY, pem, connection)
            return made

    @property
    def nodes_at(self) -> Address | None:
        """Where nodes dial in; None while the server does not listen."""
        return self.listener.address if self.listener is not None else None

    def revoke_node(self, node: str) -> NodeRow:
        """Never let a node in again, cut its line at once, and let others do its work.

        Raises:
            NotFound: there is none.
        """
        row = self.nodes.revoke(node)
        if self.listener is not None:
            self.listener.drop(row.id, "it was revoked")
        for task in self.tasks.of_node(row.id):
            self.tasks.lose(task.id, "node-revoked", f"Node {row.name} was revoked.")
        return row

    def selected(self, policy: Policy) -> tuple[list[Machine], list[str]]:
        """Return the machines that a policy selects now, and those it names that are not there."""
        machines = self.inventory.machines(policy.selection.platform)
        chosen = [
            Machine(row.platform, row.id, row.name, row.host, row.folder, tuple(row.tags))
            for row in selecting.selected(policy.selection, machines)
        ]
        return chosen, selecting.missing(policy.selection, machines)

    def next_starts(self, row: PolicyRow, count: int) -> Sequence[dict[str, Any]]:
        """Return the next starts of a policy."""
        return scheduling.next_starts(row, self.clock.now(), count)

    def group_of(self, kind: str, body: Mapping[str, Any]) -> str:
        """Return the resource group that work by hand belongs to: that of its storage.

        Raises:
            NotFound, UsageError: it names no storage and no point that is known.
        """
        name = body.get("storage")
        if not name:
            if not body.get("point"):
                raise UsageError(f"(a run of kind {kind} names a point or a storage)")
            name = self.catalogue.find(str(body["point"]))[0].storage
        return self.storages.get(str(name)).resource_group

    def secrets_of(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return secrets by names such as `storage:main`."""
        found = {}
        for name, (storage, field_) in secret_owners(names).items():
            owner = Owner("storage", self.storages.get(storage).id, field_)
            found[name] = self.vault.get(owner)
        return found

    def _tasks_told(self, connection: sa.Connection, news: Sequence[News]) -> Callable[[], None]:
        """Write down what tasks told: for the history, for live pages; return the rest to do."""
        rows = [
            {"run": each.task.run, "task": each.task.id, "at": event.at, "name": event.name,
             "body": dict(event.body)}
            for each in news
            for event in each.events
            if event.name != "progress"
        ]  # fmt: skip
        if rows:
            self.runs.notes(connection, rows)
        number = self.events.write_all(connection, "task", {
            task.id: {"run": task.run, "phase": task.phase, "progress": dict(task.progress)}
            for task in (each.task for each in news)
        })  # fmt: skip

        def afterwards() -> None:
            self.events.told(number)
            for each in news:
                self._alarmed(each)

        return afterwards

    def _alarmed(self, news: News) -> None:
        """Tell people what a task wants them to know."""
        for each in news.events:
            if each.name == "alarm":
                body = each.body
                severity = Severity(str(body.get("severity", Severity.ERROR)))
                code, text = str(body.get("code")), str(body.get("text"))
                facts = dict(body.get("facts") or {})
                self.alarms.raise_alarm(code, severity, news.task.label, text, facts)

    def _node_changed(self, node: str, name: str, state: str, why: str) -> None:
        self.events.publish("node", node, {"name": name, "state": state, "why": why})


def opens_at(policy: Policy, now: datetime) -> datetime | None:
    """Return when the windows of a policy open next; None if one is open now."""
    zone = ZoneInfo(policy.zone)
    if windows.is_open(policy.windows, now, zone):
        return None
    # Windows that never open: the run waits until somebody mends the policy, or stops it.
    return windows.opens(policy.windows, now, zone) or now + timedelta(days=1)


def limits_of(policy: Policy, now: datetime) -> Sequence[tuple[str, int]]:
    """Return the bandwidth that a policy allows from now on, for as long as a run may take."""
    zone, at, found = ZoneInfo(policy.zone), now, []
    while at < now + LIMITS_FOR:
        found.append((to_text(at), windows.limit(policy.windows, at, zone)))
        following = windows.changes(policy.windows, at, zone)
        if following is None:
            break
        at = following
    return found


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Whoever hears of what runs did."""

    services: Services

    def took(self, run: RunRow, task: TaskRow) -> None:
        self.services.results.took(run, task)

    def ended(self, run: RunRow) -> None:
        self.services.results.ended(run)
        if run.policy is not None:
            self.services.scheduler.run_ended(run.policy)


@dataclass(frozen=True, slots=True)
class _Freezes:
    """The freezes of the anomaly watch, as a planner asks for them."""

    watch: AnomalyWatch

    def frozen_chains(self) -> Sequence[str]:
        return [freeze.chain for freeze in self.watch.freezes()]


@dataclass(frozen=True, slots=True)
class _Watching:
    """The anomaly watch, as results are told to it."""

    watch: AnomalyWatch

    def saved(self, machine: Mapping[str, Any]) -> None:
        if machine.get("kind") == "full":
            return
        disks = machine.get("disks") or ()
        read, stored = int(machine.get("bytes_read") or 0), int(machine.get("bytes_stored") or 0)
        signs = RunSigns(
            chain=str(machine["chain"]),
            run=str(machine["point"]),
            subject=str(machine["name"]),
            at=str(machine["time"]),
            size_bytes=sum(int(disk.get("size") or 0) for disk in disks),
            changed_bytes=read,
            stored_bytes=stored,
        )
        from_text(signs.at)
        self.watch.observe(signs)
