"""What platforms are called, how their addresses look, what they can do, in words. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ruchu.web.language import Language, later


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a platform.

    Attributes:
        name: of the way.
        title: in English.
        icon: name of a Material icon.
        example: of an address.
        help: what the address says, and what the host needs.
    """

    name: str
    title: str
    icon: str
    example: str
    help: str


WAYS: tuple[Way, ...] = (
    Way("local", later("KVM on the host of a node"), "computer", "qemu:///system",
        later("The node and the machines are on the same host. The node needs the right to use "
              "libvirt there: run it as root.")),
    Way("ssh", later("KVM over SSH"), "vpn_key", "qemu+ssh://root@kvm-1.example.com/system",
        later("A user and a host; the user may use libvirt there. The node signs in with the SSH "
              "key of its own user, and must know the host's key: try “ssh root@host” on the node "
              "once.")),
    Way("tls", later("KVM over TLS"), "lock", "qemu+tls://kvm-1.example.com/system",
        later("The host runs libvirt with its TLS port, and the node has a client certificate in "
              "/etc/pki/libvirt.")),
)  # fmt: skip


def way(name: str) -> Way:
    """Return a way by its name."""
    return next(each for each in WAYS if each.name == name)


def kind(uri: str) -> str:
    """Return what a platform is called, by its address, in English."""
    scheme = urlsplit(uri).scheme
    for each in WAYS:
        if scheme == urlsplit(each.example).scheme:
            return each.title
    return later("KVM") if scheme.partition("+")[0] == "qemu" else scheme


def can(language: Language, check: Mapping[str, Any]) -> Sequence[tuple[str, bool]]:
    """Return what a platform can do, as sentences, and whether each is good news."""
    say = language.say
    tracks, quiet = bool(check.get("changed_blocks")), bool(check.get("quiesce"))
    machines = language.number(int(check.get("machines") or 0))
    found = [
        (say("It answers: {version}, {count} machines.", version=check.get("version") or "?",
             count=machines), True),
        (say("It tracks changed blocks: increments read only what changed.") if tracks
         else say("It does not track changed blocks: increments read whole disks."), tracks),
        (say("Guests can be asked to write out their data: points are consistent.") if quiet
         else say("Guests cannot be asked to write out their data."), quiet),
    ]  # fmt: skip
    return [*found, *((str(note), False) for note in check.get("notes") or ())]
