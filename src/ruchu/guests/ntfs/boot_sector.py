"""The boot sector of NTFS: where everything begins.

Source: the Linux-NTFS documentation (flatcap.github.io/linux-ntfs), `$Boot`.
"""

import struct
from dataclasses import dataclass

from ruchu.errors import GuestDamaged

BOOT_BYTES = 512
"""What of the boot sector holds fields, whatever the size of a sector is."""
CLUSTER_MAX = 2 << 20
"""Windows 10 1709 and later; before, 64 KiB."""
RECORD_MAX = 64 << 10
"""Records are 1 or 4 KiB in the wild; more than their fix-ups can name would be damage."""

_FIELDS = struct.Struct("<3x8sHB26xQQQb3xb3xQ")


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes and first places of a volume.

    Attributes:
        sector: bytes of a sector.
        sectors: sectors of the volume, without the backup of the boot sector behind them.
        cluster: bytes of a cluster.
        clusters: whole clusters of the volume.
        record: bytes of an MFT record.
        index: bytes of an index block of a directory.
        table: cluster where the MFT begins.
        mirror: cluster where the copy of its first records begins.
        serial: serial number of the volume.
    """

    sector: int
    sectors: int
    cluster: int
    clusters: int
    record: int
    index: int
    table: int
    mirror: int
    serial: int

    @property
    def size(self) -> int:
        """Bytes that the volume says it spans, with the backup of the boot sector."""
        return (self.sectors + 1) * self.sector


def looks_like_ntfs(head: bytes) -> bool:
    """Tell whether 512 bytes from the start of a volume are a boot sector of NTFS."""
    return len(head) >= BOOT_BYTES and head[3:11] == b"NTFS    " and head[510:512] == b"\x55\xaa"


def parse(head: bytes, size: int) -> Geometry:
    """Return the geometry that a boot sector tells.

    Args:
        head: the first 512 bytes of the volume.
        size: bytes of the device that it lies on.

    Raises:
        GuestDamaged: it is no boot sector of NTFS, or contradicts itself or the device.
    """
    if not looks_like_ntfs(head):
        raise GuestDamaged("(no boot sector of NTFS)")
    _, sector, per_cluster, sectors, table, mirror, record, index, serial = _FIELDS.unpack_from(
        head
    )
    if sector not in {256, 512, 1024, 2048, 4096}:
        raise GuestDamaged(f"(the boot sector tells sectors of {sector} bytes)")
    # More than 128 sectors do not fit: then it is a negative power of two.
    factor = per_cluster if per_cluster <= 128 else 1 << (256 - per_cluster)
    cluster = sector * factor
    if not _power_between(cluster, 256, CLUSTER_MAX):
        raise GuestDamaged(f"(the boot sector tells clusters of {cluster} bytes)")
    geometry = Geometry(
        sector=sector,
        sectors=sectors,
        cluster=cluster,
        clusters=sectors // factor,
        record=_sized(record, cluster, "MFT records"),
        index=_sized(index, cluster, "index blocks"),
        table=table,
        mirror=mirror,
        serial=serial,
    )
    if sectors * sector > size or not sectors:
        raise GuestDamaged(f"(the volume tells {sectors} sectors, the device has {size} bytes)")
    if table >= geometry.clusters:
        raise GuestDamaged(f"(the MFT would begin at cluster {table} of {geometry.clusters})")
    return geometry


def _sized(told: int, cluster: int, what: str) -> int:
    """Return bytes: a positive number counts clusters, a negative one is a power of two."""
    size = told * cluster if told > 0 else 1 << min(-told, 62)
    if not _power_between(size, 512, RECORD_MAX if what == "MFT records" else CLUSTER_MAX):
        raise GuestDamaged(f"(the boot sector tells {what} of {size} bytes)")
    return size


def _power_between(number: int, least: int, most: int) -> bool:
    return least <= number <= most and not number & (number - 1)
