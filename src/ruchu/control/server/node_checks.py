"""Looks at nodes: whose clock is wrong, whose certificate ends before they come back."""

from datetime import timedelta

from ruchu.clock import from_text
from ruchu.control.nodes.records import EXPECTED, NodeRow
from ruchu.control.server.services import Services
from ruchu.model.tasks import Severity
from ruchu.wire.authority import NODE_LIFE
from ruchu.wire.enrolment import RENEW_AFTER

# Above what a slow line and a busy host add to a heartbeat, below what spoils the order of points.
CLOCK_OFF_S = 30.0
# While it is connected a node renews long before; what is left then is time to look for it.
WARN_BEFORE = timedelta(days=1)
_CLOCK, _CERTIFICATE = "clock-skew", "certificate-expiring"


def look(services: Services) -> None:
    """Warn of clocks that are wrong and of certificates that end soon; take back what is mended."""
    online = {row.id for row in services.hub.connected_nodes()}
    for row in services.nodes.all():
        if row.revoked:
            services.alarms.clear(_CLOCK, row.name)
            services.alarms.clear(_CERTIFICATE, row.name)
            continue
        if row.id in online:
            _clock(services, row)
        _certificate(services, row, connected=row.id in online)


def _clock(services: Services, row: NodeRow) -> None:
    off_s = services.hub.clock_off_s(row.id)
    if off_s is None:
        return
    if abs(off_s) < CLOCK_OFF_S:
        services.alarms.clear(_CLOCK, row.name)
        return
    which = "ahead of" if off_s > 0 else "behind"
    text = f"It is {abs(off_s):.0f} seconds {which} that of the server."
    services.alarms.raise_alarm(_CLOCK, Severity.WARNING, row.name, text, {"seconds": off_s})


def _certificate(services: Services, row: NodeRow, *, connected: bool) -> None:
    """Judge by when the node was seen last: it had renewed by then if it was due."""
    if row.enrolled == EXPECTED:
        # It is known by name only: it has yet to enrol, and has no certificate.
        return
    seen = from_text(row.last_seen or row.enrolled)
    ends = seen + NODE_LIFE * (1 - RENEW_AFTER)
    if connected or services.clock.now() < ends - WARN_BEFORE:
        services.alarms.clear(_CERTIFICATE, row.name)
        return
    text = f"Seen last at {seen:%Y-%m-%d %H:%M} UTC; it may end from {ends:%Y-%m-%d %H:%M} UTC on."
    services.alarms.raise_alarm(_CERTIFICATE, Severity.WARNING, row.name, text)
