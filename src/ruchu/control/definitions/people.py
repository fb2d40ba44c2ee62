"""Accounts and identity providers as definitions."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import pydantic
import sqlalchemy as sa

from ruchu.clock import to_text
from ruchu.control.accounts import names, rights, users
from ruchu.control.accounts.oidc_providers import Provider
from ruchu.control.accounts.tables import IDENTITIES, PROVIDERS, USERS
from ruchu.control.accounts.users import Profile
from ruchu.control.definitions import keepers
from ruchu.control.definitions.bench import Bench
from ruchu.control.definitions.keepers import Fields, Secrets
from ruchu.control.vault.vault import Owner
from ruchu.errors import UsageError
from ruchu.model.principals import Grants, Right, Role

_PROVIDER = pydantic.TypeAdapter(Provider)
PASSWORD, TOTP = "password", "totp"
_ARGON = "$argon2"


class UserKeeper:
    """Accounts. Their secrets are the hash of the password and the key of the authenticator.

    An account whose password is not in the document has none; its owner gets a link.
    """

    kind = "users"
    right = Right.ACCOUNTS
    _DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "display": "", "mail": "", "language": "", "disabled": False, "grants": {},
        "identities": [],
    }  # fmt: skip

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields.

        Raises:
            UsageError, InvalidName: they cannot be.
        """
        found = keepers.whole(f"user {name}", fields, self._DEFAULTS)
        if names.user(name) != name:
            raise UsageError(f"(user {name[:80]!r})")
        found["grants"] = rights.as_document(_grants(name, found["grants"]))
        for each in found["identities"]:
            if not (isinstance(each, list) and list(map(type, each)) == [str, str]):
                raise UsageError(f"(user {name}: identities)", hint="[issuer, subject].")
        return found

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return all accounts."""
        rows = bench.connection.execute(sa.select(USERS).order_by(USERS.c.name)).all()
        grants = rights.of_users(bench.connection, [row.id for row in rows])
        columns = IDENTITIES.c
        identities = bench.connection.execute(
            sa.select(columns.user, columns.issuer, columns.subject)
            .order_by(columns.issuer, columns.subject)
        ).all()  # fmt: skip
        return {
            row.name: {
                "display": row.display, "mail": row.mail, "language": row.language,
                "disabled": row.disabled, "grants": rights.as_document(grants[row.id]),
                "identities": [[i.issuer, i.subject] for i in identities if i.user == row.id],
            }
            for row in rows
        }  # fmt: skip

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return the hash of a password, and the key of an authenticator that is on."""
        row = bench.connection.execute(
            sa.select(USERS).where(USERS.c.name == name)
        ).one_or_none()  # fmt: skip
        if row is None:
            return {}
        found = {PASSWORD: row.password} if row.password else {}
        if row.totp_since is not None:
            found[TOTP] = bench.vault.get(Owner("user", row.id, TOTP), bench.connection)
        return found

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Make an account."""
        now = to_text(bench.clock.now())
        user = users.insert(bench.recording(), name, _profile(name, fields), now)
        self._write(bench, user, fields, secrets)
        bench.recording().record(bench.by.actor, "user.create", name, facts={"id": user})

    def change(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Change an account.

        Raises:
            LastAdministrator: nobody would be left.
        """
        user = bench.connection.execute(
            sa.select(USERS.c.id).where(USERS.c.name == name)
        ).scalar_one()  # fmt: skip
        values = _profile(name, fields).columns()
        with rights.keeping_an_administrator(bench.connection):
            bench.connection.execute(USERS.update().where(USERS.c.id == user).values(values))
            self._write(bench, user, fields, secrets)
        bench.recording().record(bench.by.actor, "user.change", name, facts={"id": user})

    def remove(self, bench: Bench, name: str) -> None:
        """Refuse: accounts are removed by hand.

        Raises:
            UsageError: always.
        """
        del bench
        raise UsageError(f"(user {name} is not removed by a file)")

    def _write(self, bench: Bench, user: str, fields: Fields, secrets: Secrets) -> None:
        connection = bench.connection
        rights.replace(connection, user, _grants(user, fields["grants"]))
        values: dict[str, Any] = {"disabled": fields["disabled"]}
        if PASSWORD in secrets:
            if not secrets[PASSWORD].startswith(_ARGON):
                raise UsageError("(the hash of a password)")
            values["password"] = secrets[PASSWORD]
        if TOTP in secrets:
            bench.keep("user", user, {TOTP: secrets[TOTP]})
            values["totp_since"] = to_text(bench.clock.now())
        connection.execute(USERS.update().where(USERS.c.id == user).values(values))
        connection.execute(IDENTITIES.delete().where(IDENTITIES.c.user == user))
        for issuer, subject in fields["identities"]:
            row = {"issuer": issuer, "subject": subject, "user": user}
            connection.execute(IDENTITIES.insert().values(row))


def _profile(name: str, fields: Fields) -> Profile:
    return Profile(fields["display"] or name, fields["mail"], fields["language"])


def _grants(name: str, document: Mapping[str, Any]) -> Grants:
    try:
        return {group: frozenset(Role(each) for each in roles) for group, roles in document.items()}
    except (TypeError, ValueError):
        hint = f"By group, a list of: {', '.join(Role)}."
        raise UsageError(f"(user {name}: grants)", hint=hint) from None


class ProviderKeeper:
    """Identity providers."""

    kind = "providers"
    right = Right.ACCOUNTS

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields.

        Raises:
            UsageError, InvalidName: they cannot be.
        """
        found: Fields = keepers.as_lists(asdict(_provider(name, fields)))
        del found["name"]
        return found

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return all providers."""
        rows = bench.connection.execute(sa.select(PROVIDERS).order_by(PROVIDERS.c.name)).all()
        return {
            row.name: self.normal(
                row.name, {"issuer": row.issuer, "client": row.client, **row.settings}
            )
            for row in rows
        }

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return the secret of our client at a provider."""
        return bench.secrets("oidc-provider", name)

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Write a provider."""
        provider = _provider(name, fields)
        settings = keepers.as_lists(asdict(provider))
        row = {key: settings.pop(key) for key in ("name", "issuer", "client")}
        bench.connection.execute(PROVIDERS.delete().where(PROVIDERS.c.name == name))
        bench.connection.execute(PROVIDERS.insert().values({**row, "settings": settings}))
        bench.keep("oidc-provider", name, secrets)
        bench.recording().record(bench.by.actor, "provider.put", name)

    change = create

    def remove(self, bench: Bench, name: str) -> None:
        """Refuse: providers are removed by hand.

        Raises:
            UsageError: always.
        """
        del bench
        raise UsageError(f"(provider {name} is not removed by a file)")


def _provider(name: str, fields: Mapping[str, Any]) -> Provider:
    try:
        found: Provider = _PROVIDER.validate_python({**fields, "name": name})
    except (pydantic.ValidationError, TypeError):
        raise UsageError(f"(provider {name[:80]})") from None
    found.check()
    return found
