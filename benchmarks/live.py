"""Full backup of a running virtual machine, against virtnbdbackup.

The guest runs, its file system is unmounted after boot: so the disk stays as it is, and every
backup can be restored and compared with it. virtnbdbackup stores plain data by default; with -z it
compresses (lz4), which is nearer to what Ruchu does, but neither removes duplicates nor encrypts.
QEMU works for whoever asks it, so its CPU time is told next to that of the programs (`cpu+qemu`).
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import data, measure, peers, workloads
from benchmarks.measure import Failed
from benchmarks.workloads import Sample

PEERS = {"virtnbdbackup": (), "virtnbdbackup -z": ("--compress",)}
RUN = Path("/run/libvirt/qemu")
DISK = "vda"


class Machine:
    """The running guest."""

    def __init__(self, guest: Any) -> None:
        self.guest = guest
        self.image = guest.disks[DISK]

    def qemu_cpu_s(self) -> float:
        return measure.cpu_of(int((RUN / f"{self.guest.name}.pid").read_text()))

    def forget_backups(self) -> None:
        """Remove all checkpoints, so that the next program finds none of another's."""
        import libvirt  # noqa: PLC0415 - an extra; only this workload needs it

        with self.guest.connect() as connection:
            domain = connection.lookupByUUIDString(self.guest.uuid)
            for checkpoint in domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_ROOTS):
                checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_CHILDREN)

    def compare(self, restored: Path, kind: str) -> None:
        """Compare a restored disk with that of the guest.

        Raises:
            Failed: they differ.
        """
        args = ["qemu-img", "compare", "-U", "-f", "qcow2", "-F", kind]
        done = subprocess.run(
            [*args, str(self.image), str(restored)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"{restored} is not as the disk of the guest: {done.stdout}{done.stderr}")


def measure_all(
    size: int, rounds: int, chosen: list[str], work: Path, facts: dict[str, Any]
) -> list[Sample]:
    """Boot a guest with `size` bytes of disk and back it up by turns."""
    # The test kit needs the libvirt extra and root; the other workloads do not.
    from ruchu.testing import libvirtd  # noqa: PLC0415
    from ruchu.testing.guests import guest as guests  # noqa: PLC0415

    images = data.prepare(size)
    if shutil.which("virtnbdbackup") is None:
        raise Failed("virtnbdbackup is missing; `make bench` installs it")
    samples: list[Sample] = []
    disk = guests.GuestDisk(DISK, size=size)
    with libvirtd.running() as uri, guests.defined(uri, [disk], prefix="ruchu-bench") as guest:
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
        subprocess.run([*convert, images.image(1), guest.disks[DISK]], check=True)
        guest.start()
        guest.run(f"umount /mnt/{DISK}")
        facts["live"] = _facts(uri, guest, size, images.allocated)
        machine = Machine(guest)
        for number in range(rounds):
            tools = [peers.RUCHU, *chosen]
            at = number % len(tools)
            order = (*tools[at:], *tools[:at])
            samples += [_sample(name, number, uri, machine, work) for name in order]
    return samples


def _facts(uri: str, guest: Any, size: int, allocated: int) -> dict[str, Any]:
    with guest.connect() as connection:
        kind = connection.lookupByUUIDString(guest.uuid).XMLDesc().split("type='")[1].split("'")[0]
        versions = {"libvirt": connection.getLibVersion(), "qemu": connection.getVersion()}
    said = subprocess.run(
        ["virtnbdbackup", "--version"], capture_output=True, text=True, check=True
    )
    found = {"uri": uri, "virtualization": kind, "size": size, "allocated": allocated, **versions}
    found["virtnbdbackup"] = said.stdout.strip()
    print("live:", ", ".join(f"{name} {value}" for name, value in found.items()))
    return found


def _sample(name: str, number: int, uri: str, machine: Machine, work: Path) -> Sample:
    home = work / "live"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    machine.forget_backups()
    workloads.read_once(machine.image)
    backup = _with_ruchu if name == peers.RUCHU else _with_virtnbdbackup
    cost, qemu_s, size = backup(name, uri, machine, home)
    metrics = {
        "cpu": cost.cpu_s,
        "wall": cost.wall_s,
        "rss": float(cost.rss),
        "size": float(size),
        "cpu+qemu": cost.cpu_s + qemu_s,
    }
    told = "  ".join(f"{metric} {value:.6g}" for metric, value in metrics.items())
    print(f"round {number + 1}  {workloads.LIVE}  {name}  {told}", file=sys.stderr)
    # QEMU is no stranger here.
    others = max(0.0, cost.others - qemu_s / max(cost.wall_s, 0.01) / measure.CORES)
    return Sample(workloads.LIVE, name, number, metrics, others, cost.steal)


def _run(args, machine, log, env=None) -> tuple[measure.Cost, float]:
    subprocess.run(["sync"], check=True)
    before = machine.qemu_cpu_s()
    cost = measure.run(args, log, env)
    return cost, machine.qemu_cpu_s() - before


def _with_ruchu(_name, uri, machine, home) -> tuple[measure.Cost, float, int]:
    ruchu = peers.Ruchu(home, machine.image)
    ruchu.prepare()
    ruchu.know(uri)
    args = ruchu.backup_machine(machine.guest.name)
    cost, qemu_s = _run(args, machine, home / "log", ruchu.env())
    ruchu.note(cost.output)
    target = home / "restored"
    target.mkdir()
    args, image = ruchu.restore(target)
    measure.run(args, home / "log", ruchu.env())
    machine.compare(image, "raw")
    return cost, qemu_s, ruchu.size()


def _with_virtnbdbackup(name, uri, machine, home) -> tuple[measure.Cost, float, int]:
    saved = home / "saved"
    args = ["virtnbdbackup", "--uri", uri, "--domain", machine.guest.name, "--level", "full"]
    args += ["--noprogress", "--output", str(saved), "--scratchdir", str(home), *PEERS[name]]
    cost, qemu_s = _run(args, machine, home / "log")
    size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    restored = home / "restored"
    args = ["virtnbdrestore", "--uri", uri, "--noprogress", "--input", str(saved)]
    measure.run([*args, "--output", str(restored)], home / "log")
    (image,) = restored.glob("*.qcow2")
    machine.compare(image, "qcow2")
    return cost, qemu_s, size
