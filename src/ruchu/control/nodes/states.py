"""Whether a node is there: by its line, and by when it was heard of last."""

import enum
from datetime import datetime, timedelta

from ruchu.clock import from_text
from ruchu.control.nodes.records import EXPECTED, NodeRow

HEARTBEAT_S = 10.0
# Two beats may be missed by a busy host; a minute without any is a node that is gone.
LATE_AFTER = timedelta(seconds=2.5 * HEARTBEAT_S)
LOST_AFTER = timedelta(seconds=6 * HEARTBEAT_S)


class NodeState(enum.StrEnum):
    """How a node is."""

    ONLINE = "online"
    LATE = "late"  # connected or just gone, and silent for too long
    LOST = "lost"
    INCOMPATIBLE = "incompatible"  # speaks no version of the protocol that the server does
    REVOKED = "revoked"
    ENROLLED = "enrolled"  # never connected yet
    EXPECTED = "expected"  # known by name from an import; it has to enrol


def state_of(node: NodeRow, now: datetime, *, connected: bool) -> NodeState:
    """Return how a node is. Pure."""
    if node.revoked:
        return NodeState.REVOKED
    if node.problem == "incompatible" and not connected:
        return NodeState.INCOMPATIBLE
    if node.last_seen is None:
        return NodeState.EXPECTED if node.enrolled == EXPECTED else NodeState.ENROLLED
    silent = now - from_text(node.last_seen)
    if connected and silent <= LATE_AFTER:
        return NodeState.ONLINE
    return NodeState.LATE if silent <= LOST_AFTER else NodeState.LOST
