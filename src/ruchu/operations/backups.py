"""Backups of images and devices of this host."""

from pathlib import Path
from typing import Any

from ruchu.errors import InvalidName, UsageError
from ruchu.guests import extraction
from ruchu.model.sources import Kind
from ruchu.operations.storages import Storages
from ruchu.protection import image, plans
from ruchu.protection.running import Run

# Names are for people and are never part of a path; this keeps a listing readable.
_NAME_LENGTH_MAX = 200


def kind_of(text: str) -> Kind:
    """Return the kind of a backup that a text names, in full or by its beginning.

    Raises:
        UsageError: it names none.
    """
    found = [kind for kind in Kind if text and kind.value.startswith(text)]
    if len(found) != 1:
        names = ", ".join(kind.value for kind in Kind)
        raise UsageError(f"(kind {text!r})", hint=f"One of: {names}.")
    return found[0]


def left_out_of(text: str) -> frozenset[str]:
    """Return what a text such as `free,swap`, `all` or `none` leaves out.

    Raises:
        UsageError: it names something else.
    """
    return extraction.parse_reasons(text)


def check_object(name: str) -> str:
    """Return the name of a protected object if people can read it.

    Raises:
        InvalidName: they cannot.
    """
    if not name.strip() or not name.isprintable() or len(name) > _NAME_LENGTH_MAX:
        hint = f"Up to {_NAME_LENGTH_MAX} printable characters."
        raise InvalidName(f"({name[:80]!r})", hint=hint)
    return name


def back_up_image(  # noqa: PLR0913 - raw says what the path is, and belongs to no other
    storages: Storages,
    storage: str,
    name: str,
    path: Path,
    request: tuple[Kind, Path | None],
    run: Run,
    *,
    raw: bool = False,
) -> dict[str, Any]:
    """Back up an image into a storage; `request` is the kind and the change list.

    With `raw` it is taken byte for byte, whatever its format.
    """
    check_object(name)
    kind, changes = request
    repository = storages.open_for_backup(storage)
    back_up = image.back_up_bytes if raw else image.back_up_image
    result = back_up(repository, name, path, kind, changes, run)
    head = result.head
    return {
        "point": head.point,
        "kind": head.kind.value,
        "name": name,
        "storage": storage,
        "chain": head.chain,
        "sequence": head.sequence,
        "parent": head.parent,
        "size": result.size,
        "format": result.image_format,
        "bytes_read": result.bytes_read,
        "bytes_stored": result.bytes_stored,
        "seconds": round(result.seconds, 3),
        "source_changed": result.source_changed,
        "left_out": dict(result.left_out),
        "sample": result.sample.facts() if result.sample is not None else None,
        "reasons": plans.reason_fields(result.reasons),
    }
