"""Showing a disk as the files of an image format, without copying it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ruchu.blocks.devices import BlockReader
from ruchu.blocks.formats import qcow2_view, vhd, vhdx_view, vmdk
from ruchu.blocks.formats.mapping import ComposedDisk, Part
from ruchu.errors import UsageError

FORMATS: Final = ("raw", "qcow2", "vmdk", "vhd", "vhdx")
_SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Presented:
    """The files of an image.

    Attributes:
        files: name → content; a VMDK has two.
        main: the name of the one to open.
    """

    files: Mapping[str, BlockReader | bytes]
    main: str


def present(device: BlockReader, image_format: str, name: str) -> Presented:
    """Show a disk as an image.

    What is shown is computed as it is read, so this returns at once whatever the size of the disk.
    The disk must not change meanwhile.

    Args:
        device: the disk.
        image_format: one of `FORMATS`.
        name: of the files, without their ending.

    Raises:
        UsageError: there is no such format, or the disk is too large for it.
        InvalidName: the name is no plain file name.
    """
    vmdk.check_name(name)
    match image_format:
        case "raw":
            shown: BlockReader = device
        case "qcow2":
            shown = qcow2_view.show(device)
        case "vhd":
            shown = vhd.show_fixed(device, name)
        case "vhdx":
            shown = vhdx_view.show_fixed(device, name)
        case "vmdk":
            return _vmdk(device, name)
        case _:
            raise UsageError(f"(format {image_format!r})", hint=f"One of: {', '.join(FORMATS)}.")
    main = f"{name}.{image_format}"
    return Presented({main: shown}, main)


def _vmdk(device: BlockReader, name: str) -> Presented:
    main, flat = f"{name}.vmdk", f"{name}-flat.vmdk"
    size = -(-device.size // _SECTOR) * _SECTOR
    whole = device if size == device.size else ComposedDisk(size, [Part(0, device.size, device)])
    return Presented({main: vmdk.make_descriptor(size, flat).encode(), flat: whole}, main)
