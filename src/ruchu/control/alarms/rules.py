"""The rules and channels as the operator set them."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from ruchu.control.alarms import codes, quiet
from ruchu.control.alarms.channels import building
from ruchu.control.alarms.records import ChannelDefinition, QuietHours, Rule, Step
from ruchu.control.alarms.tables import CHANNELS, RULES
from ruchu.control.database.database import Database
from ruchu.errors import InvalidName, NotFound, UsageError
from ruchu.model.tasks import Severity

# What one organisation can oversee; every alarm looks at every rule.
RULES_MAX = 500
CHANNELS_MAX = 200
STEPS_MAX = 10
# A week: whoever waits longer has no escalation.
MINUTES_MAX = 7 * 24 * 60
HOURLY_MAX = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RuleBook:
    """Rules and channels. Safe in several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rules(self) -> list[Rule]:
        """Return all rules by name."""
        with self._database.reading() as connection:
            return load_rules(connection)

    def channels(self) -> list[ChannelDefinition]:
        """Return all channels by name."""
        with self._database.reading() as connection:
            return load_channels(connection)

    def save_rule(self, rule: Rule) -> None:
        """Write a rule, or the one of this name anew.

        Raises:
            InvalidName: its name, or that of a channel that does not exist.
            UsageError: it means nothing, or there are too many.
        """
        _check_name(rule.name)
        _check_rule(rule)
        row = {"name": rule.name, "body": _body(rule)}
        with self._database.writing() as connection:
            known = {each.name for each in load_channels(connection)}
            asked = {*rule.channels, *(name for step in rule.steps for name in step.channels)}
            if missing := sorted(asked - known):
                raise InvalidName(f"({missing[0]})", hint="There is no such channel.")
            _replace(connection, RULES, row, RULES_MAX)

    def remove_rule(self, name: str) -> None:
        """Remove a rule. What it has caused to be sent is sent.

        Raises:
            NotFound: there is none.
        """
        with self._database.writing() as connection:
            if not connection.execute(RULES.delete().where(RULES.c.name == name)).rowcount:
                raise NotFound(f"(the rule {name})")

    def save_channel(self, definition: ChannelDefinition) -> None:
        """Write a channel, or the one of this name anew. Its secrets are kept elsewhere.

        Raises:
            InvalidName: its name.
            UsageError: its settings, or there are too many.
        """
        _check_name(definition.name)
        if definition.language not in codes.LANGUAGES:
            raise UsageError(f"(the language {definition.language})")
        if not 1 <= definition.hourly_max <= HOURLY_MAX:
            raise UsageError(f"({definition.hourly_max} messages an hour)")
        building.check(definition)
        row = {name: getattr(definition, name) for name in CHANNELS.c.keys()}  # noqa: SIM118
        row["settings"] = dict(definition.settings)
        with self._database.writing() as connection:
            _replace(connection, CHANNELS, row, CHANNELS_MAX)

    def remove_channel(self, name: str) -> None:
        """Remove a channel that no rule names. What it owes is dropped, and its alarms say so.

        Raises:
            NotFound: there is none.
            UsageError: a rule names it.
        """
        with self._database.writing() as connection:
            for rule in load_rules(connection):
                if name in rule.channels or any(name in step.channels for step in rule.steps):
                    raise UsageError(f"(the rule {rule.name} names the channel {name})")
            if not connection.execute(CHANNELS.delete().where(CHANNELS.c.name == name)).rowcount:
                raise NotFound(f"(the channel {name})")


def load_rules(connection: sa.Connection) -> list[Rule]:
    """Return all rules by name."""
    rows = connection.execute(sa.select(RULES).order_by(RULES.c.name)).all()
    return [_rule(row.name, row.body) for row in rows]


def load_channels(connection: sa.Connection) -> list[ChannelDefinition]:
    """Return all channels by name."""
    rows = connection.execute(sa.select(CHANNELS).order_by(CHANNELS.c.name)).all()
    return [ChannelDefinition(**row._mapping) for row in rows]  # noqa: SLF001 - its public name


def load_channel(connection: sa.Connection, name: str) -> ChannelDefinition | None:
    """Return a channel, or None."""
    row = connection.execute(sa.select(CHANNELS).where(CHANNELS.c.name == name)).one_or_none()
    return None if row is None else ChannelDefinition(**row._mapping)  # noqa: SLF001


def _replace(
    connection: sa.Connection, table: sa.Table, row: Mapping[str, Any], rows_max: int
) -> None:
    connection.execute(table.delete().where(table.c.name == row["name"]))
    count = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    if count >= rows_max:
        raise UsageError(f"(there are {count} already)")
    connection.execute(table.insert().values(row))


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidName(f"({name!r})")


def _check_rule(rule: Rule) -> None:
    if rule.quiet is not None:
        quiet.check(rule.quiet)
    minutes = [step.after_min for step in rule.steps]
    if len(minutes) > STEPS_MAX or minutes != sorted(minutes):
        raise UsageError("(steps of escalation)", hint=f"Up to {STEPS_MAX}, in order of time.")
    repeats = [] if rule.repeat_min is None else [rule.repeat_min]
    if not all(1 <= each <= MINUTES_MAX for each in [*minutes, *repeats]):
        raise UsageError("(minutes of a rule)", hint=f"From 1 to {MINUTES_MAX}.")
    if not rule.codes or not (rule.channels or rule.steps):
        raise UsageError("(a rule without codes or channels)")


def _body(rule: Rule) -> dict[str, Any]:
    body = asdict(rule)
    del body["name"]
    return body


def _rule(name: str, body: Mapping[str, Any]) -> Rule:
    quiet_hours, steps = body["quiet"], body["steps"]
    lists = {key: tuple(body[key]) for key in ("channels", "codes")}
    return Rule(
        **{
            **body,
            **lists,
            "name": name,
            "severity": Severity(body["severity"]),
            "quiet": quiet_hours and _quiet(quiet_hours),
            "steps": tuple(_step(each) for each in steps),
        }
    )


def _quiet(body: Mapping[str, Any]) -> QuietHours:
    return QuietHours(**{**body, "days": tuple(body["days"])})


def _step(body: Mapping[str, Any]) -> Step:
    severity = body["severity"]
    return Step(body["after_min"], tuple(body["channels"]), severity and Severity(severity))
