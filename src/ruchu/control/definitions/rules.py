"""Policies, alarm channels, alarm rules and settings as definitions."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pydantic

from ruchu.control.alarms import codes
from ruchu.control.alarms.channels import building
from ruchu.control.alarms.records import ChannelDefinition, Rule
from ruchu.control.definitions import keepers
from ruchu.control.definitions.bench import Bench
from ruchu.control.definitions.keepers import Fields, Secrets
from ruchu.control.policies import documents
from ruchu.control.settings.settings import ServerSettings
from ruchu.errors import UsageError
from ruchu.model.principals import Right

_RULE = pydantic.TypeAdapter(Rule)
# As it stands in the vault; see `control.server.telling`.
_HEARTBEAT_FIELD = "url"


class PolicyKeeper:
    """Policies."""

    kind = "policies"
    right = Right.OPERATE

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields."""
        policy = documents.from_document({**fields, "name": name})
        found = documents.to_document(policy)
        del found["name"]
        return found

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return all policies."""
        found = {}
        for row in bench.policies.all():
            document = dict(row.document)
            found[str(document.pop("name"))] = document
        return found

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return none."""
        del bench, name
        return {}

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Keep a policy."""
        del secrets
        bench.policies.add(documents.from_document({**fields, "name": name}))

    def change(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Change a policy."""
        del secrets
        row = bench.policies.get(name)
        policy = documents.from_document({**fields, "name": name})
        bench.policies.change(row.id, policy, row.version)

    def remove(self, bench: Bench, name: str) -> None:
        """Forget a policy; its points stay."""
        row = bench.policies.get(name)
        bench.policies.remove(row.id, row.version)


class ChannelKeeper:
    """Channels of alarms."""

    kind = "channels"
    right = Right.CONFIGURE

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields.

        Raises:
            UsageError: they cannot be.
        """
        defaults: dict[str, Any] = {
            "kind": ..., "settings": {}, "language": "en", "hourly_max": 60, "enabled": True,
        }  # fmt: skip
        found = keepers.whole(f"channel {name}", fields, defaults)
        if found["language"] not in codes.LANGUAGES:
            raise UsageError(f"(channel {name}: language)")
        building.check(ChannelDefinition(name, **found))
        return found

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return all channels."""
        found = {}
        for row in bench.rules.channels():
            fields = keepers.as_lists(asdict(row))
            found[str(fields.pop("name"))] = fields
        return found

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return the secrets of a channel."""
        return bench.secrets("channel", name)

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Write a channel."""
        bench.rules.save_channel(ChannelDefinition(name, **fields))
        bench.keep("channel", name, secrets)

    change = create

    def remove(self, bench: Bench, name: str) -> None:
        """Remove a channel that no rule names."""
        bench.rules.remove_channel(name)
        bench.vault.delete_all("channel", name, bench.connection)


class RuleKeeper:
    """Rules of alarms."""

    kind = "rules"
    right = Right.CONFIGURE

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields.

        Raises:
            UsageError: they cannot be.
        """
        found: Fields = keepers.as_lists(asdict(_rule(name, fields)))
        del found["name"]
        return found

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return all rules."""
        found = {}
        for row in bench.rules.rules():
            fields = keepers.as_lists(asdict(row))
            found[str(fields.pop("name"))] = fields
        return found

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return none."""
        del bench, name
        return {}

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Write a rule."""
        del secrets
        bench.rules.save_rule(_rule(name, fields))

    change = create

    def remove(self, bench: Bench, name: str) -> None:
        """Remove a rule."""
        bench.rules.remove_rule(name)


def _rule(name: str, fields: Mapping[str, Any]) -> Rule:
    known = set(Rule.__dataclass_fields__) - {"name"}
    if unknown := sorted(str(key) for key in set(fields) - known):
        hint = f"Known: {', '.join(sorted(known))}."
        raise UsageError(f"(rule {name}: {', '.join(unknown)[:200]})", hint=hint)
    try:
        return _RULE.validate_python({**fields, "name": name})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"(rule {name}: {where}: {first['msg']})") from None


class SettingsKeeper:
    """The settings of the server: one definition, called `server`."""

    kind = "settings"
    right = Right.CONFIGURE
    name = "server"

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields.

        Raises:
            UsageError: they cannot be.
        """
        if name != self.name:
            raise UsageError(f"(settings {name[:80]!r})", hint=f"They are called {self.name}.")
        defaults = keepers.as_lists(asdict(ServerSettings()))
        found = keepers.whole("settings", fields, defaults)
        ServerSettings(**found).check()
        return found

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return the settings, unless nobody has set anything yet."""
        found, version = bench.settings.get()
        return {self.name: keepers.as_lists(asdict(found))} if version else {}

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return the URL of the heartbeat."""
        found = bench.secrets("server", "heartbeat") if name == self.name else {}
        return {key: value for key, value in found.items() if key == _HEARTBEAT_FIELD}

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Set the settings."""
        del name
        _, version = bench.settings.get()
        bench.settings.put(ServerSettings(**fields), version)
        url = {key: secrets[key] for key in secrets if key == _HEARTBEAT_FIELD}
        bench.keep("server", "heartbeat", url)

    change = create

    def remove(self, bench: Bench, name: str) -> None:
        """Refuse: a server has settings.

        Raises:
            UsageError: always.
        """
        del bench
        raise UsageError(f"(settings {name})")
