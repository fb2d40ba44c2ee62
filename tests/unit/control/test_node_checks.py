"""A node with a wrong clock, and one that will have to enrol again, are told before they do harm."""

from datetime import timedelta

import pytest

from ruchu.clock import to_text
from ruchu.control.server import node_checks
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.wire import messages


class Line:
    """The line of a node that is connected."""

    def __init__(self, node):
        self.node = node

    def send(self, message):
        del message


@pytest.fixture
def services(database, tmp_path, clock):
    (tmp_path / "server").mkdir()
    return Services(ServerState(tmp_path / "server"), clock, database)


@pytest.fixture
def node(services):
    return services.nodes.admit(services.nodes.new_token("far", "admin"), "request", {})


def codes_after_a_look(services):
    node_checks.look(services)
    return {alarm.code: alarm for alarm in services.alarms.open_alarms()}


def beat(services, node, off_s):
    line = Line(node.id)
    services.hub._links[node.id] = line
    at = to_text(services.clock.now() + timedelta(seconds=off_s))
    services.hub.received(line, messages.Heartbeat(at, {}))


@pytest.mark.parametrize("off_s", [-3600.0, 31.0])
def test_a_wrong_clock_is_told_until_it_is_right(services, node, off_s):
    beat(services, node, off_s)
    alarm = codes_after_a_look(services)["clock-skew"]
    assert alarm.subject == "far"
    assert ("behind" if off_s < 0 else "ahead of") in alarm.text
    beat(services, node, 0.5)
    assert codes_after_a_look(services) == {}


def test_a_node_that_is_away_is_told_before_its_certificate_may_end(services, node, clock):
    services.nodes.seen(node.id)
    clock.move(timedelta(days=2, hours=11))
    assert codes_after_a_look(services) == {}
    clock.move(timedelta(hours=2))
    assert codes_after_a_look(services)["certificate-expiring"].subject == "far"
    beat(services, node, 0.0)
    assert codes_after_a_look(services) == {}


def test_a_node_that_was_revoked_is_not_waited_for(services, node, clock):
    clock.move(timedelta(days=5))
    assert "certificate-expiring" in codes_after_a_look(services)
    services.revoke_node(node.id)
    assert "certificate-expiring" not in codes_after_a_look(services)


def test_a_node_that_has_yet_to_enrol_has_no_certificate_that_ends(services, clock):
    services.nodes.expect("to-come", 2)
    clock.move(timedelta(days=5))
    assert codes_after_a_look(services) == {}
