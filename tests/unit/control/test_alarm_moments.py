"""Alarms of one moment are closed by whoever acknowledges them, or by a day without another."""

import datetime

import pytest

from ruchu.control.server.housekeeping import Housekeeping
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.model.tasks import Severity

HOUR = datetime.timedelta(hours=1)
INFO, WARNING, ERROR, CRITICAL = Severity


@pytest.fixture
def services(database, tmp_path, clock):
    (tmp_path / "server").mkdir()
    found = Services(ServerState(tmp_path / "server"), clock, database)
    found.alarms.raise_alarm("guard-refused", CRITICAL, "main (dd)", "dd was refused")
    found.alarms.raise_alarm("wire-token", WARNING, "10.0.0.9", "a wrong token")
    found.alarms.raise_alarm("guard-ended", CRITICAL, "main", "it died")
    found.alarms.raise_alarm("node-lost", ERROR, "far", "it is gone")
    return found


def left(services):
    Housekeeping(services, print).end_moments()
    return {alarm.code for alarm in services.alarms.open_alarms()}


def test_after_a_day_only_what_matters_most_or_goes_on_is_open(services, clock):
    clock.move(23 * HOUR)
    assert left(services) == {"guard-refused", "wire-token", "guard-ended", "node-lost"}
    services.alarms.raise_alarm("wire-token", WARNING, "10.0.0.9", "again")
    clock.move(23 * HOUR)
    assert "wire-token" in left(services)
    clock.move(2 * HOUR)
    assert left(services) == {"guard-refused", "guard-ended", "node-lost"}


def test_to_acknowledge_a_moment_is_to_close_it_and_the_next_one_is_told(services):
    first = {alarm.code: alarm.id for alarm in services.alarms.open_alarms()}
    for identity in first.values():
        services.alarms.acknowledge(identity, "li")
    assert left(services) == {"guard-ended", "node-lost"}
    services.alarms.raise_alarm("guard-refused", CRITICAL, "main (dd)", "dd was refused again")
    (again,) = [each for each in services.alarms.open_alarms() if each.code == "guard-refused"]
    assert again.id != first["guard-refused"]
    assert again.count == 1
