"""What the console costs: a large site, 20 browsers on dashboard and wall, and many navigations.

Measures the processor time of the server while the browsers are open and something changes every
two seconds, its memory over navigations, the bytes of a first page and of those that follow, and
searches in the inventory and the history. What is owed stands beside what was found.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

from benchmarks import console_data, report
from benchmarks.control_load import Cpu
from ruchu.testing.servers import Process

CHROMIUM = "/usr/bin/chromium"
# All pages but one lie behind others; each shall work as the only one of its own browser does.
FLAGS = [
    "--no-sandbox", "--disable-background-timer-throttling", "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
]  # fmt: skip
STATUS_NOT_MET = 3
# What the issue asks for.
CORES, GROWTH_BYTES = 0.10, 16 << 20
FIRST_BYTES, NEXT_BYTES, SEARCH_S = 1 << 20, 50 << 10, 0.3
CHANGE_S = 2.0
PAGES = ("/", "/machines", "/runs", "/policies", "/storages", "/reports", "/alarms", "/wall")
SEARCHES = {
    "machines by name": ("/machines", {"text": "mail-01", "limit": 25}),
    "machines without protection": ("/machines/unprotected", {"limit": 25}),
    "jobs by name": ("/runs", {"text": "policy-01", "limit": 25}),
    "failed jobs": ("/runs", {"state": "failed", "limit": 25}),
    "points of a machine": ("/points", {"name": "web-00000", "limit": 25}),
    "protection report by name": ("/reports/protection", {"text": "erp-1", "limit": 25}),
    "missed targets": ("/reports/protection", {"standing": "missed", "limit": 25}),
    "overview": ("/overview", {}),
}
_CONNECTED = "() => window.did_handshake === true"


class Setting:
    """A server over a large site. A context manager."""

    def __init__(self, options, home):
        self.options, self.home = options, home
        self.process = None
        self.client = httpx.Client(timeout=120)

    def __enter__(self):
        state = self.home / "server"
        console_data.furnish(state, self.options.machines, self.options.runs)
        words = ["server", "--state", str(state), "--listen", "127.0.0.1:0", "--no-node"]
        command = [sys.executable, "-m", "ruchu", *words]
        self.process = Process(command, self.home / "server.log")
        self.process.start()
        self.url = self.process.line["url"]
        self.pid = self.process.popen.pid
        self.client.base_url = f"{self.url}/api/v1"
        body = {"name": console_data.NAME, "password": console_data.PASSWORD}
        word = self.client.post("/sessions", json=body).raise_for_status().json()["token"]
        self.client.headers["Authorization"] = f"Bearer {word}"
        return self

    def __exit__(self, *error):
        self.client.close()
        self.process.end()
        # The anchors of the audit trail are append-only.
        subprocess.run(["chattr", "-R", "-f", "-a", "-i", str(self.home)], check=False)

    def rss(self):
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024

    def cores(self, seconds):
        """Return the share of a core that the server uses from now on."""
        cpu = Cpu([self.pid])
        # What is measured is what the server uses while this time passes.
        time.sleep(seconds)
        return cpu.cores(self.pid)

    @contextlib.contextmanager
    def changing(self):
        """Let something happen all the time that every open page takes note of."""
        body = {"kind": "verify", "body": {"storage": "store-0"}}
        run = self.client.post("/runs", json=body).raise_for_status().json()["id"]
        end = threading.Event()

        def work():
            for number in range(1 << 30):
                what = ("pause", "resume")[number % 2]
                self.client.post(f"/runs/{run}/{what}").raise_for_status()
                if end.wait(CHANGE_S):
                    return

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()


def opened(context, url, path):
    page = context.new_page()
    page.goto(url + path)
    page.wait_for_function(_CONNECTED, timeout=120_000)
    return page


def entered(browser, url):
    """Return a browser context in which somebody is signed in."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, base_url=url)
    body = {"name": console_data.NAME, "password": console_data.PASSWORD, "cookie": True}
    assert context.request.post("/api/v1/sessions", data=body).status == 201
    return context


def bytes_of_pages(browser, url):
    """Return what a browser fetches for its first page, then for others, as it comes over a line."""
    context, found = entered(browser, url), {}
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    taken = [0]

    def finished(event):
        taken[0] += event["encodedDataLength"]

    session.on("Network.loadingFinished", finished)
    for path in PAGES:
        taken[0] = 0
        page.goto(url + path)
        page.wait_for_function(_CONNECTED, timeout=120_000)
        page.wait_for_timeout(2000)
        found[path] = taken[0]
    context.close()
    return found


