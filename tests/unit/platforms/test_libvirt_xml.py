"""Domain XML: read into a machine, and written for a restored one."""

import xml.etree.ElementTree as ET

import pytest

from ruchu.errors import PlatformError
from ruchu.model.machines import DiskSpec, NicSpec
from ruchu.platforms.libvirt import domain_xml
from ruchu.platforms.libvirt.domain_xml import Changes, NewImage
from ruchu.units import GIB, MIB

UUID = "11111111-2222-3333-4444-555555555555"
NEW = "99999999-2222-4333-8444-555555555555"
MACHINE = f"""
<domain type='kvm' id='7'>
  <name>old</name><uuid>{UUID}</uuid>
  <genid>{UUID}</genid>
  <memory unit='MiB'>512</memory><currentMemory unit='MiB'>512</currentMemory>
  <maxMemory slots='4' unit='GiB'>8</maxMemory>
  <vcpu current='1'>4</vcpu>
  <vcpus><vcpu id='0' enabled='yes'/></vcpus>
  <sysinfo type='smbios'><system><entry name='uuid'>{UUID}</entry></system></sysinfo>
  <os firmware='efi'>
    <type>hvm</type>
    <loader type='pflash' readonly='yes'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/libvirt/qemu/nvram/old_VARS.fd</nvram>
  </os>
  <cpu><topology sockets='1' cores='4' threads='1'/><numa><cell id='0'/></numa></cpu>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/images/a.qcow2' index='1'/>
      <backingStore type='file'><format type='raw'/><source file='/images/base'/></backingStore>
      <target dev='vda' bus='virtio'/><serial>S1</serial><boot order='1'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/><source dev='/dev/vg/b'/><target dev='sda' bus='scsi'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/><auth username='x'/>
      <source protocol='rbd' name='pool/image'><host name='h'/></source><target dev='vdb'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='default' portid='x' bridge='virbr0'/>
      <target dev='vnet0'/><model type='virtio'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:02'/><source bridge='br0'/><model type='e1000'/>
    </interface>
    <interface type='user'><mac address='52:54:00:00:00:03'/></interface>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <graphics type='vnc' passwd='secret'/>
  </devices>
</domain>"""
SIZES = {"vda": GIB, "sda": 2 * GIB, "vdb": 3 * GIB}


@pytest.fixture
def spec():
    return domain_xml.machine_spec(MACHINE, MACHINE, SIZES.__getitem__, b"vars")


def changed(spec, **more):
    settings = {"name": "new", "uuid": NEW, "images": {"vda": NewImage("/n/vda.raw", "raw")}}
    return domain_xml.parse(domain_xml.restored(spec, Changes(**(settings | more))))


def test_a_machine_is_read(spec):
    assert (spec.id, spec.name, spec.vcpus, spec.memory) == (UUID, "old", 4, 512 * MIB)
    assert spec.firmware == "uefi"
    assert spec.nvram == b"vars"
    assert spec.native == MACHINE
    assert spec.disks == (
        DiskSpec("vda", GIB, "qcow2", "/images/a.qcow2", "virtio", "S1", tracked=True),
        DiskSpec("sda", 2 * GIB, "raw", "/dev/vg/b", "scsi", "", tracked=False),
        DiskSpec("vdb", 3 * GIB, "raw", "rbd:pool/image", "virtio", "", tracked=False),
    )
    assert spec.nics == (
        NicSpec("52:54:00:00:00:01", "default", "virtio", "network"),
        NicSpec("52:54:00:00:00:02", "br0", "e1000", "bridge"),
        NicSpec("52:54:00:00:00:03", "", "", "user"),
    )
    assert domain_xml.nvram_path(MACHINE) == "/var/lib/libvirt/qemu/nvram/old_VARS.fd"
    assert domain_xml.agent_connected(MACHINE) is True
    assert domain_xml.agent_connected("<domain/>") is None


