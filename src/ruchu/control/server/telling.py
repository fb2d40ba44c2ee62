"""How a server reaches people: deliveries of alarms, summary reports, the heartbeat."""

import contextlib
import datetime
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from ruchu.clock import from_text, to_text
from ruchu.control.alarms.channels import building
from ruchu.control.alarms.channels.contract import Channel
from ruchu.control.alarms.channels.http import Http
from ruchu.control.alarms.channels.mail import Mailer
from ruchu.control.alarms.delivering import Deliverer
from ruchu.control.alarms.heartbeat import Heartbeat
from ruchu.control.alarms.records import ChannelDefinition
from ruchu.control.jobs import runs as states
from ruchu.control.jobs.runs import RunFilter, RunShown
from ruchu.control.policies import selecting
from ruchu.control.policies.selecting import Machine
from ruchu.control.reports import periods
from ruchu.control.reports.facts import StorageUse, SummaryFacts, TroubledRun
from ruchu.control.reports.periods import Period, ReportKind
from ruchu.control.reports.summaries import Summaries
from ruchu.control.server.services import Services
from ruchu.control.vault.vault import Owner
from ruchu.errors import NotFound, UsageError

# Runs that a report looks at; a site with more reads its figures from the API.
RUNS_MAX = 20_000
USE_DAYS = 90
HEARTBEAT_URL = Owner("server", "heartbeat", "url")


def connect(services: Services) -> Callable[[ChannelDefinition], Channel]:
    """Return what makes a channel of its definition, with its secrets."""

    def made(definition: ChannelDefinition) -> Channel:
        secrets = services.vault.get_all("channel", definition.name)
        return building.build(definition, secrets, services.clock)

    return made


@contextlib.contextmanager
def delivering(services: Services, tell: Callable[[str], None]) -> Iterator[None]:
    """Deliver alarms for the time of the context."""
    trouble = _trouble(tell)
    with Deliverer(services.database, services.clock, services.alarms, connect(services), trouble):
        yield


def _trouble(tell: Callable[[str], None]) -> Callable[[BaseException], None]:
    def told(error: BaseException) -> None:
        tell(f"alarms: {error!r}")

    return told


class Reporting:
    """Writes and sends summary reports. One thread uses it."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._summaries = Summaries(
            services.database, services.clock, services.alarms, self._mailer
        )

    def _mailer(self) -> Mailer:
        """Return what sends mail, as the channel of reports is set now.

        Raises:
            UsageError: no mail channel is set for reports.
        """
        services = self._services
        name = services.settings.get()[0].summary_channel
        found = next((each for each in services.rules.channels() if each.name == name), None)
        if found is None or found.kind != "mail":
            raise UsageError("(no mail channel is set for summary reports)")
        secrets = services.vault.get_all("channel", name)
        return Mailer(building.mail_settings(found.settings, secrets), services.clock)

    def round(self) -> int:
        """Write reports that are due and send what waits; return how many were sent."""
        settings, _ = self._services.settings.get()
        if not settings.summary_channel:
            return 0
        now = self._services.clock.now()
        for kind, recipients in (
            (ReportKind.DAILY, settings.summary_daily),
            (ReportKind.WEEKLY, settings.summary_weekly),
        ):
            period = periods.last(kind, now, settings.zone)
            missing = self._summaries.missing(period, recipients)
            if missing:
                self._summaries.prepare(period, gathered(self._services, period), missing)
        return self._summaries.deliver_due()


def gathered(services: Services, period: Period) -> SummaryFacts:
    """Return what happened in a period."""
    begin, end = to_text(period.start), to_text(period.end)
    runs = [row for row in _runs(services, begin) if begin <= row.created < end]
    policies = [row.policy for row in services.policies.all()]
    machines = [
        Machine(row.platform, row.id, row.name, row.host, row.folder, tuple(row.tags))
        for row in services.inventory.machines()
    ]
    lacking = selecting.unprotected(machines, policies)
    missed = [
        TroubledRun(alarm.subject, alarm.subject, alarm.last_at, alarm.text)
        for alarm in services.alarms.open_alarms()
        if alarm.code == "missed-run" and begin <= alarm.last_at < end
    ]
    return SummaryFacts(
        server=services.settings.get()[0].server_name,
        outcomes=Counter(row.state for row in runs if row.over),
        failed=[
            TroubledRun(row.name, row.name, row.created, row.reason)
            for row in runs
            if row.state in {states.FAILED, states.PARTLY}
        ],
        missed=missed,
        unprotected=[machine.name for machine in lacking],
        protected=len(machines) - len(lacking),
        storages=_uses(services),
        alarms=services.alarms.open_alarms(),
    )


def _runs(services: Services, since: str) -> list[RunShown]:
    """Return the runs that were made since a moment, the newest first."""
    found: list[RunShown] = []
    before = ""
    while len(found) < RUNS_MAX:
        page = services.runs.page(RunFilter(before=before), states.PAGE_MAX)
        found += page
        if len(page) < states.PAGE_MAX or page[-1].created < since:
            break
        before = f"{page[-1].created}/{page[-1].id}"
    return found


def _uses(services: Services) -> Sequence[StorageUse]:
    uses = []
    for row in services.storages.all():
        size = row.size or 0
        days = services.storages.use(row.id, USE_DAYS)
        daily = {
            datetime.date.fromisoformat(each["day"]): max(0, size - each["free"])
            if size
            else each["stored"]
            for each in days
        }
        used = max(0, size - (row.free or 0)) if size else services.catalogue.stored(row.name)
        uses.append(StorageUse(row.name, used, size, daily))
    return uses


def heartbeat(services: Services) -> Heartbeat | None:
    """Return what calls the heartbeat URL, if one is set."""
    settings, _ = services.settings.get()
    if not settings.heartbeat_minutes:
        return None
    try:
        url = services.vault.get(HEARTBEAT_URL)
    except NotFound:
        return None
    every_s = settings.heartbeat_minutes * 60.0
    return Heartbeat(
        url, every_s, lambda: unhealthy(services), services.alarms, Http(services.clock)
    )


def unhealthy(services: Services) -> Sequence[str]:
    """Return why the server is not healthy; empty if it is."""
    reasons = []
    ticked = services.scheduler.ticked
    now = services.clock.now()
    if ticked is not None and now - ticked > datetime.timedelta(minutes=2):
        reasons.append(f"the scheduler looked last at {ticked:%H:%M:%S} UTC")
    if not services.hub.connected_nodes():
        reasons.append("no node is online")
    for row in services.storages.all():
        late = row.seen is None or now - from_text(row.seen) > datetime.timedelta(hours=1)
        if row.problem or late:
            reasons.append(f"storage {row.name}: {row.problem or 'not seen for an hour'}")
    return reasons
