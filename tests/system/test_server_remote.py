"""The command line against a real server: what it shows and steers, files, a second site."""

import json
import os
import re
import select
import subprocess
import sys
import termios
from pathlib import Path

import httpx
import pytest
import yaml

from ruchu import clock
from ruchu.testing.command_line import CommandLine
from ruchu.testing.servers import NAME, PASSWORD, Server

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

MANUAL = Path(__file__).parents[2] / "docs" / "operators" / "policies-as-code.md"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def server(home):
    with Server(home / "one") as found:
        found.nodes_online(1)
        yield found


@pytest.fixture(scope="module")
def token(server):
    rights = ["view", "operate", "restore", "configure", "accounts"]
    return server.post("/tokens", {"name": "tests", "rights": rights})["token"]


@pytest.fixture
def ruchu(home, server, token, monkeypatch):
    monkeypatch.setenv("RUCHU_SERVER", server.process.line["url"])
    monkeypatch.setenv("RUCHU_TOKEN", token)
    return CommandLine(home)


def example(home):
    """Return the example of the manual, with places of this test."""
    (text,) = re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    text = text.replace("qemu:///system", "test:///default")
    text = text.replace("/srv/backup", str(home / "backup"))
    (home / "main.passphrase").write_text("sieben Berge 7\n")
    return text


def test_the_example_of_the_manual_is_planned_applied_and_kept(ruchu, home, server, monkeypatch):
    monkeypatch.setenv("OPS_HOOK_KEY", "geheim-1234")
    file = home / "site.yaml"
    file.write_text(example(home))
    plan = ruchu.run("plan", file, "--detailed-exitcode", status=2)
    assert "+ create policies nightly" in plan
    assert "geheim" not in plan + ruchu.err
    ruchu.fails(2, "usage", "apply", file)
    assert server.get("/policies") == []
    shown = ruchu.json("plan", file)
    done = ruchu.json("apply", file, "--plan", shown["digest"])
    assert done["changes"] == shown["changes"]
    assert ruchu.run("plan", file, "--detailed-exitcode").startswith("Nothing to do")
    assert "geheim" not in server.client.get("/alarm-channels").text
    ruchu.fails(14, "stale", "apply", file, "--plan", "0" * 64)
    # By hand.
    ruchu.run("policy", "disable", "nightly")
    drift = ruchu.run("drift", file, "--detailed-exitcode", status=2)
    assert "enabled: true -> false" in drift
    assert "applied" in ruchu.run("apply", file, "--yes")
    assert ruchu.run("drift", file, "--detailed-exitcode").startswith("Nothing")
    assert server.get("/policies/nightly")["policy"]["enabled"] is True
    text = file.read_text().replace("daily: 7", "daily: 9")
    file.write_text(text)
    assert "retention.daily: 7 -> 9" in ruchu.run("plan", file)
    rest = yaml.safe_load(text)
    del rest["policies"]
    file.write_text(yaml.safe_dump(rest))
    assert "- remove policies nightly" in ruchu.run("apply", file, "--yes")
    file.write_text("ruchu: 1\nowner: team-a\nowner: b\n")
    ruchu.fails(2, "usage", "plan", file)


def test_things_of_the_server_are_listed(ruchu):
    assert [each["name"] for each in ruchu.json("nodes", "list")] == ["server"]
    for words in (
        ["storage", "list"], ["platform", "list"], ["inventory"], ["points", "list"],
        ["policy", "list"], ["runs", "list"], ["nodes", "list"], ["alarms", "list"],
        ["instant", "list"], ["sites", "list"],
    ):  # fmt: skip
        assert isinstance(ruchu.json(*words), list), words
        assert ruchu.run(*words)


