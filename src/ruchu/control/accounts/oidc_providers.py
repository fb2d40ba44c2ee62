"""Identity providers that accounts may come from (OpenID Connect): their settings."""

import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.control.accounts import names
from ruchu.control.accounts.tables import GRANTS, PROVIDERS
from ruchu.control.audit.trail import Trail
from ruchu.control.database.database import Database
from ruchu.control.vault.vault import Owner, Vault
from ruchu.errors import NotFound, UsageError
from ruchu.model.principals import Grants, Principal, Right, Role

PROVIDERS_MAX = 20
_RULES_MAX, _DOMAINS_MAX = 500, 100
_TEXT_MAX = 500
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# The scope makes it OpenID Connect.
_NEEDED_SCOPE = "openid"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who has this value in the claim of groups gets this role in this resource group."""

    value: str
    group: str
    role: Role


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider.

    Attributes:
        name: of ours; part of an address.
        issuer: its address; everything else is discovered there.
        client: id that it gave to this server.
        title: on the button.
        scopes: what is asked for.
        groups_claim: the claim that holds somebody's groups.
        rules: roles out of those groups.
        domains: mail domains whose people may come in; empty is all that the provider lets in.
        create: whether somebody new gets an account.
        enabled: whether it can be used.
    """

    name: str
    issuer: str
    client: str
    title: str = ""
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    groups_claim: str = "groups"
    rules: tuple[Rule, ...] = ()
    domains: tuple[str, ...] = ()
    create: bool = True
    enabled: bool = True

    def check(self) -> None:
        """Refuse settings that cannot work, or are not safe.

        Raises:
            InvalidName, UsageError: one of them is not allowed.
        """
        names.group(self.name)
        check_address(self.issuer)
        names.title(self.title)
        texts = (self.client, self.groups_claim, *self.scopes, *self.domains)
        if not self.client or any(len(t) > _TEXT_MAX or not t.isprintable() for t in texts):
            raise UsageError("(client, claim, scopes or domains of the provider)")
        if _NEEDED_SCOPE not in self.scopes:
            raise UsageError(f"(the scope {_NEEDED_SCOPE} is needed)")
        if len(self.rules) > _RULES_MAX or len(self.domains) > _DOMAINS_MAX:
            raise UsageError(f"(up to {_RULES_MAX} rules, {_DOMAINS_MAX} domains)")
        for rule in self.rules:
            names.group_or_all(rule.group)

    def grants(self, claims: Mapping[str, Any]) -> Grants:
        """Return the roles that somebody's claims give."""
        claimed = claims.get(self.groups_claim)
        values = {claimed} if isinstance(claimed, str) else set()
        if isinstance(claimed, list):
            values = {each for each in claimed if isinstance(each, str)}
        found: dict[str, set[Role]] = {}
        for rule in self.rules:
            if rule.value in values:
                found.setdefault(rule.group, set()).add(rule.role)
        return {group: frozenset(roles) for group, roles in found.items()}

    def lets_in(self, claims: Mapping[str, Any]) -> bool:
        """Tell whether somebody's mail address, which the provider has checked, is of a domain."""
        if not self.domains:
            return True
        mail = claims.get("email")
        if not isinstance(mail, str) or claims.get("email_verified") is not True:
            return False
        domain = mail.rpartition("@")[2].lower()
        return domain in {each.lower() for each in self.domains}


class Providers:
    """The identity providers of a server. Safe in several threads."""

    def __init__(self, database: Database, trail: Trail, vault: Vault) -> None:
        self._database = database
        self._trail = trail
        self._vault = vault

    def put(self, by: Principal, provider: Provider, secret: str | None) -> None:
        """Write the settings of a provider; without a secret the one that is kept stays.

        Raises:
            Forbidden: they may not.
            InvalidName, UsageError: something is not allowed, or there are too many.
        """
        by.demand(Right.ACCOUNTS)
        provider.check()
        row = _row(provider)
        with self._trail.writing() as recording:
            connection = recording.connection
            same = PROVIDERS.c.name == provider.name
            connection.execute(PROVIDERS.delete().where(same))
            count = connection.execute(sa.select(sa.func.count()).select_from(PROVIDERS))
            if count.scalar_one() >= PROVIDERS_MAX:
                raise UsageError(f"(up to {PROVIDERS_MAX} providers)")
            connection.execute(PROVIDERS.insert().values(row))
            if secret is not None:
                self._vault.put(_secret(provider.name), secret, connection)
            facts = {**row, "secret_changed": secret is not None}
            recording.record(by.actor, "provider.put", provider.name, facts=facts)

    def remove(self, by: Principal, name: str) -> None:
        """Remove a provider, with the roles that its claims gave; accounts stay.

        Raises:
            Forbidden: they may not.
            NotFound: there is none of this name.
        """
        by.demand(Right.ACCOUNTS)
        with self._trail.writing() as recording:
            connection = recording.connection
            removed = connection.execute(PROVIDERS.delete().where(PROVIDERS.c.name == name))
            if not removed.rowcount:
                raise NotFound(f"(the provider {name})")
            connection.execute(GRANTS.delete().where(GRANTS.c.source == name))
            self._vault.delete(_secret(name), connection)
            recording.record(by.actor, "provider.remove", name)

    def get(self, name: str) -> Provider:
        """Return a provider.

        Raises:
            InvalidName: no provider can have this name.
            NotFound: there is none of this name.
        """
        select = sa.select(PROVIDERS).where(PROVIDERS.c.name == names.group(name))
        with self._database.reading() as connection:
            row = connection.execute(select).one_or_none()
        if row is None:
            raise NotFound(f"(the provider {name[:100]})")
        return _provider(row)

    def list(self) -> Sequence[Provider]:
        """Return all providers by name."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(PROVIDERS).order_by(PROVIDERS.c.name)).all()
        return [_provider(row) for row in rows]

    def secret(self, name: str) -> str:
        """Return the secret of our client at a provider; empty for a public client.

        Raises:
            SecretDamaged: it does not open.
        """
        try:
            return self._vault.get(_secret(name))
        except NotFound:
            return ""


def check_address(address: str) -> str:
    """Return an address that may be talked to about identities: https, or on this host.

    Raises:
        UsageError: it is not.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        raise UsageError("(the address of the provider)") from None
    plain = parts.scheme == "http" and host in _LOOPBACK
    odd = parts.username is not None or parts.fragment or len(address) > _TEXT_MAX
    if not host or odd or not (parts.scheme == "https" or plain):
        raise UsageError(f"(the provider's address {address[:100]!r} is not https)")
    return address


def _secret(name: str) -> Owner:
    return Owner("oidc-provider", name, "client-secret")


def _row(provider: Provider) -> dict[str, Any]:
    settings = asdict(provider)
    row = {name: settings.pop(name) for name in ("name", "issuer", "client")}
    return {**row, "settings": settings}


def _provider(row: sa.Row[tuple[Any, ...]]) -> Provider:
    settings = dict(row.settings)
    rules = tuple(Rule(r["value"], r["group"], Role(r["role"])) for r in settings.pop("rules"))
    for name in ("scopes", "domains"):
        settings[name] = tuple(settings[name])
    return Provider(row.name, row.issuer, row.client, rules=rules, **settings)
