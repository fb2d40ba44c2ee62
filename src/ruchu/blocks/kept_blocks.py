"""Which blocks a cache keeps: those that are read again, and a few of those that pass by.

Who reads a disk in order, such as a copy or a guest that starts, mostly does so once. What is read
for such a reader goes into a short queue and out of it at the other end, so that it pushes out
nothing that others come back for; and its memory is used again while it is still in the caches of
the processor, where fresh memory costs half as much as decoding. What is needed again after that
is kept by how recently it was used, as is everything that was not read in order. The idea is that
of 2Q (Johnson and Shasha, VLDB 1994).
"""

from collections import OrderedDict

# All zero blocks are one; what an entry of its own costs is what counts.
_ZERO_BLOCK_COST = 256
# Readers in order whose last place is known.
_ENDS_MAX = 64


class KeptBlocks:
    """Blocks by their number. Its owner's lock guards it, but for `find` and `in`.

    Args:
        limit: bytes that are kept at most, what passes by included.
        passing: bytes of it for what passes by; 0: all is kept by how recently it was used.
        block: bytes of a block.
        zeros: the content of all blocks of zeros.
    """

    def __init__(self, limit: int, passing: int, block: int, zeros: memoryview) -> None:
        self._zeros = zeros.obj
        self._limit = limit - passing
        self._passing_limit = passing
        self._recent: OrderedDict[int, memoryview] = OrderedDict()
        self._passing: OrderedDict[int, memoryview] = OrderedDict()
        # Numbers of blocks that passed by, as many as could be kept.
        self._passed: OrderedDict[int, None] = OrderedDict()
        self._passed_max = max(1, limit // block)
        self._ends: OrderedDict[int, None] = OrderedDict()
        self._recent_bytes = self._passing_bytes = 0

    def __contains__(self, number: int) -> bool:
        return number in self._recent or number in self._passing

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._recent_bytes + self._passing_bytes

    def find(self, number: int) -> memoryview | None:
        """Return a block, which is used now, or None."""
        view = self._recent.get(number)
        if view is None:
            return self._passing.get(number)
        try:  # noqa: SIM105 - `suppress` takes as long as all the rest
            self._recent.move_to_end(number)
        except KeyError:  # pushed out this moment; the view is good
            pass
        return view

    def passes(self, number: int) -> bool:
        """Tell whether a block is one of those that pass by."""
        return number in self._passing

    def in_order(self, first: int, last: int) -> bool:
        """Note that blocks are to be read; tell whether they go on where others ended."""
        known = first - 1 in self._passing or first in self._ends
        self._ends.pop(first, None)
        self._ends[last] = None
        if len(self._ends) > _ENDS_MAX:
            self._ends.popitem(last=False)
        return known

    def add(self, first: int, views: list[memoryview], *, passing: bool) -> None:
        """Keep blocks that are not there yet; `passing`: they were read for a reader in order."""
        for number, view in enumerate(views, first):
            if passing and self._passing_limit and number not in self._passed:
                self._passing[number] = view
                self._passing_bytes += self._cost(view)
            else:
                self._passed.pop(number, None)
                self._recent[number] = view
                self._recent_bytes += self._cost(view)
        while self._passing_bytes > self._passing_limit:
            number, view = self._passing.popitem(last=False)
            self._passing_bytes -= self._cost(view)
            self._passed[number] = None
            if len(self._passed) > self._passed_max:
                self._passed.popitem(last=False)
        while self._recent_bytes > self._limit:
            self._recent_bytes -= self._cost(self._recent.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all blocks."""
        self._recent.clear()
        self._passing.clear()
        self._passed.clear()
        self._recent_bytes = self._passing_bytes = 0

    def _cost(self, view: memoryview) -> int:
        return _ZERO_BLOCK_COST if view.obj is self._zeros else len(view)
