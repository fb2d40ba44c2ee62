"""A server that looks as if it had worked for a month: for tests of the console and for pictures.

    python -m ruchu.testing.console_sample DIRECTORY

runs one until it is interrupted. Its nodes are simulated, on the real channel; what it answers is
what the server makes of its database, and of what these nodes tell.
"""

import contextlib
import dataclasses
import datetime
import importlib
import pkgutil
import random
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu.clock import SYSTEM, to_text
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.nodes.states import HEARTBEAT_S
from ruchu.testing import browsers, console_history, console_park, simulated_nodes
from ruchu.testing.browsers import Account, Console
from ruchu.testing.console_answers import Answers
from ruchu.testing.console_history import History, Kept
from ruchu.testing.console_park import ShowNode
from ruchu.testing.servers import Server
from ruchu.testing.simulated_nodes import Beats
from ruchu.web import pages as web_pages
from ruchu.web import visiting

SECOND = Account("chen.hao", "quiet harbour under seven lanterns")
OPERATOR = Account("li.na", "nine silver rivers meet the sea")
RESTORER = Account("wang.wei", "a copper kettle sings at noon")
_PEOPLE: Sequence[tuple[Account, str, str, Mapping[str, Sequence[str]]]] = (
    (SECOND, "陈浩", "zh", {"*": ["administrator"]}),
    (OPERATOR, "李娜", "zh", {"*": ["operator"]}),
    (RESTORER, "王伟", "en", {"*": ["restore-operator"]}),
    (Account("zhao.min", ""), "赵敏", "zh", {"*": ["auditor"]}),
    (Account("m.keller", ""), "Max Keller", "en", {"branch": ["read-only"]}),
)
_ZONE = "Asia/Shanghai"
# Where the thing that a page shows is named elsewhere than in its path, or by another name.
_ADDRESSES = {
    "/restore/machine": "/restore/machine?platform={platform}&name={machine}",
    "/restore/machine/delete": "/restore/machine/delete?platform={platform}&name={machine}",
    "/approvals/{wanted}": "/approvals/{request}",
    "/machines/{platform}/{machine}": "/machines/{platform}/{machine_id}",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A server with something to show.

    Attributes:
        console: the server.
        things: parameters of pages by name, such as `run`: an id that is there.
    """

    console: Console
    things: Mapping[str, str]

    def address(self, path: str) -> str:
        """Return the address of a page, of something that is there."""
        return _ADDRESSES.get(path, path).format_map(self.things)


def pages() -> list[str]:
    """Return the paths of all pages of the console, with the names of their parameters."""
    for each in pkgutil.iter_modules(web_pages.__path__, f"{web_pages.__name__}."):
        importlib.import_module(each.name)
    return sorted(visiting.PAGES)


@contextlib.contextmanager
def sample(home: Path, seed: int = 1, *options: str) -> Iterator[Sample]:
    """Run a server that is full of believable things."""
    rng = random.Random(seed)  # noqa: S311 - data that only looks real
    with contextlib.ExitStack() as stack:
        console = stack.enter_context(browsers.console(home, "--no-node", *options))
        answers = Answers()
        _nodes(stack, console.server, home, (rng, answers))
        things = _fill(console.server, rng, answers)
        yield Sample(console, things)


def _nodes(
    stack: contextlib.ExitStack, server: Server, home: Path, kept: tuple[random.Random, Answers]
) -> None:
    rng, answers = kept
    stage = stack.enter_context(console_park.stage(rng))
    nodes = []
    for number, name in enumerate(console_park.NODES):
        url = server.post("/nodes/tokens", {"name": name})["url"]
        path = home / name / "identity.json"
        simulated_nodes.enrol(url, path, {"host": f"{name}.example.com"})
        # Instant restores run on the first node; the rest of what they know is the same.
        known = answers if number == 0 else dataclasses.replace(answers, instants=[])
        nodes.append(stack.enter_context(ShowNode(path, stage, known)))
    stack.enter_context(Beats(nodes, stage.clock, HEARTBEAT_S))
    server.nodes_online(len(nodes))


def _fill(server: Server, rng: random.Random, answers: Answers) -> dict[str, str]:
    now = SYSTEM.now()
    tag = {"If-Match": server.client.get("/settings").headers["etag"]}
    _put(server, "/settings", {"server_name": "Ruchu Beijing", "zone": _ZONE}, tag)
    _people(server)
    for name, location, role, _, _ in console_park.STORAGES:
        wanted = {"name": name, "location": location, "role": role}
        server.post("/storages", {**wanted, "passphrase": "sieben Berge 7"})
    for name, uri in console_park.PLATFORMS.items():
        server.post("/platforms", {"name": name, "uri": uri})
        server.post(f"/platforms/{name}/refresh")
    kept = [_policy(server, document, hours) for document, hours in policies(now)]
    history = History(now, rng, server.nodes_online(1)[0]["id"])
    for each in kept:
        history.backups(each)
    singles = _singles(history)
    with contextlib.closing(Database(sqlite_url(server.state / "ruchu.db"))) as database:
        console_history.write(database, history.rows)
        console_history.use(database, now, rng)
        console_history.marks(database, now, ["erp-db-01", "web-08"])
        console_history.alarms(database, now)
        console_history.absent(database, now)
    _answered(answers, history, now)
    _watch(server)
    running = _under_way(server, {each.document["name"]: each for each in kept})
    _four_eyes(server, history)
    return _things(server, {**singles, "run": running})


def _put(
    server: Server, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> None:
    server.call("PUT", path, json=dict(body), headers=headers)


def policies(now: datetime.datetime) -> list[tuple[dict[str, Any], int]]:
    """Return the policies, each with the hours between two starts."""
    nightly = [{"kind": "incremental", "daily": {"times": ["01:00"]}},
               {"kind": "full", "weekly": {"days": ["sun"], "times": ["01:00"]}}]  # fmt: skip
    opens = (now + datetime.timedelta(hours=16)).hour * 60
    later = {"begin": opens, "end": opens + 60, "days": []}
    beijing, shanghai = console_park.PLATFORMS

    def document(name: str, **more: Any) -> dict[str, Any]:
        kept = {"retention": {"daily": 14, "weekly": 8, "monthly": 12}, "zone": _ZONE}
        return {
            "name": name,
            "storage": "main",
            "schedules": nightly,
            "parallel": 4,
            **kept,
            **more,
        }

    return [
        (document("erp-nightly", rpo_minutes=1500, options={"quiesce": "try"}, selection={
            "platform": beijing, "patterns": ["erp-*", "mes-*"]}), 24),
        (document("office-nightly", selection={"platform": beijing, "tags": ["office"],
                                               "excluded": ["vdi-*"]}), 24),
        (document("web-hourly", rpo_minutes=120, schedules=[{"kind": "incremental", "hourly": {}}],
                  retention={"hourly": 48, "daily": 14},
                  selection={"platform": beijing, "tags": ["web"]}), 1),
        (document("shanghai-nightly", storage="archive", rpo_minutes=1500,
                  selection={"platform": shanghai, "tags": ["production"]}), 24),
        (document("pacs-daily", storage="archive", windows=[later],
                  selection={"platform": beijing, "patterns": ["pacs-*"]}), 24),
        (document("engineering", enabled=False,
                  selection={"platform": beijing, "tags": ["engineering"]}), 24),
    ]  # fmt: skip


def _policy(server: Server, document: Mapping[str, Any], hours: int) -> Kept:
    row = server.post("/policies", document)
    found = server.get(f"/policies/{row['id']}/dry-run", count=1)["machines"]
    chosen = {each["name"] for each in found}
    listed = console_park.machines(document["selection"]["platform"])
    return Kept(row, [each for each in listed if each["name"] in chosen], hours)


def _people(server: Server) -> None:
    _put(server, "/groups/branch", {"title": "Branch office", "machines": 50})
    for account, display, language, grants in _PEOPLE:
        mail = f"{account.name}@example.com"
        wanted = {"name": account.name, "display": display, "mail": mail, "language": language}
        made = server.post("/users", {**wanted, "grants": grants})
        if account.password:
            server.post("/password", {"link": made["link"], "password": account.password})


def _singles(history: History) -> dict[str, str]:
    points = {row["name"]: row for row in history.rows.points}
    mail, oa, web = points["mail-02"], points["oa-portal-02"], points["web-02"]

    def body(point: Mapping[str, Any], name: str) -> dict[str, Any]:
        return {"point": point["id"], "platform": point["platform"], "placement": {"name": name}}

    history.single("restore", "mail-02-check", body(mail, "mail-02-check"), 3.2, "succeeded")
    history.single("restore", "oa-portal-02-old", body(oa, "oa-portal-02-old"), 20.0, "failed")
    history.single("verify", "main", {"storage": "main"}, 9.5, "succeeded")
    history.single("instant", "web-02-now", body(web, "web-02-now"), 1.5, "succeeded")
    history.single("restore", "web-02-copy", body(web, "web-02-copy"), 26.0, "stopped")
    return {
        "point": mail["id"],
        "machine": mail["name"],
        "machine_id": console_park.identity(mail["name"]),
        "chain": mail["chain"],
    }


def _answered(answers: Answers, history: History, now: datetime.datetime) -> None:
    for row in history.rows.points:
        told = {**row, "point": row["id"]}
        answers.points.setdefault(row["storage"], []).append(told)
    newest = {row["name"]: row for row in history.rows.points}
    for name, hours, cache in (("web-02", 1.5, 2_340_000_000), ("oa-portal-02", 26.0, 11_800_000)):
        point = newest[name]
        answers.instants.append({
            "instant": console_park.identity(f"instant {name}"), "name": f"{name}-now",
            "machine": console_park.identity(f"now {name}"), "state": "running",
            "export": "running", "point": point["id"], "storage": point["storage"],
            "platform": point["platform"], "protocol": "nbd", "disks": ["vda"],
            "cache": "/var/lib/ruchu/node/cache", "cache_bytes": cache,
            "since": to_text(now - datetime.timedelta(hours=hours)),
        })  # fmt: skip


def _watch(server: Server) -> None:
    """Let somebody be told of alarms, by channels that nobody listens on."""
    mail = {"host": "mail.example.com", "port": 587, "sender": "ruchu@example.com",
            "recipients": ["ops@example.com"]}  # fmt: skip
    _put(server, "/alarm-channels/ops-mail", {"kind": "mail", "settings": mail, "enabled": False})
    rule = {"channels": ["ops-mail"], "codes": ["*-failed", "storage-*"], "severity": "error"}
    _put(server, "/alarm-rules/failures", rule)
    server.post("/tokens", {"name": "monitoring", "rights": ["view"], "days": 90})


def _under_way(server: Server, kept: Mapping[str, Kept]) -> str:
    """Start runs of every open state; return one that runs."""
    started = {
        name: server.post(f"/policies/{kept[name].row['id']}/run", {"kind": "incremental"})
        for name in ("erp-nightly", "shanghai-nightly", "pacs-daily", "office-nightly")
    }
    server.post(f"/policies/{kept['erp-nightly'].row['id']}/run", {"kind": "full"})
    server.post(f"/runs/{started['office-nightly']['id']}/pause")
    running = str(started["erp-nightly"]["id"])
    server.until(lambda: any(
        task["progress"].get("done") for task in server.get(f"/runs/{running}/tasks")
    ))  # fmt: skip
    return running


def _four_eyes(server: Server, history: History) -> None:
    """Turn four eyes on, and enter a request that waits for the second person."""
    _put(server, "/four-eyes", {"on": True})
    oldest = [row for row in history.rows.points if row["name"] == "oa-portal-02"
              and not row["starred"] and row["locked_until"] is None][:3]  # fmt: skip
    wanted = {"storage": "main", "points": [row["id"] for row in oldest]}
    answer = server.client.post("/points/delete", json=wanted)
    assert answer.json().get("code") == "needs-approval", answer.text


def _things(server: Server, found: Mapping[str, str]) -> dict[str, str]:
    alarm = server.get("/alarms")[0]["id"]
    request = server.get("/approvals")["items"][0]["id"]
    users = server.get("/users")
    rows = users["items"] if isinstance(users, dict) else users
    return {
        **found, "alarm": alarm, "request": request, "approval": request,
        "user": rows[-1]["id"], "node": server.get("/nodes")[0]["id"],
        "policy": next(each["id"] for each in server.get("/policies")
                       if each["policy"]["name"] == "erp-nightly"),
        "storage": "main", "platform": "kvm-beijing", "site": "guangzhou",
        "instant": console_park.identity("instant web-02"), "group": "branch",
        "name": found["machine"], "channel": "ops-mail", "rule": "failures",
    }  # fmt: skip


def main() -> None:
    """Run a sample server until interrupted."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with sample(Path(sys.argv[1])) as made:
        account = made.console.account
        sys.stdout.write(f"{made.console.url} {account.name} {account.password!r}\n")
        sys.stdout.flush()
        ended.wait()


if __name__ == "__main__":
    main()
