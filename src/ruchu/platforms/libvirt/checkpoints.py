"""Checkpoints: the moments that libvirt can tell changes since.

A checkpoint of ours notes the size of each disk in its description, so that a disk that was
resized since is found out. Checkpoints of others are never touched.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.sax import saxutils

import libvirt

from ruchu.errors import NotFound, PlatformError
from ruchu.platforms.libvirt import naming
from ruchu.platforms.libvirt.client import Checkpoint, Domain, translated

# More disks than libvirt lets a machine have on one bus; ends a loop that must end anyway.
DISKS_MAX = 1024
# libvirt: "bitmap 'B' not found in backing chain of 'vdc'".
_MISSING = re.compile(r"bitmap '[^']*' not found in backing chain of '(?P<disk>[^']+)'")
_SIZES = re.compile(r"ruchu sizes:(?P<sizes>( [A-Za-z0-9]+=\d+)*)")


@dataclass(frozen=True, slots=True)
class Moment:
    """One checkpoint: its name, disk key → bitmap name, disk key → size as noted by us."""

    name: str
    bitmaps: Mapping[str, str]
    sizes: Mapping[str, int]


def definition(name: str, tracked: Mapping[str, int], others: Iterable[str]) -> str:
    """Return the XML of a new checkpoint.

    Args:
        name: its name.
        tracked: key → size of the disks that it covers.
        others: keys of the disks that it leaves out.
    """
    sizes = "".join(f" {key}={size}" for key, size in tracked.items())
    disks = [f"<disk name={saxutils.quoteattr(key)} checkpoint='bitmap'/>" for key in tracked]
    disks += [f"<disk name={saxutils.quoteattr(key)} checkpoint='no'/>" for key in others]
    return (
        f"<domaincheckpoint><name>{saxutils.escape(name)}</name>"
        f"<description>ruchu sizes:{sizes}</description>"
        f"<disks>{''.join(disks)}</disks></domaincheckpoint>"
    )


def find(domain: Domain, name: str) -> Moment | None:
    """Return a checkpoint by its name, None if there is none."""
    try:
        with translated(f"checkpoint {name}"):
            return _moment(domain.checkpointLookupByName(name))
    except NotFound:
        return None


def since(domain: Domain, name: str) -> list[Moment]:
    """Return a checkpoint and all that came after it, ours or not, oldest first."""
    with translated(f"checkpoint {name}"):
        first = domain.checkpointLookupByName(name)
        flags = (
            libvirt.VIR_DOMAIN_CHECKPOINT_LIST_DESCENDANTS
            | libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL
        )
        return [_moment(found) for found in [first, *first.listAllChildren(flags)]]


def ours(domain: Domain, owner: str) -> list[str]:
    """Return the names of the owner's checkpoints, oldest first."""
    with translated("list of checkpoints"):
        flags = libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL
        names = [found.getName() for found in domain.listAllCheckpoints(flags)]
    return sorted(name for name in names if naming.is_checkpoint_of(name, owner))


def delete(domain: Domain, name: str) -> bool:
    """Delete a checkpoint; return whether it could be.

    It cannot while the machine is off: libvirt edits the bitmaps through the running QEMU.

    Raises:
        PlatformError: libvirt failed.
    """
    # Each round leaves out one disk whose bitmap is not there any more.
    for _ in range(DISKS_MAX):
        if not domain.isActive():
            return False
        try:
            domain.checkpointLookupByName(name).delete(0)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
                return True
            missing = _MISSING.search(str(error))
            if missing is None and domain.isActive():
                with translated(f"checkpoint {name}"):
                    raise
            if missing is not None:
                _leave_out(domain, name, missing["disk"])
        else:
            return True
    raise PlatformError(f"checkpoint {name} cannot be deleted")


def _leave_out(domain: Domain, name: str, key: str) -> None:
    """Take a disk out of a checkpoint: its bitmap is gone, or the disk itself."""
    with translated(f"checkpoint {name}"):
        found = domain.checkpointLookupByName(name)
        text = found.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE)
        root = _parse(text, name)
        covered = 0
        for disk in root.findall("./disks/disk"):
            if disk.get("name") == key:
                disk.set("checkpoint", "no")
                disk.attrib.pop("bitmap", None)
            covered += disk.get("checkpoint") == "bitmap"
        if covered:
            flags = libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE
            domain.checkpointCreateXML(ET.tostring(root, encoding="unicode"), flags)
        else:
            found.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def prune(domain: Domain, owner: str, keep: Iterable[str]) -> list[str]:
    """Delete the owner's checkpoints that are not in `keep`; return the deleted names."""
    kept = set(keep)
    return [name for name in ours(domain, owner) if name not in kept and delete(domain, name)]


def _moment(checkpoint: Checkpoint) -> Moment:
    text = checkpoint.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN)
    root = _parse(text, checkpoint.getName())
    bitmaps = {
        disk.get("name", ""): disk.get("bitmap") or checkpoint.getName()
        for disk in root.findall("./disks/disk")
        if disk.get("checkpoint") == "bitmap"
    }
    noted = _SIZES.fullmatch((root.findtext("description") or "").strip())
    sizes = dict(pair.split("=") for pair in noted["sizes"].split()) if noted else {}
    return Moment(checkpoint.getName(), bitmaps, {key: int(size) for key, size in sizes.items()})


def _parse(text: str, name: str) -> ET.Element:
    try:
        return ET.fromstring(text)  # noqa: S314 - from libvirt itself
    except ET.ParseError as error:
        raise PlatformError(f"checkpoint {name}: {error}") from error
