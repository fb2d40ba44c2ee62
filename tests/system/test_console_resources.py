"""The console's pages of storages, platforms, machines and nodes, walked on a real server.

A storage in a directory, a libvirt daemon with a machine, and a second node that is enrolled with
the very command that the page shows.
"""

import re
import shlex

import pytest
from playwright.sync_api import expect

from ruchu.testing import browsers, servers
from ruchu.testing.guests.guest import GuestDisk, defined

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

PASSPHRASE = "sieben Berge und 7 Zwerge"


@pytest.fixture
def console(home):
    with browsers.console(home / "one") as running:
        running.server.nodes_online(1)
        yield running


def at(page, name):
    return page.locator(f"[data-test={name}]")


def fill(page, name, text):
    """Fill the field of a name; Quasar gives the mark to the input itself or to what is around."""
    found = page.locator(f"input[data-test={name}], [data-test={name}] input").first
    found.fill(text)


def add_storage(page, path):
    browsers.show(page, "/storages")
    page.get_by_role("button", name="Add a storage").first.click()
    at(page, "on-kind").click()
    fill(page, "path", "not/absolute")
    at(page, "on-place").click()
    expect(page.get_by_role("alert").filter(has_text="begins with /")).to_be_visible()
    fill(page, "path", str(path))
    at(page, "on-place").click()
    fill(page, "passphrase", PASSPHRASE)
    fill(page, "passphrase-again", PASSPHRASE)
    at(page, "on-secret").click()
    expect(page.get_by_role("alert").filter(has_text="Write the passphrase down")).to_be_visible()
    at(page, "kept").click()
    at(page, "on-secret").click()
    fill(page, "name", "main")
    at(page, "on-name").click()
    expect(page.get_by_text(str(path))).to_be_visible()
    at(page, "on-review").click()
    browsers.arrived(page, re.compile(r"/storages/main$"))
    expect(page.get_by_text("with a passphrase")).to_be_visible()


def test_a_storage_a_platform_and_a_node_are_added(libvirt_uri, home, console, browser):
    with (
        defined(libvirt_uri, [GuestDisk("vda", 64 << 20)]) as guest,
        browsers.visitor(browser, console, size=browsers.DESKTOP) as visitor,
    ):
        page = visitor.page
        add_storage(page, home / "storage")
        assert (home / "storage" / "FORMAT.txt").exists()
        add_platform(page, libvirt_uri, home)
        see_machine(page, guest)
        enrol_node(page, home, console)
    fit_a_phone(browser, console)


def add_platform(page, uri, place):
    browsers.show(page, "/platforms/new")
    fill(page, "name", "kvm")
    fill(page, "uri", uri)
    at(page, "more").click()
    browsers.settle(page)
    fill(page, "scratch", str(place / "scratch"))
    at(page, "add").click()
    expect(at(page, "found")).to_have_text(re.compile(r"[1-9]\d* machines were found"))
    expect(at(page, "abilities")).to_contain_text("tracks changed blocks")


def see_machine(page, guest):
    browsers.show(page, f"/machines?text={guest.name}")
    expect(page.get_by_text("Not protected").first).to_be_visible()
    page.get_by_role("link", name=guest.name, exact=True).click()
    expect(page.get_by_text("There is no point of this machine yet.")).to_be_visible()
    # The disks are asked of the platform itself.
    expect(page.get_by_text("64.0 MiB").first).to_be_visible()
    expect(at(page, "protect")).to_be_visible()
    browsers.show(page, "/platforms/kvm")
    # Of one host without folders the machines are shown at once, and their disks on demand.
    node = page.locator(".q-tree__node--parent").filter(has_text=guest.name).last
    node.locator(".q-tree__arrow").first.click()
    expect(page.locator(".r-tree-node").filter(has_text=".qcow2").first).to_be_visible()


def enrol_node(page, place, console):
    browsers.show(page, "/nodes/new")
    fill(page, "name", "node-2")
    fill(page, "address", "127.0.0.1")
    at(page, "make-token").click()
    words = shlex.split(at(page, "node-command").inner_text())
    assert words[:2] == ["ruchu", "node"]
    expect(at(page, "node-waits")).to_be_visible()
    with servers.node(place / "two", words[words.index("--join") + 1]):
        expect(at(page, "node-there")).to_contain_text("node-2 is connected")
        browsers.show(page, "/nodes/node-2")
        expect(page.get_by_text("qemu-img", exact=True)).to_be_visible()
        at(page, "maintenance").click()
        expect(page.get_by_text("In maintenance", exact=True).first).to_be_visible()
        assert console.server.get("/nodes/node-2")["maintenance"] is True


def fit_a_phone(browser, console):
    with browsers.visitor(browser, console, size=browsers.PHONE, language="zh") as visitor:
        for path in ("/platforms", "/platforms/kvm", "/platforms/new", "/machines", "/nodes",
                     "/nodes/node-2", "/nodes/new", "/storages", "/storages/main",
                     "/storages/new"):  # fmt: skip
            browsers.show(visitor.page, path)
            browsers.no_horizontal_scroll(visitor.page)
            expect(visitor.page.get_by_role("heading", level=1)).to_have_count(1)
