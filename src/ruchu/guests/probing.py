"""What a volume holds, told by its signatures.

File systems that can be read are recognised by their own packages; what only has to be named is in
a table here. Sources: the superblock structures in the Linux kernel (`include/uapi/linux/magic.h`,
`drivers/md/md_p.h`, `kernel/power/swap.c`, `drivers/md/bcache.c`), cryptsetup's LUKS on-disk
formats 1.1 and 2, lvm2 `lib/format_text/layout.h`, libbde's description of BitLocker, the layouts
that OpenZFS, Apple and Microsoft publish,
VMFS as `libblkid` tells it, `sys/ufs/ffs/fs.h` of FreeBSD, the DDF specification of SNIA.
"""

from collections.abc import Sequence

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged
from ruchu.guests import btrfs, ext, fat, ntfs, xfs
from ruchu.guests.contract import Opener
from ruchu.guests.volume_reading import VolumeReader

OPENERS: Sequence[Opener] = (ext, xfs, btrfs, ntfs, fat)

_PAGES = (4096, 8192, 16384, 65536)
_EMPTY_PROBE = 1 << 20
_SWAP = (b"SWAPSPACE2", b"SWAP-SPACE")
_HIBERNATED = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001", b"\xed\xc3\x02\xe9\x98\x56")
# Kind, where, what: a position below zero counts from the end.
_MAGICS: tuple[tuple[str, int, bytes], ...] = (
    ("luks", 0, b"LUKS\xba\xbe"),
    ("luks", 0x4000, b"SKUL\xba\xbe"),
    ("bitlocker", 3, b"-FVE-FS-"),
    # BitLocker To Go hides behind a boot sector that looks like FAT: its GUID tells.
    ("bitlocker", 424, bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")),
    ("mdraid", 0, b"\xfc\x4e\x2b\xa9"),
    ("mdraid", 4096, b"\xfc\x4e\x2b\xa9"),
    ("refs", 3, b"ReFS\0\0\0\0"),
    ("apfs", 32, b"NXSB"),
    ("hfsplus", 1024, b"H+\0\x04"),
    ("hfsplus", 1024, b"HX\0\x05"),
    ("squashfs", 0, b"hsqs"),
    ("iso9660", 0x8001, b"CD001"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    ("jfs", 0x8000, b"JFS1"),
    ("reiserfs", 0x10034, b"ReIsEr"),
    ("bcache", 4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("vdo", 0, b"dmvdo001"),
    ("stratis", 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    # Those that leave standing what lay at the start before, so that it looks like that.
    ("gfs2", 0x10000, b"\x01\x16\x19\x70"),
    ("ocfs2", 2048, b"OCFSV2"),
    ("ocfs2", 4096, b"OCFSV2"),
    ("ocfs2", 8192, b"OCFSV2"),
    ("ufs", 0x55C, b"\x19\x01\x54\x19"),
    ("ufs", 0x2000 + 0x55C, b"\x54\x19\x01\x00"),
    ("ufs", 0x10000 + 0x55C, b"\x19\x01\x54\x19"),
    ("ufs", 0x40000 + 0x55C, b"\x19\x01\x54\x19"),
    ("vmfs", 0x100000, b"\x0d\xd0\x01\xc0"),
    ("vmfs", 0x200000, b"\x5e\xf1\xab\x2f"),
    ("udf", 0x8001, b"BEA01"),
    ("reiserfs", 0x2034, b"ReIsEr"),
    ("vxfs", 1024, b"\xf5\xfc\x01\xa5"),
    ("bcachefs", 4096 + 24, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    ("bluestore", 0, b"bluestore block device"),
    ("oracle-asm", 32, b"ORCLDISK"),
    ("lvm1-pv", 0, b"HM\x01\x00"),
    ("lvm1-pv", 0, b"HM\x02\x00"),
    ("lvm-snapshot-store", 0, b"SnAp"),
    ("dm-integrity", 0, b"integrt\0"),
    ("dm-verity", 0, b"verity\0\0"),
    ("intel-raid", -1024, b"Intel Raid ISM Cfg Sig. "),
    ("ddf-raid", -512, b"\xde\x11\xde\x11"),
    ("ddf-raid", -512, b"\x11\xde\x11\xde"),
)
_LABEL_SECTORS = 4
_ZFS_MAGIC = (b"\x0c\xb1\xba\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c")
_ZFS_LABEL = 256 << 10
_ZFS_UBERBLOCKS = 128 << 10


def kinds(device: BlockReader) -> tuple[str, ...]:
    """Return every kind whose signature the volume carries; usually one or none.

    Also `lvm-pv`, `swap`, `luks`, `bitlocker`, `mdraid` and names of what cannot be read.
    """
    volume = VolumeReader(device)
    found = {kind for kind, at, magic in _MAGICS if _has(volume, at, magic)}
    if any(_has(volume, 512 * number, b"LABELONE") for number in range(_LABEL_SECTORS)):
        found.add("lvm-pv")
    if swap_page(device):
        found.add("swap")
    if _is_md_at_end(volume):
        found.add("mdraid")
    if _is_zfs(volume):
        found.add("zfs")
    # What hides behind the boot sector of another file system is only that.
    if "bitlocker" not in found:
        found |= {kind for opener in OPENERS if (kind := opener.recognise(device))}
    return tuple(sorted(found))


def opener_of(kind: str, device: BlockReader) -> Opener | None:
    """Return the module that reads volumes of a kind; None if none does."""
    return next((opener for opener in OPENERS if opener.recognise(device) == kind), None)


def swap_page(device: BlockReader) -> int:
    """Return the bytes of the header page of swap space, 0 if it is none.

    A hibernated system has put its signature in the place of the other one.
    """
    volume = VolumeReader(device)
    for page in _PAGES:
        if any(_has(volume, page - 10, magic) for magic in (*_SWAP, *_HIBERNATED)):
            return page
    return 0


def hibernated(device: BlockReader) -> bool:
    """Return whether swap space holds the memory of a hibernated system."""
    page = swap_page(device)
    return any(_has(VolumeReader(device), page - 10, magic) for magic in _HIBERNATED)


def looks_empty(device: BlockReader) -> bool:
    """Return whether the first and the last MiB are zeros."""
    volume = VolumeReader(device)
    length = min(_EMPTY_PROBE, volume.size)
    return not any(volume.read(0, length)) and not any(volume.read(volume.size - length, length))


def _has(volume: VolumeReader, at: int, magic: bytes) -> bool:
    try:
        return volume.read(at if at >= 0 else volume.size + at, len(magic)) == magic
    except GuestDamaged:
        return False


def _is_md_at_end(volume: VolumeReader) -> bool:
    """Return whether superblock 0.90 or 1.0 of a Linux RAID member is there."""
    old = (volume.size & ~0xFFFF) - 0x10000
    newer = (volume.size - 8192) & ~0xFFF
    return any(
        at > 0 and _has(volume, at, magic)
        for at in (old, newer)
        for magic in (b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc")
    )


def _is_zfs(volume: VolumeReader) -> bool:
    """Return whether the first label has an uberblock; they are in slots of 1 KiB or more."""
    if volume.size < 4 * _ZFS_LABEL:
        return False
    ring = volume.read(_ZFS_UBERBLOCKS, _ZFS_LABEL - _ZFS_UBERBLOCKS)
    return any(ring[at : at + 8] in _ZFS_MAGIC for at in range(0, len(ring), 1024))
