"""Operation and administration in a browser: a failure seen to its end, people and their rights."""

import re
import shutil

import pytest
from playwright.sync_api import expect

from ruchu.model.principals import Right
from ruchu.testing import browsers, console_sample
from ruchu.testing.browsers import Account
from ruchu.web import visiting

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
]
RESTORER = Account("wang.wei", "a copper kettle sings at noon")
NOT_ALLOWED = "Your role does not allow this."
# What somebody can press: buttons, switches, boxes; by what they are called.
CONTROLS = """() => [...document.querySelectorAll(
        '#content button, #content [role=button], #content [role=switch], '
        + '#content [role=checkbox], .r-bare button')]
    .filter((each) => each.checkVisibility({visibilityProperty: true}))
    .map((each) => (each.getAttribute('aria-label')
        || [...each.querySelectorAll('.q-btn__content .block, .q-toggle__label, .q-checkbox__label')]
            .map((part) => part.textContent).join(' ') || each.textContent).trim())"""
# All that a restore operator may press, and why: it only shows, it restores, it is one's own.
MAY = (
    # It leads elsewhere, pages, looks again, or takes something along.
    "Wall view", "Full screen", "Previous page", "Next page", "Earlier days", "Later days",
    r"\d+ \w+ \d{4}: .*", "History", "Copy", "Look again", "List machines anew", "Read it anew",
    "Only warnings and errors", "Download the log", "Search", "Browse files", r"Download \w+",
    'Expand "More"',
    # It restores.
    "Restore", "Instant restore", "New instant restore", "Move to production", "Stop",
    "Start now", "Unplug the network cables", "New MAC addresses", "Switch it on",
    ".*As another machine.*", ".*Over the original.*",
    # It is one's own.
    "Save",
)  # fmt: skip
# The jobs of the sample back up: they are steered by who may operate.
STEERS = {"Stop", "Pause", "Resume", "Start again"}
# What an administrator is offered, so that a page that offers nothing to anybody is no proof.
OFFERED = {
    "/policies/{policy}": {"Run now", "Turn off", "Change", "Remove"},
    "/storages": {"Add a storage"}, "/users": {"Add a user"}, "/restore/point/{point}": {"Delete"},
    "/settings": {"Save"}, "/runs": set(), "/audit": set(),
}  # fmt: skip


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    with browsers.console(tmp_path_factory.mktemp("operations")) as found:
        yield found


@pytest.fixture
def window(browser, console):
    with browsers.visitor(browser, console) as found:
        yield found


def marked(page, name):
    return page.locator(f'[data-test="{name}"]')


def test_a_failure_says_why_and_its_alarm_is_acknowledged(console, window, tmp_path):
    server, page = console.server, window.page
    server.nodes_online(1)
    place = tmp_path / "storage"
    server.post("/storages", {"name": "lost", "location": str(place)})
    shutil.rmtree(place)
    run = server.post("/runs", {"kind": "verify", "name": "lost", "body": {"storage": "lost"}})
    browsers.show(page, f"/runs/{run['id']}")
    # The page was open while it failed, and shows it by itself.
    expect(marked(page, "state")).to_have_text(re.compile("Failed"))
    task = server.get(f"/runs/{run['id']}/tasks")[0]
    expect(marked(page, "trouble")).to_contain_text(task["error"]["message"])
    expect(marked(page, "trouble")).to_contain_text(task["error"]["hint"])
    expect(marked(page, "log")).to_contain_text("Failed")
    marked(page, "again").click()
    expect(page).not_to_have_url(re.compile(run["id"]))
    expect(marked(page, "state")).to_have_text(re.compile("Failed"))

    browsers.show(page, "/alarms")
    page.get_by_role("link", name="The run lost failed").click()
    expect(
        page.get_by_text("Read the reason in the run's log, then start it again.")
    ).to_be_visible()
    marked(page, "acknowledge").click()
    marked(page, "remark").fill("Its disk is being replaced.")
    marked(page, "confirm").click()
    expect(marked(page, "standing")).to_have_text(re.compile("Acknowledged"))
    expect(page.get_by_text("Its disk is being replaced.")).to_be_visible()
    expect(marked(page, "acknowledge")).to_have_count(0)


