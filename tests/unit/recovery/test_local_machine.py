"""The QEMU command line: what a machine needs is in it, and nothing that a backup smuggles in."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ruchu.errors import Unsupported, UsageError
from ruchu.model.machines import DiskSpec, MachineSpec, NicSpec
from ruchu.recovery import local_machine
from ruchu.recovery.local_machine import Wish

DISKS = (DiskSpec("vda", 1 << 20, "qcow2", "/x"), DiskSpec("sda", 1 << 20, "raw", "", bus="sata"))
SPEC = MachineSpec(
    "id", "web,exec=1", 2, 3 << 30, "bios", DISKS, (NicSpec("52:54:00:00:00:01", "default"),), ""
)
PLAIN = Wish()
HERE = Path("/run/some place")


def command(spec=SPEC, wish=PLAIN, firmware=None, directory=HERE):
    return local_machine.arguments(spec, wish, directory, firmware)


def after(args, option):
    return [value for name, value in itertools.pairwise(args) if name == option]


def test_size_name_and_disks():
    args = command()
    assert after(args, "-smp") == ["2"]
    assert after(args, "-m") == ["3072M"]
    assert after(args, "-name") == ["web_exec=1"]
    nodes = [json.loads(text)["file"] for text in after(args, "-blockdev")]
    assert [node["export"] for node in nodes] == ["vda", "sda"]
    assert {node["server"]["path"] for node in nodes} == {"/run/some place/disks.sock"}
    fronts = [json.loads(text) for text in after(args, "-device") if text.startswith("{")]
    assert [front["driver"] for front in fronts] == ["virtio-blk-pci", "ide-hd"]
    assert "-netdev" not in args
    changed = command(wish=Wish(vcpus=4, memory=1 << 29, network="user", kvm=True))
    assert (after(changed, "-smp"), after(changed, "-m")) == (["4"], ["512M"])
    assert after(changed, "-cpu") == ["host"]
    assert "virtio-net-pci,netdev=net0" in after(changed, "-device")


def test_what_cannot_be_is_refused():
    for wish in (Wish(console="tty"), Wish(network="bridge")):
        with pytest.raises(UsageError):
            command(wish=wish)
    with pytest.raises(UsageError, match="commas"):
        command(directory=Path("/run/a,readonly=on"))
    with pytest.raises(UsageError, match="commas"):
        command(firmware=(Path("/code.fd"), Path("/cache,if=none/nvram.fd")))
    with pytest.raises(Unsupported, match="bus"):
        command(replace(SPEC, disks=(replace(DISKS[0], bus="fdc"),)))
    with pytest.raises(Unsupported, match="card"):
        card = NicSpec("52:54:00:00:00:01", "default", "e1000,romfile=/etc/passwd")
        command(replace(SPEC, nics=(card,)), Wish(network="user"))
    with pytest.raises(Unsupported, match="aarch64"):
        native = "<domain><os><type arch='aarch64' machine='virt'>hvm</type></os></domain>"
        command(replace(SPEC, native=native))


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("pc-i440fx-9.0", "pc"), ("pc", "pc"), ("pc-q35-9.0", "q35"), ("q35", "q35")],
)
def test_the_machine_type(machine, expected):
    native = f"<domain><os><type arch='x86_64' machine='{machine}'>hvm</type></os></domain>"
    assert after(command(replace(SPEC, native=native)), "-machine") == [f"{expected},accel=tcg"]


def test_entities_are_not_expanded():
    native = '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]><domain>&e;</domain>'
    assert after(command(replace(SPEC, native=native)), "-machine") == ["q35,accel=tcg"]


def test_firmware_that_is_not_installed():
    with pytest.raises(Unsupported, match="UEFI"):
        local_machine.firmware_files(lambda _: False)
    found = local_machine.firmware_files(lambda _: True)
    assert found == local_machine.FIRMWARE[0]
