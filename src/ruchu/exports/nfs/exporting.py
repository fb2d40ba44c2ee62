"""An export: what is served, where, and to whom."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ruchu.blocks.devices import BlockReader
from ruchu.errors import InvalidName, UsageError
from ruchu.units import MIB

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 1813 leaves it to the server; every file system of a hypervisor has this one.
NAME_MAX: Final = 255
# RFC 1813, appendix I: MNTPATHLEN.
PATH_MAX: Final = 1024
# 128 bits: what makes handles unforgeable must not be guessed itself.
SECRET_MIN: Final = 16
# Lock files, descriptors, NVRAM, logs. Swap files of a hypervisor belong elsewhere.
SCRATCH_BYTES_MAX: Final = 64 * MIB


@dataclass(frozen=True, slots=True)
class ExportedDisk:
    """A disk under the name that clients see; without `write` it is served read-only.

    Of `PeekingReader` and `BlockDevice` it may be either, or a `BlockReader` that never has
    anything at hand.
    """

    name: str
    device: BlockReader


@dataclass(frozen=True, slots=True)
class NfsExport:
    """What a server serves.

    NFSv3 can only claim who calls (AUTH_SYS), not prove it. What protects an export is the list of
    clients, a path that nobody can guess (the server lists it to nobody), and file handles that
    nobody can forge. Behind that, everybody may read and write: hypervisors do it as users of
    their own, and owner and modes are shown, not enforced.

    Attributes:
        path: what clients mount, such as `/ruchu-ab12cd34`.
        disks: at least the disks of a machine; clients cannot remove, rename or resize them.
        files: small read-only files beside them, such as a descriptor, by name.
        scratch: an own directory of this export for files that clients create beside the disks;
            without it they cannot. It outlives the server.
        secret: at least 16 random bytes; the same ones keep handles valid over a restart.
        clients: networks that may connect; nobody else is answered.
        owner: user id that files are shown with.
        group: group id that files are shown with.
        privileged_ports_only: refuse clients whose port is 1024 or above. Off by default: QEMU
            and other clients that do not run as root use such ports.
        scratch_max: bytes that files created by clients may take in all.

    Raises:
        InvalidName: a path or name cannot be served, or is there twice.
        UsageError: the secret is too short, or there is no client.
    """

    path: str
    disks: tuple[ExportedDisk, ...]
    files: Mapping[str, bytes]
    scratch: Path | None
    secret: bytes
    clients: tuple[Network, ...]
    owner: int = 0
    group: int = 0
    privileged_ports_only: bool = False
    scratch_max: int = SCRATCH_BYTES_MAX

    def __post_init__(self) -> None:
        encoded = self.path.encode()
        if not self.path.startswith("/") or self.path.endswith("/") or len(encoded) > PATH_MAX:
            raise InvalidName(f"({self.path!r})", hint="A path such as /ruchu-ab12cd34.")
        names = [disk.name for disk in self.disks] + list(self.files)
        for name in names:
            if names.count(name) > 1 or not is_served_name(name.encode()):
                raise InvalidName(f"({name!r})", hint="Each name once, without slashes.")
        if len(self.secret) < SECRET_MIN:
            raise UsageError(f"The secret of an export has at least {SECRET_MIN} bytes.")
        if not self.clients:
            raise UsageError("An export that no client may mount serves nothing.")

    def admits(self, address: str, port: int) -> bool:
        """Return whether a client may connect from there."""
        if self.privileged_ports_only and port >= 1024:
            return False
        found = ipaddress.ip_address(address.partition("%")[0])
        # A socket of both families shows clients of IPv4 like this.
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
            found = found.ipv4_mapped
        return any(found in network for network in self.clients)


def is_served_name(name: bytes) -> bool:
    """Return whether a name can be that of a file."""
    if name in {b"", b".", b".."} or len(name) > NAME_MAX:
        return False
    return b"/" not in name and b"\0" not in name
