"""Nodes: enrolled, shown, limited, revoked."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, Field

from ruchu.api import auditing, paging, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import IfMatch
from ruchu.control.nodes.records import NodeRow
from ruchu.errors import ControlError
from ruchu.model.principals import Right
from ruchu.wire.calling import Address
from ruchu.wire.enrolment import Invitation

router = APIRouter(tags=["nodes"])


class NodeShown(BaseModel):
    """A node."""

    id: str
    name: str
    state: str = Field(description="online, late, lost, incompatible, revoked, enrolled, expected")
    embedded: bool
    enrolled: str
    last_seen: str | None
    release: str
    parallel: int = Field(description="tasks at the same time")
    maintenance: bool = Field(description="gets no new tasks")
    facts: dict[str, Any]
    load: dict[str, Any]
    version: int


class NewNode(BaseModel):
    """A node that is to be."""

    name: str = Field(max_length=64, examples=["node-2"])
    address: str = Field(
        default="", max_length=255, description="host or address by which the node reaches us"
    )


class TokenUrl(BaseModel):
    """What a node enrols with, once: `ruchu node --join 'URL'`."""

    url: str
    command: str


class NodeChange(BaseModel):
    """What of a node may be changed; what is left out stays."""

    parallel: int | None = Field(default=None, ge=1, le=64)
    maintenance: bool | None = Field(
        default=None, description="it gets no new tasks; what it does goes on"
    )


def _shown(services: ServicesOf, row: NodeRow) -> NodeShown:
    return NodeShown(
        id=row.id, name=row.name, state=services.hub.state(row).value, embedded=row.embedded,
        enrolled=row.enrolled, last_seen=row.last_seen, release=row.release,
        parallel=row.parallel, maintenance=row.maintenance, facts=dict(row.facts), load=dict(row.load), version=row.version,
    )  # fmt: skip


@router.get("/nodes", responses=problems.responses())
def list_nodes(services: ServicesOf, by: By) -> list[NodeShown]:
    """List all nodes."""
    by.demand(Right.VIEW)
    return [_shown(services, row) for row in services.nodes.all()]


@router.post("/nodes/tokens", status_code=201, responses=problems.responses(409))
def new_token(services: ServicesOf, by: By, wanted: Annotated[NewNode, Body()]) -> TokenUrl:
    """Make a token that one node may enrol with, within a day."""
    by.demand(Right.CONFIGURE)
    with auditing.recorded(services, by, "node.invite", wanted.name):
        token = services.nodes.new_token(wanted.name, by.actor)
    at = services.nodes_at
    if at is None:
        raise ControlError("(the server does not listen for nodes yet)")
    address = Address(wanted.address or at.host, at.port)
    url = str(Invitation(address, token, services.authority.fingerprint))
    return TokenUrl(url=url, command=f"ruchu node --join '{url}' --state /var/lib/ruchu/node")


@router.get("/nodes/{node}", responses=problems.responses(404))
def show_node(services: ServicesOf, by: By, response: Response, node: str) -> NodeShown:
    """Show a node, by id or name."""
    by.demand(Right.VIEW)
    row = services.nodes.get(node)
    paging.tag(response, row.version)
    return _shown(services, row)


@router.patch("/nodes/{node}", responses=problems.responses(404, 412, 428))
def change_node(
    services: ServicesOf, by: By, node: str, change: Annotated[NodeChange, Body()],
    if_match: IfMatch = None,
) -> NodeShown:  # fmt: skip
    """Change how much a node does at the same time, and whether it gets any tasks."""
    by.demand(Right.CONFIGURE)
    row = services.nodes.get(node)
    with auditing.recorded(
        services, by, "node.change", row.name, change.model_dump(exclude_none=True)
    ):
        row = services.nodes.change(
            row.id, paging.version_of(if_match), change.parallel, maintenance=change.maintenance
        )
    services.events.publish("node", row.id, {"name": row.name, "version": row.version})
    services.tasks.wake()
    return _shown(services, row)


@router.delete("/nodes/{node}", responses=problems.responses(404))
def revoke_node(services: ServicesOf, by: By, node: str) -> NodeShown:
    """Revoke a node: its line is cut at once, and it never comes in again."""
    by.demand(Right.CONFIGURE)
    row = services.nodes.get(node)
    with auditing.recorded(services, by, "node.revoke", row.name):
        row = services.revoke_node(row.id)
    return _shown(services, row)


@router.get("/nodes/{node}/doctor", responses=problems.responses(404, 502))
def doctor(services: ServicesOf, by: By, node: str) -> list[dict[str, Any]]:
    """Say what the host of a node has and lacks."""
    by.demand(Right.VIEW)
    return [dict(each) for each in services.asker.doctor(services.nodes.get(node))]


@router.get("/nodes/{node}/instants", responses=problems.responses(404, 502))
def instants(services: ServicesOf, by: By, node: str) -> list[dict[str, Any]]:
    """List the instant restores that a node runs."""
    by.demand(Right.VIEW)
    return [dict(each) for each in services.asker.instants(services.nodes.get(node))]
