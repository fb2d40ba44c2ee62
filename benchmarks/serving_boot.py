"""Boot of a machine out of its backup, against the same machine on a qcow2 image of this host.

Both are defined, started, and done when the guest agent answers; the instant restore also starts
the export that serves its disk.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import measure, peers, workloads
from benchmarks.workloads import Sample

QCOW2 = "local qcow2"
DISK_BYTES = 512 << 20
FILE_BYTES = 64 << 20


def measure_all(rounds: int, work: Path, facts: dict[str, Any]) -> list[Sample]:
    """Boot by turns."""
    # The test kit needs the libvirt extra and root; the other workloads do not.
    from ruchu.testing import libvirtd  # noqa: PLC0415
    from ruchu.testing.guests import guest as guests  # noqa: PLC0415

    disk = guests.GuestDisk("vda", size=DISK_BYTES)
    samples = []
    with libvirtd.running() as uri, guests.booted(uri, [disk], prefix="ruchu-bench") as guest:
        guest.write("/mnt/vda/content", FILE_BYTES)
        ruchu = peers.Ruchu(work / "boot", guest.disks["vda"])
        ruchu.prepare()
        ruchu.know(uri)
        work.chmod(0o755)
        (answer,) = json.loads(ruchu.call(ruchu.backup_machine(guest.name)))
        ruchu.point = answer["point"]
        guest.stop()
        facts["boot"] = {"uri": uri, "disk": DISK_BYTES}
        for number in range(rounds):
            order = (_instant, _local) if number % 2 else (_local, _instant)
            samples += [boot(guest, ruchu, number) for boot in order]
    return samples


def _instant(guest: Any, ruchu: peers.Ruchu, number: int) -> Sample:
    args = [ruchu.command, "--state", str(ruchu.home / "state"), "instant"]
    start = [*args, "start", ruchu.point, "--as", f"{guest.name}-i", "--wait", "--json"]
    before, began = measure.Load.now(), time.monotonic()
    done = json.loads(ruchu.call(start))
    wall_s = time.monotonic() - began
    ruchu.call([*args, "stop", done["instant"]])
    if done["seconds_agent"] is None:
        raise measure.Failed(f"no guest agent answered: {done}")
    return _sample(peers.RUCHU, number, wall_s, before)


def _local(guest: Any, ruchu: peers.Ruchu, number: int) -> Sample:
    """Define the machine anew on a copy of its disk, as a restore would have left it."""
    import libvirt  # noqa: PLC0415 - an extra; only this workload needs it

    from ruchu.testing.guests import guest as guests  # noqa: PLC0415

    path = guest.disks["vda"]
    kept = path.with_name("kept.qcow2")
    if not kept.exists():
        shutil.copyfile(path, kept)
    shutil.copyfile(kept, path)
    subprocess.run(["sync"], check=True)
    workloads.read_once(path)
    with guest.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        # The backup left a checkpoint.
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)
        before, began = measure.Load.now(), time.monotonic()
        disk = guests.GuestDisk("vda", size=DISK_BYTES)
        connection.defineXML(guests.machine_xml(guest, [disk]))
    guest.start()
    wall_s = time.monotonic() - began
    guest.stop()
    return _sample(QCOW2, number, wall_s, before)


def _sample(tool: str, number: int, wall_s: float, before: measure.Load) -> Sample:
    steal = (measure.Load.now().steal_s - before.steal_s) / (wall_s * measure.CORES)
    print(f"round {number + 1}  {workloads.BOOT}  {tool}  {wall_s:.2f} s", file=sys.stderr)
    # What others took cannot be told from what QEMU did.
    return Sample(workloads.BOOT, tool, number, {"wall": wall_s}, 0.0, steal)
