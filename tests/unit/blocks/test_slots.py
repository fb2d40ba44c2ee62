import gc
import mmap
import threading

import pytest

from ruchu.blocks import slots as slots_module
from ruchu.blocks.slots import ARENA_BYTES, Slots

SIZE = 1 << 20
COUNT = ARENA_BYTES // SIZE


def wait_until(ready):
    waiting = threading.Event()
    for _ in range(3000):
        if ready():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came")


def test_a_slot_comes_back_when_its_last_view_is_gone():
    slots = Slots(SIZE)
    first = slots.take()
    first[:5] = b"first"
    kept = first.toreadonly()[1:3]
    del first
    others = [slots.take() for _ in range(COUNT - 1)]
    for other in others:
        other[:] = bytes(SIZE)
    assert kept == b"ir"
    # The only one that is free is the one that the last view gave back.
    kept = kept[:0]
    del kept
    again = slots.take()
    assert again[:5] == b"first"
    assert len({id(view.obj.base.obj) for view in [again, *others]}) == 1


def test_slots_do_not_overlap():
    slots = Slots(SIZE)
    views = [slots.take() for _ in range(COUNT + 3)]
    for number, view in enumerate(views):
        assert len(view) == SIZE
        view[0] = view[-1] = number
    assert [view[0] for view in views] == [view[-1] for view in views] == list(range(COUNT + 3))


def test_what_was_taken_outlives_the_slots():
    slots = Slots(SIZE)
    view = slots.take()
    view[:] = b"x" * SIZE
    slots.close()
    slots.close()
    del slots
    gc.collect()
    assert view == b"x" * SIZE


def test_many_threads_take_and_give_back(rng):
    slots = Slots(SIZE)
    failed = []

    def work(mark):
        for _ in range(300):
            view = slots.take()
            view[:8] = mark * 8
            if view[:8] != mark * 8:
                failed.append(mark)

    threads = [threading.Thread(target=work, args=(bytes([mark]),)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(slots._free) == COUNT


def test_memory_is_got_ahead_up_to_the_limit():
    slots = Slots(SIZE, ahead=2 * ARENA_BYTES, limit=3 * ARENA_BYTES)
    wait_until(lambda: len(slots._ready) == 2)
    views = [slots.take() for _ in range(COUNT + 1)]
    wait_until(lambda: not slots._ready)
    # Three in all were got ahead; whoever needs more gets it without.
    views += [slots.take() for _ in range(3 * COUNT)]
    assert len({id(view.obj.base.obj) for view in views}) == 5
    slots.close()


@pytest.mark.parametrize("error", [OSError("an old kernel"), None])
def test_closing_ends_the_thread(monkeypatch, error):
    came = threading.Event()

    class Arena(mmap.mmap):
        def madvise(self, option, start=0, length=0):
            came.set()
            if error is not None:
                raise error
            super().madvise(option, start, length)

    monkeypatch.setattr(slots_module, "_private_arena", lambda: (Arena(-1, ARENA_BYTES), 0))
    slots = Slots(SIZE, ahead=ARENA_BYTES, limit=4 * ARENA_BYTES)
    assert came.wait(30)
    slots.close()
    assert not slots._thread.is_alive()
    assert len(slots.take()) == SIZE
