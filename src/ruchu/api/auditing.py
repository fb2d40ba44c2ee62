"""Every change that is asked for over HTTP stands in the audit trail, also one that failed."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ruchu.control.audit.trail import DONE, FAILED, REQUESTED
from ruchu.control.server.services import Services
from ruchu.errors import NeedsApproval, RuchuError
from ruchu.model.principals import Principal


@contextlib.contextmanager
def recorded(
    services: Services, by: Principal, action: str, subject: str,
    facts: Mapping[str, Any] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Record what happens within."""
    try:
        yield
    except RuchuError as error:
        more = {**(facts or {}), "error": error.code}
        # What waits for a second person did not fail.
        outcome = REQUESTED if isinstance(error, NeedsApproval) else FAILED
        services.trail.record(by.actor, action, subject, outcome, more)
        raise
    services.trail.record(by.actor, action, subject, DONE, facts or {})
