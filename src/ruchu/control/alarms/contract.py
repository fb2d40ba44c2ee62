"""What other parts of the server need of the alarms."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from ruchu.model.tasks import Severity

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Alarms(Protocol):
    """Tells people. Safe in several threads.

    Both calls open a transaction of their own: never call them within `Database.writing()`.
    """

    def raise_alarm(
        self,
        code: str,
        severity: Severity,
        subject: str,
        text: str,
        facts: Mapping[str, Any] = NOTHING,
    ) -> None:
        """Open an alarm, or count the one that is open for this code and subject.

        When this returns, the alarm and whatever has to be sent are durable. `facts["group"]`, if
        given, is the resource group that rules can ask for.

        Raises:
            DatabaseUnusable: it could not be written.
        """

    def clear(self, code: str, subject: str) -> None:
        """Close the open alarm for this code and subject; nothing happens if there is none."""
