"""Instant restores in one process: exports in threads, a guest that writes, and sudden death."""

import contextlib
import random
import threading

from ruchu.blocks import nbd
from ruchu.clock import SYSTEM
from ruchu.errors import NbdError, RuchuError
from ruchu.exports.control import ControlServer
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.server import NbdServer
from ruchu.model.machines import PowerState
from ruchu.recovery import exporting
from ruchu.recovery.instants import Launched


class Exports:
    """Starts exports as threads of this process; `close` ends those that live."""

    def __init__(self, known, chain, head):
        self.known = known
        self.chain = chain
        self.head = head
        self.living = []

    def launch(self, instant):
        export = Export(self, instant)
        self.living.append(export)
        return Launched(export.thread.is_alive, lambda: export.error, export.end)

    def close(self):
        for export in self.living:
            export.end()

    @property
    def running(self):
        return [export for export in self.living if export.thread.is_alive()]


class Export:
    def __init__(self, exports, instant):
        self.exports = exports
        self.instant = instant
        self.error = ""
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def end(self):
        self.over.set()
        self.thread.join()

    def run(self):
        try:
            self.serve()
        except RuchuError as error:
            self.error = str(error)

    def serve(self):
        known, instant, head = self.exports.known, self.instant, self.exports.head
        entries = exporting.chosen(head, instant.disks)
        caches = {entry.name: instant.cache_of(entry.name) for entry in entries}
        with contextlib.ExitStack() as stack:
            handlers = {"stop": lambda _: self.over.set() or {}}
            stack.enter_context(ControlServer(known.control(instant), handlers))
            disks = stack.enter_context(exporting.opened(self.exports.chain, head, entries, caches))
            server = stack.enter_context(NbdServer(NbdExport(d.key, d.device) for d in disks))
            server.listen_unix(known.nbd(instant))
            found = exporting.Handlers(disks)
            handlers |= {"flush": found.flush, "round": found.round}
            handlers["status"] = lambda request: found.status(request) | {"serving": True}
            self.over.wait()


class Guest:
    """Writes to the disks of a machine as long as it runs, and knows what they must hold.

    A disk that does not answer holds the guest up, as QEMU does; what it wrote comes again.
    """

    def __init__(self, machine, contents, seed):
        self.machine = machine
        self.model = {key: bytearray(content) for key, content in contents.items()}
        self.draw = random.Random(seed)
        self.writes = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def run(self):
        while not self.over.is_set():
            key = self.draw.choice(sorted(self.model))
            size = len(self.model[key])
            start = self.draw.randrange(size)
            length = min(size - start, self.draw.choice([1, 512, 4096, 5000, 70_000]))
            zero = self.draw.random() < 0.3
            content = bytes(length) if zero else self.draw.randbytes(length)
            while not self.write(key, start, content, zero=zero) and not self.over.is_set():
                SYSTEM.sleep(0.001)

    def write(self, key, start, content, *, zero=False):
        with self.machine.running:
            if self.machine.state is not PowerState.RUNNING:
                return False
            try:
                self.put(key, start, content, zero=zero)
            except (NbdError, OSError):
                return False
            self.model[key][start : start + len(content)] = content
            self.writes += 1
        return True

    def put(self, key, start, content, *, zero):
        served = self.machine.served.get(key)
        if served is None:
            self.machine.disks[key][start : start + len(content)] = content
            return
        with nbd.NbdDisk(nbd.Address(export=key, path=served.socket), connections=1) as disk:
            if zero:
                disk.zero(start, len(content))
            else:
                disk.write(start, memoryview(content))

    def wait_for(self, writes):
        """Return when it has written so often more."""
        until = self.writes + writes
        deadline = SYSTEM.monotonic() + 60
        while self.writes < until:
            assert SYSTEM.monotonic() < deadline
            SYSTEM.sleep(0.001)


class Killed(BaseException):
    """The process is dead."""


class Life:
    """Counts the steps of what it wraps, and dies after so many: nothing happens from then on."""

    def __init__(self, steps):
        self.left = steps
        self.dead = False

    def step(self):
        if not self.dead and self.left == 0:
            self.dead = True
        if self.dead:
            raise Killed
        self.left -= 1

    def of(self, thing, silent=()):
        return _Mortal(self, thing, silent)

    def call(self, function):
        """Return a function whose call is a step: before it, and after it."""

        def called(*args, **named):
            self.step()
            done = function(*args, **named)
            self.step()
            return done

        return called


class _Mortal:
    """A thing whose calls are steps of a life."""

    def __init__(self, life, thing, silent):
        self._life = life
        self._thing = thing
        self._silent = silent

    def __getattr__(self, name):
        found = getattr(self._thing, name)
        if not callable(found) or name in self._silent:
            return found
        if name in {"landing", "exclusive"}:
            return lambda *args: self._entered(found(*args), mortal=name == "landing")
        return self._life.call(found)

    @contextlib.contextmanager
    def _entered(self, context, *, mortal):
        self._life.step()
        with context as inner:
            yield self._life.of(inner) if mortal else inner
