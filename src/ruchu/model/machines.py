"""Machines and their disks, in words that fit every platform."""

import enum
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk of a machine.

    Attributes:
        key: the platform's stable name of the disk inside the machine, such as `vda`.
        size: bytes the guest sees.
        format: image format on the platform, such as `qcow2` or `raw`.
        location: where it lies on the platform (path or volume), for people and for restore.
        bus: how the guest sees it, such as `virtio` or `scsi`.
        serial: serial number the guest sees, empty if none.
        tracked: whether the platform can track changed blocks of it.
    """

    key: str
    size: int
    format: str
    location: str
    bus: str = "virtio"
    serial: str = ""
    tracked: bool = True


@dataclass(frozen=True, slots=True)
class NicSpec:
    """One network card: its MAC address, network (or bridge) name, model."""

    mac: str
    network: str
    model: str = "virtio"
    kind: str = "network"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """A machine, neutrally, with its native configuration verbatim.

    Attributes:
        id: the platform's stable identity (UUID) of the machine.
        name: what people call it.
        vcpus: number of virtual processors.
        memory: bytes.
        firmware: `bios` or `uefi`.
        disks: the disks that hold data (no CD-ROM, no floppy).
        nics: the network cards.
        native: the platform's own configuration, verbatim (libvirt: the inactive domain XML).
        nvram: content of the UEFI variable store, empty if none or unreadable.
        platform: name of the platform kind, such as `libvirt`.
    """

    id: str
    name: str
    vcpus: int
    memory: int
    firmware: str
    disks: tuple[DiskSpec, ...]
    nics: tuple[NicSpec, ...]
    native: str
    nvram: bytes = b""
    platform: str = "libvirt"


class PowerState(enum.Enum):
    """Whether a machine runs."""

    RUNNING = "running"
    PAUSED = "paused"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """A line of an inventory. `disk_size` in bytes, of all disks."""

    id: str
    name: str
    state: PowerState
    vcpus: int
    memory: int
    disk_count: int
    disk_size: int
    host: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """How a restored machine shall differ from the one that was saved.

    Attributes:
        name: new name; empty keeps the old one.
        directory: where new disk images are created on the host.
        replace: overwrite the machine of the same name or identity (it must be off).
        vcpus, memory: None keeps (memory in bytes).
        networks: old network name -> new network name.
        macs: `keep` or `new`.
        disks: keys of the disks to restore; empty means all.
        format: image format of new disks; empty keeps the old one.
        start: power it on afterwards.
        isolated: every network card is there, and its link is down.
    """

    name: str = ""
    directory: str = ""
    replace: bool = False
    vcpus: int | None = None
    memory: int | None = None
    networks: dict[str, str] = field(default_factory=dict)
    macs: str = "keep"
    disks: tuple[str, ...] = ()
    format: str = ""
    start: bool = False
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class ServedDisk:
    """Where a hypervisor reaches a disk that Ruchu serves, raw.

    Attributes:
        key: the disk's key in the machine.
        protocol: `nbd` or `nfs`.
        path: NBD: name of the export. NFS: absolute path of the file on the server.
        socket: unix socket on the hypervisor's host; empty for TCP.
        host, port: TCP address; NFS is found through the portmapper of the host.
    """

    key: str
    protocol: str
    path: str
    socket: str = ""
    host: str = ""
    port: int = 0
