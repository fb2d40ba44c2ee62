"""What a verification says of the points of a storage, as people see it afterwards."""

from types import SimpleNamespace

import pytest

from ruchu.control.events.stream import Events
from ruchu.control.jobs.results import Results
from ruchu.control.storages.catalogue import Catalogue
from ruchu.model.tasks import Outcome

ONE, TWO = "1" * 32, "2" * 32
# By the first letter of its id: chain and sequence.
POINTS = {"a": (ONE, 3), "b": (ONE, 7), "c": (ONE, 8), "d": (TWO, 7)}


@pytest.fixture
def world(database, clock):
    catalogue = Catalogue(database, Events(database, clock))
    for storage in ("main", "copies"):
        for letter, (chain, sequence) in POINTS.items():
            point = {
                "storage": storage, "point": letter * 32, "chain": chain, "sequence": sequence,
                "name": letter, "platform": "kvm", "kind": "full",
                "time": "2026-11-22T18:00:00.000000Z",
            }  # fmt: skip
            catalogue.took(point, policy=None, run="")
    raised = []
    alarms = SimpleNamespace(
        raise_alarm=lambda code, severity, *_: raised.append(code), clear=lambda *_: None
    )
    results = Results((None, catalogue), alarms, None, clock)

    def verified(**result):
        body = {"storage": "main"} | ({"point": result.pop("point")} if "point" in result else {})
        task = SimpleNamespace(kind="verify", outcome=Outcome.SUCCEEDED, body=body, result=result)
        results.took(None, task)
        rows = [row for each in POINTS for row in catalogue.find(each * 32)]
        assert not any(row.verdict or row.verified for row in rows if row.storage == "copies")
        assert all(bool(row.verdict) == bool(row.verified) for row in rows)
        return {row.id[0]: row.verdict for row in rows if row.storage == "main" and row.verdict}

    return SimpleNamespace(verified=verified, raised=raised)


def test_what_was_looked_at_is_sound_and_what_came_later_is_not_said_to_be(world):
    assert world.verified(clean=True, covered=[[ONE, 7]]) == {"a": "sound", "b": "sound"}
    assert world.raised == []
    assert world.verified(clean=True, covered=[[ONE, 8], [TWO, 7]]) == dict.fromkeys(
        POINTS, "sound"
    )


def test_damage_is_of_its_points_alone(world):
    damage = {"affected_points": ["b" * 32], "findings": [{"text": "It is missing."}]}
    found = world.verified(clean=False, covered=[[ONE, 8], [TWO, 7]], **damage)
    assert found == {"a": "sound", "b": "damaged", "c": "sound", "d": "sound"}
    assert world.raised == ["verify-failed"]
    # A chain that could not even be opened is covered by nothing.
    lost = {"affected_points": ["d" * 32], "findings": [{"text": "It is missing."}]}
    assert world.verified(clean=False, covered=[[ONE, 8]], **lost) == {
        "a": "sound", "b": "sound", "c": "sound", "d": "damaged"
    }  # fmt: skip


def test_a_point_is_verified_alone_and_a_node_of_the_release_before_says_less(world):
    assert world.verified(clean=True, point="a" * 32) == {"a": "sound"}
    assert world.verified(clean=True) == {"a": "sound"}
    assert world.verified(clean=False, point="c" * 32, findings=[{"text": "x"}]) == {
        "a": "sound", "c": "damaged"
    }  # fmt: skip
