"""Platforms: known by name and address, opened by the scheme of the address."""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from ruchu.errors import Unsupported, UsageError
from ruchu.operations.registry import PlatformEntry, Registry, check_name
from ruchu.platforms.contract import Platform

# Scheme of the address, up to the first `+`, and the kind of the platform.
SCHEMES = {"qemu": "libvirt"}


class Platforms:
    """The platforms of a state directory."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def add(self, name: str, uri: str, scratch: str = "") -> PlatformEntry:
        """Know a platform from now on. It need not answer now."""
        check_name(name)
        kind_of(uri)
        entry = PlatformEntry(name, uri, scratch)
        self.registry.put_platform(entry)
        return entry

    def known(self) -> list[dict[str, Any]]:
        """Return all platforms."""
        return [
            {**asdict(entry), "kind": kind_of(entry.uri)} for entry in self.registry.platforms()
        ]

    def entry(self, name: str | None) -> PlatformEntry:
        """Return a platform by its name; without one, the only one that is known."""
        return self.registry.platform(name or "")

    @contextlib.contextmanager
    def open(self, entry: PlatformEntry) -> Iterator[Platform]:
        """Open a platform for the time of the context.

        Raises:
            Unsupported: this installation cannot talk to it.
        """
        platform = _libvirt(entry)
        try:
            yield platform
        finally:
            platform.close()

    def check(self, name: str) -> dict[str, Any]:
        """Ask a platform what it can do."""
        entry = self.entry(name)
        with self.open(entry) as platform:
            found = platform.capabilities()
            machines = platform.inventory()
        return {
            "name": entry.name,
            "uri": entry.uri,
            "version": found.version,
            "changed_blocks": found.changed_blocks,
            "quiesce": found.quiesce,
            "machines": len(machines),
            "notes": list(found.notes),
        }

    def offers(self, name: str) -> dict[str, Any]:
        """Return what a platform offers to a machine that comes."""
        with self.open(self.entry(name)) as platform:
            return asdict(platform.offers())

    def inventory(self, name: str | None) -> list[dict[str, Any]]:
        """Return the machines of one platform, or of all of them."""
        entries = self.registry.platforms() if name is None else [self.entry(name)]
        if not entries:
            self.entry(None)
        found = []
        for entry in entries:
            with self.open(entry) as platform:
                found += [
                    {**asdict(machine), "state": machine.state.value, "platform": entry.name}
                    for machine in platform.inventory()
                ]
        return found

    def machine(self, name: str, machine: str) -> dict[str, Any]:
        """Return the disks and network cards of a machine, by its id or name."""
        with self.open(self.entry(name)) as platform:
            found = platform.describe(machine)
        return {
            "id": found.id,
            "name": found.name,
            "firmware": found.firmware,
            "disks": [asdict(disk) for disk in found.disks],
            "nics": [asdict(nic) for nic in found.nics],
        }


def kind_of(uri: str) -> str:
    """Return the kind of a platform by its address.

    Raises:
        UsageError: no platform has such addresses.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in SCHEMES:
        hint = "Such as qemu:///system or qemu+ssh://root@host/system."
        raise UsageError(f"(address {uri!r})", hint=hint)
    return SCHEMES[scheme]


def _libvirt(entry: PlatformEntry) -> Platform:
    try:
        from ruchu.platforms.libvirt.driver import LibvirtPlatform  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        hint = "Install Ruchu with its extra `libvirt` (libvirt-python)."
        raise Unsupported(f"({error})", hint=hint) from None
    if entry.scratch:
        return LibvirtPlatform(entry.uri, scratch_directory=entry.scratch)
    return LibvirtPlatform(entry.uri)
