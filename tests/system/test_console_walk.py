"""One walk through the console, from an empty server to a report, as its first administrator.

A real guest under libvirt is protected by the guide, changed, saved again, restored, run from a
point and moved to production; a file is fetched, a star outlives retention, a failure is seen. In
`make test` it is walked on a tablet in Chinese, in `make long` on all sizes in both languages.
"""

import contextlib
import hashlib
import os

import pytest
from playwright.sync_api import expect

from ruchu.testing import browsers
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk, booted

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

WALKS = (
    [(size, language) for size in browsers.SIZES for language in ("en", "zh")]
    if os.environ.get("RUCHU_PROFILE") == "faults"
    else [("tablet", "zh")]
)
PASSPHRASE = "seven lanterns over the quiet harbour"
DISKS = [GuestDisk("vda", 64 << 20)]
NOTE = "/mnt/vda/note.bin"
# Each question to a node is a process of its own, and two guests may boot on the same two cores.
SOON_MS = 120_000


@pytest.fixture
def guest(libvirt_uri):
    """Yield a guest that runs; what was made of it goes with it."""
    with booted(libvirt_uri, DISKS) as found:
        yield found
        with found.connect() as connection:
            made = [each.UUIDString() for each in connection.listAllDomains(0)
                    if each.name().startswith(f"{found.name}-")]  # fmt: skip
        for identity in made:
            guests.remove(libvirt_uri, identity)


class Walk:
    """A person at a browser, and what they see on each page that they come to."""

    def __init__(self, page, server, home):
        self.page, self.server, self.home = page, server, home

    def show(self, path):
        browsers.show(self.page, path)
        self.looks_right()

    def arrived(self, address):
        browsers.arrived(self.page, address)
        self.looks_right()

    def looks_right(self):
        browsers.no_horizontal_scroll(self.page)

    def at(self, name):
        return self.page.locator(f'[data-test="{name}"]')

    def click(self, name):
        self.at(name).first.click()

    def fill(self, name, text):
        mark = f'[data-test="{name}"]'
        self.page.locator(f"input{mark}, {mark} input, textarea{mark}").first.fill(text)

    def sees(self, name):
        expect(self.at(name)).to_be_visible(timeout=SOON_MS)

    def job(self, state="succeeded"):
        """Wait until the page is that of a job, and shows how it ended."""
        self.arrived("**/runs/*")
        run = self.page.url.rpartition("/")[2]
        assert self.server.over(run)["state"] == state, self.server.trouble()
        self.looks_right()
        return run

    def points(self):
        """Return the points, the newest first."""
        return self.server.get("/points")["items"]


def protected(walk, uri, guest):
    """Walk the guide: storage, platform, policy, first backup, verified."""
    walk.show("/guide")
    walk.fill("folder", str(walk.home / "storage"))
    walk.fill("passphrase", PASSPHRASE)
    walk.click("make-storage")
    walk.sees("guide-storage-done")
    if not walk.at("scratch").first.is_visible():
        walk.click("other-address")
        # What is pressed while it moves out of the way is not pressed.
        browsers.settle(walk.page)
    walk.fill("platform-uri", uri)
    walk.fill("scratch", str(walk.home / "scratch"))
    walk.click("add-platform")
    walk.sees("guide-platform-done")
    walk.at("guide-mode").get_by_role("radio").nth(1).click()
    walk.fill("pick-search", guest.name)
    expect(walk.page.locator(".r-pick-row")).to_have_count(1)
    walk.click(f"pick-{guest.uuid}")
    walk.click("protect")
    walk.sees("guide-done")
    walk.looks_right()
    (point,) = walk.points()
    assert (point["kind"], point["verdict"]) == ("full", "sound")
    return point["id"]


def starred(walk, guest, point):
    """Find the machine by its name, and star its point."""
    walk.show("/restore")
    walk.page.get_by_role("link", name=guest.name).click()
    walk.arrived("**/restore/machine?*")
    expect(walk.page.locator("[data-day]")).to_have_count(1)
    walk.show(f"/restore/point/{point}")
    walk.click("star")
    walk.server.until(lambda: walk.server.get(f"/points/{point}")[0]["starred"])


def saved_again(walk):
    """Run the policy now; return the new point."""
    (policy,) = walk.server.get("/policies")
    walk.show(f"/policies/{policy['id']}")
    walk.click("run-now")
    walk.click("confirm")
    walk.job()
    newest = walk.points()[0]
    assert newest["kind"] == "incremental"
    return newest["id"]


