"""What a host offers to a machine that comes: networks, and places for its disks."""

import libvirt

from ruchu.platforms.contract import Offers, Place
from ruchu.platforms.libvirt import domain_xml
from ruchu.platforms.libvirt.client import Connection, translated

_AVAILABLE = 3  # in what `virStoragePoolGetInfo` answers


def offers(connection: Connection) -> Offers:
    """Return the networks of a host, and its storage pools that are directories."""
    with translated("networks and storage pools"):
        networks = sorted(network.name() for network in connection.listAllNetworks(0))
        flag = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
        pools = connection.listAllStoragePools(flag)
        found = []
        for pool in pools:
            try:
                target = domain_xml.parse(pool.XMLDesc(0)).findtext("target/path") or ""
                free = int(pool.info()[_AVAILABLE])
            except libvirt.libvirtError:
                continue  # It was stopped between the listing and now: it is none any more.
            # A pool of a volume group has a path, too, and images are no files there.
            if target.startswith("/") and not target.startswith("/dev"):
                found.append(Place(pool.name(), target, free))
    return Offers(tuple(networks), tuple(sorted(found, key=lambda place: place.name)))
