"""The overview of everything, how busy hosts are, and the reports: on screen, as CSV, as PDF."""

import enum
import importlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from ruchu.api import identity, paging, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, Limit, Page
from ruchu.clock import to_text
from ruchu.control.nodes.states import NodeState
from ruchu.control.reports import csv_files, tabling
from ruchu.control.reports.columns import Table
from ruchu.control.reports.overview import Overview
from ruchu.control.reports.tabling import Scope, Wanted
from ruchu.control.server.services import Services
from ruchu.errors import ControlError
from ruchu.model.principals import Principal, Right

router = APIRouter(tags=["overview"])
_CSV, _PDF = "text/csv; charset=utf-8", "application/pdf"


class Format(enum.StrEnum):
    """What a report comes as."""

    JSON = "json"
    CSV = "csv"
    PDF = "pdf"


class Speech(enum.StrEnum):
    """The language of a file."""

    EN = "en"
    ZH = "zh"


class ShownStanding(enum.StrEnum):
    """Which machines a report shows."""

    ALL = ""
    PROTECTED = tabling.PROTECTED
    UNPROTECTED = tabling.UNPROTECTED
    MISSED = tabling.MISSED


class SampleShown(BaseModel):
    """How busy a host was."""

    at: str
    figures: dict[str, float] = Field(
        description="`cpu` (1: all of it), bytes of `memory` and `memory_used`; bytes a second "
        "that were `received`, `sent`, `read`, `written`; `rate` of all runs",
        examples=[{"cpu": 0.12, "memory": 8e9, "memory_used": 2e9, "received": 1e6}],
    )


class HostLoad(BaseModel):
    """How busy a host was over the last minutes, oldest first."""

    name: str
    state: str
    samples: list[SampleShown]


class LoadShown(BaseModel):
    """How busy hosts were: that of the server, with the embedded node, and those of the others."""

    server: HostLoad
    nodes: list[HostLoad]


class ProtectionRow(BaseModel):
    """How a machine is protected."""

    platform: str
    id: str
    name: str
    state: str
    protected: bool
    policies: list[str]
    newest: str | None = Field(description="moment of its newest point")
    age_s: float | None
    target_minutes: int = Field(description="recovery point target; 0: none")
    met: bool | None = Field(description="null: there is no target")
    points: int
    stored: int = Field(description="bytes that its points added")
    disk_size: int


class CapacityRow(BaseModel):
    """How full a storage is, was and will be."""

    id: str
    name: str
    role: str
    problem: str
    size: int | None
    used: int
    free: int | None
    share: float | None
    stored: int = Field(description="bytes that its points added")
    growth: int | None = Field(description="bytes a day, by the trend")
    forecast_days: int = Field(description="days that the forecast is made of")
    forecast_enough: bool = Field(description="whether they are enough for one")
    full_on: str | None = Field(description="null: not within ten years")
    earliest: str | None = Field(description="the near end of the 95 % interval")
    latest: str | None = Field(description="its far end; null: it may never be full")
    daily: list[tuple[str, int]] = Field(description="days and the bytes taken at their ends")


class SuccessRow(BaseModel):
    """How runs of a policy, or of a kind by hand, ended."""

    policy: str | None
    name: str
    kind: str
    runs: int
    succeeded: int
    partly: int
    failed: int
    stopped: int
    rate: float | None = Field(description="the share that succeeded, stopped ones left out")
    read: int
    stored: int
    last: str
    last_failure: str | None


Days = Annotated[int, Query(ge=1, le=tabling.DAYS_MAX, description="the last days, up to now")]
_FILES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}},
                      _PDF: {"schema": {"type": "string", "format": "binary"}}}},
}  # fmt: skip


@router.get("/overview", response_model=Overview, responses=problems.responses())
def overview(services: ServicesOf, by: By) -> Response:
    """Show how everything is that one may see: at most some seconds ago."""
    found = services.figures.overviews.document(identity.groups_of(by))
    return Response(found, media_type="application/json")


@router.get("/load", responses=problems.responses())
def load(services: ServicesOf, by: By) -> LoadShown:
    """Show how busy the server and its nodes were over the last ten minutes."""
    del by
    loads, name = services.hub.loads, services.settings.get()[0].server_name
    samples = [SampleShown(at=each.at, figures=dict(each.figures)) for each in loads.of_server()]
    return LoadShown(
        server=HostLoad(name=name, state=NodeState.ONLINE.value, samples=samples),
        nodes=[
            HostLoad(
                name=row.name, state=services.hub.state(row).value,
                samples=[SampleShown(at=each.at, figures=dict(each.figures))
                         for each in loads.of_node(row.id)],
            )
            for row in services.nodes.all()
            if not row.embedded and not row.revoked
        ],
    )  # fmt: skip


