"""Platforms and machines."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, Field

from ruchu.api import auditing, paging, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, IfMatch, Limit, Page
from ruchu.control.inventory.inventory import MachineRow, PlatformRow
from ruchu.control.policies import selecting
from ruchu.control.policies.selecting import Machine
from ruchu.model.principals import ALL_GROUPS, Principal, Right

router = APIRouter(tags=["inventory"])


class NewPlatform(BaseModel):
    """A platform that is to be known."""

    name: str = Field(max_length=64, examples=["kvm"])
    uri: str = Field(max_length=1000, examples=["qemu:///system"])
    scratch: str = Field(default="", max_length=1000, description="for scratch files, over there")
    nodes: list[str] = Field(default=[], max_length=1000, description="that reach it; empty: all")
    parallel: int = Field(default=4, ge=1, le=1000)
    host_parallel: int = Field(default=2, ge=1, le=1000)
    resource_group: str = Field(default="default", max_length=100)


class PlatformChange(BaseModel):
    """What of a platform may be changed; what is left out stays."""

    uri: str | None = Field(default=None, max_length=1000)
    scratch: str | None = Field(default=None, max_length=1000)
    nodes: list[str] | None = Field(default=None, max_length=1000)
    parallel: int | None = Field(default=None, ge=1, le=1000)
    host_parallel: int | None = Field(default=None, ge=1, le=1000)
    resource_group: str | None = Field(default=None, max_length=100)


def visible(by: Principal, group: str) -> bool:
    """Tell whether somebody may see what belongs to a group."""
    return by.may(Right.VIEW, group)


def _ids(services: ServicesOf, values: dict[str, Any]) -> dict[str, Any]:
    if values.get("nodes"):
        values["nodes"] = list(services.asker.node_ids(values["nodes"]))
    return values


@router.get("/platforms", responses=problems.responses())
def list_platforms(services: ServicesOf, by: By) -> list[PlatformRow]:
    """List the platforms."""
    return [row for row in services.inventory.platforms() if visible(by, row.resource_group)]


@router.post("/platforms", status_code=201, responses=problems.responses(404, 409))
def add_platform(
    services: ServicesOf, by: By, response: Response, wanted: Annotated[NewPlatform, Body()]
) -> PlatformRow:
    """Know a platform from now on; it need not answer now."""
    by.demand(Right.CONFIGURE, wanted.resource_group)
    values = _ids(services, wanted.model_dump(exclude={"name", "uri"}))
    with auditing.recorded(services, by, "platform.add", wanted.name, {"uri": wanted.uri}):
        row = services.inventory.add(wanted.name, wanted.uri, **values)
    paging.tag(response, row.version)
    return row


@router.get("/platforms/{platform}", responses=problems.responses(404))
def show_platform(services: ServicesOf, by: By, response: Response, platform: str) -> PlatformRow:
    """Show a platform, by id or name."""
    row = services.inventory.platform(platform)
    by.demand(Right.VIEW, row.resource_group)
    paging.tag(response, row.version)
    return row


@router.patch("/platforms/{platform}", responses=problems.responses(404, 412, 428))
def change_platform(
    services: ServicesOf, by: By, platform: str, change: Annotated[PlatformChange, Body()],
    if_match: IfMatch = None,
) -> PlatformRow:  # fmt: skip
    """Change a platform."""
    row = services.inventory.platform(platform)
    by.demand(Right.CONFIGURE, row.resource_group)
    values = _ids(services, change.model_dump(exclude_none=True))
    if "resource_group" in values:
        by.demand(Right.CONFIGURE, values["resource_group"])
    with auditing.recorded(services, by, "platform.change", row.name, values):
        return services.inventory.change(row.id, paging.version_of(if_match), values)


@router.delete(
    "/platforms/{platform}", status_code=204, responses=problems.responses(404, 412, 428)
)
def remove_platform(services: ServicesOf, by: By, platform: str, if_match: IfMatch = None) -> None:
    """Forget a platform; its points stay."""
    row = services.inventory.platform(platform)
    by.demand(Right.CONFIGURE, row.resource_group)
    with auditing.recorded(services, by, "platform.remove", row.name):
        services.inventory.remove(row.id, paging.version_of(if_match))


@router.post("/platforms/{platform}/check", responses=problems.responses(404, 502))
def check_platform(services: ServicesOf, by: By, platform: str) -> dict[str, Any]:
    """Ask a platform what it can do, through a node that reaches it."""
    row = services.inventory.platform(platform)
    by.demand(Right.CONFIGURE, row.resource_group)
    return dict(services.asker.check_platform(row))


@router.post("/platforms/{platform}/refresh", responses=problems.responses(404, 502))
def refresh(services: ServicesOf, by: By, platform: str) -> PlatformRow:
    """List the machines of a platform anew."""
    row = services.inventory.platform(platform)
    by.demand(Right.VIEW, row.resource_group)
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
    allowed = _platforms(services, by)
    rows = services.inventory.page(text, platform, after, limit + 1)
    found = paging.page(rows, limit, lambda row: f"{row.name}/{row.id}")
    found.items = [row for row in found.items if row.platform in allowed]
    return found


@router.get("/machines/unprotected", responses=problems.responses())
def unprotected(services: ServicesOf, by: By) -> list[MachineRow]:
    """List the machines that no enabled policy selects."""
    allowed = _platforms(services, by)
    rows = {(row.platform, row.id): row for row in services.inventory.machines()}
    machines = [
        Machine(row.platform, row.id, row.name, row.host, row.folder, tuple(row.tags))
        for row in rows.values()
        if row.platform in allowed
    ]
    policies = [row.policy for row in services.policies.all()]
    found = selecting.unprotected(machines, policies)
    return [rows[machine.platform, machine.id] for machine in found]


def _platforms(services: ServicesOf, by: Principal) -> set[str]:
    rows = services.inventory.platforms()
    if by.may(Right.VIEW, ALL_GROUPS):
        return {row.name for row in rows}
    return {row.name for row in rows if visible(by, row.resource_group)}
