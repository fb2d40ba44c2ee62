"""The work of backups: machines saved, then retention on what they were saved into."""

import datetime
import re
import zoneinfo
from collections.abc import Mapping
from typing import Any

from ruchu import commands
from ruchu.clock import SYSTEM
from ruchu.errors import Cancelled, ChainBusy, CommandFailed, PartlyFailed, RuchuError, UsageError
from ruchu.model.policies import Retention
from ruchu.nodes.work_contract import Result, Work
from ruchu.operations import backups, machine_backups, retentions
from ruchu.protection import retention
from ruchu.protection.machine import PARALLEL_DEFAULT, Order
from ruchu.protection.running import Run

# A program before a backup stops or dumps something; one that takes longer hangs.
COMMAND_LIMIT_S = 1800.0
_POLL_S = 0.1
_COMMAND = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def back_up(work: Work) -> Result:
    """Back up machines; one that fails does not stop the others.

    Raises:
        PartlyFailed: some or all machines failed; the result tells which.
    """
    retention_policy(work.body)  # what cannot be carried out is said before anything is done
    _command(work, "before")
    try:
        found = _machines(work)
    finally:
        _command(work, "after")
    result: Result = {"machines": found}
    result["retention"] = _retain(work, [each for each in found if each["ok"]])
    failed = [each for each in found if not each["ok"]]
    if failed:
        raise _failure(failed, len(found), result)
    return result


def _machines(work: Work) -> list[dict[str, Any]]:
    body = work.body
    order = Order(
        names=work.texts("machines"),
        kind=backups.kind_of(work.text("kind", "incremental")),
        disks=work.texts("disks"),
        snapshots=machine_backups.snapshots_of(work.text("snapshots", "serial")),
        quiesce=bool(body.get("quiesce", True)),
        parallel=int(body.get("parallel", PARALLEL_DEFAULT)),
    )
    run = Run(watch=work.teller.watch, cancelled=work.cancelled, **_options(work))
    work.teller.phase("copy")
    storage = work.text("storage")
    results = machine_backups.back_up_machines(
        work.places.storages, work.places.platforms, (storage, work.text("platform")), order, run
    )
    found = [machine_backups.machine_fields(result, storage) for result in results]
    names = body.get("names") or {}
    return [{**each, "machine": names.get(each["machine"], each["machine"])} for each in found]


def _options(work: Work) -> dict[str, Any]:
    options: dict[str, Any] = {"leave_out": backups.left_out_of(work.text("leave_out", "none"))}
    if "level" in work.body:
        options["level"] = int(work.body["level"])
    return options


def _failure(failed: list[dict[str, Any]], count: int, result: Result) -> PartlyFailed:
    errors = [each["error"] for each in failed]
    first = errors[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    detail = f"({len(failed)} of {count} machines: {first['message']}{more})"
    retry = any(error.get("retry") for error in errors)
    return PartlyFailed(detail, hint=first["hint"], result=result, again=retry)


def retention_policy(body: Mapping[str, Any]) -> retention.Policy:
    """Return the rules of an order: `retention`, and `zone`, where its days begin at midnight.

    Raises:
        UsageError: there is a rule or a zone that is not known.
    """
    value = dict(body.get("retention") or {})
    unknown = set(value) - set(Retention.__dataclass_fields__)
    if unknown:
        raise UsageError(f"(retention by {', '.join(sorted(unknown))})")
    name = str(body.get("zone") or "UTC")
    try:
        zone = zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = "Install the tzdata of this node, or name the zone otherwise."
        raise UsageError(f"(retention: time zone {name[:60]!r})", hint=hint) from None
    return retention.Policy(**{key: int(each) for key, each in value.items()}, zone=zone)


def _retain(work: Work, saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Apply retention to the chains that got a point; busy ones wait for the next run."""
    policy = retention_policy(work.body)
    if not policy.rules() or not saved:
        return []
    work.teller.phase("retention")
    grace = datetime.timedelta(days=float(work.body.get("grace_days", 0)))
    frozen = set(work.texts("frozen"))
    done: list[dict[str, Any]] = []
    for each in saved:
        if each["chain"] in frozen:
            text = "retention is frozen until somebody decides"
            work.teller.log("warning", f"{each['machine']}: {text}")
            done.append({"chain": each["chain"], "frozen": True})
            continue
        try:
            done += retentions.apply(
                work.places.storages, each["storage"], each["chain"], policy, grace,
                dry_run=False,
            )  # fmt: skip
        except ChainBusy as error:
            work.teller.log("warning", f"{each['machine']}: retention waits: {error}")
            done.append({"chain": each["chain"], "busy": str(error)})
    return done


def retain(work: Work) -> Result:
    """Apply retention to one object of a storage, or to all."""
    policy = retention_policy(work.body)
    grace = datetime.timedelta(days=float(work.body.get("grace_days", 0)))
    name = work.body.get("object")
    storages = work.places.storages
    done = retentions.apply(storages, work.text("storage"), name, policy, grace, dry_run=False)
    return {"retention": done}


def _command(work: Work, which: str) -> None:
    """Run the program of a policy, if it names one.

    Raises:
        UsageError: this node has no such program.
        CommandFailed: it failed; before a backup that ends the attempt.
    """
    words = work.texts(which)
    if not words:
        return
    name, *arguments = words
    hint = "The administrator of the node puts programs into the folder of `ruchu node --commands`."
    if work.commands is None or not _COMMAND.fullmatch(name):
        raise UsageError(f"(program {name[:80]!r})", hint=hint)
    program = work.commands / name
    if not program.is_file():
        raise UsageError(f"(program {name!r} is not on this node)", hint=hint)
    work.teller.phase(which)
    with commands.start([str(program), *arguments]) as process:
        limit = SYSTEM.monotonic() + COMMAND_LIMIT_S
        while process.status() is None:
            if work.cancelled():
                raise Cancelled
            if SYSTEM.monotonic() > limit:
                raise CommandFailed(f"{name}: no end after {COMMAND_LIMIT_S:g} s")
            SYSTEM.sleep(_POLL_S)
        status, said = process.status(), process.said()
    work.teller.log("error" if status else "info", f"{which}: {said}")
    if status:
        raise CommandFailed(f"{name}: exit status {status}: {said[-500:]}")


def explain(error: BaseException) -> dict[str, Any]:
    """Return an error as the server keeps it."""
    fields = machine_backups.error_fields(error)
    return {**fields, "retry": isinstance(error, RuchuError) and _again(error)}


def _again(error: RuchuError) -> bool:
    return error.again if isinstance(error, PartlyFailed) else error.retry
