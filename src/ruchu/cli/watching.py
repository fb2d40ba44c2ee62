"""Progress of copies: bars on a terminal, otherwise a line now and then; on standard error."""

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ruchu.cli import output
from ruchu.units import format_duration, format_size

if TYPE_CHECKING:
    from ruchu.blocks.copying import Progress
    from ruchu.operations.meters import Meter

_TERMINAL_INTERVAL_S = 0.25
_LINE_INTERVAL_S = 5.0
# The thread that prints is not in the way of the end of the program.
_END_LIMIT_S = 2.0


class Watcher:
    """Shows the copies that it is told of, until the context is left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._meters: list[tuple[str, Meter]] = []
        self._end = threading.Event()
        self._bars = _Bars() if sys.stderr.isatty() else None
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join(_END_LIMIT_S)

    def watch(self, label: str, progress: "Progress") -> None:
        """Show this copy from now on."""
        from ruchu.clock import SYSTEM
        from ruchu.operations.meters import Meter

        with self._lock:
            self._meters.append((label, Meter(progress, SYSTEM)))

    def _show(self) -> None:
        interval = _LINE_INTERVAL_S if self._bars is None else _TERMINAL_INTERVAL_S
        while not self._end.wait(interval):
            self._tick()
        if self._bars is not None:
            self._tick()
            self._bars.close()

    def _tick(self) -> None:
        with self._lock:
            readings = [(label, meter.read()) for label, meter in self._meters]
        if self._bars is not None:
            self._bars.show(readings)
            return
        running = [(label, each) for label, each in readings if each.done < each.total]
        if running:
            done, total, rate = (
                sum(getattr(each, name) for _, each in running)
                for name in ("done", "total", "rate")
            )
            left = f", {format_duration((total - done) / rate)} left" if rate else ""
            names = ", ".join(label for label, _ in running[:3])
            output.note(
                f"{names}: {format_size(done)} of {format_size(total)}, {format_size(rate)}/s{left}"
            )


class _Bars:
    """One bar for each copy, on a terminal."""

    def __init__(self) -> None:
        from rich import console, progress

        columns: tuple[Any, ...] = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        screen = console.Console(stderr=True)
        self._progress = progress.Progress(*columns, console=screen, auto_refresh=False)
        self._tasks: list[Any] = []
        self._progress.start()

    def show(self, readings: list[tuple[str, Any]]) -> None:
        """Bring the bars up to date."""
        for label, reading in readings[len(self._tasks) :]:
            self._tasks.append(self._progress.add_task(label, total=reading.total))
        for task, (_, reading) in zip(self._tasks, readings, strict=True):
            self._progress.update(task, completed=reading.done, total=reading.total)
        self._progress.refresh()

    def close(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()
