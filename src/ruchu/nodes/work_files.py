"""The work on what is inside a point: questions to a point that is open, and files sent back."""

from collections.abc import Callable, Mapping
from typing import Any

from ruchu.errors import PartlyFailed, UsageError
from ruchu.model import guest_paths
from ruchu.nodes.point_handles import Handles
from ruchu.nodes.work_contract import Result, Work
from ruchu.operations import files, opened_points
from ruchu.operations.opened_points import OpenedPoint, Search, Wanted

Body = Mapping[str, Any]
PointWorker = Callable[[OpenedPoint, Handles, Body], Result]
# A person waits for it.
SEARCH_LIMIT_S = 60.0
# A result is kept and shown: the rest is counted.
_PROBLEMS_MAX = 100


def volumes(point: OpenedPoint, handles: Handles, body: Body) -> Result:
    """Return the volumes of a point."""
    del handles, body
    return point.volumes()


def list_directory(point: OpenedPoint, handles: Handles, body: Body) -> Result:
    """Return a page of a directory."""
    del handles
    return point.page(
        Wanted(
            guest_paths.path_of(_text(body, "key")),
            _number(body, "start", 0),
            _number(body, "limit", opened_points.PAGE_MAX),
            _text(body, "sort", "name"),
            descending=bool(body.get("descending", False)),
        )
    )


def find(point: OpenedPoint, handles: Handles, body: Body) -> Result:
    """Return what matches a pattern."""
    del handles
    limit_s = min(SEARCH_LIMIT_S, max(1.0, float(_number(body, "limit_s", 30))))
    return point.find(
        Search(
            guest_paths.path_of(_text(body, "key")),
            _text(body, "pattern"),
            _number(body, "limit", opened_points.FOUND_MAX),
            limit_s,
            ignore_case=bool(body.get("ignore_case", True)),
        )
    )


def fetch(point: OpenedPoint, handles: Handles, body: Body) -> Result:
    """Begin to hand out a file, an archive or the image of a disk; its parts are read one by one."""
    if body.get("disk") is not None:
        name, transfer = point.image(_text(body, "disk"), _text(body, "format", "raw"))
    else:
        paths = [guest_paths.path_of(key) for key in _texts(body, "keys")]
        name, transfer = point.file(paths, _text(body, "format", ""))
    return {"handle": handles.add(transfer), "name": name, "size": transfer.size}


def read(point: OpenedPoint, handles: Handles, body: Body) -> Result:
    """Return a part of what is handed out."""
    del point
    return handles.read(_text(body, "handle"), _number(body, "offset"), _number(body, "length"))


def close(point: OpenedPoint, handles: Handles, body: Body) -> Result:
    """Hand it out no longer."""
    del point
    handles.close(_text(body, "handle"))
    return {}


def _text(body: Body, key: str, default: str | None = None) -> str:
    value = body.get(key, default)
    if not isinstance(value, str):
        raise UsageError(f"(the question lacks {key!r})")
    return value


def _texts(body: Body, key: str) -> list[str]:
    value = body.get(key)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"({key!r} of the question is no list of texts)")
    return value


def _number(body: Body, key: str, default: int | None = None) -> int:
    value = body.get(key, default)
    if type(value) is not int:
        raise UsageError(f"(the question lacks {key!r})")
    return value


# ------------------------------------------------------------------------------ into the guest


def return_files(work: Work) -> Result:
    """Send files of a point into a running machine, through its guest agent.

    Raises:
        PartlyFailed: some of them could not be sent; the result tells which.
    """
    keys = work.texts("keys")
    if not 0 < len(keys) <= opened_points.PATHS_MAX:
        raise UsageError(f"(1 to {opened_points.PATHS_MAX} paths)")
    target = files.Target(
        guest=work.text("machine"),
        guest_path=work.text("directory"),
        platform=work.text("platform"),
        overwrite=bool(work.body.get("overwrite", False)),
    )
    work.teller.phase("send")
    done = files.fetch(
        work.places.storages, work.places.platforms, work.text("point"),
        [guest_paths.path_of(key) for key in keys], target, work.cancelled,
    )  # fmt: skip
    result: Result = _sound(files.fetched_fields(done))
    result["problems"] = result["problems"][:_PROBLEMS_MAX]
    for each in result["problems"]:
        work.teller.log("error", f"{each['path']}: {each['message']}")
    error = done.error()
    if error is not None:
        detail = guest_paths.sound(f"({error})")
        raise PartlyFailed(detail, hint=error.advice, result=result, again=error.retry)
    return result


def _sound(value: Any) -> Any:
    if isinstance(value, str):
        return guest_paths.sound(value)
    if isinstance(value, dict):
        return {key: _sound(each) for key, each in value.items()}
    return [_sound(each) for each in value] if isinstance(value, list) else value
