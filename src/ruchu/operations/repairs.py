"""Repair of a storage from another one that holds the same chains."""

from dataclasses import asdict
from typing import Any

from ruchu.errors import NotFound, UsageError
from ruchu.operations.storages import Storages, find_chain
from ruchu.repository import repairing, verifying
from ruchu.repository.chains import Chain
from ruchu.repository.repositories import Repository
from ruchu.repository.verifying_findings import Depth, Watch


def repair(
    storages: Storages, name: str, other: str, chain: str | None, watch: Watch
) -> list[dict[str, Any]]:
    """Verify chains in full, and repair what is damaged from another storage.

    Args:
        storages: both are known.
        name: the storage to repair.
        other: the storage to take from; it is only read.
        chain: one chain (the beginning of its id, or its object); None for all that both have.
        watch: is told the progress of the verifications, and asked whether to stop.

    Raises:
        UsageError, NotFound: there is nothing to repair from.
    """
    if name == other:
        raise UsageError("(a storage cannot be repaired from itself)")
    here, there = storages.open(name), storages.open(other)
    shared = set(there.chain_ids())
    chosen = here.chain_ids() if chain is None else [find_chain(here, chain).id]
    found = [chain_id for chain_id in chosen if chain_id in shared]
    if not found:
        raise NotFound(f"(chains that are in {other!r}, too)")
    return [_repair_chain(here, there.open_chain(chain_id), watch) for chain_id in found]


def _repair_chain(here: Repository, other: Chain, watch: Watch) -> dict[str, Any]:
    chain = here.open_chain(other.id)
    with chain.exclusive("repair") as lock:
        report = verifying.verify_chain(chain, Depth.FULL, watch=watch)
        done = repairing.repair_chain(chain, other, report, lock)
    return {
        "chain": chain.id,
        "name": chain.object.name,
        "damages": len(report.damages),
        **{key: list(value) for key, value in asdict(done).items()},
    }
