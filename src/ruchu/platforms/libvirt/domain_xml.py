"""Domain XML: read it into a machine, and write it for a restored one. No libvirt, no I/O.

The format is libvirt's docs/formatdomain.rst.
"""

import secrets
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ruchu.errors import PlatformError
from ruchu.model import ids
from ruchu.model.machines import DiskSpec, MachineSpec, NicSpec, ServedDisk

# Formats that can hold a dirty bitmap across a restart of the machine.
TRACKED_FORMATS = frozenset({"qcow2"})
# libvirt's own limit for a definition that a client may send.
XML_MAX = 16 * 1024 * 1024
_UNITS = {"b": 1, "bytes": 1, "KB": 10**3, "k": 2**10, "KiB": 2**10, "MB": 10**6, "M": 2**20}
_UNITS |= {"MiB": 2**20, "GB": 10**9, "G": 2**30, "GiB": 2**30, "TB": 10**12, "T": 2**40}
_UNITS |= {"TiB": 2**40}
# A guest waits so long for a server that went away: an export is started again within seconds.
# libvirt 9.0 and older leave this out; then QEMU holds the machine, which goes on when resumed.
RECONNECT_S = 300
_ON_ERROR = {"error_policy": "stop", "rerror_policy": "stop"}
# What a disk element keeps besides its source and driver when its image moves.
_DISK_STATE = ("backingStore", "mirror", "auth", "source", "encryption", "transient")


@dataclass(frozen=True, slots=True)
class NewImage:
    """The image of a restored disk: path and format."""

    path: str
    format: str


@dataclass(frozen=True, slots=True)
class Changes:
    """How the definition of a restored machine differs.

    Attributes:
        name, uuid: of the new machine.
        images: disk key → image; a disk that is not named is left out.
        vcpus, memory: None keeps; memory in bytes.
        networks: old network or bridge → new one.
        new_macs: give each card a new address.
        nvram: path of the new variable store, empty for none.
        new_identity: the machine stands beside the old one.
        isolated: the links of all cards are down.
    """

    name: str
    uuid: str
    images: Mapping[str, "NewImage | ServedDisk"]
    vcpus: int | None = None
    memory: int | None = None
    networks: Mapping[str, str] = field(default_factory=dict)
    new_macs: bool = False
    nvram: str = ""
    new_identity: bool = False
    isolated: bool = False


def new_uuid() -> str:
    """Return a fresh random UUID, as libvirt writes it."""
    return str(uuid.UUID(hex=ids.new_id(), version=4))


def parse(text: str) -> ET.Element:
    """Return the root of a domain definition.

    Raises:
        PlatformError: it is no domain definition.
    """
    # Definitions come out of backups too: no entity is ever expanded.
    if len(text) > XML_MAX or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise PlatformError("this domain definition is oversized or has a document type")
    try:
        root = ET.fromstring(text)  # noqa: S314 - checked above
    except ET.ParseError as error:
        raise PlatformError(f"domain definition: {error}") from error
    if root.tag != "domain":
        raise PlatformError(f"a <{root.tag}> is no domain definition")
    return root


def disk_elements(root: ET.Element) -> Iterator[tuple[str, ET.Element]]:
    """Yield key and element of the disks that hold data."""
    for element in root.findall("./devices/disk"):
        key = _attribute(element, "target", "dev")
        if element.get("device", "disk") in {"disk", "lun"} and key:
            yield key, element


def disk_location(element: ET.Element) -> str:
    """Return where a disk's image lies; empty if nothing is inserted."""
    source = element.find("source")
    if source is None:
        return ""
    if source.get("protocol"):
        return f"{source.get('protocol')}:{source.get('name', '')}"
    if source.get("volume"):
        return f"{source.get('pool', '')}/{source.get('volume')}"
    return source.get("file") or source.get("dev") or ""


def disk_spec(key: str, element: ET.Element, size: int) -> DiskSpec:
    """Return one disk neutrally."""
    image_format = _attribute(element, "driver", "type") or "raw"
    return DiskSpec(
        key=key,
        size=size,
        format=image_format,
        location=disk_location(element),
        bus=_attribute(element, "target", "bus") or "virtio",
        serial=(element.findtext("serial") or "").strip(),
        tracked=image_format in TRACKED_FORMATS,
    )


