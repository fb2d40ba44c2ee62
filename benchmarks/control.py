"""`python -m benchmarks.control`: one server, 2,000 machines, 300 policies, 50 nodes, an hour.

The server is a process as users run it, on SQLite, with the real port for nodes; the nodes are
simulated (`ruchu.testing.simulated_nodes`) on the real channel. The hour passes `--speed` times as
fast as it does, for the server and the nodes alike, so the server has that many times the work to
do. Lateness, CPU and the times of the API are in real seconds: those of a server with that many
times the load. Meanwhile the API is asked, again and again, what open pages of the console ask.

Afterwards every start that was due has to have happened once, and every run has to have ended well.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import report
from benchmarks.control_load import Client, Cpu
from benchmarks.measure import Failed, peak_of
from ruchu.clock import from_text
from ruchu.testing import simulated_nodes
from ruchu.testing.servers import Server
from ruchu.testing.simulated_nodes import ScaledClock

STATUS_FAILED, STATUS_NOT_MET = 1, 3
LATENESS_S, CORES, RSS_BYTES, API_S = 2.0, 1.0, 500 << 20, 0.1
# Every so many minutes, in turn: 9.4 starts an hour for a policy; at each full hour all of them.
EVERY = (3, 4, 5, 6, 10, 12, 15, 20)
BACKUP_S = (10.0, 50.0)
PLATFORM, STORAGE = "cloud", "main"
# The server's clock begins so long ago, so that no certificate is of the future.
BEFORE_S = 6 * 3600
START_LIMIT_S, END_LIMIT_S = 120, 900
# The requests that set everything up stay below the limit of requests.
PAUSE_S = 0.02
_MIB = 1 << 20


class Setting:
    """A server and its nodes, set up. A context manager."""

    def __init__(self, options, home):
        now = time.time()
        self.options, self.home = options, home
        # It begins a little before a full minute, so that short runs have the same starts.
        start = (now - BEFORE_S) // 3600 * 3600 - 30
        self.clock = ScaledClock(options.speed, now, start)
        self.scaled = {"speed": options.speed, "origin": now, "start": start}
        self.stack = contextlib.ExitStack()
        self.kept = []

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def _start(self, stack):
        self.server = Server(self.home, "--no-node")
        words = [f"--{name}={value!r}" for name, value in self.scaled.items()]
        if self.options.database:
            words.append(f"--database={self.options.database}")
        self.server.process.command = [
            sys.executable, "-m", "benchmarks.control_server", "--state", str(self.server.state),
            "--lateness", str(self.home / "lateness"), *words,
        ]  # fmt: skip
        stack.enter_context(self.server)
        self.nodes = stack.enter_context(self._nodes())
        self.server.nodes_online(self.options.nodes)
        self._set_up()

    @property
    def pid(self):
        return self.server.process.popen.pid

    @contextlib.contextmanager
    def _nodes(self):
        urls = [
            self._call("POST", "/nodes/tokens", {"name": f"node-{number:02}"})["url"]
            for number in range(self.options.nodes)
        ]
        wanted = {
            **self.scaled, "urls": urls, "home": str(self.home / "nodes"), "backup_s": BACKUP_S,
            "machines": self.options.machines, "seed": self.options.seed,
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.control_nodes"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            process.stdin.write(json.dumps(wanted) + "\n")
            process.stdin.flush()
            if process.stdout.readline() != "enrolled\n":
                raise Failed("the simulated nodes did not enrol")
            yield process
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(START_LIMIT_S)

    def _call(self, method, path, body=None, **more):
        time.sleep(PAUSE_S)
        return self.server.call(method, path, json=body, **more)

    def _set_up(self):
        server, options = self.server, self.options
        for node in server.get("/nodes"):
            self._call("PATCH", f"/nodes/{node['id']}", {"parallel": 16}, headers=etag(node))
        made = {"name": STORAGE, "location": "/srv/backup", "passphrase": "sieben Berge 7"}
        storage = self._call("POST", "/storages", made)["storage"]
        limits = {"writers": 1000, "readers": 10}
        self._call("PATCH", f"/storages/{storage['id']}", limits, headers=etag(storage))
        platform = {"name": PLATFORM, "uri": "simulated:///", "parallel": 1000, "host_parallel": 16}
        self._call("POST", "/platforms", platform)
        self._call("POST", f"/platforms/{PLATFORM}/refresh")
        for number in range(options.policies):
            self.kept.append(self._call("POST", "/policies", policy(number, options)))

    def stop_schedules(self):
        """Disable every policy; return the simulated moments of the first and the last."""
        first = self.clock.now()
        for kept in self.kept:
            body = {**kept["policy"], "enabled": False}
            self._call("PUT", f"/policies/{kept['id']}", body, headers=etag(kept))
        return first, self.clock.now()

    def wait_until_over(self):
        limit = time.monotonic() + END_LIMIT_S
        states = ("queued", "waiting", "running", "stopping")
        while found := self.server.get("/runs", state=states, limit=1)["items"]:
            if time.monotonic() > limit:
                raise Failed(f"runs do not end, such as {found[0]}")
            time.sleep(0.5)

    def runs(self):
        found, after = [], ""
        while True:
            page = self.server.get("/runs", limit=499, after=after)
            found += page["items"]
            after = page.get("next") or ""
            if not after:
                return found
            time.sleep(PAUSE_S)

    def lateness_s(self):
        """Return how late each start was, in real seconds."""
        words = (self.home / "lateness").read_text().split()
        return [float(word) / self.options.speed for word in words]


def etag(row):
    return {"If-Match": f'"{row["version"]}"'}


def policy(number, options):
    """Return a policy: its share of the machines, every few minutes."""
    mine = range(number, options.machines, options.policies)
    return {
        "name": f"policy-{number:03}",
        "selection": {
            "platform": PLATFORM, "machines": [simulated_nodes.name_of(each) for each in mine],
        },
        "storage": STORAGE,
        "schedules": [{"kind": "incremental", "minutes": {"every": EVERY[number % len(EVERY)]}}],
        "parallel": 8,
        "retention": {"count": 10},
        "rpo_minutes": 60,
    }  # fmt: skip


# ----------------------------------------------------------------------------------- what is true


def check(setting, runs, stopped):
    """Return what is wrong with the runs."""
    wrong = [
        f"run {run['id'][:8]} of {run['name']}: {run['state']} {run['reason']}"
        for run in runs
        if run["state"] != "succeeded"
    ]
    by_policy = collections.defaultdict(list)
    for run in runs:
        by_policy[run["policy"]].append(from_text(run["due"]))
    for kept in setting.kept:
        due = sorted(by_policy[kept["id"]])
        wrong += starts_wrong(kept, due, stopped)
    missed = [each for each in setting.server.get("/alarms") if each["code"] == "missed-run"]
    return wrong + [f"missed: {each['subject']}: {each['text']}" for each in missed]


def starts_wrong(kept, due, stopped):
    """Return what is wrong with the starts of a policy: each whole step of it, once."""
    name, every = kept["policy"]["name"], kept["policy"]["schedules"][0]["minutes"]["every"]
    step = datetime.timedelta(minutes=every)
    first = after(from_text(kept["created"]), step)
    owed = first
    while owed <= stopped[0]:
        if owed not in due:
            yield f"{name}: nothing started at {owed}"
        owed += step
    for moment, count in collections.Counter(due).items():
        if count > 1:
            yield f"{name}: {count} runs for {moment}"
        if moment != after(moment - datetime.timedelta(microseconds=1), step):
            yield f"{name}: a run for {moment}"
        if not first <= moment <= stopped[1]:
            yield f"{name}: a run for {moment}, which is not its time"


def after(moment, step):
    """Return the first step behind a moment, counted from midnight."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + ((moment - midnight) // step + 1) * step


