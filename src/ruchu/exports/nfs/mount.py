"""MOUNT version 3 (RFC 1813, appendix I): a path becomes the first file handle.

The path is a secret of sorts, so EXPORT names no export, and DUMP no mount: nobody keeps count of
who has mounted.
"""

from typing import Final

from ruchu.exports.nfs.exporting import PATH_MAX
from ruchu.exports.nfs.rpc import AUTH_NONE, AUTH_SYS, Exchange, Procedure
from ruchu.exports.nfs.tree import Tree
from ruchu.exports.nfs.xdr import FALSE, U32, opaque

PROGRAM: Final = 100005
VERSION: Final = 3
_OK = U32.pack(0)
_NOENT = U32.pack(2)
_FLAVORS = U32.pack(2) + U32.pack(AUTH_SYS) + U32.pack(AUTH_NONE)


def procedures(tree: Tree) -> dict[int, Procedure]:
    """Return the procedures of the program, except NULL."""
    path = tree.export.path.encode()

    def mount(exchange: Exchange) -> None:
        asked = exchange.arguments().opaque(PATH_MAX)
        if asked.rstrip(b"/") != path:
            exchange.reply(_NOENT)
            return
        exchange.reply(_OK + opaque(tree.root.handle) + _FLAVORS)

    def unmount(exchange: Exchange) -> None:
        exchange.arguments().opaque(PATH_MAX)
        exchange.reply(b"")

    return {1: mount, 2: _empty_list, 3: unmount, 4: _nothing, 5: _empty_list}


def _empty_list(exchange: Exchange) -> None:
    """DUMP and EXPORT."""
    exchange.reply(FALSE)


def _nothing(exchange: Exchange) -> None:
    """UMNTALL."""
    exchange.reply(b"")
