"""What pages of platforms, machines, nodes and storages have in common: rows and words. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ruchu.clock import from_text
from ruchu.web.calling import part
from ruchu.web.language import Language, later
from ruchu.web.parts import marks
from ruchu.web.parts.listing import Act
from ruchu.web.parts.marks import BAD, BUSY, GOOD, QUIET, WARN, Mark

# Beyond this, a newest point is old enough to be pointed at; what a policy wants is its RPO.
STALE = timedelta(days=3)
# Tags that a line shows; all of them are on the page of the machine.
TAGS_SHOWN = 4
# Shares of a load that are marked.
BUSY_SHARE, FULL_SHARE = 0.8, 0.95

UNPROTECTED = Mark(later("Not protected"), WARN, "gpp_maybe")
PROTECTED = Mark(later("Protected"), GOOD, "verified_user")
ENABLED = Mark(later("Active"), GOOD, "check_circle")
SUSPENDED = Mark(later("Switched off"), QUIET, "pause_circle")
NODES: Mapping[str, Mark] = {
    "online": Mark(later("Connected"), GOOD, "link"),
    "late": Mark(later("Silent"), WARN, "hourglass_bottom"),
    "lost": Mark(later("Away"), BAD, "link_off"),
    "incompatible": Mark(later("Incompatible"), BAD, "sync_problem"),
    "revoked": Mark(later("Revoked"), QUIET, "block"),
    "enrolled": Mark(later("Not seen yet"), QUIET, "hourglass_empty"),
    "expected": Mark(later("To be enrolled"), QUIET, "hourglass_empty"),
}
IN_MAINTENANCE = Mark(later("In maintenance"), WARN, "build")
PLATFORM_FINE = Mark(later("Reachable"), GOOD, "check_circle")
PLATFORM_BROKEN = Mark(later("Cannot be listed"), BAD, "error")
PLATFORM_NEW = Mark(later("Not listed yet"), QUIET, "hourglass_empty")
STORAGE_FINE = Mark(later("Ready"), GOOD, "check_circle")
STORAGE_BROKEN = Mark(later("Out of reach"), BAD, "error")
STORAGE_LOW = Mark(later("Low on room"), WARN, "warning")
STORAGE_FULL = Mark(later("No room left"), BAD, "report")
STORAGE_LEAVING = Mark(later("Being moved out"), BUSY, "drive_file_move")
STORAGE_LEFT = Mark(later("Moved out"), QUIET, "drive_file_move")
GUARDED = Mark(later("Guarded"), GOOD, "shield")
NOT_GUARDED = Mark(later("Not guarded"), QUIET, "remove_moderator")
GUARD_BROKEN = Mark(later("Guard broken"), BAD, "gpp_bad")
PROTECT, BACK_UP = "protect", "back-up"


def machine_address(machine: Mapping[str, Any]) -> str:
    """Return the address of the page of a machine."""
    return f"/machines/{part(machine['platform'])}/{part(machine['id'])}"


def protect_address(machine: Mapping[str, Any]) -> str:
    """Return the address where a policy for a machine is made."""
    return f"/policies/new?platform={part(machine['platform'])}&machine={part(machine['id'])}"


def machine_row(
    language: Language, shown: Mapping[str, Any], now: datetime, *, may_operate: bool
) -> dict[str, Any]:
    """Return a machine as a row of a table."""
    machine, policies = shown["machine"], shown["policies"]
    about = [machine["platform"], machine["host"], *machine["tags"][:TAGS_SHOWN]]
    acts = []
    if may_operate and any(each["enabled"] for each in policies):
        acts.append(Act(BACK_UP, language.say("Back up now"), "play_arrow").cell())
    elif may_operate and not shown["protected"]:
        acts.append(Act(PROTECT, language.say("Protect"), "add_moderator").cell())
    return {
        "id": f"{machine['platform']}/{machine['id']}",
        "name": {
            "text": machine["name"], "link": machine_address(machine),
            "sub": " · ".join(filter(None, about)),
        },
        "state": marks.of(marks.MACHINES, machine["state"]).cell(language),
        "size": language.size(machine["disk_size"]),
        "newest": newest_cell(language, shown["newest"], now),
        "protection": protection_cell(language, shown),
        "acts": acts,
    }  # fmt: skip


def newest_cell(language: Language, newest: str | None, now: datetime) -> dict[str, Any]:
    """Return a cell that says how old the newest point is."""
    if newest is None:
        return {"text": "–"}
    old = now - from_text(newest) > STALE
    cell: dict[str, Any] = {"text": language.ago(newest, now), "sub": language.moment(newest)}
    return {**cell, "tone": WARN, "icon": "schedule"} if old else cell


def protection_cell(language: Language, shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell that says which policies select a machine."""
    policies = shown["policies"]
    if not shown["protected"]:
        cell: dict[str, Any] = UNPROTECTED.cell(language)
        if policies:
            names = ", ".join(each["name"] for each in policies)
            cell["sub"] = language.say("switched off: {names}", names=names)
        return cell
    active = [each for each in policies if each["enabled"]]
    if not active:
        return PROTECTED.cell(language)
    more = len(active) - 1
    link = {"text": active[0]["name"], "link": f"/policies/{active[0]['id']}"}
    return {**link, "sub": language.say("and {count} more", count=more)} if more else link