# ------------------------------------------------------------------------------------- what it is


def percentile(values, share):
    """Return the value that a share of all is not above (nearest rank)."""
    found = sorted(values)
    return found[max(0, -(-len(found) * share // 100) - 1)] if found else float("nan")


def three(values):
    return {f"p{share}": percentile(values, share) for share in (50, 95, 99)} | {
        "most": max(values, default=float("nan")), "count": len(values),
    }  # fmt: skip


@dataclasses.dataclass
class Measured:
    """What was measured while the hour passed."""

    wall_s: float
    server_cores: float
    nodes_cores: float
    others_cores: float
    steal_cores: float
    rss: float
    client: Client


def measure(setting):
    options, server = setting.options, setting.server
    cpu = Cpu([setting.pid, setting.nodes.pid, os.getpid()])
    headers = dict(server.client.headers)
    with Client(str(server.client.base_url), headers) as client:
        time.sleep(options.minutes * 60 / options.speed)
        others, steal = cpu.others()
        return Measured(
            cpu.passed_s(), cpu.cores(setting.pid), cpu.cores(setting.nodes.pid), others, steal,
            peak_of(setting.pid), client,
        )  # fmt: skip


def document(options, found, runs, lateness_s, wrong):
    everything = [taken for each in found.client.taken.values() for taken in each]
    late, api = three(lateness_s), three(everything)
    owed = {
        "lateness_p99_s": (late["p99"], LATENESS_S),
        "server_cores": (found.server_cores, CORES),
        "rss_bytes": (found.rss, RSS_BYTES),
        "api_p95_s": (api["p95"], API_S),
    }
    kept = ("nodes", "machines", "policies", "minutes", "speed", "seed")
    return {
        "machine": report.machine(),
        **{name: getattr(options, name) for name in kept},
        "wall_s": round(found.wall_s, 1),
        "runs": len(runs),
        "tasks": sum(run["summary"].get("tasks", 0) for run in runs),
        "server_cpu_s_an_hour": found.server_cores * 3600 / options.speed,
        "nodes_cores": found.nodes_cores,
        "others_cores": found.others_cores,
        "steal_cores": found.steal_cores,
        "events_followed": found.client.events,
        "lateness_s": late,
        "api_s": api,
        "api_by_request_s": {name: three(each) for name, each in found.client.taken.items()},
        "api_failed": found.client.failed[:20],
        "wrong": wrong[:100],
        "owed": {
            name: {"value": value, "below": limit, "met": value < limit}
            for name, (value, limit) in owed.items()
        },
    }


def show(found):
    print(
        f"{found['machines']} machines, {found['policies']} policies, {found['nodes']} nodes; "
        f"{found['minutes']:g} simulated minutes, {found['speed']:g} times as fast: "
        f"{found['wall_s']:g} s"
    )
    print(
        f"{found['runs']} starts, {found['tasks']} backups of machines, "
        f"{found['events_followed']} events followed"
    )
    rows = [("lateness of starts", *_ms(found["lateness_s"]))]
    rows += [(f"API: {name}", *_ms(each)) for name, each in found["api_by_request_s"].items()]
    rows.append(("API: all", *_ms(found["api_s"])))
    report.print_table(("ms", "count", "p50", "p95", "p99", "most"), rows)
    owed = found["owed"]
    print(
        f"server: {owed['server_cores']['value']:.2f} cores with {found['speed']:g} times the load "
        f"({found['server_cpu_s_an_hour']:.0f} CPU s for a simulated hour), "
        f"{owed['rss_bytes']['value'] / _MIB:.0f} MiB at most"
    )
    print(
        f"beside it: simulated nodes {found['nodes_cores']:.2f} cores, others "
        f"{found['others_cores']:.2f}, withheld {found['steal_cores']:.2f}, "
        f"of {found['machine']['cores']}"
    )
    for name, each in owed.items():
        met = "met" if each["met"] else "NOT MET"
        print(f"owed: {name} below {each['below']:g}: {each['value']:.4g}: {met}")
    wrong = found["wrong"] + [f"{path} answered {status}" for path, status in found["api_failed"]]
    for text in wrong[:20]:
        print(f"WRONG: {text}")
    print("every start that was due happened once" if not wrong else "it is NOT as it should be")


def _ms(each):
    return [str(each["count"])] + [
        f"{each[key] * 1000:.1f}" for key in ("p50", "p95", "p99", "most")
    ]


def arguments():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control", description=__doc__)
    parser.add_argument("--nodes", type=int, default=50, help="default: 50")
    parser.add_argument("--machines", type=int, default=2000, help="default: 2000")
    parser.add_argument("--policies", type=int, default=300, help="default: 300")
    parser.add_argument("--minutes", type=float, default=60, help="simulated; default: 60")
    parser.add_argument("--speed", type=float, default=3, help="times as fast; default: 3")
    parser.add_argument("--seed", type=int, default=1, help="of durations and sizes; default: 1")
    parser.add_argument("--database", default="", help="postgresql://…; default: SQLite")
    parser.add_argument("--home", type=Path, help="an empty directory; kept; default: temporary")
    parser.add_argument("--out", type=Path, default=report.OUT / "control.json", help="figures")
    parser.add_argument("--strict", action="store_true", help="status 3 if something is not met")
    return parser.parse_args()


def main():
    options = arguments()
    with contextlib.ExitStack() as stack:
        home = options.home
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ruchu-control-")))
        with Setting(options, home) as setting:
            print(f"server {setting.pid}, nodes {setting.nodes.pid}", file=sys.stderr)
            measured = measure(setting)
            stopped = setting.stop_schedules()
            setting.wait_until_over()
            runs = setting.runs()
            wrong = check(setting, runs, stopped)
            found = document(options, measured, runs, setting.lateness_s(), wrong)
    show(found)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Written: {options.out}")
    if wrong or measured.client.failed:
        return STATUS_FAILED
    met = all(each["met"] for each in found["owed"].values())
    return 0 if met or not options.strict else STATUS_NOT_MET


if __name__ == "__main__":
    sys.exit(main())