@router.get(
    "/reports/protection",
    response_model=Page[ProtectionRow],
    responses=problems.responses() | _FILES,
)
def report_protection(
    services: ServicesOf, by: By,
    text: Annotated[str, Query(max_length=200, description="in the name")] = "",
    platform: Annotated[str, Query(max_length=64)] = "",
    policy: Annotated[str, Query(max_length=100, description="id or name")] = "",
    standing: ShownStanding = ShownStanding.ALL,
    format: Format = Format.JSON,  # noqa: A002 - it is a word of the address
    language: Speech = Speech.EN,
    after: After = "",
    limit: Limit = 100,
) -> Any:  # fmt: skip
    """Report how each machine is protected; CSV has all of them, PDF the first thousand."""
    scope, tables = _scope(services, by), services.figures.tables
    wanted = Wanted(text, platform, policy, standing.value)
    found = tables.standings(scope, wanted)
    if format is Format.PDF:
        shown = list(tables.protection(scope, found[: _pdf().ROWS_MAX]))
        return _as_pdf(services, Table.PROTECTION, shown, language, len(found))
    if format is Format.CSV:
        return _as_csv(services, Table.PROTECTION, tables.protection(scope, found), language)
    begin = _behind([tabling.mark_of(each.machine) for each in found], after)
    rows = list(tables.protection(scope, found[begin : begin + limit + 1]))
    return paging.page(rows, limit, lambda row: f"{row['name']}/{row['id']}/{row['platform']}")


@router.get(
    "/reports/capacity", response_model=Page[CapacityRow], responses=problems.responses() | _FILES
)
def report_capacity(
    services: ServicesOf, by: By,
    format: Format = Format.JSON,  # noqa: A002 - it is a word of the address
    language: Speech = Speech.EN,
    after: After = "",
    limit: Limit = 100,
) -> Any:  # fmt: skip
    """Report how full each storage is, was and will be."""
    rows = services.figures.tables.capacity(_scope(services, by))
    if format is not Format.JSON:
        return _as_file(services, Table.CAPACITY, rows, format, language)
    begin = _behind([row["name"] for row in rows], after)
    return paging.page(rows[begin : begin + limit + 1], limit, lambda row: str(row["name"]))


@router.get(
    "/reports/success", response_model=Page[SuccessRow], responses=problems.responses() | _FILES
)
def report_success(
    services: ServicesOf, by: By,
    days: Days = 30,
    format: Format = Format.JSON,  # noqa: A002 - it is a word of the address
    language: Speech = Speech.EN,
    after: After = "",
    limit: Limit = 100,
) -> Any:  # fmt: skip
    """Report how the runs of each policy ended over the last days."""
    names = {row.id: row.policy.name for row in services.policies.all()}
    rows = list(services.figures.tables.success(_scope(services, by), days, names))
    if format is not Format.JSON:
        return _as_file(services, Table.SUCCESS, rows, format, language, days)
    marks = [f"{row['policy'] or ''}/{row['kind']}" for row in rows]
    begin = _behind(marks, after)
    return paging.page(
        rows[begin : begin + limit + 1], limit, lambda row: f"{row['policy'] or ''}/{row['kind']}"
    )


def _scope(services: Services, by: Principal) -> Scope:
    groups = identity.groups_of(by)
    platforms = services.inventory.platforms()
    storages = services.storages.all()
    return Scope(
        groups,
        frozenset(row.name for row in platforms if by.may(Right.VIEW, row.resource_group)),
        tuple(row.name for row in storages if by.may(Right.VIEW, row.resource_group)),
    )


def _behind(marks: list[str], after: str) -> int:
    """Return where a page begins; behind what is gone it begins at the first one."""
    return next((at for at, mark in enumerate(marks, 1) if mark == after), 0) if after else 0


def _as_file(
    services: Services, table: Table, rows: list[Mapping[str, Any]], wanted: Format,
    language: Speech, days: int = 0,
) -> Response:  # fmt: skip
    if wanted is Format.PDF:
        return _as_pdf(services, table, rows, language, len(rows), days)
    return _as_csv(services, table, iter(rows), language)


def _as_csv(
    services: Services, table: Table, rows: Iterator[Mapping[str, Any]], language: Speech
) -> Response:
    zone = services.settings.get()[0].zone
    found = csv_files.lines(table, rows, language.value, zone)
    return StreamingResponse(found, media_type=_CSV, headers=_named(services, table, "csv"))


def _as_pdf(
    services: Services, table: Table, rows: list[Mapping[str, Any]], language: Speech, count: int,
    days: int = 0,
) -> Response:  # fmt: skip
    settings, _ = services.settings.get()
    files = _pdf()
    head = files.Head(settings.server_name, services.clock.now(), settings.zone, days)
    made = files.pdf(table, rows[: files.ROWS_MAX], language.value, head, count)
    return Response(made, media_type=_PDF, headers=_named(services, table, "pdf"))


def _pdf() -> Any:
    """Return what makes PDF files: typst comes with the console, and is loaded when it is needed.

    Raises:
        ControlError: it is not installed.
    """
    try:
        return importlib.import_module("ruchu.control.reports.pdf_files")
    except ImportError as error:
        hint = "Install Ruchu with the extra `web`, or take the CSV file."
        raise ControlError(f"(PDF files: {error})", hint=hint) from None


def _named(services: Services, table: Table, ending: str) -> Mapping[str, str]:
    day = to_text(services.clock.now())[:10]
    return {"Content-Disposition": f'attachment; filename="ruchu-{table.value}-{day}.{ending}"'}
