"""The server itself."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from ruchu import __version__
from ruchu.api import measures, problems
from ruchu.api.identity import By, ServicesOf, services_of
from ruchu.clock import to_text
from ruchu.control.server.services import Services
from ruchu.model.principals import Right

router = APIRouter(tags=["system"])
bare = APIRouter(tags=["system"])


class Health(BaseModel):
    """Whether the server works."""

    status: str
    version: str
    at: str


class About(BaseModel):
    """What this server is."""

    version: str
    at: str
    nodes_at: str | None
    fingerprint: str


@bare.get("/healthz", responses={503: {"model": problems.Problem}})
def health(services: Annotated[Services, Depends(services_of)]) -> Health:
    """Say whether the server works: its database answers."""
    services.events.after(services.events.last, 1)
    return Health(status="ok", version=__version__, at=to_text(services.clock.now()))


@bare.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={**problems.responses(), 200: {"content": {measures.MEDIA_TYPE: {}}}},
)
def metrics(services: ServicesOf, by: By) -> Response:
    """Return figures for Prometheus (OpenMetrics)."""
    by.demand(Right.VIEW)
    return Response(measures.text(services), media_type=measures.MEDIA_TYPE)


@router.get("/about", responses=problems.responses())
def about(request: Request, services: ServicesOf, by: By) -> About:
    """Say what this server is."""
    del request
    by.demand(Right.VIEW)
    at = services.nodes_at
    return About(
        version=__version__, at=to_text(services.clock.now()),
        nodes_at=str(at) if at is not None else None,
        fingerprint=services.authority.fingerprint,
    )  # fmt: skip
