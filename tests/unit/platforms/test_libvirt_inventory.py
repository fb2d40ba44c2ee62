"""A listing of machines while machines come and go."""

import libvirt
import pytest

from ruchu.platforms.libvirt import inventory

XML = """<domain><name>{0}</name><uuid>{0}</uuid><memory>1024</memory><devices>
<disk device='disk'><source file='/x'/><target dev='vda'/></disk></devices></domain>"""


class Domain:
    """A machine; `fails` names the call at which it is found to be gone, or unreadable."""

    def __init__(self, name, fails="", code=libvirt.VIR_ERR_NO_DOMAIN):
        self._name, self._fails, self._code = name, fails, code

    def _call(self, what, value):
        if what == self._fails:
            error = libvirt.libvirtError("gone")
            error.err = (self._code, 0, "gone", 2, None, None, None, -1, -1)
            raise error
        return value

    def name(self):
        return self._name

    def XMLDesc(self, flags):  # noqa: N802 - libvirt's name
        del flags
        return self._call("XMLDesc", XML.format(self._name))

    def state(self):
        return self._call("state", [libvirt.VIR_DOMAIN_RUNNING, 0])

    def isActive(self):  # noqa: N802
        return 1

    def blockInfo(self, key):  # noqa: N802
        assert key == "vda"
        return self._call("blockInfo", [4096, 0, 0])


class Connection:
    def __init__(self, *domains):
        self._domains = domains

    def getHostname(self):  # noqa: N802
        return "host"

    def listAllDomains(self, flags):  # noqa: N802
        del flags
        return list(self._domains)


@pytest.mark.parametrize("call", ["XMLDesc", "state", "blockInfo"])
def test_a_machine_that_is_removed_meanwhile_is_not_listed(call):
    found = inventory.summaries(Connection(Domain("a"), Domain("b", call), Domain("c")))
    assert [(line.name, line.disk_size, line.tags) for line in found] == [
        ("a", 4096, ()), ("c", 4096, ())
    ]  # fmt: skip


def test_a_missing_image_hides_no_machine():
    broken = Domain("b", "blockInfo", libvirt.VIR_ERR_OPERATION_FAILED)
    found = inventory.summaries(Connection(Domain("a"), broken))
    assert [(line.name, line.tags) for line in found] == [("a", ()), ("b", ("unreadable:vda",))]
