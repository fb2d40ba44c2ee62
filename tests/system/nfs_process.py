"""Serves one disk over NFS in a process of its own, so that a test can kill it.

The disk keeps what is written in memory until it is flushed, as a disk with a volatile cache does:
what a client was not promised to keep is lost with the process.
"""

import asyncio
import ipaddress
import json
import signal
import sys
import threading
from pathlib import Path

from ruchu.exports.nfs.exporting import ExportedDisk, NfsExport
from ruchu.exports.nfs.server import NfsServer


def tell(what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


class VolatileDisk:
    """A file that is written by `flush` only; every other 64 KiB is not at hand for `peek`."""

    preferred_io = 65536

    def __init__(self, path, hold_flush):
        self._path = path
        self._hold_flush = hold_flush
        self._content = bytearray(path.read_bytes())
        self._lock = threading.Lock()
        self._dirty = []
        self.size = len(self._content)

    def peek(self, start, length):
        return None if start >> 16 & 1 else memoryview(bytes(self._content[start : start + length]))

    def read_into(self, start, buffer):
        buffer[:] = self._content[start : start + len(buffer)]

    def write(self, start, buffer):
        with self._lock:
            self._content[start : start + len(buffer)] = buffer
            self._dirty.append((start, len(buffer)))

    def flush(self):
        tell({"flush": len(self._dirty)})
        if self._hold_flush:
            threading.Event().wait()
        with self._lock:
            dirty, self._dirty = self._dirty, []
            with self._path.open("r+b") as file:
                for start, length in dirty:
                    file.seek(start)
                    file.write(self._content[start : start + length])


async def serve(options):
    disk = VolatileDisk(Path(options["disk"]), options["hold_flush"])
    export = NfsExport(
        path=options["path"],
        disks=(ExportedDisk("disk.raw", disk),),
        files={"disk.txt": b"a descriptor\n"},
        scratch=Path(options["scratch"]),
        secret=b"0123456789abcdef",
        clients=(ipaddress.ip_network("127.0.0.0/8"),),
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with NfsServer(export) as server:
        addresses = await server.start(
            options["host"], options["port"], portmapper=options["portmapper"]
        )
        tell({"addresses": addresses})
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