def share_cell(language: Language, share: float, text: str = "", sub: str = "") -> dict[str, Any]:
    """Return a cell with a bar; its tone grows with what is taken."""
    kept = min(max(share, 0.0), 1.0)
    tone = BAD if share >= FULL_SHARE else WARN if share >= BUSY_SHARE else ""
    cell = {"text": text or language.percent(kept), "bar": kept, "tone": tone}
    return {**cell, "sub": sub} if sub else cell


def node_mark(node: Mapping[str, Any]) -> Mark:
    """Return the mark of a node."""
    if node["maintenance"] and node["state"] == "online":
        return IN_MAINTENANCE
    return marks.of(NODES, node["state"])


def node_load(node: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the shares of processors and memory that a node uses; None where it did not say."""
    facts, load = node["facts"], node["load"]
    cores, memory = facts.get("cores"), facts.get("memory")
    available = load.get("memory_available")
    busy = float(load["load_1"]) / float(cores) if cores and "load_1" in load else None
    used = 1 - float(available) / float(memory) if memory and available is not None else None
    return busy, used


def storage_mark(storage: Mapping[str, Any]) -> Mark:
    """Return the mark of a storage: what is wrong comes first."""
    state = storage["facts"].get("state")
    if state in {"evacuating", "evacuated"}:
        return STORAGE_LEAVING if state == "evacuating" else STORAGE_LEFT
    if storage["problem"]:
        return STORAGE_BROKEN
    used = used_share(storage)
    if used is not None and used * 100 >= storage["stop_percent"]:
        return STORAGE_FULL
    if used is not None and used * 100 >= storage["warn_percent"]:
        return STORAGE_LOW
    return STORAGE_FINE


def used_share(storage: Mapping[str, Any]) -> float | None:
    """Return the share of a storage that is full; None if there is no telling."""
    size, free = storage["size"], storage["free"]
    return None if not size or free is None else (size - free) / size


def use_cell(language: Language, storage: Mapping[str, Any], stored: int) -> dict[str, Any]:
    """Return a cell that says how full a storage is: by its limits, not by all of its room."""
    used = used_share(storage)
    if used is None:
        return {"text": language.size(stored), "sub": language.say("no limit of its own")}
    tone = {STORAGE_FULL: BAD, STORAGE_LOW: WARN}.get(storage_mark({**storage, "problem": ""}), "")
    size = language.size(storage["size"])
    taken = language.size(storage["size"] - storage["free"])
    text = language.say("{used} of {size}", used=taken, size=size)
    return {"text": text, "bar": used, "tone": tone, "sub": language.percent(used)}


def reduction(use: Mapping[str, Any]) -> float | None:
    """Return how many times less the points of a storage take than what was read for them."""
    if not use["bytes_stored"] or not use["bytes_read"]:
        return None
    return float(use["bytes_read"]) / float(use["bytes_stored"])


def reduction_text(language: Language, use: Mapping[str, Any]) -> str:
    """Return the data reduction for people."""
    times = reduction(use)
    return "–" if times is None else language.say("{times} : 1", times=language.number(times, 1))


def guard_mark(
    storage: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]],
    alarms: Sequence[Mapping[str, Any]],
) -> Mark | None:  # fmt: skip
    """Return how a storage is guarded; None if it lies where there is no guard."""
    if "://" in storage["location"] and not storage["location"].startswith("file://"):
        return None
    name = storage["name"]
    if any(each["subject"] == name and each["code"].startswith("guard-") for each in alarms):
        return GUARD_BROKEN
    guarded = any(name in (node["load"].get("guarded") or ()) for node in nodes)
    return GUARDED if guarded else NOT_GUARDED


def disk_row(language: Language, disk: Mapping[str, Any]) -> dict[str, Any]:
    """Return a disk as its platform describes it."""
    tracked = language.say("tracked") if disk["tracked"] else language.say("compared in full")
    return {
        "id": disk["key"], "name": {"text": disk["key"], "sub": disk["location"]},
        "size": language.size(disk["size"]), "format": f"{disk['format']}, {disk['bus']}",
        "tracked": tracked,
    }  # fmt: skip


def point_row(language: Language, point: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a point of a machine."""
    found = []
    if point["starred"]:
        found.append(language.say("starred"))
    if point["locked_until"]:
        found.append(language.say("locked until {day}", day=language.day(point["locked_until"])))
    if point["verdict"]:
        sound = point["verdict"] == "sound"
        found.append(language.say("verified") if sound else language.say("damaged"))
    return {
        "id": f"{point['id']}/{point['storage']}",
        "name": {"text": language.moment(point["time"]), "link": f"/restore?point={point['id']}",
                 "sub": language.ago(point["time"], now)},
        "kind": marks.kind(language, point["kind"]), "stored": language.size(point["bytes_stored"]),
        "storage": {"text": point["storage"], "link": f"/storages/{part(point['storage'])}"},
        "marks": ", ".join(found) or "–",
    }  # fmt: skip