def test_what_a_server_cannot_do_is_said(ruchu):
    ruchu.fails(2, "usage", "points", "delete", "abcd", "--yes")
    ruchu.fails(2, "usage", "backup", "vm", "a", "--storage", "b", "--level", "3")
    error = ruchu.fails(3, "not-found", "backup", "vm", "a", "--storage", "nowhere")
    assert "policy list" in error["hint"]
    ruchu.fails(3, "not-found", "points", "show", "abcd")
    ruchu.fails(3, "not-found", "runs", "stop", "abcd")
    ruchu.fails(3, "not-found", "restore", "vm", "abcd")
    # This host is asked in any case.
    assert ruchu.run("doctor")


def test_problems_are_told_as_those_of_this_host(ruchu, monkeypatch):
    monkeypatch.setenv("RUCHU_TOKEN", "wrong")
    error = ruchu.fails(14, "not-authenticated", "nodes", "list")
    assert error["hint"]
    monkeypatch.delenv("RUCHU_TOKEN")
    assert "login" in ruchu.fails(2, "usage", "nodes", "list")["hint"]
    monkeypatch.setenv("RUCHU_TOKEN", "x")
    monkeypatch.setenv("RUCHU_SERVER", "http://127.0.0.1:9")
    assert ruchu.fails(14, "server-away", "nodes", "list")["retry"]
    monkeypatch.setenv("RUCHU_SERVER", "http://backup.example.com")
    assert "token" in ruchu.fails(2, "usage", "nodes", "list")["message"]


def test_a_node_is_invited_and_revoked(ruchu, server):
    made = ruchu.json("nodes", "invite", "node-9")
    assert made["command"].startswith("ruchu node --join")
    ruchu.fails(3, "not-found", "nodes", "revoke", "node-9", "--yes")
    del server


def test_definitions_leave_sealed_and_come_back(ruchu, home, server):
    (home / "export.passphrase").write_text("three rivers seven mountains\n")
    file, secret = home / "all.age", ["--passphrase-file", home / "export.passphrase"]
    ruchu.run("definitions", "export", file, *secret)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().startswith("-----BEGIN AGE ENCRYPTED FILE-----")
    ruchu.fails(2, "usage", "definitions", "export", file, *secret)
    done = ruchu.json("definitions", "import", file, *secret, "--dry-run")
    assert {each["action"] for each in done["changes"]} <= {"same", "keep"}
    plain = home / "all.json"
    ruchu.run("definitions", "export", plain, "--no-secrets")
    assert "secrets" not in json.loads(plain.read_text())
    (home / "export.passphrase").write_text("another one altogether\n")
    ruchu.fails(14, "sealed-file-closed", "definitions", "import", file, *secret)
    del server


def test_a_server_with_its_own_authority_is_trusted_by_its_fingerprint(home, token, server):
    del server, token
    unverified = httpx.HTTPTransport(verify=False)
    options = ["--no-node", "--listen", "0.0.0.0:0"]
    with Server(home / "tls", *options, transport=unverified) as other:
        line = other.process.line
        url = line["url"].replace("0.0.0.0", "127.0.0.1")
        word = other.post("/tokens", {"name": "t", "rights": ["view"]})["token"]
        environment = {**os.environ, "RUCHU_SERVER": url, "RUCHU_TOKEN": word}
        ruchu = CommandLine(home / "tls")
        ruchu.fails(14, "server-away", "nodes", "list", env=environment)
        pem = other.client.get("/authority").text
        (home / "ca.pem").write_text(pem)
        words = ["--ca-file", home / "ca.pem", "nodes", "list"]
        assert ruchu.json(*words, env=environment) == []
        without = {key: environment[key] for key in environment if key != "RUCHU_TOKEN"}
        for fingerprint, status in (("0" * 64, 14), (line["fingerprint"], 0)):
            login = ["login", "--name", NAME, "--fingerprint", fingerprint]
            assert in_terminal(ruchu, login, PASSWORD, without) == status
        kept = ruchu.state / "servers.json"
        assert kept.stat().st_mode & 0o777 == 0o600
        assert ruchu.json("nodes", "list", env=without) == []
        ruchu.run("login", "--end", env=without)
        ruchu.fails(2, "usage", "nodes", "list", env=without)


