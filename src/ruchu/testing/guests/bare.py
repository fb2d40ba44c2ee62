"""A machine of libvirt that has a disk and a display, and nothing to boot."""

import contextlib
import os
from collections.abc import Iterator

from ruchu.platforms.libvirt import domain_xml
from ruchu.testing.guests import builder
from ruchu.testing.guests import guest as guests


@contextlib.contextmanager
def machine(uri: str, image: os.PathLike[str]) -> Iterator[str]:
    """Define a machine that is off; yield its name. All whose names begin with it go at the end.

    Args:
        uri: of libvirt.
        image: of its disk: qcow2.
    """
    import libvirt  # noqa: PLC0415 - an extra

    identity = domain_xml.new_uuid()
    name = f"ruchu-r-{identity[:8]}"
    connection = libvirt.open(uri)
    try:
        connection.defineXML(
            f"<domain type='{builder.machine_type()}'><name>{name}</name><uuid>{identity}</uuid>"
            "<memory unit='MiB'>32</memory><vcpu>1</vcpu>"
            "<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>"
            f"<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
            f"<source file='{os.fspath(image)}'/><target dev='vda' bus='virtio'/></disk>"
            "<video><model type='vga'/></video><memballoon model='none'/></devices></domain>"
        )
        yield name
        for domain in connection.listAllDomains(0):
            if domain.name().startswith(name):
                guests.remove(uri, domain.UUIDString())
    finally:
        connection.close()
