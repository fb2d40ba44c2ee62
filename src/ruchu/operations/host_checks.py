"""What this host has and lacks for what Ruchu does."""

import ctypes
import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from ruchu import commands
from ruchu.errors import CommandFailed, RuchuError
from ruchu.recovery import local_machine, local_run
from ruchu.storage.directory import DirectoryStorage
from ruchu.storage.guarding import probing
from ruchu.units import format_size

OK, MISSING, UNKNOWN = "ok", "missing", "unknown"
_TOOL_LIMIT_S = 10.0
# adjtimex(2): the kernel's clock is not synchronised.
_TIME_ERROR = 5
_TIMEX_BYTES = 512
_PORTMAPPER_PORT = 111
_TOOLS = {
    "qemu-img": ["qemu-img", "--version"],
    "qemu-nbd": ["qemu-nbd", "--version"],
    "libvirtd": ["libvirtd", "--version"],
    "qemu-system": ["qemu-system-x86_64", "--version"],
    "mount.nfs": ["mount.nfs", "-V"],
    "fusermount3": ["fusermount3", "-V"],
    "tgtd": ["tgtd", "-V"],
}
_LIBRARIES = (
    "argon2-cffi", "blake3", "cryptography", "numpy", "rich", "typer", "zstandard",
    "libvirt-python", "mfusepy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Check:
    """One thing: `ok`, `missing` or `unknown`, and what is known of it."""

    name: str
    state: str
    detail: str = ""

    def fields(self) -> dict[str, str]:
        """Return it for a document."""
        return asdict(self)


def all_checks(path: Path | None) -> list[Check]:
    """Look at everything; the immutable flag is tried in a directory below `path`."""
    checks = [_cores(), _memory(), _clock(), _kvm()]
    devices = {
        "fuse": "/dev/fuse",
        "nbd": "/dev/nbd0",
        "device-mapper": "/dev/mapper/control",
        "loop": "/dev/loop-control",
    }
    checks += [_exists(name, Path(device)) for name, device in devices.items()]
    checks += [_nfs(), _portmapper(), _firmware()]
    checks += [_tool(name, command) for name, command in _TOOLS.items()]
    checks += [_library(name) for name in _LIBRARIES]
    checks.append(_root())
    if path is not None:
        checks.append(immutable(path))
        checks += protection(path)
    return checks


def _cores() -> Check:
    return Check("cores", OK, str(len(os.sched_getaffinity(0))))


def _memory() -> Check:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Check("memory", OK, format_size(size))


def _clock() -> Check:
    """Ask the kernel whether anything keeps its clock right."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return Check("clock", UNKNOWN)
    if state < 0 or state == _TIME_ERROR:
        return Check("clock", MISSING, "not synchronised (NTP); retention goes by age")
    return Check("clock", OK, "synchronised")


def _kvm() -> Check:
    device = Path("/dev/kvm")
    if not device.exists():
        return Check("kvm", MISSING, "machines run without hardware help, slowly")
    if not os.access(device, os.R_OK | os.W_OK):
        return Check("kvm", MISSING, "no permission")
    if not local_run.kvm_is_usable():
        # Some virtual hosts offer the device, and guests hang on it all the same.
        detail = (
            f"{device} opens, but the processor shows neither vmx nor svm: `ruchu run` uses TCG"
        )
        return Check("kvm", MISSING, detail)
    return Check("kvm", OK, str(device))


def _exists(name: str, device: Path) -> Check:
    if device.exists():
        return Check(name, OK, str(device))
    return Check(name, MISSING, f"{device} is not there")


def _nfs() -> Check:
    known = _text("/proc/filesystems")
    found = [kind for kind in ("nfs", "nfs4") if f"\t{kind}\n" in known]
    if found:
        return Check("nfs client", OK, ", ".join(found))
    return Check("nfs client", MISSING, "not loaded in the kernel")


def _portmapper() -> Check:
    """Tell whether an NFS export could answer on the port that QEMU and ESXi ask first."""
    name = "port 111"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _PORTMAPPER_PORT))
        except OSError as error:
            return Check(name, MISSING, f"{error.strerror}: no NFS export with --portmapper here")
    return Check(name, OK, "free for NFS exports with --portmapper")


def _firmware() -> Check:
    try:
        code, _ = local_machine.firmware_files(lambda path: Path(path).exists())
    except RuchuError:
        return Check("uefi firmware", MISSING, "`ruchu run` cannot run UEFI machines")
    return Check("uefi firmware", OK, code)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _tool(name: str, command: list[str]) -> Check:
    try:
        said = commands.run(command, timeout_s=_TOOL_LIMIT_S, check=False)
    except CommandFailed as error:
        return Check(name, MISSING, error.detail.rpartition(": ")[2])
    lines = (said.text or said.stderr).strip().splitlines()
    return Check(name, OK, lines[0] if lines else "")


def _library(name: str) -> Check:
    try:
        return Check(name, OK, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, MISSING)


def _root() -> Check:
    if os.geteuid() == 0:
        return Check("root", OK, "storages can be guarded")
    return Check("root", MISSING, "only root can guard a storage")


def protection(path: Path) -> list[Check]:
    """Try all that protects a storage from other programs, below a path (`ruchu guard`)."""
    return [
        Check(each.name, OK if each.works else MISSING, each.detail)
        for each in probing.all_findings(path)
    ]


def immutable(path: Path) -> Check:
    """Try the immutable flag in a temporary directory below a path."""
    return _tried("immutable flag", path, _set_and_release)


def _tried(name: str, path: Path, attempt: Callable[[DirectoryStorage], str]) -> Check:
    try:
        with tempfile.TemporaryDirectory(prefix="ruchu-doctor-", dir=path) as directory:
            return Check(name, OK, attempt(DirectoryStorage(directory)))
    except OSError as error:
        return Check(name, UNKNOWN, f"{path}: {error.strerror}")
    except RuchuError as error:
        return Check(name, MISSING, error.detail)


def _set_and_release(storage: DirectoryStorage) -> str:
    storage.put("probe", b"probe")
    try:
        storage.protect("probe")
    finally:
        storage.release("probe")
        storage.delete("probe")
    return "set, seen and released"
