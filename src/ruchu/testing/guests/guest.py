"""A running test guest: boots, runs commands through the guest agent, is removed at the end."""

import base64
import contextlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax import saxutils

import libvirt
import libvirt_qemu

from ruchu import clock, commands
from ruchu.errors import GuestAgentError
from ruchu.platforms.libvirt import domain_xml
from ruchu.testing.guests import builder
from ruchu.units import MIB

# About 6 s alone under TCG; several guests and other work share two cores in tests.
BOOT_LIMIT_S = 120.0
COMMAND_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
AGENT_LIMIT_S = 20
POLL_S = 0.05
IMAGE_LIMIT_S = 120.0
MEMORY = 160 * MIB
# A request of 350 KB makes the agent fall over; this is an eighth of it.
PUT_CHUNK = 24 * 1024


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """A data disk: its target in the guest (also its serial), size, format, bus.

    It holds an ext4 file system, mounted in the guest at `/mnt/<key>`.
    """

    key: str
    size: int = 256 * MIB
    format: str = "qcow2"
    filesystem: bool = True


@dataclass(slots=True)
class Guest:
    """A machine that was defined for a test."""

    uri: str
    name: str
    uuid: str
    directory: Path
    disks: dict[str, Path] = field(default_factory=dict)
    modules: tuple[str, ...] = ()

    def connect(self) -> contextlib.closing[Any]:
        """Open an own connection to libvirt."""
        libvirt.registerErrorHandler(_silent, None)
        return contextlib.closing(libvirt.open(self.uri))

    def start(self, *, wait: bool = True) -> None:
        """Boot it and wait until its agent answers."""
        with self.connect() as connection:
            connection.lookupByUUIDString(self.uuid).create()
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self, timeout_s: float = BOOT_LIMIT_S) -> None:
        """Return when the agent answers.

        Raises:
            GuestAgentError: it does not, in time.
        """
        deadline = clock.SYSTEM.monotonic() + timeout_s
        while True:
            try:
                self.agent("guest-ping", timeout_s=2)
            except libvirt.libvirtError as error:
                if clock.SYSTEM.monotonic() > deadline:
                    raise GuestAgentError(f"{self.name} is not up after {timeout_s:g} s") from error
                clock.SYSTEM.sleep(POLL_S)
            else:
                return

    def stop(self) -> None:
        """Shut it down in an orderly way: file systems are unmounted."""
        with self.connect() as connection:
            domain = connection.lookupByUUIDString(self.uuid)
            if not domain.isActive():
                return
            try:
                domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
            except libvirt.libvirtError as error:
                # A guest that is quick is off before its agent has answered.
                if "End of file from agent socket" not in str(error):
                    raise
            deadline = clock.SYSTEM.monotonic() + STOP_LIMIT_S
            while domain.isActive() and clock.SYSTEM.monotonic() < deadline:
                clock.SYSTEM.sleep(POLL_S)
            if domain.isActive():
                domain.destroy()

    def agent(self, command: str, arguments: Any = None, timeout_s: int = AGENT_LIMIT_S) -> Any:
        """Send one command to the guest agent and return its answer."""
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        with self.connect() as connection:
            domain = connection.lookupByUUIDString(self.uuid)
            deadline = clock.SYSTEM.monotonic() + timeout_s
            while True:
                try:
                    text = libvirt_qemu.qemuAgentCommand(domain, json.dumps(request), timeout_s, 0)
                    return json.loads(text)["return"]
                except libvirt.libvirtError as error:
                    # After its memory was loaded libvirt hears only a little later that it is there.
                    late = clock.SYSTEM.monotonic() > deadline
                    if late or "agent is not connected" not in str(error):
                        raise
                    clock.SYSTEM.sleep(POLL_S)

    def run(self, command: str, timeout_s: float = COMMAND_LIMIT_S) -> str:
        """Run a shell command in the guest and return its output.

        Raises:
            GuestAgentError: its exit status is not zero, or it took too long.
        """
        arguments = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
        pid = self.agent("guest-exec", arguments)["pid"]
        deadline = clock.SYSTEM.monotonic() + timeout_s
        while not (state := self.agent("guest-exec-status", {"pid": pid}))["exited"]:
            if clock.SYSTEM.monotonic() > deadline:
                raise GuestAgentError(f"`{command}` runs for more than {timeout_s:g} s")
            clock.SYSTEM.sleep(POLL_S)
        output = base64.b64decode(state.get("out-data", "")).decode()
        if state.get("exitcode", -1) != 0:
            said = base64.b64decode(state.get("err-data", "")).decode()
            raise GuestAgentError(f"`{command}`: {state.get('exitcode')}: {output}{said}")
        return output

    def put(self, path: str, content: bytes, *, executable: bool = False) -> None:
        """Write a file in the guest; a program that is put there must be linked statically."""
        handle = self.agent("guest-file-open", {"path": path, "mode": "w"})
        for start in range(0, len(content), PUT_CHUNK):
            text = base64.b64encode(content[start : start + PUT_CHUNK]).decode()
            self.agent("guest-file-write", {"handle": handle, "buf-b64": text})
        self.agent("guest-file-close", {"handle": handle})
        if executable:
            self.run(f"chmod 755 {shlex.quote(path)}")

    def bring_up_network(self) -> str:
        """Give the guest its address in QEMU's user network; return the host's address there.

        What the host serves on 127.0.0.1 is at that address, on the same port.
        """
        self.run(
            "ip link set lo up; ip link set eth0 up; ip addr replace 10.0.2.15/24 dev eth0; "
            "ip route replace default via 10.0.2.2"
        )
        return "10.0.2.2"

    def write(self, path: str, size: int) -> str:
        """Write random bytes to a file in the guest, sync, and return their SHA-256."""
        quoted = shlex.quote(path)
        blocks, rest = divmod(size, 4096)
        self.run(
            f"dd if=/dev/urandom of={quoted} bs=4096 count={blocks} 2>/dev/null; "
            f"head -c {rest} /dev/urandom >> {quoted}; sync"
        )
        return self.sha256(path)

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file in the guest, read from its disk."""
        self.run("echo 3 > /proc/sys/vm/drop_caches")
        return self.run(f"sha256sum {shlex.quote(path)}").split()[0]

    def add_disk(self, disk: GuestDisk) -> Path:
        """Plug in a new disk while the guest runs, and mount it."""
        path = make_image(self.directory, disk, self.name)
        self.disks[disk.key] = path
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
        with self.connect() as connection:
            domain = connection.lookupByUUIDString(self.uuid)
            domain.attachDeviceFlags(disk_xml(disk, path), flags)
        if disk.filesystem:
            self._mount(disk.key)
        return path

    def remove_disk(self, key: str) -> None:
        """Unmount a disk and unplug it; its image stays."""
        self.run(f"umount /mnt/{key}")
        flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
        with self.connect() as connection:
            domain = connection.lookupByUUIDString(self.uuid)
            image = "raw" if self.disks[key].suffix == ".raw" else "qcow2"
            disk = GuestDisk(key, format=image)
            domain.detachDeviceFlags(disk_xml(disk, self.disks[key]), flags)
            deadline = clock.SYSTEM.monotonic() + STOP_LIMIT_S
            while f"dev='{key}'" in domain.XMLDesc() and clock.SYSTEM.monotonic() < deadline:
                clock.SYSTEM.sleep(POLL_S)

    def _mount(self, key: str) -> None:
        deadline = clock.SYSTEM.monotonic() + STOP_LIMIT_S
        while not self.run(f"mount-disks; grep /mnt/{key} /proc/mounts || true"):
            if clock.SYSTEM.monotonic() > deadline:
                raise GuestAgentError(f"{key} does not appear in the guest")
            clock.SYSTEM.sleep(POLL_S)


@contextlib.contextmanager
def defined(
    uri: str,
    disks: Sequence[GuestDisk] = (GuestDisk("vda"),),
    *,
    prefix: str = "ruchu-test",
    agent: bool = True,
    modules: Sequence[str] = (),
) -> Iterator[Guest]:
    """Define a guest with new disks; at the end it and its directory are gone.

    `modules` are kernel modules that it loads beside its own: see `builder.boot_files`.
    """
    # Short: socket paths are at most 107 bytes, and tests put sockets below this directory.
    directory = Path(tempfile.mkdtemp(prefix="rg-", dir="/var/tmp"))
    directory.chmod(0o755)
    identity = domain_xml.new_uuid()
    name = f"{prefix}-{identity[:8]}"
    guest = Guest(uri, name, identity, directory, modules=tuple(modules))
    try:
        for disk in disks:
            guest.disks[disk.key] = make_image(directory, disk, guest.name)
        with guest.connect() as connection:
            connection.defineXML(machine_xml(guest, disks, agent=agent))
        yield guest
    finally:
        remove(uri, guest.uuid)
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def booted(
    uri: str,
    disks: Sequence[GuestDisk] = (GuestDisk("vda"),),
    *,
    prefix: str = "ruchu-test",
    agent: bool = True,
    modules: Sequence[str] = (),
) -> Iterator[Guest]:
    """Define and boot a guest, as `defined` does; at the end it and its directory are gone."""
    with defined(uri, disks, prefix=prefix, agent=agent, modules=modules) as guest:
        guest.start(wait=agent)
        yield guest


def existing(uri: str, identity: str, directory: Path) -> Guest:
    """Wrap a machine that was made elsewhere, such as by a restore, to look into it."""
    libvirt.registerErrorHandler(_silent, None)
    with contextlib.closing(libvirt.open(uri)) as connection:
        name = connection.lookupByUUIDString(identity).name()
    return Guest(uri, name, identity, directory)


def remove(uri: str, identity: str) -> None:
    """Destroy and undefine a machine with all that libvirt remembers of it; no error if gone."""
    libvirt.registerErrorHandler(_silent, None)
    flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    )
    with contextlib.closing(libvirt.open(uri)) as connection:
        try:
            domain = connection.lookupByUUIDString(identity)
        except libvirt.libvirtError:
            return
        with contextlib.suppress(libvirt.libvirtError):
            domain.destroy()
        with contextlib.suppress(libvirt.libvirtError):
            domain.undefineFlags(flags)


def make_image(directory: Path, disk: GuestDisk, name: str) -> Path:
    """Make a disk image with an empty ext4 file system."""
    raw = directory / f"{name}-{disk.key}.raw"
    with raw.open("xb") as file:
        file.truncate(disk.size)
    if disk.filesystem:
        make = ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", str(raw)]
        commands.run(make, timeout_s=IMAGE_LIMIT_S)
    if disk.format == "raw":
        return raw
    image = raw.with_suffix(f".{disk.format}")
    convert = ["qemu-img", "convert", "-f", "raw", "-O", disk.format, str(raw), str(image)]
    commands.run(convert, timeout_s=IMAGE_LIMIT_S)
    raw.unlink()
    return image


def machine_xml(guest: Guest, disks: Sequence[GuestDisk], *, agent: bool = True) -> str:
    """Return the libvirt definition of a guest."""
    files = builder.boot_files(modules=guest.modules)
    kind = builder.machine_type()
    processor = (
        "<cpu mode='host-passthrough'/>" if kind == "kvm" else "<cpu><model>qemu64</model></cpu>"
    )
    channel = (
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        if agent
        else ""
    )
    return f"""<domain type='{kind}'>
  <name>{saxutils.escape(guest.name)}</name>
  <uuid>{guest.uuid}</uuid>
  <memory unit='b'>{MEMORY}</memory>
  <vcpu>1</vcpu>
  {processor}
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{files.kernel}</kernel>
    <initrd>{files.initramfs}</initrd>
    <cmdline>console=ttyS0 rdinit=/init quiet panic=1 mitigations=off nokaslr</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    {"".join(disk_xml(disk, guest.disks[disk.key]) for disk in disks)}
    <interface type='user'><model type='virtio'/></interface>
    <serial type='file'><source path='{guest.directory}/console.log'/></serial>
    {channel}
    <memballoon model='none'/>
  </devices>
</domain>"""


def disk_xml(disk: GuestDisk, path: Path) -> str:
    """Return the libvirt definition of a disk."""
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{disk.format}' "
        f"discard='unmap'/><source file='{path}'/><target dev='{disk.key}' bus='virtio'/>"
        f"<serial>{disk.key}</serial></disk>"
    )


def _silent(_context: object, _error: object) -> None:
    """Keep libvirt from printing to standard error; the exception says it all."""
