"""The life of a server: what begins in which order, and ends in the other."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ruchu.clock import Clock
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.jobs.engine import DbosEngine
from ruchu.control.jobs.starter import Starter
from ruchu.control.migrations import upgrading
from ruchu.control.nodes.dispatch import Dispatcher
from ruchu.control.nodes.loads import LoadWatch
from ruchu.control.nodes.watching import NodeWatch
from ruchu.control.schedules.scheduler import Scheduler
from ruchu.control.server import telling
from ruchu.control.server.embedded import EmbeddedNode
from ruchu.control.server.housekeeping import Housekeeping
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.control.sites.sites import SiteWatch
from ruchu.wire.calling import Address
from ruchu.wire.listener import Listener

# How long a thread computes before another may. Python's own 5 ms add up: a request hands over at
# each of its queries, and waits for whoever takes in what nodes tell.
SWITCH_S = 0.001


class SchedulerThread:
    """The thread of the scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=scheduler.run, args=(self._end,), name="ruchu-scheduler", daemon=True
        )

    def begin(self) -> None:
        """Start what is due, from now on."""
        self._thread.start()

    def close(self) -> None:
        """Start nothing any more."""
        self._end.set()
        self._scheduler.wake()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server runs.

    Attributes:
        directory: its state.
        nodes_at: where nodes dial in; port 0 takes any that is free.
        names: host names and addresses that nodes reach it by.
        database: address of a database; empty is SQLite in the state directory.
        embedded: bring a node along.
        tell: hears what an administrator may want to read in the log.
        guard: the embedded node guards the storages in directories of this host.
    """

    directory: Path
    nodes_at: Address
    names: Sequence[str]
    database: str = ""
    embedded: bool = True
    tell: Callable[[str], None] = print
    guard: bool = False


@dataclass(frozen=True, slots=True)
class Plane:
    """A server that runs.

    Attributes:
        services: what it can do.
        nodes_at: where nodes dial in.
        first_link: word of the one-time link that makes the first administrator; None if there is
            one.
    """

    services: Services
    nodes_at: Address
    first_link: str | None


@contextlib.contextmanager
def running(settings: Settings, clock: Clock) -> Iterator[Plane]:
    """Run a server, without its faces, for the time of the context.

    Raises:
        ControlError: another one runs in this directory.
        DatabaseUnusable: its database does not answer, or is of a later release.
    """
    sys.setswitchinterval(SWITCH_S)
    state = ServerState(settings.directory)
    with contextlib.ExitStack() as stack:
        stack.enter_context(state.claimed())
        url = settings.database or sqlite_url(state.database)
        database = stack.enter_context(Database(url))
        upgrading.bring_up(database)
        services = Services(state, clock, database)
        jobs_url = settings.database or sqlite_url(state.jobs)
        listener = stack.enter_context(
            Listener(settings.nodes_at, services.authority, settings.names, services.hub, clock)
        )
        services.listener = listener
        for begin, end in _threads(services, jobs_url, settings, listener):
            begin()
            stack.callback(end)
        services.approvals.resume()
        stack.enter_context(telling.delivering(services, settings.tell))
        beat = telling.heartbeat(services)
        if beat is not None:
            stack.enter_context(beat)
        yield Plane(services, listener.address, services.accounts.entering.first_link())


def _threads(
    services: Services, jobs_url: str, settings: Settings, listener: Listener
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Yield what begins and ends, in the order in which it begins."""
    clock = services.clock
    engine = DbosEngine(jobs_url, services.attempts)
    yield services.hub.begin, services.hub.close
    yield engine.begin, engine.close
    starter = Starter(services.runs, services.admission, engine, services.outcomes, clock)
    yield starter.begin, starter.close
    dispatcher = Dispatcher(services.tasks, services.hub, services.secrets_of)
    yield dispatcher.begin, dispatcher.close
    schedules = SchedulerThread(services.scheduler)
    yield schedules.begin, schedules.close
    watch = NodeWatch(services.nodes, services.hub, services.tasks, services.alarms.raise_alarm)
    yield watch.begin, watch.close
    rate = services.figures.progress.rate
    load = LoadWatch(services.hub.loads, clock, rate, settings.tell)
    yield load.begin, load.close
    house = Housekeeping(services, settings.tell)
    yield house.begin, house.close
    sites = SiteWatch(services.sites, settings.tell)
    yield sites.begin, sites.close
    if settings.embedded:
        address = Address(_reachable(listener.address.host), listener.address.port)
        fingerprint = services.authority.fingerprint
        options = ["--guard"] if settings.guard else []
        node = EmbeddedNode(
            services.nodes, services.state.node, address, fingerprint, clock, options
        )
        yield node.begin, node.close


def _reachable(host: str) -> str:
    """Return where this host reaches itself if it listens on a host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not to bind
