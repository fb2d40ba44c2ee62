"""Storages on servers of others, in a browser: a bucket on a real S3 server, and what is refused."""

import re

import pytest
from playwright.sync_api import expect

from ruchu.testing import browsers, s3_servers
from ruchu.testing.guests.guest import GuestDisk, defined

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

PASSPHRASE = "sieben Berge und 7 Zwerge"
# A node answers each question by a process of its own; on cores that others use that takes a while.
ASKED_MS = 120_000


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    with browsers.console(tmp_path_factory.mktemp("storages") / "one") as running:
        running.server.nodes_online(1)
        yield running


@pytest.fixture
def endpoint():
    with s3_servers.moto() as address:
        s3_servers.new_bucket(address, "points")
        yield address


def names(console):
    return [each["name"] for each in console.server.get("/storages")]


def at(page, name):
    return page.locator(f"[data-test={name}]")


def fill(page, name, text):
    page.locator(f"input[data-test={name}], [data-test={name}] input").first.fill(text)


def begin(page, kind, way=""):
    browsers.show(page, "/storages/new")
    at(page, f"kind-{kind}").click()
    if way:
        page.get_by_text(way).click()
    at(page, "on-kind").click()


def bucket(page, endpoint, *, way="", passphrase=PASSPHRASE):
    """Fill in the wizard for a bucket up to its review."""
    begin(page, "s3", way)
    for name, text in [("bucket", "points"), ("prefix", "ruchu"), ("endpoint", endpoint),
                       ("access_key", s3_servers.KEYS.access),
                       ("secret_key", s3_servers.KEYS.secret)]:  # fmt: skip
        fill(page, name, text)
    at(page, "on-place").click()
    fill(page, "passphrase", passphrase)
    if not way:
        fill(page, "passphrase-again", passphrase)
        at(page, "kept").click()
    at(page, "on-secret").click()
    fill(page, "name", "cloud")
    at(page, "on-name").click()
    expect(page.get_by_text(f"s3://points/ruchu?endpoint={endpoint}")).to_be_visible()


def added(page):
    at(page, "on-review").click()
    page.wait_for_url(re.compile("/storages/cloud$"), timeout=ASKED_MS)
    browsers.settle(page)


def saved(console, uri, guest, home):
    """Save a guest into the bucket, by a policy."""
    server = console.server
    scratch = str(home / "scratch")
    server.post("/platforms", {"name": "kvm", "uri": uri, "scratch_dir": scratch})
    server.post("/platforms/kvm/refresh")
    wanted = {"name": "nightly", "storage": "cloud",
              "selection": {"platform": "kvm", "machines": [guest.uuid]}}  # fmt: skip
    policy = server.post("/policies", wanted)
    run = server.post(f"/policies/{policy['id']}/run", {"kind": "full"})
    assert server.over(run["id"])["state"] == "succeeded"
    server.call("DELETE", f"/policies/{policy['id']}", headers={"if-match": server.client.get(
        f"/policies/{policy['id']}").headers["etag"]})  # fmt: skip


def test_a_bucket_is_added_filled_removed_and_adopted(
    libvirt_uri, home, console, browser, endpoint
):
    with (
        defined(libvirt_uri, [GuestDisk("vda", 8 << 20)]) as guest,
        browsers.visitor(browser, console, size=browsers.TABLET) as visitor,
    ):
        page = visitor.page
        bucket(page, endpoint)
        assert s3_servers.KEYS.secret not in page.content()
        added(page)
        saved(console, libvirt_uri, guest, home)
        at(page, "probe").click()
        expect(page.get_by_text("Probed.")).to_be_visible(timeout=ASKED_MS)
        browsers.no_horizontal_scroll(page)
        at(page, "more-acts").click()
        at(page, "remove").click()
        page.locator(".r-dialog input").fill("cloud")
        page.locator(".r-dialog").get_by_role("button", name="Remove").click()
        browsers.arrived(page, "**/storages")
        assert "cloud" not in names(console)
        bucket(page, endpoint, way="Adopt the storage", passphrase="of another storage")
        at(page, "on-review").click()
        expect(page.locator(".r-problem")).to_contain_text("passphrase", timeout=ASKED_MS)
        assert "cloud" not in names(console)
        bucket(page, endpoint, way="Adopt the storage")
        added(page)
        (point,) = console.server.get("/points")["items"]
        assert (point["name"], point["storage"]) == (guest.name, "cloud")


@pytest.mark.parametrize(("kind", "values", "location"), [
    ("nfs", {"host": "127.0.0.1", "path": "/export"}, "nfs://127.0.0.1/export"),
    ("smb", {"host": "127.0.0.1", "path": "share", "user": "a", "password": "b"},
     "smb://127.0.0.1/share"),
    ("iscsi", {"host": "127.0.0.1", "target": "iqn.2001-05.com.example:x"},
     "iscsi://127.0.0.1/iqn.2001-05.com.example:x/0"),
    ("device", {"path": "/dev/not-there"}, "device:///dev/not-there"),
])  # fmt: skip
def test_what_cannot_be_reached_is_told_and_nothing_is_added(
    console, browser, kind, values, location
):
    with browsers.visitor(browser, console, size=browsers.PHONE) as visitor:
        page = visitor.page
        begin(page, kind)
        for name, text in values.items():
            fill(page, name, text)
        at(page, "on-place").click()
        at(page, "encrypt").click()
        at(page, "on-secret").click()
        at(page, "on-name").click()
        expect(page.get_by_role("alert").filter(has_text="It needs a name.")).to_be_visible()
        fill(page, "name", "far")
        at(page, "on-name").click()
        expect(page.get_by_text(location, exact=True)).to_be_visible()
        browsers.no_horizontal_scroll(page)
        at(page, "on-review").click()
        expect(page.locator(".r-problem")).to_be_visible(timeout=ASKED_MS)
        assert "far" not in names(console)