def live(setting, browser):
    """Return the cores of the server with and without open pages."""
    options = setting.options
    with setting.changing():
        idle = setting.cores(options.seconds)
        context = entered(browser, setting.url)
        pages = [opened(context, setting.url, ("/", "/wall")[number % 2])
                 for number in range(options.clients)]  # fmt: skip
        # The cost of opening is not the cost of being open.
        time.sleep(10)
        open_ = setting.cores(options.seconds)
        for page in pages:
            page.wait_for_function("() => document.body?.innerText.length > 100")
        context.close()
    return idle, open_


def navigations(setting, browser):
    """Return the memory of the server after a tenth of the navigations, and after all."""
    context = entered(browser, setting.url)
    page, count = context.new_page(), setting.options.navigations
    found = []
    for number in range(count):
        page.goto(setting.url + PAGES[number % len(PAGES)])
        page.wait_for_function(_CONNECTED, timeout=120_000)
        if number + 1 in {max(count // 5, 1), count}:
            # The server forgets a page that was left after its limit for coming back, and tells
            # nobody; memory is read once that is well over.
            page.goto("about:blank")
            time.sleep(15)
            found.append(setting.rss())
    context.close()
    return found


def searches(setting):
    """Return the median and the worst time of each search."""
    found = {}
    for name, (path, params) in SEARCHES.items():
        taken = []
        for _ in range(setting.options.searches):
            began = time.perf_counter()
            setting.client.get(path, params=params).raise_for_status()
            taken.append(time.perf_counter() - began)
            # A person's pace; what comes faster is counted against the limit of requests.
            time.sleep(0.1)
        found[name] = {"median": sorted(taken)[len(taken) // 2], "most": max(taken)}
    return found


def document(options, idle, open_, memory, pages, found):
    first, following = pages["/"], max(each for path, each in pages.items() if path != "/")
    growth = memory[-1] - memory[0]
    owed = {
        "console_cores": (open_ - idle, CORES),
        "rss_growth_bytes": (growth, GROWTH_BYTES),
        "first_page_bytes": (first, FIRST_BYTES),
        "next_page_bytes": (following, NEXT_BYTES),
        "search_median_s": (max(each["median"] for each in found.values()), SEARCH_S),
    }
    kept = ("clients", "machines", "runs", "navigations", "seconds")
    return {
        "machine": report.machine(),
        **{name: getattr(options, name) for name in kept},
        "server_cores": {"idle": idle, "with_clients": open_},
        "rss_bytes": memory,
        "page_bytes": pages,
        "searches_s": found,
        "owed": {name: {"value": value, "below": limit, "met": value < limit}
                 for name, (value, limit) in owed.items()},
    }  # fmt: skip


def show(found):
    cores = found["server_cores"]
    print(
        f"{found['clients']} browsers on dashboard and wall, {found['machines']} machines, "
        f"{found['runs']} runs: {cores['with_clients']:.3f} cores, {cores['idle']:.3f} without them"
    )
    rows = [[name, f"{each / 1024:.0f}"] for name, each in found["page_bytes"].items()]
    report.print_table(("page", "KiB"), rows)
    rows = [[name, f"{each['median'] * 1000:.0f}", f"{each['most'] * 1000:.0f}"]
            for name, each in found["searches_s"].items()]  # fmt: skip
    report.print_table(("search", "median ms", "most ms"), rows)
    for name, each in found["owed"].items():
        met = "met" if each["met"] else "NOT MET"
        print(f"owed: {name} below {each['below']:g}: {each['value']:.4g}: {met}")


def arguments():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--clients", type=int, default=20, help="default: 20")
    parser.add_argument("--machines", type=int, default=20_000, help="default: 20000")
    parser.add_argument("--runs", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--navigations", type=int, default=500, help="default: 500")
    parser.add_argument("--searches", type=int, default=20, help="of each; default: 20")
    parser.add_argument("--seconds", type=float, default=60, help="of each look; default: 60")
    parser.add_argument("--home", type=Path, help="an empty directory; kept; default: temporary")
    parser.add_argument("--out", type=Path, default=report.OUT / "console.json", help="figures")
    parser.add_argument("--strict", action="store_true", help="status 3 if something is not met")
    return parser.parse_args()


def main():
    options = arguments()
    with contextlib.ExitStack() as stack:
        home = options.home
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ruchu-console-")))
        setting = stack.enter_context(Setting(options, home))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        pages = bytes_of_pages(browser, setting.url)
        found = searches(setting)
        idle, open_ = live(setting, browser)
        memory = navigations(setting, browser)
        browser.close()
        result = document(options, idle, open_, memory, pages, found)
    show(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"Written: {options.out}")
    met = all(each["met"] for each in result["owed"].values())
    return 0 if met or not options.strict else STATUS_NOT_MET


if __name__ == "__main__":
    sys.exit(main())
