"""Files inside points: looked through, searched, fetched, sent back into a machine; disk images."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import BaseModel, Field

from ruchu.api import auditing, problems, reach, transfers
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, Limit
from ruchu.api.transfers import Content, Transfer
from ruchu.control.audit.trail import DONE, FAILED
from ruchu.control.jobs.runs import NewRun, RunRow
from ruchu.control.server.services import Services
from ruchu.control.storages.catalogue import PointRow
from ruchu.control.storages.storages import StorageRow
from ruchu.errors import NodeFailed, RuchuError, UsageError
from ruchu.model import guest_paths
from ruchu.model.principals import Principal, Right

router = APIRouter(tags=["files"])
PATHS_MAX = 100
"""Files and directories of one download; a directory counts once. An address holds no more."""
FOUND_MAX = 500
_FACT_PATHS, _FACT_LENGTH = 20, 500
SORTS = "^(name|size|modified)$"
FORMATS = "^(raw|qcow2|vmdk|vhd|vhdx)$"

Key = Annotated[str, Field(max_length=100_000, pattern="^[A-Za-z0-9_-]*$")]
OnStorage = Annotated[
    str, Query(max_length=64, description="that holds the point; empty: the best one")
]
OfPath = Annotated[
    str, Query(max_length=20_000, description="`/VOLUME/path`; names that are no text need `key`")
]
OfKey = Annotated[
    str, Query(max_length=20_000, pattern="^[A-Za-z0-9_-]*$",
               description="of an entry: names its path exactly; comes before `path`"),
]  # fmt: skip
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The content.", "content": {"application/octet-stream": {}}}
}


class VolumeShown(BaseModel):
    """A volume of a guest: a partition, a logical volume, or a whole disk."""

    name: str
    key: str
    kind: str = Field(description="of its file system", examples=["ext4"])
    size: int
    label: str
    uuid: str
    role: str
    readable: bool = Field(description="its files can be listed")
    reason: str = Field(description="why not")
    notes: list[str]


class FileShown(BaseModel):
    """A file, directory or anything else that has a name in a directory."""

    name: str = Field(description="bytes that are no UTF-8 are shown as `\\xHH`")
    path: str
    key: str
    kind: str = Field(examples=["file"])
    size: int | None
    modified: str | None
    mode: str | None
    owner: int | None
    group: int | None
    target: str | None = Field(description="of a symbolic link")
    problem: str = Field(description="why it could not be read; empty: it could")


class Directory(BaseModel):
    """What a directory of a point holds; above all of them are the volumes."""

    path: str
    key: str
    volumes: list[VolumeShown] = []
    items: list[FileShown] = []
    total: int = Field(default=0, description="entries of the directory")
    cut: bool = Field(default=False, description="it has more, which cannot be listed")
    problem: str = Field(default="", description="what of it could not be read")
    next: str | None = Field(default=None, description="`after` of the following page")


class FoundFiles(BaseModel):
    """What a search found."""

    items: list[FileShown]
    complete: bool = Field(description="everything was looked through")
    stopped: str = Field(description="`limit` or `time`: why it ended before that")
    failed: int = Field(description="directories and volumes that could not be read")
    problems: list[str] = Field(description="the first of them")


class FilesReturn(BaseModel):
    """Files that shall be sent into a running machine."""

    keys: list[Key] = Field(min_length=1, max_length=PATHS_MAX, examples=[["L3ZkYTEvZXRj"]])
    machine: str = Field(min_length=1, max_length=200, examples=["web-1"])
    platform: str = Field(default="", max_length=64, description="empty: that of the point")
    directory: str = Field(
        min_length=1, max_length=4000, examples=["/root/back"], description="in the machine"
    )
    overwrite: bool = Field(default=False, description="replace files that exist")
    storage: str = Field(default="", max_length=64)


@router.get("/points/{point}/files", responses=problems.responses(404, 409, 502))
def list_files(
    services: ServicesOf, by: By, point: str, path: OfPath = "", key: OfKey = "",
    sort: Annotated[str, Query(pattern=SORTS)] = "name", descending: bool = False,
    after: After = "", limit: Limit = 100, storage: OnStorage = "",
) -> Directory:  # fmt: skip
    """Look into a directory of a point; without a path: its volumes.

    Directories come first.
    """
    row, at = reach.point(services, by, point, Right.RESTORE, storage)
    wanted = _key(path, key)
    if wanted == guest_paths.key_of(b"/"):
        with auditing.recorded(services, by, "point.browse", row.id, _facts(row, at)):
            _, found = services.point_asker.ask(at, row.id, "files-volumes", {})
        volumes = [VolumeShown(**_only(each, VolumeShown)) for each in found["volumes"]]
        return Directory(path="/", key=wanted, volumes=volumes, total=len(volumes))
    body = {"key": wanted, "start": _start(after), "limit": limit, "sort": sort,
            "descending": descending}  # fmt: skip
    _, found = services.point_asker.ask(at, row.id, "files-list", body)
    following = found["next"]
    return Directory(
        path=found["path"], key=found["key"], items=[_shown(each) for each in found["entries"]],
        total=found["total"], cut=found["cut"], problem=found["problem"],
        next=None if following is None else str(following),
    )  # fmt: skip


@router.get("/points/{point}/files/search", responses=problems.responses(404, 409, 502))
def search_files(
    services: ServicesOf, by: By, point: str,
    pattern: Annotated[
        str, Query(min_length=1, max_length=1000, examples=["*.conf"],
                   description="`*` and `?` as in a shell; with a slash it is of paths"),
    ],
    path: OfPath = "", key: OfKey = "",
    ignore_case: bool = True,
    limit: Annotated[int, Query(ge=1, le=FOUND_MAX)] = 200, storage: OnStorage = "",
) -> FoundFiles:  # fmt: skip
    """Look for names below a directory of a point, for half a minute at most."""
    row, at = reach.point(services, by, point, Right.RESTORE, storage)
    wanted = _key(path, key)
    body = {"key": wanted, "pattern": pattern, "limit": limit, "ignore_case": ignore_case}
    facts = {**_facts(row, at, [wanted]), "pattern": pattern}
    with auditing.recorded(services, by, "point.search", row.id, facts):
        _, found = services.point_asker.ask(at, row.id, "files-find", body)
    return FoundFiles(
        items=[_shown(each) for each in found["entries"]], complete=found["complete"],
        stopped=found["stopped"], failed=found["failed"], problems=found["problems"],
    )  # fmt: skip


@router.get(
    "/points/{point}/files/content", response_class=Response,
    responses={**problems.responses(404, 409, 426, 502), **_STREAM},
)  # fmt: skip
def fetch_files(
    request: Request, services: ServicesOf, by: By, point: str,
    path: Annotated[list[OfPath], Query(max_length=PATHS_MAX)] = [],  # noqa: B006 - FastAPI copies it
    key: Annotated[list[OfKey], Query(max_length=PATHS_MAX)] = [],  # noqa: B006
    format: Annotated[  # noqa: A002 - the name in the address
        str, Query(pattern="^(|zip|tar)$", description="empty: a file as it is, else a zip")
    ] = "",
    storage: OnStorage = "",
) -> Transfer:  # fmt: skip
    """Fetch a file, or directories and several files as an archive.

    What of an archive could not be read is named in its last file, `_NOT_COMPLETE.txt`. A transfer
    that breaks off has a wrong length, or lacks its last chunk.
    """
    row, at = reach.point(services, by, point, Right.RESTORE, storage)
    keys = [*key, *(guest_paths.key_of(each.encode()) for each in path)]
    if not 0 < len(keys) <= PATHS_MAX:
        raise UsageError(f"(1 to {PATHS_MAX} paths)")
    asked = {"keys": keys, "format": format}
    facts = _facts(row, at, keys)
    return _transfer(request, services, by, (row, at), ("point.download", asked, facts))


@router.post(
    "/points/{point}/files/return", status_code=201, responses=problems.responses(404, 409)
)
def return_files(
    services: ServicesOf, by: By, point: str, wanted: Annotated[FilesReturn, Body()]
) -> RunRow:
    """Send files of a point into a running machine, through its guest agent; the answer is the run.

    What could not be sent is in the result of its task.
    """
    row, at = reach.point(services, by, point, Right.RESTORE, wanted.storage)
    platform = reach.platform(services, by, wanted.platform or row.platform, Right.RESTORE)
    body = {
        "point": row.id, "storage": at.name, "platform": platform.name, "machine": wanted.machine,
        "directory": wanted.directory, "overwrite": wanted.overwrite, "keys": wanted.keys,
    }  # fmt: skip
    facts = _facts(row, at, wanted.keys) | {
        "machine": wanted.machine, "platform": platform.name, "directory": wanted.directory,
        "overwrite": wanted.overwrite,
    }  # fmt: skip
    new = NewRun("files-return", wanted.machine, body, None, by.name, group=at.resource_group)
    with auditing.recorded(services, by, "run.files-return", row.id, facts):
        return services.runs.create(new)


@router.get(
    "/points/{point}/disks/{disk}/image", response_class=Response,
    responses={**problems.responses(404, 409, 426, 502), **_STREAM},
)  # fmt: skip
def disk_image(
    request: Request, services: ServicesOf, by: By, point: str, disk: str,
    format: Annotated[str, Query(pattern=FORMATS)] = "raw",  # noqa: A002 - the name in the address
    storage: OnStorage = "",
) -> Transfer:  # fmt: skip
    """Fetch a disk of a point as an image; a VMDK, which is two files, comes as a tar of them."""
    row, at = reach.point(services, by, point, Right.RESTORE, storage)
    asked = {"disk": disk, "format": format}
    facts = _facts(row, at) | asked
    return _transfer(request, services, by, (row, at), ("point.export", asked, facts))


def _transfer(
    request: Request, services: Services, by: Principal, of: tuple[PointRow, StorageRow],
    what: tuple[str, dict[str, Any], dict[str, Any]],
) -> Transfer:  # fmt: skip
    """Let a node hand something out, write down that it did, and return what streams it."""
    (row, at), (action, asked, facts) = of, what
    counters = request.app.state.transfers
    assert isinstance(counters, transfers.Counters)
    who = by.actor
    asker = services.point_asker
    with counters.counted(who), auditing.recorded(services, by, action, row.id, facts):
        node, found = asker.ask(at, row.id, "files-fetch", asked)
        handle, size = found["handle"], found["size"]
        if size is not None and type(size) is not int:
            raise NodeFailed("(the size of what it hands out)")

    def read(offset: int, length: int) -> dict[str, Any]:
        body = {"handle": handle, "offset": offset, "length": length}
        part: dict[str, Any] = asker.ask(at, row.id, "files-read", body, node)[1]
        return part

    def ended(sent: int, failure: RuchuError | None) -> None:
        counters.end(who)
        more = {**facts, "bytes": sent}
        if failure is not None:
            more["error"] = failure.code
            request.app.state.tell(f"{action} of {row.id[:8]} broke off: {failure}")
        outcome = DONE if failure is None else FAILED
        services.trail.record(by.actor, f"{action}-ended", row.id, outcome, more)

    def close() -> None:
        try:
            asker.ask(at, row.id, "files-close", {"handle": handle}, node)
        except RuchuError:
            # It is gone with its node, or goes by itself when nobody asks for it.
            return

    name = _file_name(row, str(found["name"]), image="disk" in asked)
    reading = transfers.patient(read, services.clock)
    return Transfer(Content(name, size, reading, close, ended), counters.pool)


def _file_name(row: PointRow, name: str, *, image: bool) -> str:
    """Return the name that a browser is told; what is of the whole point bears its name and day."""
    of_point = f"{row.name}-{row.time[:10]}"
    if image:
        return f"{of_point}-{name}"
    return f"{of_point}{name}" if name.startswith(".") and name in {".zip", ".tar"} else name


def _key(path: str, key: str) -> str:
    return key or guest_paths.key_of(path.encode() or b"/")


def _start(after: str) -> int:
    if after and (not after.isascii() or not after.isdigit() or len(after) > 12):
        raise UsageError(f"(after {after[:40]!r})", hint="`next` of the page before.")
    return int(after or 0)


def _facts(row: PointRow, at: StorageRow, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the audit trail is told of files."""
    shown = [guest_paths.text_of_key(key)[:_FACT_LENGTH] for key in keys[:_FACT_PATHS]]
    found: dict[str, Any] = {"name": row.name, "storage": at.name}
    return {**found, "paths": shown, "count": len(keys)} if keys else found


def _only(each: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    return {key: each[key] for key in model.model_fields}


def _shown(each: dict[str, Any]) -> FileShown:
    return FileShown(**_only(each, FileShown))