def in_terminal(line, words, answer, environment):
    """Run a command on a terminal, as a person would, who types when asked; return its status.

    The terminal is the one of its session: a question would else go to the terminal, if any, on
    which the tests run, where nobody answers.
    """
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "ruchu", "--state", str(line.state), *words]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        if until(ours, b"Password"):
            hidden(ours)
            os.write(ours, f"{answer}\n".encode())
            until(ours, None)
        return process.wait(120)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def hidden(terminal):
    """Wait until a terminal shows no more what is typed; what is typed before that is dropped."""
    deadline = clock.SYSTEM.monotonic() + 120
    while termios.tcgetattr(terminal)[3] & termios.ECHO:
        assert clock.SYSTEM.monotonic() < deadline
        clock.SYSTEM.sleep(0.01)


def until(terminal, word):
    """Read from a terminal until it says a word (return whether it did) or is left.

    Assert that it says something now and then.
    """
    said = b""
    while word is None or word not in said:
        readable, _, _ = select.select([terminal], [], [], 120)
        assert readable, said
        try:
            more = os.read(terminal, 1024)
        except OSError:  # the terminal was left
            more = b""
        if not more:
            return False
        said += more
    return True


def test_a_second_site_is_shown_and_steered_and_may_be_away(home):
    with (
        Server(home / "parent", "--no-node") as parent,
        Server(home / "child") as child,
    ):
        child.nodes_online(1)
        child.post("/storages", {"name": "main", "location": str(home / "child" / "main")})
        rights = ["view", "operate"]
        token = child.post("/tokens", {"name": "parent", "rights": rights})["token"]
        url = child.process.line["url"]
        made = parent.post("/sites", {"name": "child", "url": url, "token": token})
        assert made["problem"] == ""
        assert made["summary"]["nodes"] == {"online": 1}
        assert (made["summary"]["machines"], made["summary"]["unprotected"]) == (0, 0)
        assert token not in json.dumps(parent.get("/sites"))

        def ask(method, path, **more):
            wanted = {"method": method, "path": path, **more}
            return parent.client.post("/sites/child/call", json=wanted)

        assert [each["name"] for each in ask("GET", "/nodes").json()] == ["server"]
        body = {"kind": "verify", "body": {"storage": "main"}}
        run = ask("POST", "/runs", body=body).json()
        assert child.over(run["id"])["state"] == "succeeded"
        assert ask("GET", "/runs", params={"kind": "verify"}).json()["items"][0]["id"] == run["id"]
        for method, path in (("GET", "/users"), ("GET", "/runs/../users"), ("POST", "/tokens")):
            answer = ask(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        # The token of the site is the limit as well.
        weak = child.post("/tokens", {"name": "weak", "rights": ["view"]})["token"]
        parent.post("/sites", {"name": "weak", "url": url, "token": weak})
        wanted = {"method": "POST", "path": "/runs", "body": body}
        answer = parent.client.post("/sites/weak/call", json=wanted)
        assert (answer.status_code, answer.json()["code"]) == (409, "control"), answer.text
        parent.client.delete("/sites/weak").raise_for_status()
        assert ask("GET", "/runs/none").status_code == 404
        assert_away(parent, child, made)


def assert_away(parent, child, made):
    """It goes away: what was seen last stays, and people are told."""
    child.process.kill()
    found = parent.post("/sites/child/refresh")
    assert "does not answer" in found["problem"]
    assert found["summary"] == made["summary"]
    assert found["seen"] == made["seen"]
    assert "site-away" in [each["code"] for each in parent.get("/alarms")]
    wanted = {"method": "GET", "path": "/nodes"}
    assert parent.client.post("/sites/child/call", json=wanted).status_code == 502
    parent.client.delete("/sites/child").raise_for_status()
    assert parent.get("/sites") == []
    assert "site-away" not in [each["code"] for each in parent.get("/alarms")]
