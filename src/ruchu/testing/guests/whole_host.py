"""A guest whose root is this host's, over virtiofs, with what it writes thrown away.

For what the kernel of a test machine lacks (NFS, CIFS, iSCSI): the guest runs Debian's kernel with
those modules, and this very Python with this very Ruchu. It reaches servers on the host at
`HOST`. One script is run, and the guest goes down.
"""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ruchu import clock, commands
from ruchu.errors import CommandFailed
from ruchu.testing.guests import builder, initramfs

HOST = "10.0.2.2"
MODULES = ("virtio_pci", "virtio_net", "virtiofs", "overlay")
MEMORY_MIB = 1024
_VIRTIOFSD = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
_APPEAR_LIMIT_S = 30.0
_POLL_S = 0.1
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /host /upper /root
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
ip link set lo up; ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
mount -t virtiofs host /host || { echo GUEST no host; poweroff -f; }
mount -t tmpfs tmpfs /upper; mkdir -p /upper/up /upper/work
mount -t overlay -o lowerdir=/host,upperdir=/upper/up,workdir=/upper/work root /root
mount -t proc proc /root/proc; mount -t sysfs sysfs /root/sys
mount -o bind /dev /root/dev; mkdir -p /root/dev/shm; mount -t tmpfs tmpfs /root/run
mkdir -p /root/run/lock /root/run/guest; mount -t tmpfs tmpfs /root/run/guest
echo GUEST up
chroot /root /bin/sh @SCRIPT@
echo GUEST ended $?
poweroff -f
"""


class WholeHost:
    """The running guest: what it said so far."""

    def __init__(self, console: Path, process: commands.Process) -> None:
        self._console = console
        self._process = process

    def said(self) -> str:
        """Return its console."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def wait_for(self, text: str, timeout_s: float) -> str:
        """Return what it said when a text is among it.

        Raises:
            CommandFailed: it did not say so in time, or went down before.
        """
        deadline = clock.SYSTEM.monotonic() + timeout_s
        while text not in (said := self.said()):
            over = "GUEST ended" in said or "FAILED" in said or self._process.status() is not None
            if (over and text not in self.said()) or clock.SYSTEM.monotonic() > deadline:
                raise CommandFailed(f"the guest did not say {text!r}: {said[-3000:]}")
            clock.SYSTEM.sleep(_POLL_S)
        return said


@contextlib.contextmanager
def running(
    place: Path, script: Path, modules: Sequence[str], disks: Sequence[Path] = ()
) -> Iterator[WholeHost]:
    """Run a shell script in the guest, as root; it ends with the context.

    Args:
        place: directory for sockets and the console.
        script: the script, a file of this host.
        modules: kernel modules beside those that the guest itself needs.
        disks: images that are its virtio disks.
    """
    boot = builder.boot_files(modules=(*MODULES, *modules))
    archive = initramfs.Archive()
    init = _INIT.replace("@SCRIPT@", shlex.quote(str(script)))
    archive.add_file("init", init.encode(), executable=True)
    image = place / "initramfs"
    image.write_bytes(boot.initramfs.read_bytes() + archive.finish())
    socket, console = place / "fs.sock", place / "console.log"
    with commands.start(_virtiofsd(socket)) as shared:
        deadline = clock.SYSTEM.monotonic() + _APPEAR_LIMIT_S
        while not socket.exists():
            if shared.status() is not None or clock.SYSTEM.monotonic() > deadline:
                raise CommandFailed(f"virtiofsd: {shared.said()}")
            clock.SYSTEM.sleep(_POLL_S)
        with commands.start(_qemu(boot.kernel, image, socket, console, disks)) as process:
            yield WholeHost(console, process)


def _virtiofsd(socket: Path) -> list[str]:
    program = next((each for each in _VIRTIOFSD if Path(each).exists()), _VIRTIOFSD[0])
    return [
        program,
        f"--socket-path={socket}",
        "-o",
        "source=/,cache=always,sandbox=chroot,no_posix_lock,no_flock",
    ]


def _qemu(
    kernel: Path, image: Path, socket: Path, console: Path, disks: Sequence[Path]
) -> list[str]:
    kvm = builder.machine_type() == "kvm"
    words = ["qemu-system-x86_64", "-M", "pc", "-accel", "kvm" if kvm else "tcg,thread=multi"]
    words += ["-cpu", "host" if kvm else "max", "-smp", "2", "-m", str(MEMORY_MIB), "-nodefaults"]
    words += ["-display", "none", "-no-reboot", "-serial", f"file:{console}"]
    words += ["-object", f"memory-backend-memfd,id=mem,size={MEMORY_MIB}M,share=on"]
    words += ["-numa", "node,memdev=mem", "-chardev", f"socket,id=fs,path={socket}"]
    words += ["-device", "vhost-user-fs-pci,chardev=fs,tag=host"]
    words += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"]
    for number, disk in enumerate(disks):
        words += ["-drive", f"file={disk},format=raw,if=none,id=d{number}"]
        words += ["-device", f"virtio-blk-pci,drive=d{number}"]
    words += ["-kernel", str(kernel), "-initrd", str(image)]
    return [*words, "-append", "console=ttyS0 rdinit=/init quiet panic=1"]
