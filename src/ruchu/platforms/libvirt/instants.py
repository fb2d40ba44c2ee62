"""Machines whose disks are served from elsewhere: defined, started, told apart.

The definition is the saved one with other disk sources, so the guest finds the hardware it knows.
"""

import contextlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping

import libvirt

from ruchu.errors import AlreadyExists, InvalidName, NotFound, Unsupported
from ruchu.model.machines import MachineSpec, Placement, ServedDisk
from ruchu.platforms.libvirt import domain_xml, images, inventory, power
from ruchu.platforms.libvirt.capture import Settings
from ruchu.platforms.libvirt.client import Client, Domain, translated
from ruchu.platforms.libvirt.hosts import Host
from ruchu.platforms.libvirt.machines import NAME, NVRAM_SUFFIX

_USER = re.compile(r"\+?(\d+):")
PROTOCOLS = frozenset({"nbd", "nfs"})


def run(
    client: Client,
    settings: Settings,
    spec: MachineSpec,
    placement: Placement,
    disks: tuple[ServedDisk, ...],
) -> str:
    """Define and start a machine from served disks; return its UUID.

    Raises:
        AlreadyExists: a machine of that name exists.
        InvalidName: a name that cannot be part of a path.
        Unsupported: a protocol that QEMU is not given.
    """
    name = placement.name or spec.name
    if not NAME.fullmatch(name):
        raise InvalidName(f"machine name {name!r}")
    if client.find(name) is not None:
        raise AlreadyExists(f"machine {name}", hint="Give it another name: --as NAME.")
    for disk in disks:
        if disk.protocol not in PROTOCOLS:
            raise Unsupported(f"(disks over {disk.protocol})")
        if disk.socket:
            images.check_socket(disk.socket)
    beside = client.find(spec.id) is not None
    with contextlib.ExitStack() as undo:
        nvram = _put_nvram(settings, spec, name, undo)
        changes = domain_xml.Changes(
            name=name,
            uuid=domain_xml.new_uuid() if beside else spec.id,
            images={disk.key: disk for disk in disks},
            vcpus=placement.vcpus,
            memory=placement.memory,
            networks=placement.networks,
            new_macs=placement.macs == "new" or beside,
            nvram=nvram,
            new_identity=beside,
            isolated=placement.isolated,
        )
        with translated(f"definition of {name}"):
            domain = client.connection().defineXML(domain_xml.restored(spec, changes))
        undo.callback(_remove, domain)
        if placement.start:
            with translated(f"start of {name}"):
                domain.create()
        undo.pop_all()
    return changes.uuid


def served_keys(domain: Domain) -> tuple[str, ...]:
    """Return the keys of the disks that a machine has from a server now."""
    with translated(f"machine {domain.name()}"):
        return tuple(_served(domain.XMLDesc(0)))


def served_disks(domain: Domain, *, now: bool = False) -> tuple[ServedDisk, ...]:
    """Return the disks that a machine has from a server now, or would have at its next start."""
    with translated(f"machine {domain.name()}"):
        live, config = domain.XMLDesc(0), domain.XMLDesc(inventory.CONFIG_FLAGS)
    later = {} if now else _served(config)
    return tuple({**later, **_served(live)}.values())


def _served(text: str) -> dict[str, ServedDisk]:
    found = {}
    for key, element in domain_xml.disk_elements(domain_xml.parse(text)):
        source = element.find("source")
        if element.get("type") != "network" or source is None:
            continue
        protocol = source.get("protocol", "")
        # A disk on a cluster that somebody added is no disk of ours.
        if protocol in PROTOCOLS:
            host = source.find("host")
            place = host.attrib if host is not None else {}
            found[key] = ServedDisk(
                key,
                protocol,
                source.get("name", ""),
                socket=place.get("socket", ""),
                host=place.get("name", ""),
            )
    return found


def source_of(domain: Domain, key: str) -> str:
    """Return where a disk of a machine lies now; empty if there is none."""
    elements = dict(domain_xml.disk_elements(domain_xml.parse(domain.XMLDesc(0))))
    return domain_xml.disk_location(elements[key]) if key in elements else ""


def require_served(domain: Domain) -> tuple[str, ...]:
    """Return the keys of the served disks, of which there must be some.

    Raises:
        NotFound: the machine has none.
    """
    keys = served_keys(domain)
    if not keys:
        raise NotFound(f"(a served disk of machine {domain.name()})")
    return keys


