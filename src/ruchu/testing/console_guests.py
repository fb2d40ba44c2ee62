"""What is inside the machines of `console_park`: disks, network cards, files, what they display."""

import base64
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from ruchu.model import guest_paths
from ruchu.testing import console_park
from ruchu.units import GIB

_WIDE, _HIGH, _CELL = 640, 400, (8, 16)
_VOLUMES = (("vda1", "vfat", "EFI", GIB // 2), ("vda2", "ext4", "root", 60 * GIB),
            ("vg0-data", "xfs", "data", 400 * GIB))  # fmt: skip
# Directories of the data volume and of all below it.
_TREE: Mapping[str, Sequence[tuple[str, int | None]]] = {
    "/vg0-data": (("contracts", None), ("drawings", None), ("export", None), ("payroll", None),
                  ("README.txt", 1873)),
    "/vg0-data/contracts": (("2025", None), ("2026", None), ("合同模板.docx", 48_120)),
    "/vg0-data/contracts/2026": (
        ("supplier-0117.pdf", 812_330), ("supplier-0118.pdf", 1_204_877),
        ("租赁合同-北京.pdf", 2_310_002), ("overview.xlsx", 96_411)),
    "/vg0-data/drawings": (("line-3.dwg", 18_240_112), ("line-4.dwg", 21_002_876)),
    "/vda2": (("etc", None), ("home", None), ("srv", None), ("var", None)),
    "/vda2/etc": (("fstab", 612), ("hosts", 221), ("passwd", 1742), ("ssh", None)),
}  # fmt: skip


def hardware(machine: str) -> dict[str, Any]:
    """Return the disks and network cards of a machine, as its platform tells them."""
    known = _machine(machine)
    disk = {"size": known["disk_size"], "format": "qcow2", "bus": "virtio", "serial": "",
            "tracked": True}  # fmt: skip
    return {
        "id": known["id"], "name": known["name"], "firmware": "uefi",
        "disks": [{**disk, "key": "vda", "location": f"/var/lib/libvirt/images/{known['name']}.qcow2"}],
        "nics": [{"mac": "52:54:00:6b:3c:58", "network": "servers", "model": "virtio",
                  "kind": "network"}],
    }  # fmt: skip


def saved(machine: str) -> dict[str, Any]:
    """Return the machine that a point holds."""
    known = _machine(machine)
    more = {key: known[key] for key in ("vcpus", "memory")}
    return {**hardware(machine), **more, "platform": "libvirt"}


def offers() -> dict[str, Any]:
    """Return what a platform offers to a machine that comes."""
    return {
        "networks": ["default", "isolated", "servers"],
        "places": [
            {"name": "images", "path": "/var/lib/libvirt/images", "free": 2300 * GIB},
            {"name": "fast", "path": "/srv/nvme/images", "free": 640 * GIB},
        ],
    }  # fmt: skip


def _machine(name: str) -> Mapping[str, Any]:
    everything = [each for site in console_park.PLATFORMS for each in console_park.machines(site)]
    return next((each for each in everything if name in {each["name"], each["id"]}), everything[0])


# ------------------------------------------------------------------------------------------ files


def volumes() -> dict[str, Any]:
    """Return the volumes of a point."""
    return {
        "volumes": [
            {"name": name, "key": guest_paths.key_of(f"/{name}".encode()), "kind": kind,
             "size": size, "label": label, "uuid": console_park.identity(name), "role": "",
             "readable": True, "reason": "", "notes": []}
            for name, kind, label, size in _VOLUMES
        ]
    }  # fmt: skip


def directory(key: str) -> dict[str, Any]:
    """Return a directory of a point."""
    path = guest_paths.path_of(key).decode()
    entries = [_entry(path, name, size) for name, size in _TREE.get(path, ())]
    return {"path": path, "key": key, "entries": entries, "total": len(entries), "next": None,
            "cut": False, "problem": ""}  # fmt: skip


def found(pattern: str) -> dict[str, Any]:
    """Return what a search in a point found."""
    word = pattern.strip("*").lower()
    entries = [
        _entry(path, name, size)
        for path, listed in _TREE.items()
        for name, size in listed
        if word in name.lower()
    ]
    return {"entries": entries, "complete": True, "stopped": "", "failed": 0, "problems": []}


def _entry(above: str, name: str, size: int | None) -> dict[str, Any]:
    path = f"{above}/{name}"
    return {
        "name": name, "path": path, "key": guest_paths.key_of(path.encode()),
        "kind": "directory" if size is None else "file", "size": size,
        "modified": "2026-10-14T08:12:44.000000Z", "mode": "drwxr-xr-x" if size is None else "-rw-r--r--",
        "owner": 0, "group": 0, "target": None, "problem": "",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------- display


def picture(instant: str) -> str:
    """Return what a display shows, as PNG in base 64: something like a console after a start."""
    draw = random.Random(instant)  # noqa: S311 - data that only looks real
    rows = [bytearray(_WIDE) for _ in range(_HIGH)]
    lines = draw.randrange(12, 20)
    for line in range(lines):
        for cell in range(draw.randrange(12, 60)):
            if draw.random() < 0.85:
                _letter(rows, (cell, line), draw)
    return base64.b64encode(_png(rows)).decode()


def _letter(rows: Sequence[bytearray], at: tuple[int, int], draw: random.Random) -> None:
    wide, high = _CELL
    for row in range(4, high - 3):
        for column in range(1, wide - 2):
            if draw.random() < 0.34:
                rows[at[1] * high + row][at[0] * wide + column] = 200


def _png(rows: Sequence[bytearray]) -> bytes:
    def piece(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", _WIDE, _HIGH, 8, 0, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", head) + piece(b"IDAT", content) + piece(b"IEND", b"")
    )
