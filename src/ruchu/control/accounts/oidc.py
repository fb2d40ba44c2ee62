"""Signing in through an identity provider: there and back again."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.accounts import names, proofs, rights, sessions, users
from ruchu.control.accounts.oidc_client import OidcClient
from ruchu.control.accounts.oidc_providers import Provider, Providers
from ruchu.control.accounts.sessions import Origin
from ruchu.control.accounts.signing_in import Opened, open_session
from ruchu.control.accounts.tables import IDENTITIES, USERS
from ruchu.control.accounts.users import Profile
from ruchu.control.audit.trail import REFUSED, Recording, Trail
from ruchu.errors import Forbidden, InvalidName, NotAuthenticated, RuchuError, UsageError

# From the click to the return from the provider, with a password and a second factor there.
_FLOW_LIMIT_S = 600.0
# Under way at the same time; one is some 400 bytes. The oldest makes room.
_FLOWS_MAX = 10_000
# A name that is taken gets a number behind it.
_NAME_TRIES = 100
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Departure:
    """A browser that goes to a provider.

    Attributes:
        url: where to.
        binding: for a cookie; who comes back without it is another browser.
    """

    url: str
    binding: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Return:
    """A browser that comes back: what the provider put into the address, and the cookie."""

    state: str = field(repr=False)
    code: str = field(repr=False)
    binding: str = field(repr=False)
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class _Flow:
    provider: str
    redirect: str
    binding: str
    nonce: str
    verifier: str
    begun: float


class Oidc:
    """The door for whoever has an identity elsewhere. Safe in several threads."""

    def __init__(self, clock: Clock, trail: Trail, providers: Providers) -> None:
        self._clock = clock
        self._trail = trail
        self._providers = providers
        self._client = OidcClient(clock)
        self._guard = threading.Lock()
        self._flows: dict[str, _Flow] = {}

    def begin(self, name: str, redirect: str) -> Departure:
        """Send a browser to a provider.

        Args:
            name: of the provider.
            redirect: address of ours that it comes back to.

        Raises:
            NotFound: there is no such provider.
            Forbidden: it is turned off.
            IdentityProviderAway: the provider does not answer.
        """
        provider = self._provider(name)
        state, binding, nonce, verifier = (proofs.fresh() for _ in range(4))
        fields = {"redirect_uri": redirect, "state": state, "nonce": nonce}
        url = self._client.authorization_url(provider, fields, verifier)
        flow = _Flow(name, redirect, binding, nonce, verifier, self._clock.monotonic())
        with self._guard:
            while len(self._flows) >= _FLOWS_MAX:
                del self._flows[next(iter(self._flows))]
            self._flows[proofs.digest("state", state)] = flow
        return Departure(url, binding)

    def finish(self, came: Return, origin: Origin, replacing: str = "") -> Opened:
        """Open a session for a browser that comes back.

        Raises:
            NotAuthenticated: the return belongs to no departure of this browser, was used, or
                what the provider says does not hold; or the account is disabled.
            Forbidden: the provider knows them, and they may not come in.
            LastAdministrator: their roles changed, and nobody would be left.
            IdentityProviderAway: the provider does not answer.
        """
        flow = self._take(came)
        try:
            provider = self._provider(flow.provider)
            claims = self._claims(provider, flow, came)
            return self._enter(provider, claims, origin, replacing)
        except RuchuError as error:
            facts = {"address": origin.address, "provider": flow.provider, "error": error.code}
            self._trail.record("unknown", "session.open", "unknown", REFUSED, facts)
            raise

    def _take(self, came: Return) -> _Flow:
        """Return the departure of a return, which is used up with that."""
        with self._guard:
            flow = self._flows.pop(proofs.digest("state", came.state), None)
        hint = "Begin to sign in once more, in this browser."
        if flow is None or self._clock.monotonic() - flow.begun > _FLOW_LIMIT_S:
            raise NotAuthenticated("(this return was used, or took too long)", hint=hint)
        if not proofs.equal(flow.binding, came.binding):
            raise NotAuthenticated("(another browser went to the provider)", hint=hint)
        return flow

    def _provider(self, name: str) -> Provider:
        provider = self._providers.get(name)
        if not provider.enabled:
            raise Forbidden(f"(the provider {name} is turned off)")
        return provider

    def _claims(self, provider: Provider, flow: _Flow, came: Return) -> Mapping[str, Any]:
        if came.issuer and came.issuer != provider.issuer:
            raise NotAuthenticated("(the answer of another provider)")
        fields = {
            "code": came.code,
            "redirect_uri": flow.redirect,
            "code_verifier": flow.verifier,
        }
        tokens = self._client.exchange(provider, self._providers.secret(provider.name), fields)
        return self._client.claims(provider, tokens, flow.nonce)

    def _enter(
        self, provider: Provider, claims: Mapping[str, Any], origin: Origin, replacing: str
    ) -> Opened:
        if not provider.lets_in(claims):
            raise Forbidden("(the domain of the mail address)")
        with self._trail.writing() as recording:
            connection = recording.connection
            user = self._user(recording, provider, claims)
            row = users.row(connection, user)
            if row.disabled:
                raise NotAuthenticated
            with rights.keeping_an_administrator(connection):
                rights.replace(connection, user, provider.grants(claims), provider.name)
            if not rights.of_user(connection, user):
                raise Forbidden("(no role comes of the groups at the provider)")
            if replacing:
                sessions.delete_word(connection, replacing)
            opened = open_session(recording, row, origin, self._clock)
            facts = {"address": origin.address, "way": provider.name, "id": opened.session}
            recording.record(row.name, "session.open", row.name, facts=facts)
        return opened

    def _user(self, recording: Recording, provider: Provider, claims: Mapping[str, Any]) -> str:
        """Return the account of an identity; never one that only looks alike, by name or mail."""
        connection = recording.connection
        known = (IDENTITIES.c.issuer == provider.issuer) & (IDENTITIES.c.subject == claims["sub"])
        select = sa.select(IDENTITIES.c.user).where(known)
        found = connection.execute(select).scalar_one_or_none()
        if found is not None:
            return str(found)
        if not provider.create:
            raise Forbidden("(there is no account for this identity)")
        name = _free_name(connection, claims)
        user = users.insert(recording, name, _profile(claims), to_text(self._clock.now()))
        row = {"issuer": provider.issuer, "subject": claims["sub"], "user": user}
        connection.execute(IDENTITIES.insert().values(row))
        facts = {"id": user, "provider": provider.name, "subject": claims["sub"]}
        recording.record(name, "user.create", name, facts=facts)
        return user


def _free_name(connection: sa.Connection, claims: Mapping[str, Any]) -> str:
    """Return a name that is not taken, close to the one at the provider."""
    wanted = str(claims.get("preferred_username") or claims.get("email") or "")
    plain = _NOT_IN_NAMES.sub("-", wanted.partition("@")[0].lower()).strip("-._")
    plain = plain[: names.NAME_MAX - 4]
    try:
        plain = names.user(plain)
    except InvalidName:
        plain = "user"
    for number in range(1, _NAME_TRIES):
        name = plain if number == 1 else f"{plain}-{number}"
        taken = sa.select(USERS.c.id).where(USERS.c.name == name)
        if connection.execute(taken).one_or_none() is None:
            return name
    raise Forbidden(f"(the name {plain} is taken)", hint="Let an administrator make room.")


def _profile(claims: Mapping[str, Any]) -> Profile:
    """Return what a provider says of somebody; what is not allowed here is left out."""
    fields: dict[str, str] = {}
    for name, claim in (("display", "name"), ("mail", "email"), ("language", "locale")):
        value = claims.get(claim)
        if isinstance(value, str) and value.strip():
            fields[name] = value
    try:
        Profile(**fields).columns()
    except UsageError:
        return Profile()
    return Profile(**fields)
