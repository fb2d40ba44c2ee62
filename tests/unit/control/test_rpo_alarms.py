"""Machines whose newest point is older than their policy asks for."""

import datetime

import pytest

from ruchu.clock import to_text
from ruchu.control.policies import documents
from ruchu.control.server.housekeeping import Housekeeping
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState

HOUR = datetime.timedelta(hours=1)
POLICY = {
    "name": "hourly", "selection": {"platform": "kvm", "patterns": ["web-*"]},
    "storage": "main", "rpo_minutes": 60,
}  # fmt: skip


@pytest.fixture
def services(database, tmp_path, clock):
    (tmp_path / "server").mkdir()
    found = Services(ServerState(tmp_path / "server"), clock, database)
    found.inventory.add("kvm", "test:///default")
    names = ("web-1", "web-2", "db-1")
    found.inventory.saw("kvm", [{"id": each, "name": each, "state": "running"} for each in names])
    found.policies.add(documents.from_document(POLICY))
    return found


def saved(services, name):
    now = to_text(services.clock.now())
    point = {"storage": "main", "point": now, "chain": "c" * 32, "sequence": 0, "name": name,
             "platform": "kvm", "kind": "full", "time": now}  # fmt: skip
    services.catalogue.took(point, policy=None, run="")


def missing(services):
    Housekeeping(services, print).look_at_targets()
    return {each.subject: each.count for each in services.alarms.open_alarms()}


def test_a_miss_is_said_once_until_it_is_another_one(services, clock):
    assert missing(services) == {}
    clock.move(2 * HOUR)
    assert missing(services) == {"web-1": 1, "web-2": 1}
    number = services.events.last
    clock.move(HOUR)
    # A storage that is away for a night must not write thousands of alarms each minute.
    assert missing(services) == {"web-1": 1, "web-2": 1}
    assert services.events.last == number
    saved(services, "web-1")
    assert missing(services) == {"web-2": 1}
    clock.move(2 * HOUR)
    assert missing(services) == {"web-1": 1, "web-2": 1}
    text = next(each.text for each in services.alarms.open_alarms() if each.subject == "web-1")
    assert f"{clock.now() - 2 * HOUR:%Y-%m-%d %H:%M} UTC" in text
