"""Retention over the chains of a storage."""

import datetime
from typing import Any

from ruchu.errors import NotFound, UsageError
from ruchu.operations.storages import Storages
from ruchu.protection import retention
from ruchu.protection.retention import Applied, Policy
from ruchu.repository.chains import Chain


def apply(
    storages: Storages,
    storage: str,
    name: str | None,
    policy: Policy,
    grace: datetime.timedelta,
    *,
    dry_run: bool,
) -> list[dict[str, Any]]:
    """Apply a policy to one protected object (or chain) of a storage, or to all of them.

    Raises:
        UsageError: the policy has no rule: it would keep everything.
        NotFound: there is no such object.
        ChainBusy, ClockWentBack: the chains before were done, this one was not touched.
    """
    if not policy.rules():
        raise UsageError("(no rule was given)", hint="Such as --keep-last 7 or --daily 14.")
    repository = storages.open(storage)
    chains = [c for c in repository.all_chains() if name in {None, c.object.name, c.id}]
    if name is not None and not chains:
        raise NotFound(f"(object {name!r} in storage {storage!r})")
    done = []
    for chain in chains:
        if dry_run:
            applied = Applied(retention.plan(chain, policy))
        else:
            with chain.exclusive("retention") as lock:
                applied = retention.apply(chain, lock, policy, grace)
        done.append(_fields(chain, applied, dry_run=dry_run))
    return done


def _fields(chain: Chain, applied: Applied, *, dry_run: bool) -> dict[str, Any]:
    return {
        "chain": chain.id,
        "name": chain.object.name,
        "keep": {point: list(why) for point, why in applied.decision.keep.items()},
        "remove": list(applied.decision.remove),
        "bytes_trashed": applied.bytes_trashed,
        "bytes_freed": applied.bytes_freed,
        "dry_run": dry_run,
    }
