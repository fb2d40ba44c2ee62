"""What a restore is planned with, and the instant restores of all nodes."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from ruchu.api import problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.control.nodes.records import NodeRow
from ruchu.control.nodes.states import NodeState
from ruchu.control.server.services import Services
from ruchu.errors import NotFound, RuchuError
from ruchu.model.ids import is_id
from ruchu.model.principals import Principal, Right

router = APIRouter(tags=["recovery"])
# A page waits for it; a node that is slower is named as one that did not answer.
INSTANTS_LIMIT_S = 15.0
# Each waits for an answer and does nothing else.
AT_ONCE = 32
# Whether they run anything is not known; the others have nothing, or nobody can ask them.
_MISSED = {NodeState.LATE, NodeState.LOST, NodeState.INCOMPATIBLE}


class SavedDisk(BaseModel):
    """A disk of a machine that was saved."""

    key: str
    size: int
    format: str
    location: str
    bus: str


class SavedCard(BaseModel):
    """A network card of a machine that was saved."""

    mac: str
    network: str
    model: str
    kind: str


class MachineOfPoint(BaseModel):
    """A machine as a point holds it."""

    name: str
    vcpus: int
    memory: int
    firmware: str
    disks: list[SavedDisk]
    nics: list[SavedCard]


class OfferedPlace(BaseModel):
    """A directory for images on a platform."""

    name: str
    path: str
    free: int


class PlatformOffers(BaseModel):
    """What a platform offers to a machine that comes."""

    networks: list[str]
    places: list[OfferedPlace]


class RunningInstant(BaseModel):
    """An instant restore, and the node that runs it."""

    instant: str
    name: str
    machine: str
    state: str = Field(description="starting, running, moved")
    export: str = Field(description="running, stopped")
    point: str
    storage: str
    platform: str
    protocol: str
    disks: list[str]
    cache: str
    cache_bytes: int | None
    since: str
    node: str
    node_name: str


class SilentNode(BaseModel):
    """A node that did not answer."""

    node: str
    name: str
    why: str


class AllInstants(BaseModel):
    """The instant restores of all nodes, and the nodes that did not answer."""

    instants: list[RunningInstant]
    silent: list[SilentNode]


@router.get("/points/{point}/machine", responses=problems.responses(404, 502))
def saved_machine(services: ServicesOf, by: By, point: str) -> MachineOfPoint:
    """Show the machine that a point holds: its processors, memory, disks and network cards."""
    roles = {row.name: row.role for row in services.storages.all()}
    rows = sorted(
        reach.points(services, by, point), key=lambda row: roles.get(row.storage) != "backup"
    )
    storage = services.storages.get(rows[0].storage)
    found = services.asker.saved_machine(storage, rows[0].id)
    return MachineOfPoint.model_validate(dict(found))


@router.get("/platforms/{platform}/offers", responses=problems.responses(404, 502))
def platform_offers(services: ServicesOf, by: By, platform: str) -> PlatformOffers:
    """Show what a platform offers to a machine that comes: networks, and places for its disks."""
    row = reach.platform(services, by, platform)
    return PlatformOffers.model_validate(dict(services.asker.offers(row)))


@router.get("/instants", responses=problems.responses())
def list_instants(services: ServicesOf, by: By) -> AllInstants:
    """List the instant restores of all nodes, which are asked side by side.

    A node that does not answer in time is named in `silent`, and hides no other.
    """
    nodes = {row.id: row for row in services.nodes.all()}
    connected = services.hub.connected_nodes()
    there = {row.id for row in connected}
    silent = [
        SilentNode(node=row.id, name=row.name, why="It is not connected.")
        for row in nodes.values()
        if row.id not in there and services.hub.state(row) in _MISSED
    ]
    found: list[RunningInstant] = []
    groups = {row.name: row.resource_group for row in services.storages.all()}
    with ThreadPoolExecutor(AT_ONCE, "ruchu-instants") as pool:
        answers = pool.map(lambda node: _asked(services, node), connected)
        for node, (lines, why) in zip(connected, answers, strict=True):
            if why:
                silent.append(SilentNode(node=node.id, name=node.name, why=why))
            found += [
                RunningInstant.model_validate(
                    {**line, "node": node.id, "node_name": node.name}
                )
                for line in lines
                if _may_see(by, groups, str(line["storage"]))
            ]  # fmt: skip
    return AllInstants(
        instants=sorted(found, key=lambda each: each.since, reverse=True),
        silent=sorted(silent, key=lambda each: each.name),
    )


def _asked(services: Services, node: NodeRow) -> tuple[list[Mapping[str, Any]], str]:
    """Return the instant restores of a node, or why it did not tell."""
    try:
        return list(services.asker.instants(node, INSTANTS_LIMIT_S)), ""
    except RuchuError as error:
        return [], str(error)


def _may_see(by: Principal, groups: Mapping[str, str], storage: str) -> bool:
    """Tell whether somebody may see what runs from a storage; one that was removed: everywhere."""
    return by.may(Right.VIEW, groups[storage]) if storage in groups else by.may(Right.VIEW)


@router.get(
    "/nodes/{node}/instants/{instant}/picture", response_class=Response,
    responses={**problems.responses(404, 502),
               200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
                     "description": "the picture"}},
)  # fmt: skip
def console_picture(
    services: ServicesOf, by: By, node: str, instant: str,
    storage: Annotated[str, Query(max_length=64, description="from which it runs")],
) -> Response:  # fmt: skip
    """Show the display of the machine of an instant restore, as it is now."""
    row = reach.storage(services, by, storage, Right.RESTORE)
    if not is_id(instant):
        raise NotFound(f"(instant restore {instant[:40]!r})")
    at, content = services.asker.console_picture(services.nodes.get(node), instant)
    if at != row.name:
        raise NotFound(f"(instant restore {instant[:8]} of storage {row.name})")
    return Response(content, media_type="image/png")
