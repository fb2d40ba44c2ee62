"""An export that is started before it is known what it serves.

To start an interpreter, import what an export needs and derive the key of a storage takes longer
than everything else that an export does before it answers. So an instant restore has it done by
another process while it does the same itself, and then tells that process what to serve. Nothing
here imports what takes long.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ruchu import commands
from ruchu.errors import ExportError

# What is served and where fits in a hundredth of it.
ORDER_BYTES_MAX: Final = 1 << 20


class Standby:
    """The process that waits. A context manager: without an order it ends.

    Args:
        state: directory of the local state.
        point: beginning of the id of the point.
        instant: id of the instant restore, so that people see whose process it is.
    """

    def __init__(self, state: Path, point: str, instant: str) -> None:
        self.instant = instant
        reading, self._order = os.pipe()
        args = [sys.executable, "-m", "ruchu", "--state", str(state.absolute())]
        args += ["export", "awaiting", f"--instant={instant}", "--", point]
        try:
            self.pid = commands.start_detached(args, log=os.devnull, stdin=reading)
        except BaseException:
            os.close(self._order)
            raise
        finally:
            os.close(reading)
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def order(self, args: Sequence[str], log: Path) -> int:
        """Have it serve; return its process id.

        Args:
            args: of `ruchu export`.
            log: where it writes what it says.

        Raises:
            ExportError: it is not there any more.
        """
        line = json.dumps({"args": list(args), "log": str(log)}).encode() + b"\n"
        try:
            with os.fdopen(self._order, "wb", closefd=False) as pipe:
                pipe.write(line)
        except OSError as error:
            raise ExportError(f"(it ended before it was told: {error.strerror})") from None
        finally:
            self._close()
        return self.pid

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._order)


def awaited() -> list[str] | None:
    """Wait for the order on the standard input; return its arguments, or None if none comes.

    What this process says goes into the log of the order from then on.
    """
    line = sys.stdin.buffer.readline(ORDER_BYTES_MAX)
    if not line.endswith(b"\n"):
        return None
    order = json.loads(line)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    for descriptor, name, mode in ((0, os.devnull, os.O_RDONLY), (1, order["log"], flags)):
        opened = os.open(name, mode, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    return [str(word) for word in order["args"]]
