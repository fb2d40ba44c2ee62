"""Decoding of blocks ahead of their readers, by processes.

A decoder leaves the interpreter for most of its time, but not for all of it, and threads that
decode take turns at the rest, with each other and with those that answer clients. Processes do not.
They are forked from the one that serves, before it has any threads; they write into memory that it
shares with them, and end when it does, however it ends. What they cannot do is done without them.

One request, in the byte order of the machine: number of the disk, first block, places of the slots
of the blocks (see `slots`). The answer: one byte for each block, what is in its slot; nothing if
the blocks could not be decoded.
"""

import contextlib
import gc
import os
import queue
import select
import signal
import socket
import struct
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ruchu.blocks.slots import SharedMemory, Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from ruchu.blocks.caching import BlockwiseReader

# More would take memory, and push what they decode out of the caches of the processor.
DECODERS_MAX: Final = 4
# Blocks of a request.
BLOCKS_MAX: Final = 64
# Decoding a request takes a hundredth of it.
_END_S: Final = 2.0
_HEAD: Final = struct.Struct("=IQ")
_PLACE_BYTES: Final = 8
_REQUEST_MAX: Final = _HEAD.size + BLOCKS_MAX * _PLACE_BYTES
# What is in a slot.
_NOTHING, _ZEROS, _DATA = 0, 1, 2


def wanted() -> int:
    """Return how many decoders this process should have: none where they would bring nothing."""
    cores = len(os.sched_getaffinity(0))
    alone = threading.active_count() == 1  # a lock that another thread holds is held for ever
    return min(cores, DECODERS_MAX) if alone and cores > 1 else 0


class Decoders:
    """Processes that decode blocks into shared memory. A context manager.

    Args:
        count: how many; none is well, and there are fewer where the system gives no more.
        open_disk: opens a disk by its number; called in the processes, once for each disk.
    """

    def __init__(self, count: int, open_disk: "Callable[[int], BlockwiseReader]") -> None:
        self.memory = SharedMemory()
        self._lines: list[socket.socket] = []
        self._processes: list[int] = []
        self._idle: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        # What is there already is not looked through, which would copy its pages.
        gc.freeze()
        try:
            for _ in range(count):
                self._fork(open_disk)
        except OSError:  # no room for another process
            pass
        finally:
            gc.unfreeze()
        self.count = len(self._processes)

    def _fork(self, open_disk: "Callable[[int], BlockwiseReader]") -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Spawned ones would take half a second each, and would have to be told keys.
        try:
            process = os.fork()  # noqa: TID251
        except OSError:
            ours.close()
            theirs.close()
            raise
        if not process:
            for line in (ours, *self._lines):
                line.close()
            _live(theirs, self.memory, open_disk)
        theirs.close()
        self._lines.append(ours)
        self._processes.append(process)
        self._idle.put(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def processes(self) -> tuple[int, ...]:
        """Ids of the processes."""
        return tuple(self._processes)

    def close(self) -> None:
        """End the processes. Nobody asks for anything any more. Idempotent."""
        for line in self._lines:
            line.close()
        while self._processes:
            _reap(self._processes.pop())
        self.memory.close()

    def decode(self, disk: int, first: int, slots: list[tuple[memoryview, int]]) -> bytes | None:
        """Have blocks decoded into slots, all that has something in it.

        Args:
            disk: its number.
            first: number of the first block.
            slots: with their places, one for each block.

        Returns:
            for each block `_NOTHING`, `_ZEROS` or `_DATA`; None: do it without them.
        """
        line = self._idle.get()
        places = struct.pack(f"={len(slots)}Q", *[place for _, place in slots])
        try:
            line.send(_HEAD.pack(disk, first) + places, socket.MSG_NOSIGNAL)
            answer = line.recv(BLOCKS_MAX)
        except OSError:
            answer = b""
        finally:
            # One that is gone answers nothing at once, and so does whoever asks it next.
            self._idle.put(line)
        return answer if len(answer) == len(slots) else None


def _reap(process: int) -> None:
    """Wait for a process that was told to end; one that a storage holds is killed, and left."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        watched = os.pidfd_open(process)
        try:
            if not select.select([watched], [], [], _END_S)[0]:
                os.kill(process, signal.SIGKILL)
                select.select([watched], [], [], _END_S)
        finally:
            os.close(watched)
        os.waitpid(process, os.WNOHANG)


def _live(
    line: socket.socket, memory: SharedMemory, open_disk: "Callable[[int], BlockwiseReader]"
) -> None:
    """Decode what is asked for until nobody is there to ask; never returns."""
    try:
        # Ctrl-C goes to the one that serves, which ends us.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        disks: dict[int, BlockwiseReader] = {}
        while request := line.recv(_REQUEST_MAX):
            number, first = _HEAD.unpack_from(request)
            count = (len(request) - _HEAD.size) // _PLACE_BYTES
            places = struct.unpack_from(f"={count}Q", request, _HEAD.size)
            answer = b""
            # It is not told what is wrong: who needs the blocks asks for them anew, and is.
            with contextlib.suppress(Exception):
                if number not in disks:
                    disks[number] = open_disk(number)
                answer = _decoded(disks[number], memory, first, places)
            line.send(answer, socket.MSG_NOSIGNAL)
    except BaseException:  # noqa: BLE001, S110 - nothing of the process that was forked may run on
        pass
    finally:
        os._exit(0)


def _decoded(
    disk: "BlockwiseReader", memory: SharedMemory, first: int, places: tuple[int, ...]
) -> bytes:
    size = disk.block_size
    states = bytearray(len(places))
    views: dict[int, memoryview] = {}

    def room(number: int) -> memoryview:
        view = views[number - first] = memory.view(places[number - first], size)
        return view

    disk.read_blocks(first, first + len(places), room)
    zeros = bytes(size)
    for at, view in views.items():
        empty = not view[0] and not view[-1] and bytes(view) == zeros
        states[at] = _ZEROS if empty else _DATA
    return bytes(states)


class DecodedAhead:
    """One disk of `Decoders`, as the reader of it wants them.

    Args:
        decoders: the processes.
        disk: number of the disk.
    """

    def __init__(self, decoders: Decoders, disk: int) -> None:
        self._decoders = decoders
        self._disk = disk

    @property
    def memory(self) -> SharedMemory:
        """Where the slots of the disk have to be."""
        return self._decoders.memory

    @property
    def count(self) -> int:
        """How many pieces are decoded at a time."""
        return self._decoders.count

    def decode(self, first: int, last: int, slots: Slots) -> list[memoryview | None] | None:
        """Return blocks, None for zeros; or None: they are to be decoded without the processes."""
        if last - first > BLOCKS_MAX:
            return None
        taken = [slots.take_placed() for _ in range(first, last)]
        states = self._decoders.decode(self._disk, first, taken)
        if states is None:
            return None
        pairs = zip(taken, states, strict=True)
        return [slot.toreadonly() if state == _DATA else None for (slot, _), state in pairs]
