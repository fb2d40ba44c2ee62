"""The first-run guide in a browser: from nothing to a verified backup of a real guest."""

import pytest
from playwright.sync_api import expect

from ruchu.testing import browsers
from ruchu.testing.guests.guest import GuestDisk, defined

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

# A node answers each question by a process of its own; on cores that others use that takes a while.
ASKED_MS = 120_000
DISKS = [GuestDisk("vda", 64 << 20)]


def field(page, name):
    return page.locator(f"input[data-test={name}], [data-test={name}] input")


def walk(page, home, uri, guest):
    """Walk the guide to its end."""
    browsers.show(page, "/guide")
    browsers.no_horizontal_scroll(page)
    field(page, "folder").fill(str(home / "storage"))
    field(page, "passphrase").fill("short")
    page.locator("[data-test=make-storage]").click()
    expect(page.get_by_role("alert").first).to_be_visible()
    field(page, "passphrase").fill("seven lanterns over the quiet harbour")
    page.locator("[data-test=make-storage]").click()
    expect(page.locator("[data-test=guide-storage-done]")).to_be_visible(timeout=ASKED_MS)
    if not field(page, "scratch").is_visible():
        page.locator("[data-test=other-address]").click()
        # What is pressed while it moves out of the way is not pressed.
        browsers.settle(page)
    field(page, "platform-uri").fill(uri)
    field(page, "scratch").fill(str(home / "scratch"))
    page.locator("[data-test=add-platform]").click()
    expect(page.locator("[data-test=guide-platform-done]")).to_be_visible(timeout=ASKED_MS)
    # Whoever leaves and comes back goes on where they were.
    browsers.show(page, "/guide")
    browsers.no_horizontal_scroll(page)
    page.locator("[data-test=guide-mode] [role=radio]").nth(1).click()
    field(page, "pick-search").fill(guest.name)
    expect(page.locator(".r-pick-row")).to_have_count(1)
    page.locator(f"[data-test=pick-{guest.uuid}]").click()
    page.locator("[data-test=protect]").click()
    expect(page.locator("[data-test=guide-done]")).to_be_visible(timeout=ASKED_MS)
    browsers.no_horizontal_scroll(page)


@pytest.mark.parametrize(("size", "language"), [("desktop", "en"), ("phone", "zh")])
def test_the_guide_leads_to_a_verified_backup(libvirt_uri, home, browser, size, language):
    with defined(libvirt_uri, DISKS) as guest, browsers.console(home / "one") as console:
        console.server.nodes_online(1)
        look = {"size": browsers.SIZES[size], "language": language}
        with browsers.visitor(browser, console, **look) as visitor:
            walk(visitor.page, home, libvirt_uri, guest)
        (point,) = console.server.get("/points")["items"]
        assert (point["kind"], point["name"]) == ("full", guest.name)
        runs = console.server.get("/runs")["items"]
        assert [(run["kind"], run["state"]) for run in runs] == [
            ("verify", "succeeded"), ("backup", "succeeded"),
        ]  # fmt: skip
        (policy,) = console.server.get("/policies")
        assert policy["policy"]["selection"]["machines"] == [guest.uuid]
