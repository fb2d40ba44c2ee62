"""What pages show of files inside points: addresses, icons, rows. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from ruchu.clock import from_text
from ruchu.model import guest_paths
from ruchu.web.language import NOTHING, Language, later
from ruchu.web.parts import saved_points

Found = Mapping[str, Any]
ROWS = 100
ADDRESS_MAX = 24_000
"""Characters of an address; the server takes headers of 32 KiB, with the cookie in them."""
ROOT = guest_paths.key_of(b"/")

# Value in the address → what it sorts by, whether the last come first, what it is called.
SORTS: Mapping[str, tuple[str, bool, str]] = {
    "name": ("name", False, later("Name, A to Z")),
    "-name": ("name", True, later("Name, Z to A")),
    "-size": ("size", True, later("Largest first")),
    "size": ("size", False, later("Smallest first")),
    "-modified": ("modified", True, later("Newest first")),
    "modified": ("modified", False, later("Oldest first")),
}
KINDS: Mapping[str, tuple[str, str]] = {
    "file": ("description", later("File")),
    "directory": ("folder", later("Folder")),
    "symlink": ("link", later("Link")),
    "character-device": ("memory", later("Device")),
    "block-device": ("memory", later("Device")),
    "fifo": ("sync_alt", later("Pipe")),
    "socket": ("sync_alt", later("Socket")),
    "other": ("help_outline", later("Something else")),
}
_FETCHED = {"file", "directory", "symlink"}
_WITH_SIZE = {"file"}
_MODES = re.compile("[0-7]{3,4}")


def address(point: str, key: str = "", **query: Any) -> str:
    """Return the address of a directory of a point, or of a search in it."""
    pairs = {"key": key, **query}
    chosen = {name: value for name, value in pairs.items() if value}
    base = saved_points.point_address(point, "files")
    return f"{base}?{urlencode(chosen)}" if chosen else base


def content_address(point: str, keys: Sequence[str], storage: str = "", form: str = "") -> str:
    """Return the address of the content of files."""
    pairs = [("key", key) for key in keys]
    pairs += [(name, value) for name, value in (("format", form), ("storage", storage)) if value]
    return f"/api/v1/points/{point}/files/content?{urlencode(pairs)}"


def image_address(point: str, disk: str, form: str, storage: str = "") -> str:
    """Return the address of the image of a disk."""
    part = urlencode({"": disk})[1:].replace("+", "%20")
    pairs = {"format": form, **({"storage": storage} if storage else {})}
    return f"/api/v1/points/{point}/disks/{part}/image?{urlencode(pairs)}"


def crumbs(key: str) -> list[tuple[str, str]]:
    """Return name and key of each directory above, and of this one, from the volume on."""
    path = guest_paths.path_of(key).strip(b"/")
    if not path:
        return []
    parts = path.split(b"/")
    return [
        (_text(part), guest_paths.key_of(b"/" + b"/".join(parts[: number + 1])))
        for number, part in enumerate(parts)
    ]


def _text(name: bytes) -> str:
    return visible(guest_paths.sound(name.decode("utf-8", "backslashreplace")))


def above(key: str) -> str:
    """Return the key of the directory above; that of the volumes where there is none."""
    path = guest_paths.path_of(key).rstrip(b"/").rpartition(b"/")[0]
    return guest_paths.key_of(path or b"/")


def pattern_of(text: str) -> str:
    """Return the pattern for what a person typed: a part of a name, unless it is a pattern."""
    text = text.strip()
    return text if any(each in text for each in "*?[/") else f"*{text}*"


def visible(name: str) -> str:
    """Return a name as it may be shown: nothing in it is unseen, or turns what follows round."""
    return "".join(
        each if each.isprintable() else "".join(f"\\x{byte:02x}" for byte in each.encode())
        for each in name
    )


def row(language: Language, point: str, entry: Found, *, whole: bool, storage: str = "") -> Found:
    """Return the row of a file; `whole`: with the directory that it is in, as a search shows it."""
    icon, kind = KINDS.get(entry["kind"], KINDS["other"])
    goes_in = entry["kind"] == "directory"
    sub = [f"→ {visible(entry['target'])}"] if entry["target"] is not None else []
    if whole:
        sub.append(visible(entry["path"].rpartition("/")[0]) or "/")
    if entry["problem"]:
        sub.append(entry["problem"])
    target = content_address(point, [entry["key"]], storage) if _may_fetch(entry) else ""
    return {
        "id": entry["key"], "icon": icon, "kind": language.say(kind), "name": visible(entry["name"]),
        "sub": " · ".join(sub), "bad": bool(entry["problem"]),
        "link": address(point, entry["key"], storage=storage) if goes_in else "",
        "size": language.size(entry["size"]) if entry["kind"] in _WITH_SIZE else "",
        "modified": moment(language, entry["modified"]),
        "rights": rights(entry), "content": target,
    }  # fmt: skip


def _may_fetch(entry: Found) -> bool:
    return entry["kind"] in _FETCHED and not entry["problem"]


def moment(language: Language, at: str | None) -> str:
    """Return when a file was changed; times of guests have nanoseconds, and may be any."""
    if not at:
        return NOTHING
    try:
        return language.moment(from_text(at[:19] + ".000000Z"))
    except (ValueError, OverflowError):
        return at[:10]


def rights(entry: Found) -> str:
    """Return mode and owner as an administrator of a guest reads them."""
    mode = entry["mode"]
    if mode is None or not _MODES.fullmatch(mode):
        return NOTHING
    return f"{mode} · {entry['owner']}:{entry['group']}"


def named(rows: Sequence[Found], chosen: Sequence[str], most: int = 8) -> list[str]:
    """Return the names of what was chosen, the first of them."""
    names = [str(each["name"]) for each in rows if each["id"] in set(chosen)]
    return names if len(names) <= most else [*names[:most], f"… (+{len(names) - most})"]


def is_directory_of_guest(text: str) -> bool:
    """Tell whether a text is an absolute path in a machine, of Linux or Windows."""
    return text.startswith("/") or re.match(r"[A-Za-z]:[\\/]", text) is not None
