"""The server itself."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from ruchu import __version__
from ruchu.api import auditing, measures, paging, problems
from ruchu.api.identity import By, ServicesOf, services_of
from ruchu.api.paging import IfMatch
from ruchu.clock import to_text
from ruchu.control.server import telling
from ruchu.control.server.services import Services
from ruchu.control.settings.settings import ServerSettings
from ruchu.model.principals import Right

router = APIRouter(tags=["system"])
bare = APIRouter(tags=["system"])


class Health(BaseModel):
    """Whether the server works."""

    status: str
    version: str
    at: str


_Address = Annotated[str, Field(max_length=320)]
_Language = Annotated[str, Field(max_length=10)]


class SettingsDocument(BaseModel):
    """The settings of a server."""

    server_name: str = Field(default="Ruchu", max_length=100)
    zone: str = Field(default="UTC", max_length=64, examples=["Asia/Shanghai"])
    summary_channel: str = Field(default="", max_length=64, description="of the kind mail")
    summary_daily: dict[_Address, _Language] = Field(
        default={}, max_length=200, examples=[{"ops@example.com": "zh"}]
    )
    summary_weekly: dict[_Address, _Language] = Field(default={}, max_length=200)
    heartbeat_minutes: int = Field(default=0, ge=0, le=1440)
    heartbeat_url: str | None = Field(
        default=None, max_length=1000, description="written, never read; counts after a restart"
    )


class About(BaseModel):
    """What this server is."""

    version: str
    at: str
    nodes_at: str | None
    fingerprint: str


@bare.get("/healthz", responses=problems.responses(503))
def health(services: Annotated[Services, Depends(services_of)]) -> Health:
    """Say whether the server works: its database answers."""
    services.events.after(services.events.last, 1)
    return Health(status="ok", version=__version__, at=to_text(services.clock.now()))


@bare.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {measures.MEDIA_TYPE: {"schema": {"type": "string"}}}}},
)
def metrics(services: ServicesOf, by: By) -> Response:
    """Return figures for Prometheus (OpenMetrics)."""
    by.demand(Right.VIEW)
    return Response(measures.text(services), media_type=measures.MEDIA_TYPE)


@router.get("/about", responses=problems.responses())
def about(services: ServicesOf, by: By) -> About:
    """Say what this server is."""
    del by
    at = services.nodes_at
    return About(
        version=__version__, at=to_text(services.clock.now()),
        nodes_at=str(at) if at is not None else None,
        fingerprint=services.authority.fingerprint,
    )  # fmt: skip


@router.get("/settings", responses=problems.responses())
def get_settings(response: Response, services: ServicesOf, by: By) -> SettingsDocument:
    """Return the settings of the server."""
    by.demand(Right.CONFIGURE)
    found, version = services.settings.get()
    paging.tag(response, version)
    return SettingsDocument(**asdict(found))


@router.put("/settings", responses=problems.responses(412, 428))
def put_settings(
    response: Response, services: ServicesOf, by: By,
    wanted: Annotated[SettingsDocument, Body()], if_match: IfMatch = None,
) -> SettingsDocument:  # fmt: skip
    """Replace the settings of the server."""
    by.demand(Right.CONFIGURE)
    fields = wanted.model_dump(exclude={"heartbeat_url"})
    before = paging.version_of(if_match)
    with auditing.recorded(services, by, "settings.put", "server", fields):
        version = services.settings.put(ServerSettings(**fields), before)
        if wanted.heartbeat_url is not None:
            services.vault.put(telling.HEARTBEAT_URL, wanted.heartbeat_url)
    paging.tag(response, version)
    return SettingsDocument(**fields)
