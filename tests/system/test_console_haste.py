"""Who presses faster than the server answers gets what they pressed for, and nothing else.

And who presses what cannot be done any more is told so.
"""

import re

import pytest
from playwright.sync_api import expect

from ruchu.clock import SYSTEM
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.testing import browsers

pytestmark = [pytest.mark.system, pytest.mark.slow]

MACHINES = [f"web-{number:02}" for number in range(60)]
# As the scripts of the console itself ask.
OWN = {"x-ruchu-request": "1"}
# Both presses are on their way before the answer to the first one is.
TWICE = "(button) => { button.click(); button.click(); }"


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    """Yield a server that knows of sixty machines, without a node."""
    with browsers.console(tmp_path_factory.mktemp("haste"), "--no-node") as running:
        state = ServerState(running.server.state)
        with Database(sqlite_url(state.database)) as database:
            services = Services(state, SYSTEM, database)
            services.inventory.add("kvm", "test:///default")
            machines = [{"id": name, "name": name, "state": "running"} for name in MACHINES]
            services.inventory.saw("kvm", machines)
            made = {"id": "5" * 32, "name": "main", "role": "backup", "encrypted": False,
                    "free": 1 << 40, "total": 4 << 40}  # fmt: skip
            services.storages.add(made, "/nonexistent/main", {})
        yield running


@pytest.fixture
def page(console, browser):
    with browsers.visitor(browser, console) as visitor:
        yield visitor.page


def at(page, name):
    return page.locator(f"[data-test={name}]")


def rows(page):
    return page.locator(".r-pick-row")


def test_next_pressed_twice_goes_on_by_two_steps(page):
    browsers.show(page, "/policies/new?step=keep")
    at(page, "next").evaluate(TWICE)
    expect(page.locator(".r-rail-step.r-here")).to_have_text("6Review")
    browsers.settle(page)
    expect(at(page, "save")).to_be_visible()
    expect(at(page, "next")).to_be_hidden()
    expect(at(page, "field-name")).to_have_count(1)
    at(page, "back").evaluate(TWICE)
    expect(page.locator(".r-rail-step.r-here")).to_have_text("4How long")
    browsers.settle(page)
    expect(at(page, "next")).to_be_visible()
    expect(at(page, "save")).to_be_hidden()


def test_ways_to_select_chosen_one_after_the_other_show_the_last(page):
    browsers.show(page, "/policies/new?step=what")
    page.evaluate(
        "() => ['By rule', 'Every machine', 'Chosen machines', 'By rule'].forEach((text) =>"
        " [...document.querySelectorAll('[data-test=mode] button')]"
        ".find((each) => each.textContent === text).click())"
    )
    expect(page.get_by_label("Folders")).to_be_visible()
    browsers.settle(page)
    expect(page.get_by_label("Folders")).to_have_count(1)
    expect(page.get_by_label("Except")).to_have_count(1)
    expect(page.locator(".r-picker")).to_have_count(0)


def test_a_page_of_machines_pressed_twice_passes_over_one(page):
    browsers.show(page, "/policies/new?step=what")
    expect(rows(page)).to_have_count(12)
    page.get_by_role("button", name="Next page").evaluate(TWICE)
    expect(page.get_by_text("Page 3")).to_be_visible()
    expect(rows(page).first).to_contain_text("web-24")
    browsers.show(page, "/machines")
    page.get_by_role("button", name="Next page").evaluate(TWICE)
    expect(page.get_by_text("Page 3")).to_be_visible()
    expect(page.locator(".r-listing tbody tr")).to_have_count(10)


def test_a_row_that_stays_is_not_taken_away_under_the_hand(page):
    browsers.show(page, "/policies/new?step=what")
    at(page, "pick-web-07").evaluate("(box) => { box.kept = true; }")
    at(page, "pick-web-03").click()
    for text, wanted in [("web-0", 10), ("", 12), ("7", 6), ("web-07", 1), ("", 12)]:
        page.locator("input[data-test=pick-search]").fill(text)
        expect(rows(page)).to_have_count(wanted)
        shown = [each.split("\n")[0] for each in rows(page).all_inner_texts()]
        assert shown == [name for name in MACHINES if text in name][:12]
        assert at(page, "pick-web-07").evaluate("(box) => box.kept === true")
    expect(at(page, "pick-web-03").locator("..")).to_be_visible()
    expect(at(page, "pick-web-03")).to_have_attribute("aria-checked", "true")
    page.get_by_role("button", name="All on this page").click()
    expect(page.get_by_text("Chosen: 12")).to_be_visible()
    expect(at(page, "pick-web-11")).to_have_attribute("aria-checked", "true")
    page.get_by_role("button", name="None").click()
    expect(at(page, "pick-web-11")).to_have_attribute("aria-checked", "false")
    expect(page.get_by_text("Chosen: 0")).to_be_visible()


def test_more_of_a_tree_asked_for_twice_comes_once(page):
    browsers.show(page, "/platforms/kvm")
    machines = page.locator(".r-tree-node").filter(has_text="web-")
    expect(machines).to_have_count(50)
    more = page.locator(".q-tree__node-header", has_text="more")
    more.evaluate(TWICE)
    expect(machines.filter(has_text="web-59")).to_have_count(1)
    browsers.settle(page)
    assert machines.get_by_role("link").all_inner_texts() == MACHINES
    expect(more).to_have_count(0)


def test_what_is_created_twice_is_there_once_and_nothing_is_amiss(console, page):
    browsers.show(page, "/policies/new?step=what")
    page.locator("[data-test=mode]").get_by_text("Every machine").click()
    at(page, "step-review").click()
    page.locator("input[data-test=field-name]").fill("nightly")
    at(page, "save").evaluate(TWICE)
    browsers.arrived(page, re.compile("/policies/[0-9a-f]{32}$"))
    expect(page.get_by_role("heading", level=1)).to_have_text("nightly")
    expect(page.locator(".r-problem")).to_have_count(0)
    done = [(each["action"], each["outcome"]) for each in console.server.get("/audit")["items"]]
    assert [each for each in done if each[0].startswith("policy.")] == [("policy.add", "done")]


def test_whoever_looks_at_what_is_gone_is_told(console, page):
    with Database(sqlite_url(ServerState(console.server.state).database)) as database:
        Services(ServerState(console.server.state), SYSTEM, database).inventory.add(
            "old", "test:///default"
        )
    browsers.show(page, "/platforms/old")
    tag = console.server.client.get("/platforms/old").headers["etag"]
    console.server.call("DELETE", "/platforms/old", headers={"if-match": tag})
    expect(page.locator(".r-problem")).to_contain_text("There is no such thing")


def test_whoever_presses_after_their_session_ended_signs_in_again(console, page):
    browsers.show(page, "/machines")
    assert page.context.request.delete("/api/v1/sessions/current", headers=OWN).ok
    page.get_by_role("button", name="Next page").click()
    page.wait_for_url("**/login?next=/machines")
