"""The work on storages: made, adopted, looked at, verified, repaired; their points."""

from typing import Any

from ruchu.blocks.copying import Progress
from ruchu.errors import UsageError
from ruchu.nodes import places
from ruchu.nodes.work_contract import Result, Work
from ruchu.operations import (
    points,
    reaping,
    repairs,
    storage_evacuation,
    storage_probes,
    verification,
)
from ruchu.operations.registry import Registry
from ruchu.operations.storage_places import Preparation
from ruchu.operations.storages import Setup, Storages
from ruchu.repository.verifying_findings import Watch

# An answer is one frame of at most 8 MiB; a point takes about half a KiB of it, a chain has a
# few thousand points at most.
POINTS_A_PART = 4000
PROBLEMS_MAX, PROBLEM_MAX = 500, 500
DEPTHS = ("structural", "sampled", "full")


def make(work: Work) -> Result:
    """Make a place a storage, or adopt one that is there (`adopt`)."""
    name = work.text("name")
    location = places.location_of(work.body)
    source = places.secret_source(work.order, work.state, name)
    role = work.text("role", "backup")
    preparation = Preparation(
        work.text("file_system", ""), work.text("erase", ""),
        one_writer=bool(work.body.get("one_writer")), take_over=bool(work.body.get("take_over")),
    )  # fmt: skip
    credentials = places.credentials_file(work.order, work.state, name)
    setup = Setup(role, credentials=credentials, preparation=preparation)
    registry = Registry(work.state)
    if any(entry.name == name for entry in registry.storages()):
        # What this node knew by that name before does not matter: the server decides on names.
        registry.remove_storage(name)
    known = Storages(registry)
    if work.body.get("adopt"):
        entry = known.adopt(name, location, source, setup)
    else:
        entry = known.add(name, location, source, role, setup)
    (state,) = [each for each in known.list() if each.entry.name == name]
    fields = {**state.fields(), "location": entry.where, "writer": entry.writer}
    result: Result = {"storage": {**fields, "probe": dict(entry.probe)}}
    if work.body.get("adopt"):
        result |= _points(known, name, "")
    return result


def look(work: Work) -> Result:
    """Return how the storages of the order are, as this node sees them."""
    return {"storages": [state.fields() for state in work.places.storages.list()
                         if state.entry.name in _named(work)]}  # fmt: skip


def _named(work: Work) -> set[str]:
    return {str(each["name"]) for each in work.body.get("storages", ())}


def list_points(work: Work) -> Result:
    """Return points of a storage, and what kept others from being listed; `next` asks for more."""
    return _points(work.places.storages, work.text("storage"), work.text("after", ""))


def _points(known: Storages, storage: str, after: str) -> Result:
    listing, following = points.list_part(known, storage, after, POINTS_A_PART)
    problems = [str(each)[:PROBLEM_MAX] for each in listing.problems[:PROBLEMS_MAX]]
    return {"points": listing.points, "problems": problems, "next": following}


def verify(work: Work) -> Result:
    """Verify a storage, or one point of it.

    A storage that is damaged is no failure of the work: the server raises the alarm.
    """
    depth = work.text("depth", "sampled")
    if depth not in DEPTHS:
        raise UsageError(f"(depth {depth!r})", hint=f"One of: {', '.join(DEPTHS)}.")
    sampled = int(work.body.get("records", 1000)) if depth == "sampled" else None
    request = verification.request_of(sampled, full=depth == "full")
    watch = Watch(work.teller.told, work.cancelled)
    work.teller.phase("verify")
    if work.body.get("point"):
        report = verification.verify_point(work.places.storages, work.text("point"), request, watch)
    else:
        report = verification.verify_storage(
            work.places.storages, work.text("storage"), request, watch
        )
    return verification.fields(report)


def repair(work: Work) -> Result:
    """Repair chains of a storage from another one."""
    watch = Watch(work.teller.told, work.cancelled)
    work.teller.phase("repair")
    chain = work.body.get("chain")
    done = repairs.repair(
        work.places.storages, work.text("storage"), work.text("from"), chain, watch
    )
    return {"chains": done}


def evacuate(work: Work) -> Result:
    """Copy all points of a storage to another one, verified, and give the first one up."""
    name, to = work.text("storage"), work.text("to")
    watch = storage_evacuation.Watch(Progress(), work.cancelled)
    work.teller.phase("evacuate")
    work.teller.watch("evacuate", watch.progress)
    done = storage_evacuation.evacuate(work.places.storages, name, to, watch)
    return storage_evacuation.fields(done, name, to)


def grow(work: Work) -> Result:
    """Use all of a device that has become larger."""
    known = work.places.storages
    entry = known.registry.storage(work.text("storage"))
    before, after = known.places.grow(known.place_of(entry))
    return {"bytes_before": before, "bytes_after": after}


def probe(work: Work) -> Result:
    """Find out what a storage can do."""
    return storage_probes.probe(work.places.storages, work.text("storage"))


def delete_points(work: Work) -> Result:
    """Delete points."""
    import datetime  # noqa: PLC0415 - the type of one argument

    grace = datetime.timedelta(days=float(work.body.get("grace_days", 0)))
    return {"chains": points.delete(work.places.storages, work.texts("points"), grace)}


def mark_point(work: Work) -> Result:
    """Star a point, or take its star away."""
    found = points.star(
        work.places.storages, work.text("point"), remove=not work.body.get("starred", True)
    )
    return {"point": found.head.point, "starred": bool(work.body.get("starred", True))}


def inventory(work: Work) -> Result:
    """Return the machines of a platform."""
    name = work.text("platform")
    found: list[dict[str, Any]] = work.places.platforms.inventory(name)
    return {"platform": name, "machines": found}


def check_platform(work: Work) -> Result:
    """Ask a platform what it can do."""
    return work.places.platforms.check(work.text("platform"))


def machine(work: Work) -> Result:
    """Return the disks and network cards of a machine; never its native definition (passwords)."""
    return work.places.platforms.machine(work.text("platform"), work.text("machine"))


def reap(work: Work) -> Result:
    """Remove what dead runs left on a platform."""
    known = work.places
    storage, platform = work.text("storage"), work.text("platform")
    return reaping.reap(known.storages, known.platforms, storage, platform)
