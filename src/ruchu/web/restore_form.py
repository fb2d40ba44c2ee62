"""What a form of a restore means: the body of its run, what is wrong with it, what will happen.

Nothing here asks anybody or shows anything.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ruchu.web.language import Language

# As the platforms take them; see `platforms.libvirt.machines`.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,99}")
FORMATS = ("qcow2", "raw")
PROTOCOLS = ("nbd", "nfs")
METHODS = ("hypervisor", "own")
VCPUS_MAX = 1024
MIB, GIB = 1 << 20, 1 << 30
# A slow guest boots within this; the machine runs either way.
AGENT_LIMIT_S = 300


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as a point holds it, as far as the form needs it.

    Attributes:
        name: its name.
        disks: sizes by key.
        directory: where its first disk was; empty if that was no path.
        vcpus, memory: None if they could not be read.
        networks: names, each once.
    """

    name: str
    disks: Mapping[str, int]
    directory: str = ""
    vcpus: int | None = None
    memory: int | None = None
    networks: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Bytes of all its disks."""
        return sum(self.disks.values())


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody has filled in. Empty texts and None keep what was saved.

    Attributes:
        point, storage: what is read, and from where.
        platform: where the machine goes.
        name: new one; not used with `replace`.
        replace: over the machine that is there.
        node: that does the work; empty: any.
        cache: instant: directory of the write cache.
        address, clients: instant over NFS.
        wait: instant: for the guest agent.
        The rest is as in `model.machines.Placement`.
    """

    point: str
    storage: str
    platform: str = ""
    name: str = ""
    replace: bool = False
    directory: str = ""
    format: str = ""
    vcpus: int | None = None
    memory: int | None = None
    networks: Mapping[str, str] = field(default_factory=dict)
    new_macs: bool = False
    disks: tuple[str, ...] = ()
    start: bool = False
    isolated: bool = False
    node: str = ""
    protocol: str = "nbd"
    address: str = ""
    clients: tuple[str, ...] = ()
    cache: str = ""
    wait: bool = False


def machine_of(document: Mapping[str, Any]) -> Machine:
    """Return a machine from what the API says a point holds."""
    disks = document["disks"]
    place = str(disks[0]["location"]).rpartition("/")[0] if disks else ""
    networks = dict.fromkeys(str(card["network"]) for card in document["nics"] if card["network"])
    return Machine(
        name=str(document["name"]),
        disks={str(disk["key"]): int(disk["size"]) for disk in disks},
        directory=place if place.startswith("/") else "",
        vcpus=int(document["vcpus"]),
        memory=int(document["memory"]),
        networks=tuple(networks),
    )


def machine_of_point(point: Mapping[str, Any]) -> Machine:
    """Return what the catalogue knows of the machine of a point, if nobody can read more."""
    disks = {str(disk["name"]): int(disk["size"]) for disk in point["disks"]}
    return Machine(str(point["name"]), disks)


def free_name(name: str, ending: str, taken: Sequence[str]) -> str:
    """Return a name that no machine has: the old one if it is free."""
    known = set(taken)
    if name not in known:
        return name
    number, found = 1, f"{name}-{ending}"
    while found in known:
        number += 1
        found = f"{name}-{ending}-{number}"
    return found


def restore_body(wish: Wish, machine: Machine) -> dict[str, Any]:
    """Return the body of a run of kind `restore`."""
    placement = _placement(wish, machine)
    if wish.directory and not wish.replace:
        placement["directory"] = wish.directory
    if wish.format:
        placement["format"] = wish.format
    if wish.replace:
        placement["replace"] = True
        placement.pop("name", None)
    return _body(wish, placement)


def instant_body(wish: Wish, machine: Machine) -> dict[str, Any]:
    """Return the body of a run of kind `instant`."""
    placement = _placement(replace(wish, start=True), machine)
    if wish.isolated:
        placement["isolated"] = True
    body = {**_body(wish, placement), "protocol": wish.protocol}
    if wish.cache:
        body["cache"] = wish.cache
    if wish.protocol == "nfs":
        body |= {"address": wish.address, "clients": list(wish.clients)}
    if wish.wait:
        body["agent_limit_s"] = AGENT_LIMIT_S
    return body


