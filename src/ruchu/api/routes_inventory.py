"""Platforms and machines."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, Field

from ruchu.api import auditing, paging, problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, IfMatch, Limit, Page
from ruchu.control.inventory.inventory import MachineRow, PlatformRow
from ruchu.model.principals import Principal, Right

router = APIRouter(tags=["inventory"])
# What whoever configures a group may change: it reaches nothing of another group.
_OF_GROUPS = {"parallel", "host_parallel"}
NodeName = Annotated[str, Field(max_length=64)]


class NewPlatform(BaseModel):
    """A platform that is to be known."""

    name: str = Field(max_length=64, examples=["kvm"])
    uri: str = Field(max_length=1000, examples=["qemu:///system"])
    scratch: str = Field(default="", max_length=1000, description="for scratch files, over there")
    nodes: list[NodeName] = Field(
        default=[], max_length=1000, description="that reach it; empty: all"
    )
    parallel: int = Field(default=4, ge=1, le=1000)
    host_parallel: int = Field(default=2, ge=1, le=1000)
    resource_group: str = Field(default="default", max_length=100)


class PlatformChange(BaseModel):
    """What of a platform may be changed; what is left out stays."""

    uri: str | None = Field(default=None, max_length=1000)
    scratch: str | None = Field(default=None, max_length=1000)
    nodes: list[NodeName] | None = Field(default=None, max_length=1000)
    parallel: int | None = Field(default=None, ge=1, le=1000)
    host_parallel: int | None = Field(default=None, ge=1, le=1000)
    resource_group: str | None = Field(default=None, max_length=100)


def _values(services: ServicesOf, values: dict[str, Any]) -> dict[str, Any]:
    if values.get("nodes"):
        values["nodes"] = list(services.asker.node_ids(values["nodes"]))
    if "resource_group" in values:
        reach.group(services, values["resource_group"])
    return values


@router.get("/platforms", responses=problems.responses())
def list_platforms(services: ServicesOf, by: By) -> list[PlatformRow]:
    """List the platforms."""
    rows = services.inventory.platforms()
    return [row for row in rows if by.may(Right.VIEW, row.resource_group)]


@router.post("/platforms", status_code=201, responses=problems.responses(404, 409))
def add_platform(
    services: ServicesOf, by: By, response: Response, wanted: Annotated[NewPlatform, Body()]
) -> PlatformRow:
    """Know a platform from now on; it need not answer now."""
    by.demand(Right.CONFIGURE)
    values = _values(services, wanted.model_dump(exclude={"name", "uri"}))
    with auditing.recorded(services, by, "platform.add", wanted.name, {"uri": wanted.uri}):
        row = services.inventory.add(wanted.name, wanted.uri, **values)
    paging.tag(response, row.version)
    return row


@router.get("/platforms/{platform}", responses=problems.responses(404))
def show_platform(services: ServicesOf, by: By, response: Response, platform: str) -> PlatformRow:
    """Show a platform, by id or name."""
    row = reach.platform(services, by, platform)
    paging.tag(response, row.version)
    return row


@router.patch("/platforms/{platform}", responses=problems.responses(404, 412, 428))
def change_platform(
    services: ServicesOf, by: By, response: Response, platform: str,
    change: Annotated[PlatformChange, Body()], if_match: IfMatch = None,
) -> PlatformRow:  # fmt: skip
    """Change a platform; its address, scratch files, nodes and group take the right everywhere."""
    row = reach.platform(services, by, platform, Right.CONFIGURE)
    version = paging.version_of(if_match)
    values = _values(services, change.model_dump(exclude_none=True))
    if set(values) - _OF_GROUPS:
        by.demand(Right.CONFIGURE)
    with auditing.recorded(services, by, "platform.change", row.name, values):
        row = services.inventory.change(row.id, version, values)
    paging.tag(response, row.version)
    return row


@router.delete(
    "/platforms/{platform}", status_code=204, responses=problems.responses(404, 412, 428)
)
def remove_platform(services: ServicesOf, by: By, platform: str, if_match: IfMatch = None) -> None:
    """Forget a platform; its points stay."""
    row = reach.platform(services, by, platform, Right.CONFIGURE)
    version = paging.version_of(if_match)
    with auditing.recorded(services, by, "platform.remove", row.name):
        services.inventory.remove(row.id, version)


@router.post("/platforms/{platform}/check", responses=problems.responses(404, 502))
def check_platform(services: ServicesOf, by: By, platform: str) -> dict[str, Any]:
    """Ask a platform what it can do, through a node that reaches it."""
    return dict(services.asker.check_platform(
        reach.platform(services, by, platform, Right.CONFIGURE)
    ))  # fmt: skip


@router.post("/platforms/{platform}/refresh", responses=problems.responses(404, 502))
def refresh_platform(services: ServicesOf, by: By, platform: str) -> PlatformRow:
    """List the machines of a platform anew, through a node that reaches it."""
    row = reach.platform(services, by, platform)
    services.asker.refresh(row)
    return services.inventory.platform(row.id)


@router.get("/machines", responses=problems.responses())
def list_machines(
    services: ServicesOf,
    by: By,
    text: Annotated[str, Query(max_length=200, description="in the name")] = "",
    platform: Annotated[str, Query(max_length=64)] = "",
    after: After = "",
    limit: Limit = 100,
) -> Page[MachineRow]:
    """List machines as they were seen last, by name."""
    seen = _platforms(services, by)
    rows = services.inventory.page(text, platform, after, limit + 1, seen)
    return paging.page(rows, limit, _key)


@router.get("/machines/unprotected", responses=problems.responses())
def unprotected(
    services: ServicesOf, by: By, after: After = "", limit: Limit = 100
) -> Page[MachineRow]:
    """List the machines that no enabled policy selects, by name."""
    seen = _platforms(services, by)
    only = None if seen is None else frozenset(seen)
    rows = services.coverage.unprotected(only, after, limit + 1)
    return paging.page(rows, limit, _key)


def _key(row: MachineRow) -> str:
    return f"{row.name}/{row.id}/{row.platform}"


def _platforms(services: ServicesOf, by: Principal) -> list[str] | None:
    """Return the names of the platforms that somebody may see; None if it is all of them."""
    if by.may(Right.VIEW):
        return None
    rows = services.inventory.platforms()
    return [row.name for row in rows if by.may(Right.VIEW, row.resource_group)]
