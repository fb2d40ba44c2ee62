"""Security descriptors: in the file, or shared by number in `$Secure`.

Source: the Linux-NTFS documentation, `$Secure`: `$SII` finds by number what `$SDS` holds.
"""

import struct
import threading

from ruchu.errors import GuestDamaged, NotFound
from ruchu.guests.ntfs import attributes
from ruchu.guests.ntfs.volume import SECURE, Node, Volume

_SII, _SDS = "$SII".encode("utf-16-le"), "$SDS".encode("utf-16-le")
_ENTRY = struct.Struct("<HH12xI4xIQI")
_STORED = struct.Struct("<4xIQI")
DESCRIPTOR_MAX = 256 << 10
"""What an entry of `$SDS` can have: entries do not cross 256 KiB."""
_KNOWN_MAX = 1 << 20
_ID_AT = 52


class Descriptors:
    """Finds the security descriptors of nodes. Safe in several threads."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._places: dict[int, tuple[int, int]] | None = None
        self._lock = threading.Lock()

    def of(self, node: Node) -> bytes:
        """Return the descriptor of a node; empty if it has none.

        Raises:
            GuestDamaged: `$Secure` contradicts itself, or does not know the node's.
        """
        told = node.resident(attributes.STANDARD_INFORMATION) or b""
        number = int.from_bytes(told[_ID_AT : _ID_AT + 4], "little")
        if not number:
            return self._volume.content(node, attributes.SECURITY_DESCRIPTOR)
        with self._lock:
            if self._places is None:
                self._places = self._read_places()
            found = self._places.get(number)
        if found is None:
            raise GuestDamaged(f"($Secure has no descriptor {number})")
        return self._read(number, *found)

    def _read(self, number: int, start: int, length: int) -> bytes:
        if not _STORED.size <= length <= DESCRIPTOR_MAX:
            raise GuestDamaged(f"(security descriptor {number} of {length} bytes)")
        where = self._volume.layout(self._secure(), attributes.DATA, _SDS)
        stored = self._volume.streams.read(where, start, length)
        if _STORED.unpack_from(stored) != (number, start, length):
            raise GuestDamaged(f"(security descriptor {number} is not where $Secure says)")
        return stored[_STORED.size :]

    def _read_places(self) -> dict[int, tuple[int, int]]:
        """Return where in `$SDS` each descriptor is, by its number."""
        places = {}
        for block, starts in self._volume.index(self._secure(), _SII).nodes():
            for at in starts:
                if at + _ENTRY.size > len(block):
                    raise GuestDamaged("(an entry of $Secure is cut off)")
                _, _, number, _, start, length = _ENTRY.unpack_from(block, at)
                places[number] = start, length
            if len(places) > _KNOWN_MAX:
                raise GuestDamaged("($Secure tells more descriptors than there can be)")
        return places

    def _secure(self) -> Node:
        try:
            return self._volume.node(SECURE)
        except NotFound:
            raise GuestDamaged("($Secure is missing)") from None
