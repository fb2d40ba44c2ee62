"""Reads machines: the list of all, and one in full."""

import libvirt

from ruchu.errors import NotFound, PlatformError
from ruchu.model.machines import MachineSpec, MachineSummary
from ruchu.platforms.libvirt import domain_xml, quiesce
from ruchu.platforms.libvirt.client import Connection, Domain, translated
from ruchu.platforms.libvirt.hosts import Host

# The definition that is kept holds passwords (VNC, SPICE): a machine restored without them would
# be open to anybody. Whoever stores a MachineSpec stores them.
CONFIG_FLAGS = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


def summaries(connection: Connection) -> list[MachineSummary]:
    """Return a line for each machine.

    Raises:
        PlatformError: the list is not whole.
    """
    with translated("list of machines"):
        host = connection.getHostname()
        found = [_summary(domain, host) for domain in connection.listAllDomains(0)]
    return sorted((line for line in found if line is not None), key=lambda line: line.name)


def describe(domain: Domain, host: Host) -> MachineSpec:
    """Return one machine: its disks as they are now, its definition as it will be started.

    Raises:
        PlatformError: it cannot be read in full.
    """
    with translated(f"machine {domain.name()}"):
        config = domain.XMLDesc(CONFIG_FLAGS)
        live = domain.XMLDesc(0) if domain.isActive() else config
        store = domain_xml.nvram_path(config)
        # It is made at the first start; before that there is nothing to keep.
        nvram = host.read(store) if store and host.exists(store) else b""
        return domain_xml.machine_spec(config, live, lambda key: _size(domain, key), nvram)


def _summary(domain: Domain, host: str) -> MachineSummary | None:
    try:
        text = domain.XMLDesc(0)
        state = quiesce.state(domain)
    except libvirt.libvirtError as error:
        # It was removed between the listing and now: it is not there.
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    tags: tuple[str, ...] = ()
    sizes: dict[str, int] = {}
    for key, element in domain_xml.disk_elements(domain_xml.parse(text)):
        if domain_xml.disk_location(element):
            try:
                sizes[key] = _size(domain, key)
            except NotFound:
                # Removed meanwhile, as above.
                return None
            except PlatformError:
                # One missing image must not hide the machine, nor all others.
                sizes[key] = 0
                tags += (f"unreadable:{key}",)
    spec = domain_xml.machine_spec(text, text, lambda key: sizes[key])
    return MachineSummary(
        id=spec.id,
        name=spec.name,
        state=state,
        vcpus=spec.vcpus,
        memory=spec.memory,
        disk_count=len(sizes),
        disk_size=sum(sizes.values()),
        host=host,
        tags=tags,
    )


def _size(domain: Domain, key: str) -> int:
    with translated(f"disk {key} of {domain.name()}"):
        return int(domain.blockInfo(key)[0])