def test_somebody_new_chooses_a_password_and_comes_in(browser, console, window):
    page = window.page
    browsers.show(page, "/users")
    marked(page, "new-user").click()
    dialog = page.get_by_role("dialog")
    dialog.locator('[data-test="name"]').fill("liu.yang")
    dialog.locator('[data-test="display"]').fill("刘洋")
    marked(page, "role-operator-all").click()
    marked(page, "confirm").click()
    link = marked(page, "link").text_content()
    assert link.startswith(f"{console.url}/password#")
    marked(page, "link-done").click()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="liu.yang"))
    expect(row).to_contain_text("Operator everywhere")
    expect(row).to_contain_text("No password yet")

    account = Account("liu.yang", "five grey herons stand in the reeds")
    with browsers.visitor(browser, console, account=None) as theirs:
        theirs.page.goto(link)
        theirs.page.get_by_label("Password", exact=True).fill(account.password)
        theirs.page.get_by_label("Password again", exact=True).fill(account.password)
        theirs.page.get_by_role("button", name="Go on").click()
        expect(theirs.page).to_have_url(re.compile("/login"))
    with browsers.visitor(browser, console, account=account) as theirs:
        browsers.show(theirs.page, "/account")
        expect(theirs.page.get_by_text("Operator everywhere")).to_be_visible()
        # An administrator ends their session, and the page leads to the way in.
        user = next(each["id"] for each in console.server.get("/users")["items"]
                    if each["name"] == account.name)  # fmt: skip
        browsers.show(page, f"/users/{user}")
        page.get_by_role("button", name="Sign out").first.click()
        expect(page.get_by_text("Nowhere at the moment.")).to_be_visible()
        theirs.page.goto("/runs")
        expect(theirs.page).to_have_url(re.compile("/login"))


def test_settings_are_written_and_tell_when_they_count(window, console):
    page = window.page
    browsers.show(page, "/settings")
    marked(page, "server-name").fill("Ruchu Harbour")
    marked(page, "summary-daily").fill("li@example.com zh")
    expect(page.get_by_text("Counts after a restart of the server.").first).to_be_visible()
    marked(page, "save-settings").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    found = console.server.get("/settings")
    assert (found["server_name"], found["summary_daily"]) == (
        "Ruchu Harbour", {"li@example.com": "zh"}
    )  # fmt: skip


def test_definitions_go_out_sealed_and_come_back_with_a_plan_first(window, console, tmp_path):
    page = window.page
    browsers.show(page, "/settings?tab=definitions")
    marked(page, "export-passphrase").fill("eleven cranes over the marsh")
    with page.expect_download() as fetched:
        marked(page, "export").click()
    file = tmp_path / "definitions.age"
    fetched.value.save_as(file)
    assert "Ruchu Harbour" not in file.read_text()
    page.locator('[data-test="import-file"] input[type=file]').set_input_files(file)
    expect(page.get_by_role("status").get_by_text(file.name)).to_be_visible()
    marked(page, "import-passphrase").fill("eleven cranes over the marsh")
    marked(page, "plan").click()
    expect(marked(page, "counted")).to_contain_text("Is the same")
    expect(marked(page, "apply")).to_be_visible()


# ------------------------------------------------------------------------------------- proof 4


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    with console_sample.sample(tmp_path_factory.mktemp("rights")) as found:
        yield found


def test_a_restore_operator_sees_and_can_do_what_the_role_allows(browser, sample):
    """Walk every page by its address: it shows, or says that it is not allowed.

    What can be pressed is held against a list, each entry of which the role allows.
    """
    rights = {None, Right.VIEW, Right.RESTORE}
    wrong, found = [], {}
    with browsers.visitor(browser, sample.console, account=RESTORER) as window:
        page = window.page
        for path in console_sample.pages():
            browsers.show(page, sample.address(path))
            expect(page.locator("#content, .r-bare").locator("> *").first).to_be_attached()
            allowed = visiting.PAGES[path].need in rights
            if (page.get_by_text(NOT_ALLOWED).count() == 0) != allowed:
                wrong.append(f"{path}: it takes {visiting.PAGES[path].need}")
            shown = page.evaluate(CONTROLS)
            if path.startswith("/runs"):
                wrong += [f"{path}: {name!r}" for name in STEERS.intersection(shown)]
            found |= dict.fromkeys(shown, path)
        browsers.show(page, "/alarms")
        for title in ("Audit", "Users and roles", "Settings"):
            expect(page.get_by_role("link", name=title, exact=True)).to_have_count(0)
    wrong += [
        f"{path}: {name!r}" for name, path in found.items() if not re.fullmatch("|".join(MAY), name)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_same_pages_offer_an_administrator_more(browser, sample):
    """Of what is looked for above, all is there to be seen by whom it is allowed."""
    wrong = []
    with browsers.visitor(browser, sample.console) as window:
        for path, wanted in OFFERED.items():
            browsers.show(window.page, sample.address(path))
            expect(window.page.get_by_text(NOT_ALLOWED)).to_have_count(0)
            shown = window.page.evaluate(CONTROLS)
            wrong += [f"{path}: {name!r} is missing: {shown}" for name in wanted.difference(shown)]
            for name in wanted - {"Save"}:
                assert not re.fullmatch("|".join(MAY), name), name
    assert not wrong, "\n".join(wrong)
