"""What the nodes of `console_park` answer when the server asks them something."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruchu.model import ids
from ruchu.testing import console_guests, console_park

_CHECKS = [
    {"name": "cores", "state": "ok", "detail": "16"},
    {"name": "memory", "state": "ok", "detail": "64 GiB"},
    {"name": "clock", "state": "ok", "detail": "synchronised"},
    {"name": "nbd", "state": "missing", "detail": "/dev/nbd0 is not there"},
    {"name": "qemu-nbd", "state": "ok", "detail": "qemu-nbd 8.2.2"},
    {"name": "tgtd", "state": "missing", "detail": "No such file or directory"},
]


@dataclass(slots=True)
class Answers:
    """Answers of the nodes; a sample fills it.

    Attributes:
        points: of each storage, as a node lists them.
        instants: that run; the first node has them.
    """

    points: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    instants: list[dict[str, Any]] = field(default_factory=list)

    def answers(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        """Return what answers a question, by its name."""
        guests = console_guests
        return {
            "inventory": lambda body: {"machines": console_park.machines(str(body["platform"]))},
            "platform-check": lambda body: {"platform": body["platform"], "ok": True,
                                            "checks": _CHECKS[:2]},
            "platform-offers": lambda _: guests.offers(),
            "machine": lambda body: guests.hardware(str(body["machine"])),
            "storage-make": lambda body: {"storage": _made(body)},
            "storage-look": lambda body: {
                "storages": [_looked(str(each["name"])) for each in body.get("storages", ())]
            },
            "points": self._points,
            "point-machine": lambda body: {"machine": guests.saved(self._name(body))},
            "instants": lambda _: {"instants": self.instants},
            "console-picture": lambda body: {"storage": self._storage(body),
                                             "png": guests.picture(str(body["instant"]))},
            "files-volumes": lambda _: guests.volumes(),
            "files-list": lambda body: guests.directory(str(body["key"])),
            "files-find": lambda body: guests.found(str(body["pattern"])),
            "doctor": lambda _: {"checks": _CHECKS},
        }  # fmt: skip

    def _points(self, body: Mapping[str, Any]) -> dict[str, Any]:
        found = self.points.get(str(body["storage"]), [])
        return {"points": found, "problems": [], "next": ""}

    def _name(self, body: Mapping[str, Any]) -> str:
        return next(
            (str(row["name"]) for row in self.points.get(str(body["storage"]), ())
             if row["point"] == body["point"]), "",
        )  # fmt: skip

    def _storage(self, body: Mapping[str, Any]) -> str:
        return next(
            str(each["storage"]) for each in self.instants if each["instant"] == body["instant"]
        )


def _looked(storage: str) -> dict[str, Any]:
    return {"name": storage, "problem": "", **console_park.space(storage)}


def _made(body: Mapping[str, Any]) -> dict[str, Any]:
    name = str(body["name"])
    return {
        "id": ids.new_id(), "encrypted": True, "writer": "", "location": str(body["directory"]),
        "name": name, "probe": {}, "role": body["role"], **console_park.space(name),
    }  # fmt: skip
