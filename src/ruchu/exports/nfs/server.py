"""The server: listens, admits clients, and closes with everything durable.

It runs in the event loop of its caller. What may wait for a storage or a disk runs in threads of
its own, so one slow read holds up neither other reads nor other clients.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

from ruchu.clock import SYSTEM, Clock
from ruchu.errors import ExportError
from ruchu.exports.nfs import portmapper as portmap
from ruchu.exports.nfs import programs
from ruchu.exports.nfs.connection import Budget, Connection
from ruchu.exports.nfs.exporting import NfsExport
from ruchu.exports.nfs.file_io import Verifier
from ruchu.exports.nfs.file_procedures import OnFailure, Service
from ruchu.exports.nfs.rpc import Programs
from ruchu.exports.nfs.tree import Tree
from ruchu.exports.nfs.workers import Workers

PORT: Final = 2049
# A host opens one to four connections; each costs up to 7 MiB when it is busy.
CONNECTIONS_MAX: Final = 64
# Reads that miss wait for the storage, not for a processor: more than there are cores.
THREADS: Final = 8


def _ignore(path: str, error: Exception) -> None:
    del path, error


class NfsServer:
    """Serves one export over TCP.

    Use it as an asynchronous context manager, or call `close` in the end.

    Args:
        export: what is served.
        clock: gives files their times.
        threads: how many reads and writes may wait at the same time.
        on_failure: told about each error of a device, which clients see as NFS3ERR_IO and alike.
    """

    def __init__(
        self,
        export: NfsExport,
        *,
        clock: Clock = SYSTEM,
        threads: int = THREADS,
        on_failure: OnFailure = _ignore,
    ) -> None:
        self._export = export
        self._clock = clock
        self._threads = threads
        self._on_failure = on_failure
        self._budget = Budget()
        self._connections: set[Connection] = set()
        self._listening: list[asyncio.Server] = []
        self._address = ("", 0)
        self._tree: Tree | None = None
        self._workers: Workers | None = None

    async def start(
        self, host: str, port: int = PORT, *, portmapper: bool = False
    ) -> list[tuple[str, int]]:
        """Listen; return addresses and ports: NFS and MOUNT first, then the portmapper.

        Args:
            host: an address of this host, which clients connect to.
            port: 0 takes a free one.
            portmapper: listen on port 111 of the same address as well, for clients that can
                name no port (QEMU and whatever else uses libnfs, ESXi).

        Raises:
            ExportError: somebody else listens there, or this user may not.
            CacheDamaged: the index of the scratch directory contradicts itself.
            OSError: the scratch directory cannot be used.
        """
        assert self._workers is None, "a server is started once"
        workers = self._workers = Workers(asyncio.get_running_loop(), self._threads)
        verifier = Verifier()
        try:
            tree = Tree(self._export, workers, verifier, self._now)
            self._tree = tree
            service = Service(tree, workers, verifier, self._on_failure)
            served = programs.programs(service, lambda: self._address)
            self._address = await self._listen(served, host, port)
            addresses = [self._address]
            if portmapper:
                addresses.append(await self._listen(served, host, portmap.PORT))
        except BaseException:
            await self.close()
            raise
        return addresses

    async def close(self) -> None:
        """Close connections, finish what is under way, make every disk durable.

        Raises:
            RuchuError, OSError: a disk could not be made durable; the others are.
        """
        for listening in self._listening:
            listening.close()
        for connection in list(self._connections):
            connection.close()
        workers, self._workers = self._workers, None
        if workers is None:
            return
        failed: list[BaseException] = []
        if self._tree is not None:
            await workers.settle()
            flushes = [workers.run(flush) for flush in self._tree.flushes()]
            outcomes = await asyncio.gather(*flushes, return_exceptions=True)
            failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        await workers.close()
        if failed:
            raise failed[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _listen(self, served: Programs, host: str, port: int) -> tuple[str, int]:
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(
                served, self._budget, self._admit, self._connections.discard, self._crashed
            )

        try:
            listening = await loop.create_server(connect, host, port)
        except OSError as error:
            hint = "Stop what listens there (rpcbind has port 111), or choose another address."
            raise ExportError(f"{host} port {port}: {error.strerror}", hint=hint) from error
        self._listening.append(listening)
        name = listening.sockets[0].getsockname()
        return name[0], name[1]

    def _admit(self, connection: Connection, address: str, port: int) -> bool:
        full = len(self._connections) >= CONNECTIONS_MAX
        if full or self._workers is None or not self._export.admits(address, port):
            return False
        self._connections.add(connection)
        return True

    def _crashed(self, error: Exception) -> None:
        context = {"message": "a call to the NFS server failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)

    def _now(self) -> int:
        """Return the time in nanoseconds since 1970, in whole microseconds."""
        return int(self._clock.now().timestamp() * 1_000_000) * 1000
