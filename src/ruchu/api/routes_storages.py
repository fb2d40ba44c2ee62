"""Storages: made, adopted, looked at, limited; their points."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, Field

from ruchu.api import auditing, paging, problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, IfMatch, Limit, Page
from ruchu.control.jobs.runs import RunRow
from ruchu.control.server import acts
from ruchu.control.storages.catalogue import PointFilter, PointRow
from ruchu.control.storages.storages import StorageRow
from ruchu.control.vault.vault import Owner
from ruchu.model.principals import Principal, Right

router = APIRouter(tags=["storages"])
# What whoever configures a group may change: it reaches nothing of another group.
_OF_GROUPS = {"writers", "readers", "warn_percent", "stop_percent"}
NodeName = Annotated[str, Field(max_length=64)]


class NewStorage(BaseModel):
    """A storage that is to be made, or adopted with all its points."""

    name: str = Field(max_length=64, examples=["main"])
    location: str = Field(max_length=2000, examples=["/srv/backup"], description="as nodes see it")
    passphrase: str | None = Field(
        default=None, max_length=1000, description="nothing is encrypted without one"
    )
    credentials: str | None = Field(
        default=None, max_length=4000, examples=["user = backup\npassword = …"],
        description="of its server (S3, SMB, iSCSI), as lines `name = value`",
    )  # fmt: skip
    role: str = Field(default="backup", pattern="^(backup|copy)$")
    file_system: str = Field(
        default="", pattern="^(|ext4|xfs)$", description="make this one on an empty device"
    )
    erase: str = Field(
        default="", max_length=500, examples=["/dev/sdb"],
        description="the path of the device again: what is on it may go",
    )  # fmt: skip
    one_writer: bool = Field(
        default=False, description="one host alone writes; for servers that decide nothing"
    )
    take_over: bool = Field(default=False, description="the node that adopts it writes from now on")
    adopt: bool = Field(default=False, description="it exists; take it as it is")
    node: str = Field(default="", max_length=64, description="that shall make it; empty: any")
    nodes: list[NodeName] = Field(
        default=[], max_length=1000, description="that reach it; empty: all"
    )
    resource_group: str = Field(default="default", max_length=100)


class StorageChange(BaseModel):
    """What of a storage may be changed; what is left out stays."""

    nodes: list[NodeName] | None = Field(default=None, max_length=1000)
    writers: int | None = Field(default=None, ge=1, le=1000)
    readers: int | None = Field(default=None, ge=1, le=1000)
    warn_percent: int | None = Field(default=None, ge=1, le=100)
    stop_percent: int | None = Field(default=None, ge=1, le=100)
    resource_group: str | None = Field(default=None, max_length=100)


class Added(BaseModel):
    """A storage that is known now, and what of it could not be read."""

    storage: StorageRow
    points: int
    problems: list[str] = []


class PointsDeletion(BaseModel):
    """Points that shall be deleted."""

    storage: str = Field(max_length=64, examples=["main"])
    points: list[Annotated[str, Field(min_length=4, max_length=64)]] = Field(
        min_length=1, max_length=acts.POINTS_MAX, examples=[["3f9a6c1e", "77b1d0aa"]],
        description="ids, or how they begin",
    )  # fmt: skip
    grace_days: int = Field(
        default=0, ge=0, le=acts.GRACE_DAYS_MAX, description="in which they can be brought back"
    )


class Star(BaseModel):
    """Whether a point is starred."""

    starred: bool


@router.get("/storages", responses=problems.responses())
def list_storages(services: ServicesOf, by: By) -> list[StorageRow]:
    """List the storages."""
    return [row for row in services.storages.all() if by.may(Right.VIEW, row.resource_group)]


@router.post("/storages", status_code=201, responses=problems.responses(404, 409, 502))
def add_storage(services: ServicesOf, by: By, wanted: Annotated[NewStorage, Body()]) -> Added:
    """Let a node make a storage, or adopt one that exists with all its points."""
    by.demand(Right.CONFIGURE)
    reach.group(services, wanted.resource_group)
    services.storages.require_free(wanted.name)
    order = {
        "name": wanted.name, "directory": wanted.location, "role": wanted.role,
        "adopt": wanted.adopt, "file_system": wanted.file_system, "erase": wanted.erase,
        "one_writer": wanted.one_writer, "take_over": wanted.take_over,
    }  # fmt: skip
    values: dict[str, Any] = {"resource_group": wanted.resource_group}
    values["nodes"] = list(services.asker.node_ids(wanted.nodes))
    facts = {"location": wanted.location, "adopt": wanted.adopt, "erase": wanted.erase}
    with auditing.recorded(services, by, "storage.add", wanted.name, facts):
        made = services.asker.make_storage(wanted.node, order, _given(wanted))
        for field, secret in _given(wanted).items():
            owner = Owner("storage", str(made["storage"]["id"]), field)
            services.vault.put(owner, secret)
        found = {**made["storage"], "credentials": wanted.credentials is not None}
        row = services.storages.add(found, str(found["location"]), values)
        services.catalogue.saw(row.name, made.get("points", ()))
        unread = list(made.get("problems", ()))
        if made.get("next"):
            unread = list(services.asker.list_points(row))
    return Added(storage=row, points=len(services.catalogue.ids(row.name)), problems=unread)


def _given(wanted: NewStorage) -> dict[str, str]:
    """Return the secrets that a storage comes with."""
    given = {"passphrase": wanted.passphrase, "credentials": wanted.credentials}
    return {key: text for key, text in given.items() if text is not None}


@router.get("/storages/{storage}", responses=problems.responses(404))
def show_storage(services: ServicesOf, by: By, response: Response, storage: str) -> StorageRow:
    """Show a storage, by id or name."""
    row = reach.storage(services, by, storage)
    paging.tag(response, row.version)
    return row


@router.patch("/storages/{storage}", responses=problems.responses(404, 412, 428))
def change_storage(
    services: ServicesOf, by: By, response: Response, storage: str,
    change: Annotated[StorageChange, Body()], if_match: IfMatch = None,
) -> StorageRow:  # fmt: skip
    """Change a storage; its nodes and its group take the right everywhere."""
    row = reach.storage(services, by, storage, Right.CONFIGURE)
    version = paging.version_of(if_match)
    values = change.model_dump(exclude_none=True)
    if values.get("nodes"):
        values["nodes"] = list(services.asker.node_ids(values["nodes"]))
    if set(values) - _OF_GROUPS:
        by.demand(Right.CONFIGURE)
    if "resource_group" in values:
        reach.group(services, values["resource_group"])
    with auditing.recorded(services, by, "storage.change", row.name, values):
        row = services.storages.change(row.id, version, values)
    paging.tag(response, row.version)
    return row


@router.delete(
    "/storages/{storage}", status_code=204, responses=problems.responses(404, 409, 412, 428)
)
def remove_storage(services: ServicesOf, by: By, storage: str, if_match: IfMatch = None) -> None:
    """Forget a storage that no policy goes to; what lies on it stays, the server knows it no more.

    With four eyes on it is entered as a request (409, `needs-approval`).
    """
    row = reach.storage(services, by, storage, Right.CONFIGURE)
    services.acts.remove_storage(by, row, paging.version_of(if_match))


@router.post("/storages/{storage}/refresh", responses=problems.responses(404, 502))
def refresh_storage(services: ServicesOf, by: By, storage: str) -> Added:
    """Read state and points of a storage anew, through a node that reaches it."""
    row = reach.storage(services, by, storage)
    found = services.asker.list_points(row)
    row = services.asker.look(row)
    return Added(storage=row, points=len(services.catalogue.ids(row.name)), problems=list(found))


@router.get("/points", responses=problems.responses())
def list_points(
    services: ServicesOf,
    by: By,
    text: Annotated[str, Query(max_length=200, description="in the name")] = "",
    name: Annotated[str, Query(max_length=200)] = "",
    storage: Annotated[str, Query(max_length=64)] = "",
    after: After = "",
    limit: Limit = 100,
) -> Page[PointRow]:
    """List points, the newest first."""
    wanted = PointFilter(
        name=name, storage=storage, text=text, before=after, storages=_storages(services, by)
    )
    rows = services.catalogue.page(wanted, limit + 1)
    return paging.page(rows, limit, lambda row: f"{row.time}/{row.id}/{row.storage}")


def _storages(services: ServicesOf, by: Principal) -> tuple[str, ...] | None:
    """Return the names of the storages that somebody may see; None if it is all of them."""
    if by.may(Right.VIEW):
        return None
    rows = services.storages.all()
    return tuple(row.name for row in rows if by.may(Right.VIEW, row.resource_group))


@router.get("/points/{point}", responses=problems.responses(404))
def show_point(services: ServicesOf, by: By, point: str) -> list[PointRow]:
    """Show a point by the beginning of its id, on each storage that holds it."""
    return reach.points(services, by, point)


@router.put("/points/{point}/star", responses=problems.responses(404, 409, 502))
def star(
    services: ServicesOf, by: By, point: str, wanted: Annotated[Star, Body()]
) -> list[PointRow]:
    """Star a point, so that retention never removes it, or take its star away.

    To take it away is entered as a request (409, `needs-approval`) while four eyes are on.
    """
    for row in reach.points(services, by, point, Right.OPERATE):
        storage = services.storages.get(row.storage)
        if not wanted.starred:
            if row.starred:
                services.acts.release_star(by, storage, row)
            continue
        with auditing.recorded(services, by, "point.star", row.id, {"storage": storage.name}):
            services.asker.star(storage, row.id, starred=True)
    return reach.points(services, by, point)


@router.post("/points/delete", status_code=201, responses=problems.responses(404, 409))
def delete_points(
    services: ServicesOf, by: By, wanted: Annotated[PointsDeletion, Body()]
) -> RunRow:
    """Delete exactly these points of a storage; the answer is the run that does.

    With four eyes on it is entered as a request (409, `needs-approval`, with its id as `request`).
    """
    row = reach.storage(services, by, wanted.storage, Right.OPERATE)
    return services.acts.delete_points(by, row, wanted.points, wanted.grace_days)
