"""A server that is killed under open pages: they come back by themselves, and show the truth."""

import contextlib

import pytest
from playwright.sync_api import expect

from ruchu.clock import SYSTEM
from ruchu.control.alarms.service import AlarmService
from ruchu.control.database.database import Database, sqlite_url
from ruchu.model.tasks import Severity
from ruchu.testing import browsers

pytestmark = [pytest.mark.system, pytest.mark.slow]


def test_open_pages_come_back_with_the_server(tmp_path):
    with (
        browsers.console(tmp_path, "--no-node") as console,
        browsers.browser() as chromium,
        browsers.visitor(chromium, console, language="zh") as window,
    ):
        # What a browser says while nobody answers it.
        window.watch.forgive("WebSocket connection to", "net::ERR_", "ERR_CONNECTION_REFUSED")
        dashboard, platforms = window.page, window.context.new_page()
        browsers.show(dashboard, "/")
        browsers.show(platforms, "/platforms")
        expect(dashboard.get_by_text("vault-07")).to_have_count(0)
        console.kill()
        for page in (dashboard, platforms):
            expect(page.locator("#popup")).to_be_visible()
            expect(page.locator("#popup")).to_contain_text("连接丢失")
        happened_meanwhile(console.server.state / "ruchu.db")
        console.start()
        expect(dashboard.get_by_text("vault-07").first).to_be_visible()
        for page in (dashboard, platforms):
            expect(page.locator("#popup")).to_be_hidden()
            browsers.settle(page)
        # Both are live again, not only fresh.
        wanted = {"name": "kvm-harbour", "uri": "qemu:///system"}
        console.server.post("/platforms", wanted)
        expect(platforms.get_by_text("kvm-harbour").first).to_be_visible()
        assert dashboard.url == f"{console.url}/"


def happened_meanwhile(path):
    """Another process of the product writes into the database while the server is down."""
    with contextlib.closing(Database(sqlite_url(path))) as database:
        alarms = AlarmService(database, SYSTEM)
        alarms.raise_alarm("backup-failed", Severity.ERROR, "vault-07", "It was cut off.", {})
