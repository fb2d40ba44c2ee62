"""Definitions: exported and imported as a whole; planned, applied and compared as files."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, Field

from ruchu.api import auditing, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.control.definitions import sealing
from ruchu.control.definitions.diffing import Change
from ruchu.control.definitions.exchange import ExportOrder, ImportOrder
from ruchu.control.definitions.plans import Plan
from ruchu.control.server.defining import StorageRead
from ruchu.errors import UsageError

router = APIRouter(tags=["definitions"])
MEDIA_TYPE = "application/octet-stream"
_EXAMPLE = {
    "ruchu": 1,
    "owner": "team-a",
    "platforms": {"kvm": {"uri": "qemu:///system"}},
    "storages": {"main": {"location": "/srv/backup"}},
    "policies": {
        "nightly": {
            "selection": {"platform": "kvm", "patterns": ["web-*"]},
            "storage": "main",
            "schedules": [{"kind": "incremental", "daily": {"times": ["02:00"]}}],
            "retention": {"daily": 7},
        }
    },
}


class ExportWanted(BaseModel):
    """What to export."""

    passphrase: str | None = Field(
        default=None, max_length=1000, description="seals the file; secrets leave only sealed"
    )
    secrets: bool = Field(default=True, description="passphrases of storages, secrets of channels")
    passwords: bool = Field(default=False, description="hashes of passwords, authenticators")


class ImportWanted(BaseModel):
    """A file to import."""

    file: str = Field(max_length=sealing.BYTES_MAX, description="what an export answered")
    passphrase: str = Field(default="", max_length=1000)
    replace: bool = Field(default=False, description="make what differs like the file")
    dry_run: bool = Field(default=False, description="only say what would be done")
    read: bool = Field(default=True, description="read the points of the storages afterwards")
    locations: dict[str, str] = Field(
        default={}, max_length=1000, examples=[{"main": "/mnt/rescued"}],
        description="where storages are now, if not where the file says",
    )  # fmt: skip


class ImportDone(BaseModel):
    """What was done with each definition, and which points were read."""

    changes: list[Change]
    storages: list[StorageRead]


class FileWanted(BaseModel):
    """A file of definitions, and the secrets that it refers to by kind, name and field."""

    document: dict[str, Any] = Field(examples=[_EXAMPLE])
    secrets: dict[str, dict[str, dict[str, str]]] = Field(
        default={}, description="written, never read; what is left out stays"
    )


class PlanApplied(FileWanted):
    """A plan that is to be carried out exactly as it was shown."""

    digest: str = Field(max_length=100)


class PlanShown(BaseModel):
    """What a file would change."""

    owner: str
    digest: str = Field(description="an apply says it back")
    changes: list[Change] = Field(description="in the order in which they are made")
    drift: list[Change] = Field(description="what was changed by hand since the last apply")


@router.post(
    "/definitions/export",
    response_class=Response,
    responses={**problems.responses(), 200: {"content": {MEDIA_TYPE: {}}}},
)
def export_definitions(
    services: ServicesOf, by: By, wanted: Annotated[ExportWanted, Body()]
) -> Response:
    """Export all definitions, as a file in the format of age, or without secrets as JSON."""
    secrets = wanted.secrets or wanted.passwords
    if secrets and wanted.passphrase is None:
        hint = "Give a passphrase, or export without secrets."
        raise UsageError("(secrets do not leave unsealed)", hint=hint)
    order = ExportOrder(wanted.secrets, wanted.passwords)
    facts = {"with": [key for key in ("secrets", "passwords") if getattr(wanted, key)]}
    with auditing.recorded(services, by, "definitions.export", "server", facts):
        document = services.defining.export(by, order)
        text = sealing.written(document, wanted.passphrase)
    return Response(text, media_type=MEDIA_TYPE)


@router.post("/definitions/import", responses=problems.responses(404, 409, 412))
def import_definitions(
    services: ServicesOf, by: By, wanted: Annotated[ImportWanted, Body()]
) -> ImportDone:
    """Take a file of definitions in: what is missing is made, what differs is told.

    All of it happens, or nothing. Afterwards the points of its storages are read.
    """
    document = sealing.unseal(wanted.file, wanted.passphrase)
    order = ImportOrder(wanted.replace, wanted.dry_run, wanted.locations)
    done = services.defining.import_(by, document, order, read=wanted.read)
    return ImportDone(changes=_list(done.changes), storages=list(done.storages))


@router.post("/plans", responses=problems.responses(404, 409))
def plan_file(services: ServicesOf, by: By, wanted: Annotated[FileWanted, Body()]) -> PlanShown:
    """Say what a file of definitions would change, and what was changed by hand."""
    return _shown(services.defining.plans.plan(by, wanted.document, wanted.secrets))


@router.post("/plans/apply", responses=problems.responses(404, 409, 412, 502))
def apply_file(services: ServicesOf, by: By, wanted: Annotated[PlanApplied, Body()]) -> PlanShown:
    """Carry out a plan, exactly as it was shown: all of it, or nothing."""
    return _shown(
        services.defining.apply(by, wanted.document, wanted.secrets, wanted.digest)
    )  # fmt: skip


def _shown(found: Plan) -> PlanShown:
    return PlanShown(
        owner=found.owner,
        digest=found.digest,
        changes=_list(found.changes),
        drift=_list(found.drift),
    )


def _list(changes: Sequence[Change]) -> list[Change]:
    return list(changes)
