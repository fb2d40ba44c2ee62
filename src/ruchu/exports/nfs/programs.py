"""The programs that one port answers: NFS, MOUNT and the portmapper, as tables of procedures.

What is not in them is refused in the words of RPC; so NLM (clients mount with `nolock`) and
NFSACL are answered with PROG_UNAVAIL, and NFS 2 and 4 with PROG_MISMATCH.
"""

import functools
from collections.abc import Callable

from ruchu.errors import RuchuError
from ruchu.exports.nfs import file_procedures, messages, mount, name_procedures, portmapper, rpc
from ruchu.exports.nfs.file_procedures import Service
from ruchu.exports.nfs.messages import Refused
from ruchu.exports.nfs.rpc import Exchange, Procedure, Programs
from ruchu.exports.nfs.xdr import FALSE, U32

_NfsProcedure = Callable[[Service, Exchange], None]

# Number -> what carries it out, and how many absent attributes follow the status of a failure.
_NFS: dict[int, tuple[_NfsProcedure, int]] = {
    1: (file_procedures.getattr_, 0),
    2: (file_procedures.setattr_, 2),
    3: (name_procedures.lookup, 1),
    4: (file_procedures.access, 1),
    5: (file_procedures.readlink, 1),
    6: (file_procedures.read, 1),
    7: (file_procedures.write, 2),
    8: (name_procedures.create, 2),
    9: (name_procedures.mkdir, 2),
    10: (file_procedures.refuse_write, 2),
    11: (file_procedures.refuse_write, 2),
    12: (name_procedures.remove, 2),
    13: (name_procedures.rmdir, 2),
    14: (name_procedures.rename, 4),
    15: (file_procedures.refuse_write, 3),
    16: (name_procedures.readdir, 1),
    17: (name_procedures.readdirplus, 1),
    18: (file_procedures.fsstat, 1),
    19: (file_procedures.fsinfo, 1),
    20: (file_procedures.pathconf, 1),
    21: (file_procedures.commit, 2),
}


def programs(service: Service, addresses: portmapper.Addresses) -> Programs:
    """Return what a server answers."""
    nfs = {
        number: _nfs_procedure(service, procedure, FALSE * absent)
        for number, (procedure, absent) in _NFS.items()
    }
    return {
        messages.PROGRAM: {messages.VERSION: {0: rpc.null, **nfs}},
        mount.PROGRAM: {mount.VERSION: {0: rpc.null, **mount.procedures(service.tree)}},
        portmapper.PROGRAM: portmapper.versions(addresses),
    }


def _nfs_procedure(service: Service, procedure: _NfsProcedure, failure: bytes) -> Procedure:
    return functools.partial(_carry_out, service, procedure, failure)


def _carry_out(
    service: Service, procedure: _NfsProcedure, failure: bytes, exchange: Exchange
) -> None:
    exchange.failure = failure
    try:
        procedure(service, exchange)
    except Refused as refusal:
        exchange.reply(U32.pack(refusal.status) + failure)
    except (RuchuError, OSError) as error:
        service.fail(exchange, error)