def fetched(walk, point):
    """Look for a file in a point and download it; return the digest of what came."""
    walk.show(f"/restore/point/{point}/files")
    walk.page.locator("a.gf-volume").first.click(timeout=SOON_MS)
    walk.arrived("**/files?*")
    walk.fill("search", "note")
    walk.click("search-go")
    walk.arrived("**/files?*q=note*")
    with walk.page.expect_download(timeout=SOON_MS) as download:
        walk.page.get_by_role("row").filter(has_text="note.bin").locator("a.gf-fetch").click()
    with open(download.value.path(), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def restored(walk, point):
    """Restore the machine beside what is left of it."""
    walk.show(f"/restore/point/{point}")
    walk.click("act-restore")
    walk.arrived("**/restore")
    expect(walk.at("steps")).to_contain_text("-restored", timeout=SOON_MS)
    walk.click("begin")
    walk.job()


def run_and_moved(walk, guest, point):
    """Let the machine run from its point, then move it to disks of its own."""
    name = f"{guest.name}-instant"
    walk.show(f"/restore/point/{point}/instant")
    expect(walk.at("steps")).to_contain_text(name, timeout=SOON_MS)
    walk.click("begin")
    walk.job()
    walk.show("/instants")
    card = walk.at(f"instant-{name}")
    expect(card.locator("[data-test=picture]")).to_be_attached(timeout=SOON_MS)
    walk.looks_right()
    card.locator("[data-test=migrate]").click()
    (walk.home / "moved").mkdir()
    walk.fill("directory", str(walk.home / "moved"))
    walk.click("confirm")
    expect(card).to_have_count(0, timeout=SOON_MS)
    assert list((walk.home / "moved").glob("*.qcow2"))


def thinned(walk, point):
    """Let only one point stay besides what has a star; see that it is so, and return it."""
    (policy,) = walk.server.get("/policies")
    walk.show(f"/policies/{policy['id']}/edit?step=keep")
    walk.click("keep-everything")
    # The numbers before are gone: nobody types into what is about to be replaced.
    expect(walk.page.locator("input[data-test=field-retention-daily]")).to_have_value("0")
    walk.fill("field-retention-count", "1")
    walk.click("step-review")
    walk.looks_right()
    walk.click("save")
    walk.arrived(f"**/policies/{policy['id']}")
    found = walk.server.get(f"/policies/{policy['id']}")["policy"]["retention"]
    assert {name: number for name, number in found.items() if number} == {"count": 1}
    newest = saved_again(walk)
    assert {each["id"] for each in walk.points()} == {newest, point}
    return newest


def alarmed(walk, point):
    """Lose the storage for a moment: a check fails, an alarm says so, somebody looks after it."""
    here, away = walk.home / "storage", walk.home / "away"
    here.rename(away)
    walk.show(f"/restore/point/{point}")
    walk.click("verify-main")
    walk.click("confirm")
    run = walk.job("failed")
    walk.sees("trouble")
    away.rename(here)
    (alarm,) = [each for each in walk.server.get("/alarms") if each["facts"].get("run") == run]
    walk.show("/alarms")
    walk.page.locator(f'a[href$="/alarms/{alarm["id"]}"]').first.click()
    walk.arrived(f"**/alarms/{alarm['id']}")
    walk.click("acknowledge")
    walk.fill("remark", "The disk is back.")
    walk.click("confirm")
    walk.sees("standing")
    assert walk.server.get(f"/alarms/{alarm['id']}")["acknowledged_by"]


def reported(walk, guest):
    """Fetch the report of protection, which names the machine."""
    walk.show("/reports")
    expect(walk.page.get_by_role("link", name=guest.name, exact=True)).to_be_visible()
    found = {}
    for wanted in ("csv", "pdf"):
        with walk.page.expect_download(timeout=SOON_MS) as download:
            walk.click(wanted)
        with open(download.value.path(), "rb") as file:
            found[wanted] = file.read()
    assert guest.name in found["csv"].decode("utf-8-sig")
    assert found["pdf"].startswith(b"%PDF-")


def holds(uri, name, directory, note):
    """Assert that a machine runs, or starts, and has the note."""
    with contextlib.closing(guests.libvirt.open(uri)) as connection:
        domain = connection.lookupByName(name)
        if not domain.isActive():
            domain.create()
        identity = domain.UUIDString()
    machine = guests.existing(uri, identity, directory)
    machine.wait_until_ready()
    assert machine.sha256(NOTE) == note
    machine.stop()


@pytest.mark.parametrize(("size", "language"), WALKS)
def test_from_nothing_to_a_report(libvirt_uri, home, guest, browser, tmp_path, size, language):
    with browsers.console(tmp_path / "one") as console:
        console.server.nodes_online(1)
        look = {"size": browsers.SIZES[size], "language": language}
        with browsers.visitor(browser, console, **look) as visitor:
            # A machine that is being switched off has no picture to show.
            visitor.watch.forgive(r"/picture\?")
            walk = Walk(visitor.page, console.server, home)
            first = protected(walk, libvirt_uri, guest)
            starred(walk, guest, first)
            note = guest.write(NOTE, 100_001)
            second = saved_again(walk)
            guest.stop()
            restored(walk, second)
            holds(libvirt_uri, f"{guest.name}-restored", home, note)
            run_and_moved(walk, guest, second)
            holds(libvirt_uri, f"{guest.name}-instant", home, note)
            newest = thinned(walk, first)
            # Not before: a point that somebody looks through stays, whatever retention wants.
            assert fetched(walk, newest) == note
            alarmed(walk, newest)
            reported(walk, guest)
