"""Who a node is: its files, and what it tells of its host."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu import __version__


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a node keeps what it knows.

    Attributes:
        directory: its state directory.
    """

    directory: Path

    @property
    def wire(self) -> Path:
        """Key, certificate, and the certificate of the server's authority."""
        return self.directory / "wire"

    @property
    def lock(self) -> Path:
        """Held by the process of this node."""
        return self.directory / "node.lock"

    @property
    def tasks(self) -> Path:
        """Folders of attempts that the server has not acknowledged yet."""
        return self.directory / "tasks"

    @property
    def alarms(self) -> Path:
        """Alarms that the server has not acknowledged yet."""
        return self.directory / "alarms"

    @property
    def registry(self) -> Path:
        """The local state that tasks work with."""
        return self.directory / "local"


def facts() -> dict[str, Any]:
    """Return what the server may want to know of this host."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "release": __version__,
        "cores": os.cpu_count() or 1,
        "memory": pages,
        "root": os.geteuid() == 0,
    }


def load() -> dict[str, Any]:
    """Return how busy this host is."""
    one, five, _ = os.getloadavg()
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    return {"load_1": round(one, 2), "load_5": round(five, 2), "memory_available": available}
