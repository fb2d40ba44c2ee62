"""Servers below this one: attached, shown, steered. And who vouches for this one."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from ruchu.api import auditing, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.control.sites import client
from ruchu.control.sites.client import Server
from ruchu.control.sites.sites import SiteRow
from ruchu.errors import UsageError

router = APIRouter(tags=["sites"])


class NewSite(BaseModel):
    """A server that is to be shown and steered."""

    name: str = Field(max_length=64, examples=["beijing"])
    url: str = Field(max_length=500, examples=["https://backup.example.com:8443"])
    token: str = Field(max_length=500, description="an API token of it; its rights are the limit")
    fingerprint: str = Field(
        default="", max_length=100, description="of its authority; empty: a public certificate"
    )
    certificates: str = Field(
        default="", max_length=20_000, description="PEM that may vouch for it, instead"
    )


class SiteCall(BaseModel):
    """A request that is passed on."""

    method: str = Field(max_length=10, examples=["POST"])
    path: str = Field(max_length=500, examples=["/policies/nightly/run"])
    params: dict[str, str] = Field(default={}, max_length=20)
    body: Any = Field(default=None, examples=[{"kind": "incremental"}])
    version: int | None = Field(default=None, ge=0, description="of what is changed")


@router.get("/authority", response_class=PlainTextResponse, responses=problems.responses())
def authority(services: ServicesOf) -> str:
    """Return the certificate of the authority of this server; compare its fingerprint."""
    return services.authority.certificate


@router.get("/sites", responses=problems.responses())
def list_sites(services: ServicesOf, by: By) -> list[SiteRow]:
    """List the servers below as they were seen last, whether they are there or not."""
    del by
    return services.sites.all()


@router.post("/sites", status_code=201, responses=problems.responses(409, 502))
def attach_site(services: ServicesOf, by: By, wanted: Annotated[NewSite, Body()]) -> SiteRow:
    """Show and steer a server from now on; it must answer, and take the token."""
    with auditing.recorded(services, by, "site.attach", wanted.name, {"url": wanted.url}):
        trusted = wanted.certificates
        if wanted.fingerprint:
            if trusted:
                raise UsageError("(fingerprint and certificates)", hint="One of them.")
            trusted = client.authority_of(wanted.url, wanted.fingerprint)
        return services.sites.attach(wanted.name, Server(wanted.url, wanted.token, trusted))


@router.get("/sites/{site}", responses=problems.responses(404))
def show_site(services: ServicesOf, by: By, site: str) -> SiteRow:
    """Show a server below as it was seen last."""
    del by
    return services.sites.get(site)


@router.delete("/sites/{site}", responses=problems.responses(404))
def detach_site(services: ServicesOf, by: By, site: str) -> SiteRow:
    """Show a server no more; nothing changes over there."""
    with auditing.recorded(services, by, "site.detach", site):
        return services.sites.detach(site)


@router.post("/sites/{site}/refresh", responses=problems.responses(404))
def refresh_site(services: ServicesOf, by: By, site: str) -> SiteRow:
    """Look at a server below now."""
    del by
    return services.sites.look(site)


@router.post("/sites/{site}/call", responses=problems.responses(404, 409, 412, 502))
def call_site(services: ServicesOf, by: By, site: str, wanted: Annotated[SiteCall, Body()]) -> Any:
    """Pass a request on to a server below, if it is one of those that are passed on."""
    request = (wanted.method, wanted.path)

    def passed() -> Any:
        return services.sites.call(
            by, site, request, body=wanted.body, params=wanted.params, version=wanted.version
        )  # fmt: skip

    if wanted.method == "GET":
        return passed()
    facts = {"method": wanted.method, "path": wanted.path}
    with auditing.recorded(services, by, "site.call", site, facts):
        return passed()