def test_a_restored_machine(spec):
    root = changed(spec, nvram="/n/new_VARS.fd")
    assert root.get("id") is None
    assert root.findtext("name") == "new"
    assert root.findtext("uuid") == NEW
    assert root.findtext("./sysinfo/system/entry") == NEW
    assert root.findtext("genid") != UUID
    assert root.findtext("./os/nvram") == "/n/new_VARS.fd"
    assert root.find("./os/nvram").attrib == {}
    (disk,) = root.findall("./devices/disk[@device='disk']")
    assert disk.get("type") == "file"
    assert disk.find("source").attrib == {"file": "/n/vda.raw"}
    assert disk.find("driver").attrib == {"name": "qemu", "type": "raw", "cache": "none"}
    assert disk.find("backingStore") is None
    assert disk.findtext("serial") == "S1"
    assert disk.find("boot").get("order") == "1"
    assert len(root.findall("./devices/disk[@device='cdrom']")) == 1
    assert root.find("./devices/graphics").get("passwd") == "secret"
    # What was not asked for stays.
    assert root.findtext("memory") == "512"
    assert root.find("./cpu/topology") is not None
    macs = [mac.get("address") for mac in root.findall("./devices/interface/mac")]
    assert macs == [nic.mac for nic in spec.nics]


def test_a_block_and_a_network_disk_become_files(spec):
    images = {key: NewImage(f"/n/{key}", "qcow2") for key in SIZES}
    disks = changed(spec, images=images).findall("./devices/disk[@device='disk']")
    assert [disk.get("type") for disk in disks] == ["file"] * 3
    assert [disk.find("source").attrib for disk in disks] == [
        {"file": f"/n/{key}"} for key in SIZES
    ]
    assert all(disk.find("auth") is None for disk in disks)


def test_size(spec):
    root = changed(spec, vcpus=2, memory=GIB)
    assert root.find("vcpu").attrib == {}
    assert root.findtext("vcpu") == "2"
    assert (root.findtext("memory"), root.find("memory").get("unit")) == (str(GIB), "b")
    assert root.findtext("currentMemory") == str(GIB)
    for gone in ("maxMemory", "vcpus", "./cpu/topology", "./cpu/numa"):
        assert root.find(gone) is None


def test_networks_and_addresses(spec):
    root = changed(spec, networks={"default": "isolated", "br0": "br1"}, new_macs=True)
    sources = [each.attrib for each in root.findall("./devices/interface/source")]
    assert sources == [{"network": "isolated", "bridge": "virbr0"}, {"bridge": "br1"}]
    macs = [mac.get("address") for mac in root.findall("./devices/interface/mac")]
    assert len(set(macs)) == 3
    assert all(mac.startswith("52:54:00:") for mac in macs)
    assert not set(macs) & {nic.mac for nic in spec.nics}


def test_a_disk_that_only_the_running_machine_had(spec):
    live = MACHINE.replace("vda", "vdz")
    spec = domain_xml.machine_spec(MACHINE, live, lambda _: GIB)
    assert [disk.key for disk in spec.disks] == ["vdz", "sda", "vdb"]
    root = changed(spec, images={"vdz": NewImage("/n/vdz", "qcow2")})
    (disk,) = root.findall("./devices/disk[@device='disk']")
    assert disk.find("target").attrib == {"dev": "vdz", "bus": "virtio"}
    assert disk.find("source").attrib == {"file": "/n/vdz"}
    assert disk.findtext("serial") == "S1"


@pytest.mark.parametrize(
    ("unit", "number"),
    [("", 512 * 1024), ("KiB", 512 * 1024), ("G", 512 * GIB), ("b", 512), ("MB", 512 * 10**6)],
)
def test_units_of_memory(unit, number):
    attribute = f" unit='{unit}'" if unit else ""
    text = f"<domain><memory{attribute}>512</memory></domain>"
    assert domain_xml.machine_spec(text, text, len).memory == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<domain>",
        "<network/>",
        "<!DOCTYPE x [<!ENTITY a 'b'>]><domain><name>&a;</name></domain>",
        "<domain/>",
        "<domain><memory unit='parsec'>1</memory></domain>",
    ],
)
def test_what_is_no_definition(text):
    with pytest.raises(PlatformError):
        domain_xml.machine_spec(text, text, len)


def test_new_ids_are_uuids():
    first, second = domain_xml.new_uuid(), domain_xml.new_uuid()
    assert first != second
    assert first[14] == "4"
    assert len(ET.fromstring(f"<a>{first}</a>").text) == 36
