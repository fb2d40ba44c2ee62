"""Builds kernel and initramfs of the test guest, once per machine, into a cache directory."""

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ruchu import commands
from ruchu.errors import CommandFailed
from ruchu.testing.guests import initramfs, packages

# Not in the home directory: the QEMU process may run as another user and must read it.
CACHE = Path("/var/tmp") / f"ruchu-guests-{os.getuid()}"  # noqa: S108 - 0755, owner checked
# virtio_pci pulls in the rest of virtio; ext4 and its parts are built into Debian's kernel.
MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "ext4",
    "crc32c_generic",
)
# What a module needs and does not name as a dependency: character sets, and the checksums that
# the crypto API looks up by name.
_COMPANIONS = {
    "btrfs": ("xxhash_generic", "blake2b_generic", "sha256_generic"),
    "exfat": ("nls_utf8",),
    "vfat": ("nls_cp437", "nls_ascii", "nls_utf8"),
}
# With KVM the probe takes a second; a machine slower than this is as well served by TCG.
PROBE_LIMIT_S = 15.0
_SCRIPTS = {
    "init": "init.sh",
    "bin/mount-disks": "mount-disks.sh",
    "sbin/shutdown": "shutdown.sh",
}
_LOADER = "ld-linux-x86-64.so.2"


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a guest boots from: paths of the kernel and the initramfs."""

    kernel: Path
    initramfs: Path


def boot_files(cache: Path = CACHE, modules: Sequence[str] = ()) -> BootFiles:
    """Return kernel and initramfs; the first call on a machine downloads 35 MB and builds them.

    `modules` are kernel modules that the guest loads beside its own, such as `xfs` or `nfsv3`,
    each with all that it depends on. Every set of modules is built once, and kept.

    Safe to call from several processes: one builds, the others wait.

    Raises:
        CommandFailed: the packages could not be fetched.
        FileNotFoundError: the kernel has no such module, neither as a file nor built in.
        PermissionError: the cache directory belongs to somebody else.
    """
    extra = tuple(sorted(set(modules)))
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    if cache.stat().st_uid != os.getuid():
        raise PermissionError(f"{cache} belongs to another user")
    target = cache / f"guest-{_recipe_id(extra)}"
    with _locked(cache / "build.lock"):
        if not target.exists():
            _build(cache, target, extra)
    return BootFiles(target / "vmlinuz", target / "initramfs")


@functools.cache
def machine_type() -> str:
    """Return `kvm` if the guest really boots with KVM here, else `qemu`.

    /dev/kvm may be there and open, and still not run a guest; so one is booted.
    """
    files = boot_files()
    probe = ["qemu-system-x86_64", "-M", "pc", "-accel", "kvm", "-cpu", "host", "-m", "160"]
    probe += ["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]
    probe += ["-kernel", str(files.kernel), "-initrd", str(files.initramfs)]
    probe += ["-append", "console=ttyS0 rdinit=/init quiet panic=1 ruchu.probe"]
    try:
        done = commands.run(probe, timeout_s=PROBE_LIMIT_S, check=False)
    except CommandFailed:
        return "qemu"
    return "kvm" if b"RUCHU PROBE" in done.stdout else "qemu"


def _recipe_id(extra: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr((MODULES, _SCRIPTS)).encode())
    for name in sorted(_SCRIPTS.values()):
        digest.update(_script(name))
    if extra:
        digest.update(repr([(name, _COMPANIONS.get(name)) for name in extra]).encode())
    return digest.hexdigest()[:12]


def _script(name: str) -> bytes:
    return resources.files("ruchu.testing.guests").joinpath(name).read_bytes()


def _build(cache: Path, target: Path, extra: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as name:
        work = Path(name)
        root = work / "root"
        wanted = [packages.kernel_image(), packages.AGENT_PACKAGE, packages.BUSYBOX_PACKAGE]
        packages.unpack([*wanted, *packages.agent_libraries()], root)
        made = work / "made"
        made.mkdir(mode=0o755)
        (kernel,) = (root / "boot").glob("vmlinuz-*")
        shutil.copyfile(kernel, made / "vmlinuz")
        (made / "initramfs").write_bytes(_initramfs(root, extra))
        made.rename(target)


def _initramfs(root: Path, extra: tuple[str, ...]) -> bytes:
    archive = initramfs.Archive()
    for directory in ("proc", "sys", "dev", "run", "tmp", "mnt", "etc"):
        archive.add_directory(directory)
    for name, script in _SCRIPTS.items():
        archive.add_file(name, _script(script), executable=True)
    archive.add_file("bin/busybox", _first(root, "bin/busybox").read_bytes(), executable=True)
    agent = _first(root, "sbin/qemu-ga")
    archive.add_file("sbin/qemu-ga", agent.read_bytes(), executable=True)
    for name, content in initramfs.library_closure(root, agent).items():
        if name != _LOADER:
            archive.add_file(f"lib/x86_64-linux-gnu/{name}", content)
    loader = initramfs.library_closure(root, agent).get(_LOADER)
    archive.add_file(
        f"lib64/{_LOADER}", loader or _first(root, _LOADER).read_bytes(), executable=True
    )
    (tree,) = (path for path in root.glob("**/lib/modules/*") if (path / "kernel").is_dir())
    _require(tree, extra)
    companions = [other for name in extra for other in _COMPANIONS.get(name, ())]
    modules = list(initramfs.module_closure(tree, (*MODULES, *companions, *extra)))
    for name, content in modules:
        archive.add_file(f"modules/{name}.ko", content)
    archive.add_file("modules/order", "\n".join(name for name, _ in modules).encode())
    return archive.finish()


def _require(tree: Path, extra: tuple[str, ...]) -> None:
    # The closure takes an unknown name for one that is built in; the kernel says what really is.
    builtin = (tree / "modules.builtin").read_text().split()
    there = {*builtin, *(path.name for path in tree.rglob("*.ko*"))}
    known = {Path(name).name.partition(".ko")[0].replace("-", "_") for name in there}
    missing = sorted(set(extra) - known)
    if missing:
        raise FileNotFoundError(f"{tree.name} has no module {', '.join(missing)}")


def _first(root: Path, ending: str) -> Path:
    for path in sorted(root.rglob(ending.rpartition("/")[2])):
        if path.is_file() and str(path).endswith(ending):
            return path
    raise FileNotFoundError(ending)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
