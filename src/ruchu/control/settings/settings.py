"""The settings of a server: one document with a version."""

import zoneinfo
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from ruchu.control.database.database import Database
from ruchu.control.settings.tables import SETTINGS
from ruchu.errors import Stale, UsageError

_NAME = "server"
HEARTBEAT_MINUTES_MAX = 24 * 60


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings.

    Attributes:
        server_name: how reports and messages call this server.
        zone: of reports.
        summary_channel: a mail channel that summary reports leave by; empty: there are none.
        summary_daily, summary_weekly: addresses, each with its language (`en`, `zh`).
        heartbeat_minutes: between two calls of the heartbeat URL, which is a secret; 0: none.
    """

    server_name: str = "Ruchu"
    zone: str = "UTC"
    summary_channel: str = ""
    summary_daily: Mapping[str, str] = field(default_factory=dict)
    summary_weekly: Mapping[str, str] = field(default_factory=dict)
    heartbeat_minutes: int = 0

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: something cannot.
        """
        try:
            zoneinfo.ZoneInfo(self.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            hint = "Such as Asia/Shanghai or UTC."
            raise UsageError(f"(time zone {self.zone[:60]!r})", hint=hint) from None
        if not 0 <= self.heartbeat_minutes <= HEARTBEAT_MINUTES_MAX:
            raise UsageError("(heartbeat_minutes)", hint=f"0 to {HEARTBEAT_MINUTES_MAX}.")
        for address, language in {**self.summary_daily, **self.summary_weekly}.items():
            if "@" not in address or language not in {"en", "zh"}:
                raise UsageError(f"(recipient {address[:80]!r})", hint="An address: en or zh.")


class Settings:
    """The settings of a server. Safe in several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self) -> tuple[ServerSettings, int]:
        """Return the settings, and their version."""
        with self._database.reading() as connection:
            row = connection.execute(_row()).one_or_none()
        if row is None:
            return ServerSettings(), 0
        known = {key: row.value[key] for key in ServerSettings.__slots__ if key in row.value}
        return ServerSettings(**known), row.version

    def put(self, wanted: ServerSettings, version: int) -> int:
        """Replace the settings; return their new version.

        Raises:
            UsageError: something cannot be.
            Stale: they were changed in the meantime.
        """
        wanted.check()
        values: dict[str, Any] = {"name": _NAME, "value": asdict(wanted), "version": version + 1}
        with self._database.writing() as connection:
            row = connection.execute(_row()).one_or_none()
            if (row.version if row is not None else 0) != version:
                raise Stale("(the settings)")
            connection.execute(SETTINGS.delete().where(SETTINGS.c.name == _NAME))
            connection.execute(SETTINGS.insert().values(values))
        return version + 1


def _row() -> Any:
    return sa.select(SETTINGS).where(SETTINGS.c.name == _NAME)
