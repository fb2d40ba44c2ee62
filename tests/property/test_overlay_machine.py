"""A write cache against a model, with kills and power failures in the middle of everything.

After a power failure each sector has one of the values that it had since the last completed
flush, and after a kill everything that returned is there. The base is never written.
"""

import random

from hypothesis import stateful
from hypothesis import strategies as st

from ruchu.blocks import overlay_file
from ruchu.blocks.overlay import Overlay
from ruchu.blocks.overlay_file import BLOCK, Header
from ruchu.model.extents import Content
from ruchu.testing.memory_disk import MemoryDisk
from ruchu.testing.simulated_disk import PowerFailure
from ruchu.testing.simulated_file import SECTOR, SimulatedFile

BASE_BYTES = 5 * BLOCK + 3 * SECTOR
SIZE = 9 * BLOCK + 5 * SECTOR
SECTORS = SIZE // SECTOR
NAME = "point/vda"
ZERO = bytes(SECTOR)
# Bytes off the grid of sectors come too: a sector is then written in part.
RANGES = st.tuples(
    st.integers(0, SECTORS - 1),
    st.one_of(st.integers(1, 3 * BLOCK // SECTOR), st.just(SECTORS)),
    st.sampled_from([0, 0, 0, 1, 100]),
)
# After how many calls the file goes dark; most operations take a few dozen.
CUTS = st.one_of(st.none(), st.integers(0, 60))


class OverlayMachine(stateful.RuleBasedStateMachine):
    """The machine; `overlay_class` may be one with a fault put in."""

    overlay_class = Overlay

    @stateful.initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed):
        choose = random.Random(seed)
        self.original = choose.randbytes(BASE_BYTES)
        self.base = MemoryDisk(self.original)
        header = Header(choose.randbytes(16), NAME, BASE_BYTES, SIZE)
        self.file = SimulatedFile(choose, header.file_bytes)
        self.file.write(0, [header.encode()])
        self.file.sync()
        self.boots = 0
        self.turn = 0
        self.now = self.original + bytes(SIZE - BASE_BYTES)
        self.possible = [{sector} for sector in sectors(self.now)]
        self.open()

    def open(self):
        session = b"boot %d" % self.boots
        self.overlay = self.overlay_class(self.base, self.file, identity=NAME, session=session)
        self.dirty = None  # what rounds have to bring: None is everything in the cache

    # What a guest does.

    @stateful.rule(where=RANGES, cut=CUTS, power=st.booleans())
    def write(self, where, cut, power):
        start, end = span(where)
        self.turn += 1
        data = random.Random(self.turn).randbytes(end - start)
        self.change(start, data, lambda: self.overlay.write(start, memoryview(data)), cut, power)

    @stateful.rule(where=RANGES, cut=CUTS, power=st.booleans(), discard=st.booleans())
    def zero(self, where, cut, power, discard):
        start, end = span(where)
        act = self.overlay.discard if discard else self.overlay.zero
        self.change(start, bytes(end - start), lambda: act(start, end - start), cut, power)

    def change(self, start, data, act, cut, power):
        before = sectors(self.now)
        after = self.now[:start] + data + self.now[start + len(data) :]
        for values, sector in zip(self.possible, sectors(after), strict=True):
            values.add(sector)
        if self.run(act, cut):
            self.now = after
            return
        # It never returned: each sector is old or new.
        if not power:
            self.file.revive()
            self.open()
            self.settle([{*pair} for pair in zip(before, sectors(after), strict=True)])
        else:
            self.fail_power()

    @stateful.rule(cut=CUTS, power=st.booleans())
    def flush(self, cut, power):
        if self.run(self.overlay.flush, cut):
            self.possible = [{sector} for sector in sectors(self.now)]
        elif power:
            self.fail_power()
        else:
            self.file.revive()
            self.kill()

    def run(self, act, cut):
        """Act, until the file goes dark; return whether it came to its end."""
        if cut is not None:
            self.file.cut_after(cut)
        try:
            act()
        except PowerFailure:
            return False
        self.file.revive()
        return True

    # What happens to it.

    @stateful.rule()
    def kill(self):
        self.open()
        assert self.content() == self.now

    @stateful.rule(cut=st.one_of(st.none(), st.integers(0, 12)))
    def fail_power(self, cut=None):
        self.file.crash()
        self.boots += 1
        if not self.run(self.open, cut):  # and once more while it opens
            self.file.crash()
            self.boots += 1
            self.open()
        self.settle(self.possible)

    def settle(self, allowed):
        """Take what is there for what was meant, if it may be so."""
        self.now = self.content()
        for number, (values, sector) in enumerate(zip(allowed, sectors(self.now), strict=True)):
            assert sector in values, f"sector {number} has a value that it never had"
        for values, sector in zip(self.possible, sectors(self.now), strict=True):
            values.add(sector)

    # What is looked at.

    def content(self):
        buffer = bytearray(SIZE)
        self.overlay.read_into(0, memoryview(buffer))
        return bytes(buffer)

    @stateful.rule(acknowledge=st.booleans())
    def bring_round(self, acknowledge):
        found = self.overlay.begin_round()
        copied = bytearray(self.copy) if self.dirty is not None else bytearray(SIZE)
        if self.dirty is None:
            copied[:BASE_BYTES] = self.original
        for extent in found.extents:
            copied[extent.start : extent.end] = self.now[extent.start : extent.end]
        assert copied == self.now
        if acknowledge:
            self.overlay.acknowledge(found)
            self.copy, self.dirty = bytes(copied), True

    @stateful.invariant()
    def content_is_right(self):
        assert self.content() == self.now
        assert self.base.content == self.original

    @stateful.invariant()
    def extents_are_right(self):
        at = 0
        for extent in self.overlay.extents():
            assert extent.start == at
            assert extent.length > 0
            at = extent.end
            if extent.content in {Content.ZERO, Content.HOLE}:
                assert self.now[extent.start : at] == bytes(extent.length)
        assert at == SIZE


def span(where):
    sector, count, skew = where
    start = sector * SECTOR + skew
    return start, min(SIZE, start + count * SECTOR - skew)


def sectors(content):
    return [content[at : at + SECTOR] for at in range(0, len(content), SECTOR)]


TestOverlay = OverlayMachine.TestCase


def test_the_layout_has_its_order():
    header = Header(bytes(16), NAME, BASE_BYTES, SIZE)
    assert overlay_file.BITMAP_OFFSET < header.live_offset < header.data_offset
    assert header.file_bytes == header.data_offset + 10 * BLOCK
