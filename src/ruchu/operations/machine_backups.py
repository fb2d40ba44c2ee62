"""Backups of machines of a platform."""

import traceback
from typing import Any

from ruchu import clock
from ruchu.errors import RuchuError, UsageError
from ruchu.model.sources import SnapshotOrder
from ruchu.operations.platforms import Platforms
from ruchu.operations.storages import Storages
from ruchu.protection import machine, plans
from ruchu.protection.machine import MachineResult, Order
from ruchu.protection.running import Run


def back_up_machines(
    storages: Storages, platforms: Platforms, places: tuple[str, str | None], order: Order, run: Run
) -> list[MachineResult]:
    """Back up machines; `places` are the storage and the platform (None: the only one)."""
    storage, platform_name = places
    entry = platforms.entry(platform_name)
    repository = storages.open_for_backup(storage)
    with platforms.open(entry) as platform:
        return machine.back_up_machines(platform, entry.name, repository, order, run)


def machine_fields(result: MachineResult, storage: str) -> dict[str, Any]:
    """Return what became of a machine, as a document."""
    saved = result.saved
    if saved is None:
        return {"machine": result.name, "ok": False, "error": error_fields(result.error)}
    head = saved.head
    return {
        "machine": result.name,
        "ok": True,
        "point": head.point,
        "time": clock.to_text(head.time),
        "kind": head.kind.value,
        "storage": storage,
        "chain": saved.chain,
        "sequence": head.sequence,
        "parent": head.parent,
        "disks": [{"name": each.name, "size": each.size, **each.facts} for each in head.disks],
        "bytes_read": saved.bytes_read,
        "bytes_stored": saved.bytes_stored,
        "seconds": round(saved.seconds, 3),
        "consistency": head.facts.get("consistency"),
        "frozen_s": head.facts.get("frozen_s"),
        "samples": {key: sample.facts() for key, sample in saved.samples.items()},
        "reasons": plans.reason_fields(saved.reasons),
        "cleaned": list(saved.cleaned),
    }


def error_fields(error: BaseException | None) -> dict[str, Any]:
    """Return an error for a document; one that is not ours is a bug, and says where it is."""
    if isinstance(error, RuchuError):
        return {"code": error.code, "message": str(error), "hint": error.advice}
    text = "".join(traceback.format_exception(error)) if error is not None else ""
    return {"code": "internal", "message": repr(error), "hint": "", "traceback": text}


def exit_status(results: list[MachineResult]) -> int:
    """Return the exit status of a run: that of the first failure, 0 if there is none."""
    for result in results:
        if result.saved is None:
            return result.error.exit_status if isinstance(result.error, RuchuError) else 1
    return 0


def snapshots_of(text: str) -> SnapshotOrder:
    """Return the order of snapshots that a text names.

    Raises:
        UsageError: it names none.
    """
    try:
        return SnapshotOrder(text)
    except ValueError:
        names = ", ".join(order.value for order in SnapshotOrder)
        raise UsageError(f"(snapshots {text!r})", hint=f"One of: {names}.") from None
