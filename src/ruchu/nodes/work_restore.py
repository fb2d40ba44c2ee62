"""The work of bringing back: full, instant, to production."""

import base64
from collections.abc import Mapping
from typing import Any

from ruchu.errors import UsageError
from ruchu.model.machines import Placement
from ruchu.nodes.work_contract import Result, Work
from ruchu.operations import instants, restores
from ruchu.recovery import migration
from ruchu.recovery.instants import Order
from ruchu.recovery.running import Run

_TEXTS = ("name", "directory", "macs", "format")
_FLAGS = ("replace", "start", "isolated")
_NUMBERS = ("vcpus", "memory")
METHODS = ("hypervisor", "own")


def placement_of(value: Mapping[str, Any]) -> Placement:
    """Return how a restored machine differs, from a document.

    Raises:
        UsageError: something in it is not known.
    """
    known = {*_TEXTS, *_FLAGS, *_NUMBERS, "networks", "disks"}
    unknown = set(value) - known
    if unknown:
        raise UsageError(f"(placement: {', '.join(sorted(unknown))})")
    fields: dict[str, Any] = {key: str(value[key]) for key in _TEXTS if value.get(key)}
    fields |= {key: bool(value[key]) for key in _FLAGS if key in value}
    fields |= {key: int(value[key]) for key in _NUMBERS if value.get(key) is not None}
    fields["networks"] = {str(k): str(v) for k, v in dict(value.get("networks") or {}).items()}
    fields["disks"] = tuple(str(key) for key in value.get("disks") or ())
    if fields.get("macs", "keep") not in {"keep", "new"}:
        raise UsageError("(macs)", hint="keep or new")
    return Placement(**fields)


def _run(work: Work) -> Run:
    return Run(watch=work.teller.watch, cancelled=work.cancelled)


def restore(work: Work) -> Result:
    """Restore a machine in full."""
    placement = placement_of(work.body.get("placement") or {})
    work.teller.phase("restore")
    return restores.restore_machine(
        work.places.storages, work.places.platforms, work.text("point"),
        work.text("platform"), placement, _run(work),
    )  # fmt: skip


def _services(work: Work) -> instants.Services:
    return instants.Services(work.places.storages, work.places.platforms)


def start_instant(work: Work) -> Result:
    """Run a machine of a point from its storage."""
    body = work.body
    order = Order(
        "",
        work.text("platform"),
        placement_of(body.get("placement") or {}),
        protocol=work.text("protocol", "nbd"),
        host=work.text("address", ""),
        clients=work.texts("clients"),
        cache=work.text("cache", ""),
        agent_limit_s=float(body.get("agent_limit_s", 0)),
    )
    work.teller.phase("start")
    return instants.start(_services(work), work.text("point"), order)


def stop_instant(work: Work) -> Result:
    """End an instant restore; what was written is kept as a point, or dropped."""
    keep = bool(work.body.get("keep", False))
    work.teller.phase("keep" if keep else "stop")
    return instants.stop(_services(work), work.text("instant"), keep=keep, run=_run(work))


def migrate(work: Work) -> Result:
    """Move an instant restore to production while it runs."""
    method = work.text("method", "hypervisor")
    if method not in METHODS:
        raise UsageError(f"(method {method!r})", hint=f"One of: {', '.join(METHODS)}.")
    order = migration.Order(method=method, directory=work.text("directory", ""))
    work.teller.phase("migrate")
    return instants.migrate(
        _services(work), work.text("instant"), order, _run(work),
        lambda text: work.teller.log("info", text),
    )  # fmt: skip


def list_instants(work: Work) -> Result:
    """Return the instant restores of this node."""
    return {"instants": instants.listed(_services(work))}


def console_picture(work: Work) -> Result:
    """Return what the display of an instant restore shows, as PNG, and of which storage it is."""
    instant, content = instants.picture(_services(work), work.text("instant"))
    return {"storage": instant.storage, "png": base64.b64encode(content).decode()}


def saved_machine(work: Work) -> Result:
    """Return the machine that a point holds."""
    return {"machine": restores.saved_machine(work.places.storages, work.text("point"))}


def offers(work: Work) -> Result:
    """Return what a platform offers to a machine that comes."""
    return work.places.platforms.offers(work.text("platform"))


def resume_instants(work: Work) -> Result:
    """Start again what does not run after a restart of the host."""
    return {"instants": instants.resume(_services(work), None)}