def nics(root: ET.Element) -> tuple[NicSpec, ...]:
    """Return the network cards."""
    found = []
    for element in root.findall("./devices/interface"):
        kind = element.get("type", "network")
        source = element.find("source")
        network = source.get(kind, source.get("dev", "")) if source is not None else ""
        found.append(
            NicSpec(
                mac=_attribute(element, "mac", "address"),
                network=network,
                model=_attribute(element, "model", "type"),
                kind=kind,
            )
        )
    return tuple(found)


def machine_spec(
    config: str, live: str, size_of: Callable[[str], int], nvram: bytes = b""
) -> MachineSpec:
    """Return a machine neutrally.

    Args:
        config: the definition to keep, of the machine when it is off.
        live: the definition to take the disks from (the same one if it is off).
        size_of: returns the size of a disk by its key.
        nvram: content of the variable store.
    """
    root = parse(config)
    disks = tuple(
        disk_spec(key, element, size_of(key))
        for key, element in disk_elements(parse(live))
        if disk_location(element)
    )
    return MachineSpec(
        id=_text(root, "uuid"),
        name=_text(root, "name"),
        vcpus=int(_text(root, "vcpu") or "1"),
        memory=_memory(root),
        firmware=_firmware(root),
        disks=disks,
        nics=nics(root),
        native=config,
        nvram=nvram,
        platform="libvirt",
    )


def nvram_path(text: str) -> str:
    """Return the path of the variable store, empty if there is none."""
    return (parse(text).findtext("./os/nvram") or "").strip()


def agent_connected(live: str) -> bool | None:
    """Return whether the guest agent is connected; None if the machine has no channel for it."""
    for target in parse(live).findall("./devices/channel/target"):
        if target.get("name") == "org.qemu.guest_agent.0":
            return target.get("state") == "connected"
    return None


def restored(spec: MachineSpec, changes: Changes) -> str:
    """Return the definition of a restored machine.

    Raises:
        PlatformError: the old definition cannot be understood.
    """
    root = parse(spec.native)
    root.attrib.pop("id", None)
    _set_text(root, "name", changes.name)
    _set_identity(root, changes)
    _set_size(root, changes)
    _set_disks(root, spec, changes.images)
    for element in root.findall("./devices/interface"):
        _set_interface(element, changes)
    store = root.find("./os/nvram")
    if store is not None and changes.nvram:
        store.attrib.clear()
        store.text = changes.nvram
    return ET.tostring(root, encoding="unicode")


def _set_identity(root: ET.Element, changes: Changes) -> None:
    _set_text(root, "uuid", changes.uuid)
    for entry in root.findall("./sysinfo/system/entry[@name='uuid']"):
        entry.text = changes.uuid
    generation = root.find("genid")
    # The generation id tells Windows that it was set back in time: new after each restore.
    if generation is not None:
        generation.text = new_uuid()


def _set_size(root: ET.Element, changes: Changes) -> None:
    if changes.vcpus is not None:
        element = _child(root, "vcpu")
        element.text = str(changes.vcpus)
        element.attrib.pop("current", None)
        # These name the old processors one by one, and would contradict the new number.
        _drop(root, "vcpus", "cputune")
        processor = root.find("cpu")
        if processor is not None:
            _drop(processor, "topology", "numa")
    if changes.memory is not None:
        for tag in ("memory", "currentMemory"):
            element = _child(root, tag)
            element.text = str(changes.memory)
            element.attrib.clear()
            element.set("unit", "b")
        _drop(root, "maxMemory", "numatune")
        processor = root.find("cpu")
        if processor is not None:
            _drop(processor, "numa")


def _set_disks(
    root: ET.Element, spec: MachineSpec, images: Mapping[str, NewImage | ServedDisk]
) -> None:
    devices = _child(root, "devices")
    present = dict(disk_elements(root))
    for key, element in present.items():
        if key not in images:
            devices.remove(element)
    for disk in spec.disks:
        if disk.key in images:
            if disk.key not in present:
                # It was plugged in while the machine ran, and is not part of the definition.
                present[disk.key] = _new_disk(devices, disk)
            _set_image(present[disk.key], images[disk.key])


def _new_disk(devices: ET.Element, disk: DiskSpec) -> ET.Element:
    element = ET.SubElement(devices, "disk", {"device": "disk"})
    ET.SubElement(element, "target", {"dev": disk.key, "bus": disk.bus})
    if disk.serial:
        ET.SubElement(element, "serial").text = disk.serial
    return element


