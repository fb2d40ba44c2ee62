"""Points as pages show them: their addresses, their marks, their sizes. Pure."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ruchu.web.language import Language, later
from ruchu.web.parts import marks
from ruchu.web.parts.marks import BAD, GOOD, QUIET, Mark

Found = Mapping[str, Any]

VERDICTS: Mapping[str, Mark] = {
    "": Mark(later("Not verified"), QUIET, "help_outline"),
    "sound": Mark(later("Sound"), GOOD, "verified"),
    "damaged": Mark(later("Damaged"), BAD, "heart_broken"),
}


def machine_address(platform: str, name: str) -> str:
    """Return the address of the points of a machine; names may hold anything."""
    return "/restore/machine?" + urlencode({"platform": platform, "name": name})


def point_address(point: str, act: str = "") -> str:
    """Return the address of a point, or of something that is done with it."""
    return f"/restore/point/{point}" + (f"/{act}" if act else "")


def platform_name(language: Language, platform: str) -> str:
    """Return what a platform is called; an image has none."""
    return platform or language.say("Image file or device")


def size_of(copy: Found) -> int:
    """Return the bytes of all disks of a point."""
    return sum(int(disk.get("size") or 0) for disk in copy["disks"])


def verdict(copies: list[Found]) -> Mark:
    """Return what verifications of a point and its copies found; damage on one counts."""
    found = {copy["verdict"] for copy in copies if copy["verified"]}
    worst = "damaged" if "damaged" in found else "sound" if found else ""
    return VERDICTS[worst]


def protection(language: Language, point: Found) -> str:
    """Return what keeps retention from a point, in words; empty: nothing."""
    found = [language.say("Starred")] if point["starred"] else []
    if point["locked_until"]:
        until = language.moment(point["locked_until"])
        found.append(language.say("Locked until {time}", time=until))
    return " · ".join(found)


def state_cell(language: Language, point: Found) -> dict[str, Any]:
    """Return the cell that says how a point is."""
    cell: dict[str, Any] = {**verdict(point["copies"]).cell(language)}
    verified = max((copy["verified"] for copy in point["copies"] if copy["verified"]), default="")
    below = [language.moment(verified)] if verified else []
    below += [text] if (text := protection(language, point)) else []
    return cell | ({"sub": " · ".join(below)} if below else {})


def stored(copies: list[Found]) -> int | None:
    """Return the bytes that a point added to the storages that hold it; None if nobody knows."""
    known = [copy["bytes_stored"] for copy in copies if copy["bytes_stored"] is not None]
    return sum(known) if known else None


def titled(language: Language, point: Found) -> str:
    """Return a point in words: its machine and its moment."""
    return f"{point['name']} · {language.moment(point['time'])}"


def kind(language: Language, point: Found) -> str:
    """Return what kind of point it is."""
    return marks.kind(language, point["kind"])
