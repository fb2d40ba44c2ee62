"""Dashboard, wall and reports in a real browser: empty, filled, and while things change."""

import contextlib
import datetime

import pytest
from playwright.sync_api import expect

from ruchu.clock import SYSTEM, to_text
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.policies import documents
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.model.tasks import Severity
from ruchu.testing import browsers

pytestmark = [pytest.mark.system, pytest.mark.slow]

WALL = {"width": 1920, "height": 1080}
POLICY = {
    "name": "nightly", "selection": {"platform": "kvm", "patterns": ["web-*"]},
    "storage": "main", "rpo_minutes": 60,
    "schedules": [{"kind": "incremental", "daily": {"times": ["02:00"]}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    """Yield a server without a node and without anything."""
    with browsers.console(tmp_path_factory.mktemp("overview"), "--no-node") as running:
        yield running


@pytest.fixture(scope="module")
def policy(console):
    """Fill the server as another process of it would; return the id of its policy."""
    state = ServerState(console.server.state)
    with Database(sqlite_url(state.database)) as database:
        services = Services(state, SYSTEM, database)
        services.inventory.add("kvm", "test:///default")
        machines = [{"id": name, "name": name, "state": "running"}
                    for name in ("web-1", "web-2", "<b>db</b>")]  # fmt: skip
        services.inventory.saw("kvm", machines)
        made = {"id": "5" * 32, "name": "main", "role": "backup", "encrypted": False,
                "free": 1 << 40, "total": 4 << 40}  # fmt: skip
        services.storages.add(made, "/nonexistent/main", {})
        kept = services.policies.add(documents.from_document(POLICY))
        newest = to_text(SYSTEM.now() - datetime.timedelta(hours=3))
        point = {"storage": "main", "point": "a" * 32, "chain": "c" * 32, "sequence": 0,
                 "name": "web-1", "platform": "kvm", "kind": "full", "time": newest}  # fmt: skip
        services.catalogue.took(point, policy=kept.id, run="")
        for number in range(3):
            services.alarms.raise_alarm(
                "backup-failed", Severity.ERROR, f"web-{number}", "No.", {"group": "default"}
            )
    # What the server kept for everybody is a moment old.
    console.server.until(lambda: console.server.get("/overview")["machines"]["protected"] == 2)
    return kept.id


def no_scrolling(page):
    taller, wider = page.evaluate(
        "() => [document.documentElement.scrollHeight - innerHeight,"
        " document.documentElement.scrollWidth - innerWidth]"
    )
    assert taller <= 0
    assert wider <= 0


def figure(page, name):
    return page.locator(f"[data-test={name}] .r-figure-value, [data-test={name}] .w-value")


def test_a_fresh_server_leads_to_the_guide(console, browser):
    with browsers.visitor(browser, console) as visitor:
        browsers.show(visitor.page, "/")
        expect(visitor.page.get_by_text("Nothing is protected yet.")).to_be_visible()
        expect(visitor.page.get_by_role("button", name="Open the guide")).to_be_visible()
        browsers.show(visitor.page, "/wall")
        expect(figure(visitor.page, "protected")).to_have_text("0")
        no_scrolling(visitor.page)


def test_dashboard_and_wall_follow_what_changes(console, browser, policy):
    with contextlib.ExitStack() as stack:
        visitors = [stack.enter_context(browsers.visitor(browser, console, size=size))
                    for size in (browsers.DESKTOP, WALL)]  # fmt: skip
        dashboard, wall = (each.page for each in visitors)
        browsers.show(dashboard, "/")
        browsers.show(wall, "/wall")
        no_scrolling(wall)
        for page in (dashboard, wall):
            expect(figure(page, "protected")).to_have_text("2")
            expect(figure(page, "missed")).to_have_text("1")
        expect(dashboard.locator("[data-test=rpo]")).to_contain_text("web-1")
        expect(dashboard.locator("[data-test=unprotected]")).to_contain_text("<b>db</b>")
        expect(dashboard.locator("[data-test=storages]")).to_contain_text("75%")
        expect(dashboard.locator("[data-test=next-starts]")).to_contain_text("nightly")
        expect(wall.locator("[data-test=ticker]")).to_contain_text("web-2")
        call = console.server.client
        shown = call.get(f"/policies/{policy}")
        answer = call.delete(f"/policies/{policy}", headers={"If-Match": shown.headers["etag"]})
        assert answer.status_code == 204, answer.text
        for page in (dashboard, wall):
            expect(figure(page, "protected")).to_have_text("0")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_reports_are_shown_and_fetched(console, browser, policy, language):
    with browsers.visitor(browser, console, size=browsers.PHONE, language=language) as visitor:
        page = visitor.page
        browsers.show(page, "/reports?standing=unprotected")
        expect(page.get_by_role("link", name="<b>db</b>")).to_be_visible()
        browsers.no_horizontal_scroll(page)
        for wanted, begin in (("csv", b"\xef\xbb\xbf"), ("pdf", b"%PDF-")):
            with page.expect_download() as download:
                page.locator(f"[data-test={wanted}]").first.click()
            assert download.value.suggested_filename.endswith(f".{wanted}")
            with open(download.value.path(), "rb") as file:
                assert file.read(len(begin)) == begin
        browsers.show(page, "/reports?tab=success&days=7")
        browsers.no_horizontal_scroll(page)
