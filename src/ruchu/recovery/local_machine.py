"""The QEMU command line for a machine that runs on this host. Pure: no I/O.

The options are QEMU's own manual, system/invocation.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ruchu.errors import Unsupported, UsageError
from ruchu.model.machines import MachineSpec

PROGRAM = "qemu-system-x86_64"
# Where distributions put the firmware of UEFI machines: code, and an empty variable store.
FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)
CONSOLES = ("serial", "vnc", "none")
NETWORKS = ("none", "user")
_PATH_UNSAFE = re.compile(r"[,\0\n]")
# It comes out of a backup, and becomes a part of an option.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_BUSES = {
    "virtio": ("virtio-blk-pci", ""),
    "scsi": ("scsi-hd", "virtio-scsi-pci"),
    "sata": ("ide-hd", "ich9-ahci"),
    "ide": ("ide-hd", ""),
    "usb": ("usb-storage", "qemu-xhci"),
}


@dataclass(frozen=True, slots=True)
class Wish:
    """How a machine is run.

    Attributes:
        vcpus, memory: None keeps; memory in bytes.
        console: `serial`, `vnc` or `none`.
        network: `none`, or `user` (QEMU's own network: out, never in).
        kvm: use KVM.
    """

    vcpus: int | None = None
    memory: int | None = None
    console: str = "none"
    network: str = "none"
    kvm: bool = False


def arguments(
    spec: MachineSpec, wish: Wish, directory: Path, firmware: tuple[Path, Path] | None
) -> list[str]:
    """Return the command line; disks are read from the NBD exports at `directory`/disks.sock.

    Args:
        spec: the machine.
        wish: what is different here.
        directory: for sockets and the log of the console.
        firmware: UEFI code, and the machine's own copy of the variable store.

    Raises:
        UsageError: a wish that cannot be.
        Unsupported: the machine has another processor, or a disk that QEMU is not given.
    """
    if wish.console not in CONSOLES or wish.network not in NETWORKS:
        raise UsageError(f"(--console {wish.console}, --network {wish.network})")
    for path in (directory, *(firmware or ())):
        # QEMU's options are lists with commas.
        if _PATH_UNSAFE.search(str(path)):
            raise UsageError(f"({path}: no commas, please)")
    root = _native(spec)
    machine = _machine_type(root)
    memory = wish.memory if wish.memory is not None else spec.memory
    args = [PROGRAM, "-name", spec.name.replace(",", "_"), "-nodefaults", "-no-user-config"]
    args += ["-machine", f"{machine},accel={'kvm' if wish.kvm else 'tcg'}"]
    args += ["-cpu", "host" if wish.kvm else "max"]
    args += ["-smp", str(wish.vcpus or spec.vcpus), "-m", f"{max(1, memory >> 20)}M"]
    if firmware is not None:
        args += ["-drive", f"if=pflash,format=raw,readonly=on,file={firmware[0]}"]
        args += ["-drive", f"if=pflash,format=raw,file={firmware[1]}"]
    args += _direct_boot(root)
    args += _disks(spec, machine, directory)
    args += _console(wish.console, directory)
    if wish.network == "user":
        model = spec.nics[0].model if spec.nics else "virtio"
        if not _MODEL.fullmatch(model or "virtio"):
            raise Unsupported(f"(a network card {model[:80]!r})")
        device = "virtio-net-pci" if model in {"virtio", ""} else model
        args += ["-netdev", "user,id=net0", "-device", f"{device},netdev=net0"]
    args += ["-device", "virtio-serial-pci"]
    args += ["-chardev", f"socket,id=agent,path={directory}/agent.sock,server=on,wait=off"]
    args += ["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    args += ["-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"]
    return args


def firmware_files(exists: Callable[[str], bool]) -> tuple[str, str]:
    """Return UEFI code and an empty variable store of this host.

    Raises:
        Unsupported: there are none.
    """
    for code, store in FIRMWARE:
        if exists(code) and exists(store):
            return code, store
    raise Unsupported("(no UEFI firmware is installed here)", hint="Install the package ovmf.")


def _native(spec: MachineSpec) -> ET.Element | None:
    """Return the libvirt definition of the machine; None if it comes from elsewhere."""
    text = spec.native
    if spec.platform != "libvirt" or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        return ET.fromstring(text)  # noqa: S314 - no entity is expanded
    except ET.ParseError:
        return None


def _machine_type(root: ET.Element | None) -> str:
    found = root.find("./os/type") if root is not None else None
    if found is None:
        return "q35"
    if found.get("arch", "x86_64") not in {"x86_64", "i686"}:
        raise Unsupported(f"(a machine with a processor {found.get('arch')})")
    return (
        "pc"
        if found.get("machine", "pc").startswith(("pc-i440fx", "pc"))
        and ("q35" not in found.get("machine", ""))
        else "q35"
    )


def _direct_boot(root: ET.Element | None) -> list[str]:
    """Return the options for a kernel that the host gave to the machine, if it is here, too."""
    if root is None:
        return []
    kernel = (root.findtext("./os/kernel") or "").strip()
    if not kernel:
        return []
    args = ["-kernel", kernel]
    for tag, option in (("initrd", "-initrd"), ("cmdline", "-append")):
        if text := (root.findtext(f"./os/{tag}") or "").strip():
            args += [option, text]
    return args


def _disks(spec: MachineSpec, machine: str, directory: Path) -> list[str]:
    args: list[str] = []
    added: set[str] = set()
    for number, disk in enumerate(spec.disks):
        if disk.bus not in _BUSES:
            raise Unsupported(f"(disk {disk.key} on bus {disk.bus})")
        device, controller = _BUSES[disk.bus]
        if machine == "q35" and disk.bus == "ide":
            controller = "ich9-ahci"
        if controller and controller not in added:
            added.add(controller)
            args += ["-device", f"{controller},id={controller}"]
        node = {
            "driver": "raw", "node-name": f"disk{number}", "discard": "unmap",
            "file": {
                "driver": "nbd", "export": disk.key, "reconnect-delay": 300,
                "server": {"type": "unix", "path": f"{directory}/disks.sock"},
            },
        }  # fmt: skip
        args += ["-blockdev", json.dumps(node)]
        front = {"driver": device, "drive": f"disk{number}", "id": f"front{number}"}
        if disk.serial and device != "usb-storage":
            front["serial"] = disk.serial
        if controller == "ich9-ahci":
            front["bus"] = f"{controller}.{number}"
        args += ["-device", json.dumps(front)]
    return args


def _console(console: str, directory: Path) -> list[str]:
    if console == "serial":
        return ["-display", "none", "-serial", "mon:stdio"]
    args = ["-serial", f"file:{directory}/console.log"]
    if console == "vnc":
        # A socket that only this user may open: no password can be guessed or listened to.
        return ["-device", "VGA", *args, "-display", f"vnc=unix:{directory}/vnc.sock"]
    return ["-display", "none", *args]
