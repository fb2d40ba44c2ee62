"""The portmapper, version 2 (RFC 1057, appendix A), and GETADDR of rpcbind 3 and 4 (RFC 1833).

It knows the programs of this server only, and TCP only; nothing can be registered.
"""

import ipaddress
import struct
from collections.abc import Callable, Mapping
from typing import Final

from ruchu.exports.nfs import messages, mount, rpc
from ruchu.exports.nfs.rpc import Exchange, Procedure
from ruchu.exports.nfs.xdr import FALSE, TRUE, U32, opaque

PROGRAM: Final = 100000
PORT: Final = 111
_TCP = 6
_MAPPING = struct.Struct(">4I")
# A netid, a universal address, an owner.
_TEXT_MAX = 256

# Returns address and port of the server.
Addresses = Callable[[], tuple[str, int]]

_SERVED = {messages.PROGRAM: messages.VERSION, mount.PROGRAM: mount.VERSION}


def versions(addresses: Addresses) -> Mapping[int, Mapping[int, Procedure]]:
    """Return the procedures of each version."""

    def port(program: int, version: int) -> int:
        if program == PROGRAM:
            return PORT
        return addresses()[1] if _SERVED.get(program) == version else 0

    def get_port(exchange: Exchange) -> None:
        program, version, protocol, _ = _MAPPING.unpack_from(exchange.record, exchange.at)
        exchange.reply(U32.pack(port(program, version) if protocol == _TCP else 0))

    def dump(exchange: Exchange) -> None:
        entries = [*_SERVED.items(), (PROGRAM, 2)]
        listed = [
            TRUE + _MAPPING.pack(program, version, _TCP, port(program, version))
            for program, version in entries
        ]
        exchange.reply(b"".join(listed) + FALSE)

    def get_address(exchange: Exchange) -> None:
        arguments = exchange.arguments()
        program, version = arguments.u32(), arguments.u32()
        netid = arguments.opaque(_TEXT_MAX)
        found = port(program, version)
        host = addresses()[0]
        if not found or netid != _netid(host):
            exchange.reply(opaque(b""))
            return
        exchange.reply(opaque(f"{host}.{found >> 8}.{found & 255}".encode()))

    old: dict[int, Procedure] = {0: rpc.null, 1: _refuse, 2: _refuse, 3: get_port, 4: dump}
    new: dict[int, Procedure] = {0: rpc.null, 1: _refuse, 2: _refuse, 3: get_address}
    return {2: old, 3: new, 4: new}


def _refuse(exchange: Exchange) -> None:
    """SET and UNSET: nobody registers anything here."""
    exchange.reply(FALSE)


def _netid(host: str) -> bytes:
    return b"tcp6" if ipaddress.ip_address(host).version == 6 else b"tcp"