def moved_definition(domain: Domain, targets: Mapping[str, domain_xml.NewImage]) -> str:
    """Return the definition to keep, with new images, and those that the machine has already.

    A move of several disks that was interrupted has left some of them in the running machine only.
    """
    config = domain.XMLDesc(inventory.CONFIG_FLAGS)
    images = dict(targets)
    for key, element in domain_xml.disk_elements(domain_xml.parse(domain.XMLDesc(0))):
        path, driver = domain_xml.disk_location(element), element.find("driver")
        if key in _served(config) and element.get("type") == "file":
            image_format = driver.get("type", "raw") if driver is not None else "raw"
            images[key] = domain_xml.NewImage(path, image_format)
    return domain_xml.with_images(config, images)


def _put_nvram(settings: Settings, spec: MachineSpec, name: str, undo: contextlib.ExitStack) -> str:
    """Give the machine its own variable store; the one of the old machine stays untouched."""
    old = domain_xml.nvram_path(spec.native)
    if not old or not spec.nvram:
        return ""
    path = f"{old.rpartition('/')[0]}/{name}{NVRAM_SUFFIX}"
    if settings.host.exists(path):
        raise AlreadyExists(path, hint="Give the machine another name: --as NAME.")
    settings.host.make_directory(path.rpartition("/")[0])
    undo.callback(settings.host.remove, path)
    settings.host.write(path, spec.nvram)
    return path


def _remove(domain: Domain) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        domain.destroy()
    domain.undefineFlags(power.UNDEFINE_KEEPING_NVRAM)


def targets(domain: Domain, placement: Placement) -> dict[str, domain_xml.NewImage]:
    """Return where the served disks of a machine go.

    Raises:
        InvalidName: the directory or the format cannot be.
    """
    keys = [disk.key for disk in served_disks(domain)]
    if not keys:
        raise NotFound(f"(a served disk of machine {domain.name()})")
    return images_of(domain.name(), keys, placement)


def images_of(
    name: str, keys: Iterable[str], placement: Placement
) -> dict[str, domain_xml.NewImage]:
    """Return where the disks of a machine of that name go.

    Raises:
        InvalidName: the name, the directory or the format cannot be.
    """
    directory = placement.directory.rstrip("/")
    if not directory.startswith("/") or ".." in directory.split("/") or "\0" in directory:
        hint = "Give the full path of a directory on the host."
        raise InvalidName(f"directory {placement.directory!r}", hint=hint)
    image_format = placement.format or "qcow2"
    if image_format not in images.FORMATS:
        raise InvalidName(f"format {image_format!r}", hint="qcow2 or raw.")
    if not NAME.fullmatch(name):
        raise InvalidName(f"machine name {name!r}")
    return {
        key: domain_xml.NewImage(f"{directory}/{name}-{key}.{image_format}", image_format)
        for key in keys
    }


def begun_mark(path: str) -> str:
    """Return the path of the mark that says: the image beside it is ours, and nobody's disk yet."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.ruchu-begun"


def put_mark(host: Host, path: str) -> None:
    """Put the mark beside where an image is going to be."""
    mark = begun_mark(path)
    host.remove(mark)
    host.write(mark, b"")


def clear_begun(host: Host, image: domain_xml.NewImage) -> None:
    """Remove an image that an interrupted move has left, if its mark is there.

    Raises:
        CommandFailed: it is in use, so it stays.
    """
    mark = begun_mark(image.path)
    if not host.exists(mark):
        return
    if host.exists(image.path):
        # QEMU locks what it writes to: whatever the mark says, a living disk is never removed.
        images.information(host, image.path, image.format)
        host.remove(image.path)
    host.remove(mark)


def qemu_user(client: Client) -> str:
    """Return the number of the user that QEMU runs as; empty if it is root or not told.

    The capabilities name it in the security model `dac` (libvirt's docs/formatcaps.rst).
    """
    with translated("capabilities"):
        text = client.connection().getCapabilities()
    for model in ET.fromstring(text).findall("./host/secmodel"):  # noqa: S314 - libvirt's own
        if model.findtext("model") == "dac":
            found = _USER.match(model.findtext("baselabel") or "")
            return found[1] if found is not None and found[1] != "0" else ""
    return ""
