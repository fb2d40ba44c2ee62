"""Restoring in a browser: a star, another machine, and machines that run from a point."""

import zlib

import pytest
from playwright.sync_api import expect

from ruchu import commands
from ruchu.testing import browsers
from ruchu.testing.guests import bare

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

JOB = "**/runs/*"
# Long enough for CI, which shares two cores.
SOON_MS = 90_000


@pytest.fixture
def machine(libvirt_uri, home):
    """Yield the name of a machine that has a display and nothing to boot; what it became goes."""
    image = home / "disk.qcow2"
    commands.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "32M"], timeout_s=30)
    with bare.machine(libvirt_uri, image) as name:
        yield name


def saved(server, home, uri, machine):
    """Save a machine; return its point."""
    server.nodes_online(1)
    made = {"name": "main", "location": str(home / "storage"), "passphrase": "sieben Berge 7"}
    server.post("/storages", made)
    server.post("/platforms", {"name": "kvm", "uri": uri, "scratch": str(home / "scratch")})
    server.post("/platforms/kvm/refresh")
    server.post("/policies", {
        "name": "nightly", "selection": {"platform": "kvm", "machines": [machine]},
        "storage": "main", "retention": {"count": 3}, "options": {"quiesce": False},
    })  # fmt: skip
    done = server.over(server.post("/policies/nightly/run", {"kind": "full"})["id"])
    assert done["state"] == "succeeded", server.trouble()
    (point,) = server.get("/points")["items"]
    return point["id"]


def field(page, name):
    return page.locator(f"input[data-test={name}], [data-test={name}] input").first


def began(page, server):
    """Wait until a page led to its job, and the job succeeded."""
    browsers.arrived(page, JOB)
    done = server.over(page.url.rpartition("/")[2])
    assert done["state"] == "succeeded", server.trouble()


def starred(page, server, machine, point):
    """Find a machine by its name, and star its point."""
    browsers.show(page, "/restore")
    field(page, "filter-text").fill(machine)
    page.get_by_role("link", name=machine).click()
    expect(page.locator("[data-day]")).to_have_count(1)
    page.get_by_role("button", name="Star").click()
    expect(page.get_by_text("Starred", exact=True)).to_be_visible()
    assert server.get(f"/points/{point}")[0]["starred"]


def restored(page, server, home, machine, point):
    """Restore a machine beside the one that is there."""
    browsers.show(page, f"/restore/point/{point}")
    page.locator("[data-test=act-restore]").click()
    steps = page.locator("[data-test=steps]")
    expect(steps).to_contain_text(f"{machine}-restored", timeout=SOON_MS)
    # A name that is taken is not let through.
    field(page, "name").fill(machine)
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("[data-test=begin]")).to_be_disabled()
    field(page, "name").fill(f"{machine}-back")
    field(page, "vcpus").fill("2")
    expect(steps).to_contain_text("2 processors instead of 1")
    browsers.no_horizontal_scroll(page)
    page.locator("[data-test=begin]").click()
    began(page, server)
    assert (home / f"{machine}-back-vda.qcow2").exists()


def started(page, server, machine, point):
    """Let a machine run from its point; return the card that shows it."""
    browsers.show(page, f"/restore/point/{point}/instant")
    steps = page.locator("[data-test=steps]")
    expect(steps).to_contain_text(f"{machine}-instant", timeout=SOON_MS)
    page.locator("[data-test=begin]").click()
    began(page, server)
    other = {"name": f"{machine}-other", "start": True}
    body = {"point": point, "storage": "main", "platform": "kvm", "placement": other}
    server.over(server.post("/runs", {"kind": "instant", "name": "x", "body": body})["id"])


def card(page, name):
    return page.locator(f'[data-test="instant-{name}"]')


def pictured(page, name):
    """Wait until the picture of a console has come, and is one."""
    picture = card(page, name).locator("[data-test=picture]")
    expect(picture).to_be_visible(timeout=SOON_MS)
    assert picture.evaluate("(image) => image.naturalWidth") >= 640
    address = picture.get_attribute("src")
    content = page.request.get(address).body()
    at = content.index(b"IDAT")
    length = int.from_bytes(content[at - 4 : at], "big")
    assert any(zlib.decompress(content[at + 4 : at + 4 + length]))  # not all is black


def test_restore_in_a_browser(libvirt_uri, home, machine, browser, tmp_path):
    with browsers.console(tmp_path / "one") as console:
        server = console.server
        point = saved(server, home, libvirt_uri, machine)
        with browsers.visitor(browser, console) as visitor:
            page = visitor.page
            # A machine that is being switched off has no picture to show.
            visitor.watch.forgive(r"/picture\?")
            starred(page, server, machine, point)
            restored(page, server, home, machine, point)
            started(page, server, machine, point)
            browsers.show(page, "/instants")
            moving, ending = f"{machine}-instant", f"{machine}-other"
            expect(card(page, moving)).to_be_visible(timeout=SOON_MS)
            expect(card(page, ending)).to_contain_text("Running")
            pictured(page, moving)
            stopped(page, ending)
            migrated(page, moving, home)
            expect(page.get_by_text("No instant restore runs.")).to_be_visible(timeout=SOON_MS)
        names = {each["name"] for each in refreshed(server)}
        assert {moving, f"{machine}-back"} <= names
        assert ending not in names


def stopped(page, name):
    """Stop one and let go of what it wrote; its name has to be typed."""
    card(page, name).locator("[data-test=stop]").click()
    page.get_by_role("radio").nth(1).click()
    page.locator("[data-test=confirm]").click()
    expect(page.get_by_text("Everything that it wrote since")).to_be_visible()
    page.get_by_role("dialog").get_by_role("textbox").fill(name)
    page.get_by_role("button", name="Stop", exact=True).last.click()
    expect(card(page, name)).to_have_count(0, timeout=SOON_MS)


def migrated(page, name, home):
    """Move one to disks of its own."""
    card(page, name).locator("[data-test=migrate]").click()
    (home / "moved").mkdir()
    field(page, "directory").fill(str(home / "moved"))
    page.locator("[data-test=confirm]").click()
    expect(card(page, name)).to_have_count(0, timeout=SOON_MS)
    assert list((home / "moved").glob("*.qcow2"))


def refreshed(server):
    """Return the machines of the platform as they are now."""
    server.post("/platforms/kvm/refresh")
    return server.get("/machines")["items"]
