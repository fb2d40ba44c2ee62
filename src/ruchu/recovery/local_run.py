"""Running a point on this host, in QEMU, without a hypervisor's management."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ruchu import commands
from ruchu.clock import Clock
from ruchu.errors import CommandFailed, ExportError
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.server import NbdServer
from ruchu.model import configurations
from ruchu.model.machines import DiskSpec, MachineSpec
from ruchu.recovery import exporting, local_machine
from ruchu.recovery.full import machine_of
from ruchu.recovery.local_machine import Wish
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head
from ruchu.units import GIB

# For a disk that was saved without a machine around it.
MEMORY_DEFAULT = 2 * GIB
START_LIMIT_S = 60.0
POLL_S = 0.05
KVM = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class Running:
    """A machine that runs here: its process, and the directory of its sockets."""

    process: commands.Process
    directory: Path

    def wait(self, clock: Clock, cancelled: Callable[[], bool]) -> int:
        """Return its exit status; 0 if it was ended because somebody wanted it."""
        while (status := self.process.status()) is None:
            if cancelled():
                self.process.stop()
                return 0
            clock.sleep(POLL_S)
        return status


def spec_of(chain: Chain, head: Head) -> MachineSpec:
    """Return the machine of a point, or a plain one around its disks."""
    if configurations.SPEC in head.attachments:
        return machine_of(chain, head)
    disks = tuple(DiskSpec(disk.name, disk.size, "raw", "", bus="sata") for disk in head.disks)
    name = chain.object.name
    return MachineSpec(head.point, name, 1, MEMORY_DEFAULT, "bios", disks, (), "", platform="")


def kvm_is_usable() -> bool:
    """Tell whether KVM is there and this user may use it."""
    try:
        with KVM.open("r+b", buffering=0):
            return "vmx" in _flags() or "svm" in _flags()
    except OSError:
        return False


def _flags() -> set[str]:
    text = Path("/proc/cpuinfo").read_text()
    return set(text.partition("flags")[2].partition("\n")[0].split())


@contextlib.contextmanager
def running(
    chain: Chain, head: Head, wish: Wish, cache: Path | None, *, terminal: bool
) -> Iterator[Running]:
    """Run a machine of a point; when the context is left, it is ended.

    Args:
        chain: the chain of the point.
        head: the point.
        wish: how.
        cache: directory for what it writes, which stays; None forgets it.
        terminal: its console is this process's terminal.

    Raises:
        CommandFailed: QEMU is not installed, or did not start.
    """
    spec = spec_of(chain, head)
    entries = exporting.chosen(head, [disk.key for disk in spec.disks])
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ruchu-run-")))
        caches = directory if cache is None else cache
        caches.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = exporting.cache_paths(entries, caches)
        decoders = stack.enter_context(exporting.decoders_of(chain, head, entries))
        opened = exporting.opened(chain, head, entries, paths, decoders=decoders)
        disks = stack.enter_context(opened)
        server = stack.enter_context(NbdServer(NbdExport(each.key, each.device) for each in disks))
        server.listen_unix(directory / "disks.sock")
        firmware = _firmware(spec, caches) if spec.firmware == "uefi" else None
        args = local_machine.arguments(spec, wish, directory, firmware)
        start = commands.start_in_terminal(args) if terminal else commands.start(args)
        process = stack.enter_context(start)
        _wait_until_up(process, directory, chain.surroundings.clock)
        yield Running(process, directory)


def _firmware(spec: MachineSpec, directory: Path) -> tuple[Path, Path]:
    code, empty = local_machine.firmware_files(lambda path: Path(path).exists())
    store = directory / "nvram.fd"
    if not store.exists():
        if spec.nvram:
            store.write_bytes(spec.nvram)
        else:
            shutil.copyfile(empty, store)
    return Path(code), store


def _wait_until_up(process: commands.Process, directory: Path, clock: Clock) -> None:
    deadline = clock.monotonic() + START_LIMIT_S
    while not (directory / "qmp.sock").exists():
        if process.status() is not None:
            raise CommandFailed(f"{process.args[0]}: {process.said()}")
        if clock.monotonic() > deadline:
            raise ExportError(f"({process.args[0]} does not start)")
        clock.sleep(POLL_S)
