"""What dead runs left on a platform, removed without waiting for the next backup."""

from typing import Any

from ruchu.errors import ChainBusy, NotFound
from ruchu.operations.platforms import Platforms
from ruchu.operations.storages import Storages
from ruchu.protection.machine import OBJECT_KIND


def reap(storages: Storages, platforms: Platforms, storage: str, platform: str) -> dict[str, Any]:
    """Remove snapshots, jobs and files that bear the mark of a chain nobody works on.

    A chain that is worked on is left alone: its run cleans up itself. Returns what was removed by
    machine, and which chains were busy.
    """
    repository = storages.open(storage)
    entry = platforms.entry(platform)
    cleaned: dict[str, list[str]] = {}
    busy: list[str] = []
    with platforms.open(entry) as opened:
        for chain in repository.all_chains():
            if chain.object.kind != OBJECT_KIND or chain.object.platform != entry.name:
                continue
            try:
                with chain.exclusive("reap"):
                    found = opened.reconcile(chain.object.id, chain.id)
            except ChainBusy:
                busy.append(chain.id)
                continue
            except NotFound:
                # The machine was removed, and with it whatever was left on it.
                continue
            if found:
                cleaned[chain.object.name] = list(found)
    return {"cleaned": cleaned, "busy": busy}
