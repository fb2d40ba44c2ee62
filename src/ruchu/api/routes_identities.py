"""Signing in through an identity provider (OpenID Connect), and which providers there are."""

import re
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from ruchu.api import identity, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.control.accounts import oidc_providers
from ruchu.control.accounts.oidc import Return
from ruchu.control.accounts.oidc_providers import Provider, Rule
from ruchu.errors import NotAuthenticated, UsageError
from ruchu.model.principals import Right, Role

router = APIRouter(tags=["identities"])
BINDING = "ruchu_oidc"
# As long as a departure is remembered.
_BINDING_S = 600
CALLBACK = "/api/v1/oidc/callback"
# Where a browser goes once it is signed in.
HOME = "/entered"
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_Text = Annotated[str, Field(max_length=500)]


class Way(BaseModel):
    """A provider that one can sign in through."""

    name: str
    title: str
    begin: str = Field(description="address that a browser goes to")


class GroupRule(BaseModel):
    """Who has this value in the claim of groups gets this role in this resource group."""

    value: _Text
    group: str = Field(max_length=100)
    role: Role


class ProviderDocument(BaseModel):
    """An identity provider; its name is in the address."""

    issuer: str = Field(max_length=500, examples=["https://id.example.com/realms/corp"])
    client: str = Field(max_length=500, examples=["ruchu"], description="id that it gave to us")
    title: str = Field(default="", max_length=200, examples=["Company account"])
    scopes: list[_Text] = Field(default=["openid", "profile", "email"], max_length=20)
    groups_claim: str = Field(default="groups", max_length=500)
    rules: list[GroupRule] = Field(default=[], max_length=500)
    domains: list[_Text] = Field(
        default=[], max_length=100, description="mail domains that are let in; empty: all"
    )
    create: bool = Field(default=True, description="somebody new gets an account")
    enabled: bool = True


class NewProvider(ProviderDocument):
    """An identity provider, with the secret of our client there."""

    secret: str | None = Field(
        default=None, max_length=10_000, description="written, never read; left out: it stays"
    )


class ProviderShown(ProviderDocument):
    """An identity provider, without its secret."""

    name: str
    callback: str = Field(description="what is entered there as the address to return to")


def _shown(request: Request, provider: Provider) -> ProviderShown:
    rules = [GroupRule(value=each.value, group=each.group, role=each.role)
             for each in provider.rules]  # fmt: skip
    return ProviderShown(
        name=provider.name, issuer=provider.issuer, client=provider.client, title=provider.title,
        scopes=list(provider.scopes), groups_claim=provider.groups_claim, rules=rules,
        domains=list(provider.domains), create=provider.create, enabled=provider.enabled,
        callback=_callback(request),
    )  # fmt: skip


def _callback(request: Request) -> str:
    """Return the address of ours that a provider sends a browser back to.

    Raises:
        UsageError: the browser asked for a host that cannot be.
    """
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise UsageError("(the header Host)")
    return f"{request.scope['scheme']}://{host}{CALLBACK}"


@router.get("/oidc", responses=problems.responses())
def sign_in_ways(services: ServicesOf) -> list[Way]:
    """List the identity providers that one can sign in through."""
    return [
        Way(name=each.name, title=each.title or each.name, begin=f"/api/v1/oidc/{each.name}/begin")
        for each in services.accounts.providers.list()
        if each.enabled
    ]


@router.get(
    "/oidc/callback",
    status_code=303,
    response_class=RedirectResponse,
    responses={303: {"description": "signed in; on to the console"},
               **problems.responses(401, 403, 409, 502)},
)  # fmt: skip
def finish_oidc(
    request: Request,
    services: ServicesOf,
    state: Annotated[str, Query(max_length=500)],
    code: Annotated[str, Query(max_length=4000)] = "",
    iss: Annotated[str, Query(max_length=500, description="who answers (RFC 9207)")] = "",
) -> Response:
    """Come back from an identity provider: open a session, in a cookie, and go to the console."""
    if not code:
        raise NotAuthenticated("(the provider let nobody in)")
    came = Return(state, code, request.cookies.get(BINDING, ""), iss)
    replacing = request.cookies.get(identity.COOKIE, "")
    opened = services.accounts.oidc.finish(came, identity.origin_of(request), replacing)
    answer = RedirectResponse(HOME, 303)
    answer.delete_cookie(BINDING, path=CALLBACK)
    identity.set_cookie(answer, opened.word, secure=request.scope["scheme"] == "https")
    return answer


@router.get(
    "/oidc/{provider}/begin",
    status_code=303,
    response_class=RedirectResponse,
    responses={303: {"description": "on to the provider"}, **problems.responses(403, 404, 502)},
)
def begin_oidc(request: Request, services: ServicesOf, provider: str) -> Response:
    """Go to an identity provider; a cookie binds the way back to this browser."""
    departure = services.accounts.oidc.begin(provider, _callback(request))
    answer = RedirectResponse(departure.url, 303)
    # Lax and not strict: the browser comes back from another site.
    answer.set_cookie(
        BINDING, departure.binding, max_age=_BINDING_S, path=CALLBACK, httponly=True,
        secure=request.scope["scheme"] == "https", samesite="lax",
    )  # fmt: skip
    return answer


@router.get("/identity-providers", responses=problems.responses())
def list_providers(request: Request, services: ServicesOf, by: By) -> list[ProviderShown]:
    """List the identity providers."""
    by.demand(Right.ACCOUNTS)
    return [_shown(request, each) for each in services.accounts.providers.list()]


@router.get("/identity-providers/{name}", responses=problems.responses(404))
def show_provider(request: Request, services: ServicesOf, by: By, name: str) -> ProviderShown:
    """Show an identity provider."""
    by.demand(Right.ACCOUNTS)
    return _shown(request, services.accounts.providers.get(name))


@router.put("/identity-providers/{name}", responses=problems.responses())
def put_provider(
    request: Request, services: ServicesOf, by: By, name: str,
    wanted: Annotated[NewProvider, Body()],
) -> ProviderShown:  # fmt: skip
    """Write an identity provider, or the one of this name anew."""
    rules = tuple(Rule(each.value, each.group, each.role) for each in wanted.rules)
    provider = Provider(
        name, oidc_providers.check_address(wanted.issuer), wanted.client, wanted.title,
        tuple(wanted.scopes), wanted.groups_claim, rules, tuple(wanted.domains), wanted.create,
        wanted.enabled,
    )  # fmt: skip
    services.accounts.providers.put(by, provider, wanted.secret)
    return _shown(request, services.accounts.providers.get(name))


@router.delete("/identity-providers/{name}", status_code=204, responses=problems.responses(404))
def remove_provider(services: ServicesOf, by: By, name: str) -> None:
    """Remove an identity provider, with the roles that its groups gave; accounts stay."""
    services.accounts.providers.remove(by, name)
