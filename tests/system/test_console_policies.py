"""Policies in a browser: made and changed by the wizard, found, turned off, removed."""

import pytest
from playwright.sync_api import expect

from ruchu.testing import browsers

pytestmark = [pytest.mark.system, pytest.mark.slow]

HIDDEN = {
    "before": ["dump", "all of it"], "holidays": ["2027-02-06"], "after_policy": "",
    "options": {"disks": ["vda"], "grace_days": 2.5}, "retrying": {"attempts": 9, "first_s": 61},
    "windows": [{"days": [5], "begin": 1201, "end": 300, "bytes_per_s": 12345}],
}  # fmt: skip


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    home = tmp_path_factory.mktemp("console")
    with browsers.console(home / "one") as made:
        made.server.nodes_online(1)
        made.server.post("/storages", {"name": "main", "location": str(home / "storage")})
        made.server.post("/platforms", {"name": "kvm", "uri": "qemu:///system"})
        yield made


def field(page, name):
    return page.locator(f"input[data-test=field-{name}]")


def click(page, name):
    page.locator(f"[data-test={name}]").click()


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_a_policy_is_made_found_and_removed(console, browser, size):
    with browsers.visitor(browser, console, size=browsers.SIZES[size]) as visitor:
        page = visitor.page
        browsers.show(page, "/policies/new")
        click(page, "next")  # nothing is chosen: it says so, and stays
        expect(page.get_by_role("alert").filter(has_text="Choose")).to_be_visible()
        page.locator("[data-test=mode]").get_by_text("Every machine").click()
        click(page, "next")
        expect(page.locator("[data-test=storage-main]")).to_have_attribute("aria-checked", "true")
        click(page, "next")
        click(page, "preset-nightly")
        # The rows of the preset before are gone: nobody types into what is about to be replaced.
        expect(field(page, "schedules-1-times")).to_have_count(0)
        expect(page.locator(".r-starts li")).to_have_count(10)
        field(page, "schedules-0-times").fill("noon")
        click(page, "next")
        expect(page.get_by_text("Times such as 02:00")).to_be_visible()
        field(page, "schedules-0-times").fill("03:30")
        click(page, "next")
        click(page, "keep-month")
        click(page, "next")
        click(page, "next")
        browsers.no_horizontal_scroll(page)
        field(page, "name").fill(f"all-{size}")
        click(page, "save")
        expect(page.get_by_role("heading", level=1)).to_have_text(f"all-{size}")
        browsers.settle(page)
        found = console.server.get(f"/policies/all-{size}")["policy"]
        assert found["selection"]["patterns"] == ["*"]
        assert found["schedules"] == [{"kind": "incremental", "daily": {"times": ["03:30"]}}]
        assert found["retention"]["days"] == 30
        click(page, "remove")
        page.locator(".r-dialog input").fill(f"all-{size}")
        page.locator(".r-dialog").get_by_role("button", name="Remove").click()
        browsers.arrived(page, "**/policies")
        assert console.server.get("/policies") == []


def test_what_the_wizard_does_not_show_survives_it(console, browser):
    wanted = {"name": "old", "storage": "main", "selection": {"platform": "kvm", "tags": ["x"]}}
    made = console.server.post("/policies", {**wanted, **HIDDEN})
    with browsers.visitor(browser, console, language="zh") as visitor:
        page = visitor.page
        browsers.show(page, f"/policies/{made['id']}/edit?step=how")
        field(page, "parallel").fill("7")
        click(page, "step-review")
        field(page, "name").fill("旧策略")
        click(page, "save")
        browsers.arrived(page, f"**/policies/{made['id']}")
        browsers.show(page, "/policies?text=旧")
        expect(page.locator(".r-listing tbody tr")).to_have_count(1)
    kept = console.server.get(f"/policies/{made['id']}")["policy"]
    assert kept == {**made["policy"], "parallel": 7, "name": "旧策略"}
