"""What nodes tell that belongs to no task: raised, acknowledged, taken back only where they may."""

import pytest

from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.model.ids import new_id
from ruchu.model.tasks import Severity
from ruchu.wire import messages

INFO, WARNING, ERROR, CRITICAL = Severity


class Line:
    """The link of a node, as far as the hub sees it."""

    def __init__(self, node):
        self.node = node
        self.sent = []

    def send(self, message):
        self.sent.append(message)


@pytest.fixture
def services(database, tmp_path, clock):
    (tmp_path / "server").mkdir()
    return Services(ServerState(tmp_path / "server"), clock, database)


@pytest.fixture
def line(services):
    return Line(services.nodes.expect("far", 2).id)


def open_alarms(services):
    return {(each.code, each.subject): each for each in services.alarms.open_alarms()}


def test_an_alarm_is_raised_with_its_node_and_acknowledged(services, line):
    identity = new_id()
    facts = {"id": identity, "program": {"comm": "dd"}}
    told = messages.NodeAlarm("guard-refused", CRITICAL, "main (dd)", "dd was refused", facts)
    services.hub.received(line, told)
    found = open_alarms(services)["guard-refused", "main (dd)"]
    assert found.severity is CRITICAL
    assert found.facts == {"node": "far", "program": {"comm": "dd"}}
    assert line.sent == [messages.Acknowledge(identity, 1, 0, ended=True)]


def test_an_alarm_of_an_older_node_is_raised_and_nothing_is_sent_back(services, line):
    services.hub.received(line, messages.NodeAlarm("clock-skew", WARNING, "", "it is late"))
    assert ("clock-skew", "far") in open_alarms(services)
    assert line.sent == []


@pytest.mark.parametrize(
    ("code", "left"), [("guard-ended", False), ("guard-refused", True), ("node-lost", True)]
)
def test_a_node_takes_back_what_it_may_and_nothing_else(services, line, code, left):
    services.alarms.raise_alarm(code, CRITICAL, "main", "somebody told")
    over = messages.NodeAlarm(code, INFO, "main", "", {"over": True, "id": new_id()})
    services.hub.received(line, over)
    assert ((code, "main") in open_alarms(services)) is left
    assert len(line.sent) == 1


def test_a_node_that_speaks_another_version_is_shown_so(services, line):
    facts = {"node": line.node, "release": "9.9", "address": "10.0.0.9"}
    services.hub.alarm("wire-incompatible", WARNING, "10.0.0.9", "it speaks version 99", facts)
    row = services.nodes.get("far")
    assert (services.hub.state(row).value, row.release) == ("incompatible", "9.9")
    assert {("wire-incompatible", "10.0.0.9"), ("node-incompatible", "far")} <= set(
        open_alarms(services)
    )
    # Of a node that nobody knows, only the port tells.
    facts = {"node": new_id(), "release": "9.9"}
    services.hub.alarm("wire-incompatible", WARNING, "10.0.0.8", "it speaks version 99", facts)
