"""The display of a running machine, as a picture."""

import contextlib

import libvirt

from ruchu.errors import PlatformError, SourceBusy, Unsupported
from ruchu.platforms import pictures
from ruchu.platforms.libvirt import domain_xml
from ruchu.platforms.libvirt.client import Client, translated

_PART = 1 << 18


def picture(client: Client, machine: str) -> bytes:
    """Return what a machine's first display shows, as PNG.

    Raises:
        NotFound: there is no such machine.
        SourceBusy: it does not run.
        Unsupported: it has no display.
        PlatformError: it could not be taken.
    """
    domain = client.domain(machine)
    with translated(f"display of {machine}"):
        if not domain.isActive():
            raise SourceBusy(f"({domain.name()} does not run)")
        if domain_xml.parse(domain.XMLDesc(0)).find("devices/video") is None:
            raise Unsupported(f"({domain.name()} has no display)")
        stream = client.connection().newStream()
        try:
            domain.screenshot(stream, 0, 0)
            content = _read(stream)
            stream.finish()
        except BaseException:
            with contextlib.suppress(libvirt.libvirtError):
                stream.abort()
            raise
    return pictures.png(content)


def _read(stream: libvirt.virStream) -> bytes:
    content = bytearray()
    while part := stream.recv(_PART):
        content += part
        if len(content) > pictures.SOURCE_BYTES_MAX:
            raise PlatformError("(the picture of the display is too large)")
    return bytes(content)