def _body(wish: Wish, placement: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {"point": wish.point, "storage": wish.storage}
    body |= {"platform": wish.platform, "placement": dict(placement)}
    if wish.node:
        body["nodes"] = [wish.node]
    return body


def _placement(wish: Wish, machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = {"macs": "new" if wish.new_macs else "keep"}
    if wish.name:
        found["name"] = wish.name
    if wish.vcpus is not None and wish.vcpus != machine.vcpus:
        found["vcpus"] = wish.vcpus
    if wish.memory is not None and wish.memory != machine.memory:
        found["memory"] = wish.memory
    networks = {old: new for old, new in wish.networks.items() if new and new != old}
    if networks:
        found["networks"] = networks
    if wish.disks and set(wish.disks) != set(machine.disks):
        found["disks"] = [key for key in machine.disks if key in wish.disks]
    if wish.start:
        found["start"] = True
    return found


def instant_act_body(instant: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the body of a run that goes on with an instant restore, on the node that runs it."""
    return {
        "instant": instant["instant"], "point": instant["point"], "storage": instant["storage"],
        "nodes": [instant["node"]], "platform": instant["platform"], **more,
    }  # fmt: skip


def faults(language: Language, wish: Wish, taken: Sequence[str]) -> list[str]:
    """Return what must be mended before it can begin; `taken` are the names on the platform."""
    say = language.say
    found = []
    if not wish.platform:
        found.append(say("Choose a platform."))
    if not wish.replace:
        if not wish.name:
            found.append(say("Give the machine a name."))
        elif not _NAME.fullmatch(wish.name):
            found.append(say("The name may have letters, digits, spaces and _ . + -"))
        elif wish.name in taken:
            found.append(say("A machine called {name} is on that platform.", name=wish.name))
    found += [
        say("{path} is no full path.", path=path)
        for path in (wish.directory, wish.cache)
        if path and (not path.startswith("/") or ".." in path.split("/"))
    ]
    if wish.vcpus is not None and not 1 <= wish.vcpus <= VCPUS_MAX:
        found.append(say("A machine has 1 to {most} processors.", most=VCPUS_MAX))
    if wish.memory is not None and wish.memory < MIB:
        found.append(say("A machine needs memory."))
    return found


def restore_steps(language: Language, wish: Wish, machine: Machine) -> list[str]:
    """Return what a restore will do, in sentences."""
    say = language.say
    size, place = language.size(_size(wish, machine)), wish.platform
    if wish.replace:
        found = [
            say("The machine {name} on {platform} becomes what it was at that moment.",
                name=machine.name, platform=place),
            say("Its disks are written anew ({size}) and put in place of the old ones at the end;"
                " if the restore fails before, the old ones stay.", size=size),
        ]  # fmt: skip
    else:
        found = [
            say("A new machine {name} is made on {platform}.", name=wish.name, platform=place),
            say("Its disks ({size}) are written to {place}.", size=size, place=wish.directory)
            if wish.directory
            else say("Its disks ({size}) are written to where they were.", size=size),
        ]
    found += _changes(language, wish, machine)
    found.append(
        say("It is switched on at the end.") if wish.start
        else say("It stays off until somebody switches it on.")
    )  # fmt: skip
    return found


def instant_steps(language: Language, wish: Wish, machine: Machine) -> list[str]:
    """Return what an instant restore will do, in sentences."""
    say = language.say
    found = [
        say("The machine {name} starts on {platform} within seconds. Its disks are read from the"
            " storage {storage} while it runs.",
            name=wish.name, platform=wish.platform, storage=wish.storage),
        say("What it writes goes into a write cache on the node; the point stays as it is."),
    ]  # fmt: skip
    found += _changes(language, wish, machine)
    if wish.isolated:
        found.append(say("Its network cards are there, and their cables are unplugged."))
    found.append(say("Later you move it to production while it runs, or stop it."))
    return found


def _size(wish: Wish, machine: Machine) -> int:
    return sum(size for key, size in machine.disks.items() if not wish.disks or key in wish.disks)


def _changes(language: Language, wish: Wish, machine: Machine) -> list[str]:
    """Return how the machine will differ from the one that was saved."""
    say = language.say
    placement = _placement(wish, machine)
    found = []
    if "disks" in placement:
        left = [key for key in machine.disks if key not in placement["disks"]]
        found.append(say("Without the disks {disks}.", disks=", ".join(left)))
    if "vcpus" in placement:
        found.append(say("With {count} processors instead of {before}.",
                         count=placement["vcpus"], before=language.number(machine.vcpus or 0)))  # fmt: skip
    if "memory" in placement:
        found.append(say("With {size} of memory instead of {before}.",
                         size=language.size(placement["memory"]),
                         before=language.size(machine.memory)))  # fmt: skip
    for old, new in placement.get("networks", {}).items():
        found.append(say("Cards of the network {old} are in {new}.", old=old, new=new))
    if wish.new_macs:
        found.append(say("Its network cards get new MAC addresses."))
    return found


def replaced_losses(language: Language, machine: Machine, at: str, on: str) -> list[str]:
    """Return what is lost when a machine is restored over itself."""
    say = language.say
    return [
        say("Everything that {name} on {platform} wrote after {time}.",
            name=machine.name, platform=on, time=language.moment(at)),
        say("Its settings of today: processors, memory, network cards become those of then."),
        say("The change tracking of its disks: the next backup reads them in full."),
    ]  # fmt: skip


def stopped_losses(language: Language, instant: Mapping[str, Any]) -> list[str]:
    """Return what is lost when an instant restore is stopped without keeping anything."""
    say = language.say
    found = [
        say("The machine {name} on {platform}: it is switched off at once and removed.",
            name=instant["name"], platform=instant["platform"]),
        say("Everything that it wrote since {time}.", time=language.moment(instant["since"])),
    ]  # fmt: skip
    if instant["cache_bytes"] is not None:
        found.append(say("That is {size} in the write cache.",
                         size=language.size(instant["cache_bytes"])))  # fmt: skip
    return found


def point_losses(
    language: Language, points: Sequence[Mapping[str, Any]], storage: str, left: int
) -> tuple[list[str], str]:
    """Return a line for each point that is deleted, and what stays."""
    say = language.say
    lines = [
        say("{time}: {kind}, {size} stored", time=language.moment(each["time"]),
            kind=each["kind"], size=language.size(each["bytes_stored"]))
        for each in points
    ]  # fmt: skip
    if left:
        stays = say("{count} other points of it stay on {storage}, whole and restorable.",
                    count=left, storage=storage)  # fmt: skip
    else:
        stays = say("No point of it stays on {storage}.", storage=storage)
    return lines, stays