def with_images(text: str, images: Mapping[str, NewImage]) -> str:
    """Return a definition with other images for some of its disks."""
    root = parse(text)
    for key, element in disk_elements(root):
        if key in images:
            _set_image(element, images[key])
    return ET.tostring(root, encoding="unicode")


def disk_source(image: NewImage) -> str:
    """Return the definition of a disk by its image alone, as a block copy wants it."""
    element = ET.Element("disk", {"device": "disk"})
    _set_image(element, image)
    return ET.tostring(element, encoding="unicode")


def _set_image(element: ET.Element, image: NewImage | ServedDisk) -> None:
    _drop(element, *_DISK_STATE)
    served = isinstance(image, ServedDisk)
    was_served = element.get("type") == "network"
    element.set("type", "network" if served else "file")
    driver = _child(element, "driver")
    for name, value in _ON_ERROR.items():
        if served:
            driver.set(name, value)
        elif was_served and driver.get(name) == value:
            driver.attrib.pop(name)
    driver.set("name", driver.get("name", "qemu"))
    driver.set("type", "raw" if isinstance(image, ServedDisk) else image.format)
    if isinstance(image, ServedDisk):
        element.append(_served_source(image))
        # These need a file or device of the host.
        for name in ("io", "iothread"):
            if driver.get(name) == "native":
                driver.attrib.pop(name)
    else:
        ET.SubElement(element, "source", {"file": image.path})


def _served_source(disk: ServedDisk) -> ET.Element:
    source = ET.Element("source", {"protocol": disk.protocol, "name": disk.path})
    if disk.protocol == "nfs":
        ET.SubElement(source, "host", {"name": disk.host})
        ET.SubElement(source, "identity", {"user": "+0", "group": "+0"})
        return source
    if disk.socket:
        ET.SubElement(source, "host", {"transport": "unix", "socket": disk.socket})
    else:
        ET.SubElement(source, "host", {"name": disk.host, "port": str(disk.port)})
    ET.SubElement(source, "reconnect", {"delay": str(RECONNECT_S)})
    return source


def _set_interface(element: ET.Element, changes: Changes) -> None:
    source = element.find("source")
    kind = element.get("type", "network")
    if source is not None:
        # Ports and profiles are bound to the old switch; libvirt makes new ones.
        for name in ("portid", "portgroup"):
            source.attrib.pop(name, None)
        name = kind if kind in source.attrib else "dev"
        old = source.get(name, "")
        if old in changes.networks:
            source.set(name, changes.networks[old])
    if changes.new_macs:
        _drop(element, "mac", "target")
        # 52:54:00 is the prefix that QEMU and libvirt use for such addresses.
        address = ":".join(f"{byte:02x}" for byte in b"\x52\x54\x00" + secrets.token_bytes(3))
        element.insert(0, ET.Element("mac", {"address": address}))
    if changes.isolated:
        _child(element, "link").set("state", "down")


def _memory(root: ET.Element) -> int:
    element = root.find("memory")
    if element is None or not element.text:
        raise PlatformError("a domain definition without <memory>")
    unit = element.get("unit", "KiB")
    if unit not in _UNITS:
        raise PlatformError(f"memory in {unit!r}")
    return int(element.text) * _UNITS[unit]


def _firmware(root: ET.Element) -> str:
    system = root.find("os")
    if system is None:
        return "bios"
    loader = system.find("loader")
    efi = system.get("firmware") == "efi" or (loader is not None and loader.get("type") == "pflash")
    return "uefi" if efi else "bios"


def _text(root: ET.Element, tag: str) -> str:
    return (root.findtext(tag) or "").strip()


def _attribute(element: ET.Element, tag: str, name: str) -> str:
    child = element.find(tag)
    return child.get(name, "") if child is not None else ""


def _child(root: ET.Element, tag: str) -> ET.Element:
    child = root.find(tag)
    return ET.SubElement(root, tag) if child is None else child


def _set_text(root: ET.Element, tag: str, text: str) -> None:
    _child(root, tag).text = text


def _drop(root: ET.Element, *tags: str) -> None:
    for tag in tags:
        for child in root.findall(tag):
            root.remove(child)
