"""Rate and time left."""

from datetime import timedelta

from ruchu.blocks.copying import Progress
from ruchu.operations.meters import WINDOW_S, Meter
from ruchu.testing.clocks import ManualClock


def test_rate_and_time_left():
    clock, progress = ManualClock(), Progress(total=1000)
    meter = Meter(progress, clock)
    assert meter.read().left_s is None
    clock.move(timedelta(seconds=2))
    progress.data, progress.zero = 100, 100
    reading = meter.read()
    assert (reading.done, reading.total, reading.rate, reading.left_s) == (200, 1000, 100.0, 8.0)


def test_a_copy_that_stands_still_has_no_end():
    clock, progress = ManualClock(), Progress(total=1000)
    meter = Meter(progress, clock)
    progress.data = 500
    meter.read()
    for _ in range(3):
        clock.move(timedelta(seconds=WINDOW_S))
        reading = meter.read()
    assert (reading.rate, reading.left_s) == (0.0, None)
