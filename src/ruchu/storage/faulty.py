"""Fails on purpose, in the same way for the same seed. For tests and drills of the operator."""

import enum
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ruchu import clock, errors
from ruchu.storage.contract import Buffer, ObjectWriter, Storage
from ruchu.storage.intercepting import Intercepting, Verb

T = TypeVar("T")


class Effect(enum.Enum):
    """How a call goes wrong."""

    FAIL = "fail"  # nothing is done
    FAIL_AFTER = "fail-after"  # it is done, and the answer is lost
    DELAY = "delay"
    SHORT = "short"  # GET: half of the bytes; READ: an error in place of them
    FLIP = "flip"  # one bit is wrong: of what is read, or of what is stored


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the `call`-th call (from 1) of a verb."""

    verb: Verb
    call: int
    effect: Effect
    error: type[errors.RuchuError] = errors.StorageError
    delay_s: float = 0.0


class Faulty(Intercepting):
    """Injects the faults listed, and failures at random with the given rate (0 to 1)."""

    def __init__(
        self,
        inner: Storage,
        *,
        clock: clock.Clock,
        choose: random.Random,
        faults: Sequence[Fault] = (),
        failure_rate: float = 0.0,
    ) -> None:
        super().__init__(inner)
        self._clock = clock
        self._choose = choose
        self._faults = {(fault.verb, fault.call): fault for fault in faults}
        self._failure_rate = failure_rate
        self._lock = threading.Lock()
        self._calls: Counter[Verb] = Counter()

    def around(self, verb: Verb, name: str, call: Callable[[], T]) -> T:
        """Carry out a call, or not."""
        return self._carry_out(self._next(verb), name, call)

    def write_to(self, writer: ObjectWriter, name: str, parts: Sequence[Buffer]) -> None:
        """Append parts, perhaps with a bit that is wrong."""
        fault = self._next(Verb.WRITE)
        self._carry_out(fault, name, lambda: writer.write([self._flip(fault, p) for p in parts]))

    def put(self, name: str, data: Buffer) -> None:
        """Store an object, perhaps with a bit that is wrong."""
        fault = self._next(Verb.PUT)
        self._carry_out(fault, name, lambda: self.inner.put(name, self._flip(fault, data)))

    def get(self, name: str, size_max: int) -> bytes:
        """Return an object, perhaps half of it or with a bit that is wrong."""
        fault = self._next(Verb.GET)
        content = self._carry_out(fault, name, lambda: self.inner.get(name, size_max))
        if fault is not None and fault.effect is Effect.SHORT:
            return content[: len(content) // 2]
        return bytes(self._flip(fault, content))

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill the buffer, perhaps too late to be of use or with a bit that is wrong."""
        fault = self._next(Verb.READ)
        self._carry_out(fault, name, lambda: self.inner.read_into(name, start, buffer))
        if fault is None:
            return
        if fault.effect is Effect.SHORT:
            raise errors.ObjectShort(f"{name}: injected, it ends within {buffer.nbytes} bytes")
        buffer.cast("B")[:] = self._flip(fault, buffer)

    def _carry_out(self, fault: Fault | None, name: str, call: Callable[[], T]) -> T:
        if fault is None:
            return call()
        where = f"{name}: injected into {fault.verb.value} {fault.call}"
        if fault.effect is Effect.FAIL:
            raise fault.error(f"{where}, which was not done")
        if fault.effect is Effect.DELAY:
            self._clock.sleep(fault.delay_s)
        result = call()
        if fault.effect is Effect.FAIL_AFTER:
            raise fault.error(f"{where}, which was done")
        return result

    def _flip(self, fault: Fault | None, data: Buffer) -> Buffer:
        if fault is None or fault.effect is not Effect.FLIP:
            return data
        spoilt = bytearray(data)
        if spoilt:
            bit = self._choose.randrange(8 * len(spoilt))
            spoilt[bit // 8] ^= 1 << bit % 8
        return spoilt

    def _next(self, verb: Verb) -> Fault | None:
        with self._lock:
            self._calls[verb] += 1
            call = self._calls[verb]
            if self._failure_rate and self._choose.random() < self._failure_rate:
                effect = self._choose.choice((Effect.FAIL, Effect.FAIL_AFTER))
                return Fault(verb, call, effect)
        return self._faults.get((verb, call))
