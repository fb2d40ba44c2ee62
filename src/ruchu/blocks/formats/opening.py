"""Opening an image of any format that is known here, as the disk that a guest sees in it."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ruchu.blocks.devices import BlockReader
from ruchu.blocks.files import FileReader
from ruchu.blocks.formats import qcow2, vhd, vhdx, vmdk
from ruchu.blocks.formats.mapping import ComposedDisk, Part, read_bytes
from ruchu.errors import ImageDamaged, NotFound, Unsupported, UsageError

RAW: Final = "raw"
# By how an image begins. A fixed VHD begins with what the guest wrote: see `format_of`.
_MAGICS: Final = {
    qcow2.MAGIC: "qcow2",
    vmdk.SPARSE_MAGIC: "vmdk",
    vmdk.ESX_MAGIC: "vmdk",
    vmdk.DESCRIPTOR_MAGIC: "vmdk",
    vhdx.FILE_MAGIC: "vhdx",
    vhd.COOKIE: "vhd",
}
DETECT_BYTES: Final = 32
Open = Callable[[str], BlockReader]


def detect(first_bytes: bytes) -> str:
    """Return the format of an image by its first 32 bytes; "raw" if they are nothing special."""
    for magic, name in _MAGICS.items():
        if first_bytes.startswith(magic):
            return name
    return RAW


def format_of(source: BlockReader) -> str:
    """Return the format of an image: `detect`, and a look at the end, where a fixed VHD says so."""
    found = detect(read_bytes(source, 0, min(DETECT_BYTES, source.size)))
    if found == RAW and vhd.find_footer(source) is not None:
        return "vhd"
    return found


@contextlib.contextmanager
def open_image(path: Path, *, backing: BlockReader | None = None) -> Iterator[BlockReader]:
    """Open an image file, or a block device, as the disk in it; nothing is written.

    A device is raw whatever it begins with: what a guest wrote there must not decide.

    Args:
        path: the image; of a VMDK with several files, its descriptor.
        backing: the disk below a qcow2 image with a backing file. It is never opened because the
            image names it.

    Raises:
        NotFound, UsageError: there is no such image.
        ImageDamaged: it contradicts itself.
        Unsupported: it needs what is not known here, such as its parent.
        InvalidName: a descriptor names files elsewhere.
    """
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(FileReader(path))
        if not stat.S_ISREG(path.stat().st_mode):
            yield source
            return

        def beside(name: str) -> BlockReader:
            sibling = path.with_name(vmdk.check_name(name))
            _check_regular(sibling)
            return stack.enter_context(FileReader(sibling))

        yield read_image(source, format_of(source), backing=backing, beside=beside)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files that an image consists of, the one to open first; a device is by itself.

    Raises:
        NotFound, UsageError, ImageDamaged, Unsupported, InvalidName: see `open_image`.
    """
    with FileReader(path) as source:
        first = read_bytes(source, 0, min(DETECT_BYTES, source.size))
        if not path.is_file() or not first.startswith(vmdk.DESCRIPTOR_MAGIC):
            return (path,)
        extents = vmdk.parse_descriptor(_descriptor(source))
    names = dict.fromkeys(extent.name for extent in extents if extent.name)
    return (path, *(path.with_name(name) for name in names))


def _check_regular(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise NotFound(f"({path}: {error.strerror})") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"({os.fspath(path)} is not a file of its own)")


def _nothing_beside(name: str) -> BlockReader:
    raise Unsupported(f"(an image that needs another file, {name!r})")


def read_image(
    source: BlockReader,
    image_format: str,
    *,
    backing: BlockReader | None = None,
    beside: Open = _nothing_beside,
) -> BlockReader:
    """Return the disk in an image of a known format.

    Args:
        source: the image.
        image_format: "raw", "qcow2", "vmdk", "vhd" or "vhdx".
        backing: the disk below a qcow2 image that has one.
        beside: opens the files that a VMDK descriptor names.

    Raises:
        ImageDamaged: the image contradicts itself.
        Unsupported: it needs what is not known here.
        UsageError: there is no such format.
    """
    match image_format:
        case "raw":
            return source
        case "qcow2":
            return qcow2.Qcow2Disk(source, backing)
        case "vhd":
            return vhd.open_vhd(source)
        case "vhdx":
            return vhdx.VhdxDisk(source)
        case "vmdk":
            return _open_vmdk(source, beside)
        case _:
            hint = "One of: raw, qcow2, vmdk, vhd, vhdx."
            raise UsageError(f"(format {image_format!r})", hint=hint)


def _open_vmdk(source: BlockReader, beside: Open) -> BlockReader:
    first = read_bytes(source, 0, min(DETECT_BYTES, source.size))
    if first.startswith(vmdk.SPARSE_MAGIC):
        return vmdk.SparseVmdk(source)
    if not first.startswith(vmdk.DESCRIPTOR_MAGIC):
        hint = "Make one file of it: `qemu-img convert -O vmdk SOURCE TARGET`."
        raise Unsupported("(a VMDK of an old ESX server)", hint=hint)
    parts, at = [], 0
    for extent in vmdk.parse_descriptor(_descriptor(source)):
        if extent.kind != "ZERO":
            parts.append(_vmdk_part(extent, at, beside))
        at += extent.size
    return ComposedDisk(at, parts)


def _descriptor(source: BlockReader) -> str:
    if source.size > vmdk.DESCRIPTOR_MAX:
        raise ImageDamaged(f"(a VMDK descriptor of {source.size} bytes)")
    return read_bytes(source, 0, source.size).partition(b"\0")[0].decode(errors="replace")


def _vmdk_part(extent: vmdk.DiskExtent, start: int, beside: Open) -> Part:
    file = beside(extent.name)
    reader: BlockReader = vmdk.SparseVmdk(file) if extent.kind == "SPARSE" else file
    if extent.kind == "SPARSE" and reader.size < extent.size:
        raise ImageDamaged(f"({extent.name} holds {reader.size} bytes of {extent.size})")
    return Part(start, extent.size, reader, extent.offset)
