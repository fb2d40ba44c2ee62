"""Restores: of disks into files and devices, of machines onto platforms."""

from pathlib import Path
from typing import Any

from ruchu.model import configurations
from ruchu.model.machines import Placement
from ruchu.operations import points
from ruchu.operations.platforms import Platforms
from ruchu.operations.storages import Storages
from ruchu.recovery import full
from ruchu.recovery.running import Run


def restore_image(
    storages: Storages, prefix: str, disk: str, target: Path, run: Run, *, overwrite: bool
) -> dict[str, Any]:
    """Restore one disk of a point into a file or onto a device."""
    found = points.find(storages, prefix)
    done = full.restore_image(found.chain, found.head, disk, target, overwrite=overwrite, run=run)
    return {
        "point": found.head.point,
        "storage": found.storage,
        "target": str(target),
        "size": done.size,
        "bytes": done.bytes,
        "seconds": round(done.seconds, 3),
        "leased": done.leased,
    }


def saved_machine(storages: Storages, prefix: str) -> dict[str, Any]:
    """Return the machine that a point holds; its definition, which has passwords, is left out."""
    found = points.find(storages, prefix)
    return configurations.to_document(full.machine_of(found.chain, found.head))


def restore_machine(
    storages: Storages,
    platforms: Platforms,
    prefix: str,
    platform_name: str | None,
    placement: Placement,
    run: Run,
) -> dict[str, Any]:
    """Restore a machine of a point; without a platform name, on the only one that is known."""
    found = points.find(storages, prefix)
    entry = platforms.entry(platform_name)
    with platforms.open(entry) as platform:
        done = full.restore_machine(platform, found.chain, found.head, placement, run)
    return {
        "point": found.head.point,
        "storage": found.storage,
        "platform": entry.name,
        "machine": done.machine,
        "disks": list(done.disks),
        "size": done.size,
        "bytes": done.bytes,
        "seconds": round(done.seconds, 3),
        "leased": done.leased,
    }
