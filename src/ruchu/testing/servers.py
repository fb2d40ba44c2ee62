"""`ruchu server` and `ruchu node` as a user starts them, and a client of the API."""

import contextlib
import json
import os
import re
import signal
import subprocess  # noqa: TID251 - a test starts the product as its user does
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from ruchu.errors import CommandFailed

READY_LIMIT_S = 120.0
END_LIMIT_S = 180.0
CALL_LIMIT_S = 120.0
POLL_S = 0.2
NAME, PASSWORD = "admin", "blue mountain seven rivers 91"


@dataclass(slots=True)
class Process:
    """A server or node that runs; `line` is what it said first, `command` how it is started."""

    command: list[str]
    log: Path
    popen: "subprocess.Popen[bytes] | None" = None
    line: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        """Start it, and wait for its first line."""
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(  # noqa: S603 - arguments of a test
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        assert self.popen.stdout is not None
        text = self.popen.stdout.readline()
        if not text:
            self.popen.wait(END_LIMIT_S)
            self.popen.stdout.close()
            raise CommandFailed(f"{self.command}: {self.log.read_text()[-2000:]}")
        self.line = json.loads(text)

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.popen is not None
        os.kill(self.popen.pid, signal.SIGKILL)
        self.popen.wait(END_LIMIT_S)
        assert self.popen.stdout is not None
        self.popen.stdout.close()

    def end(self) -> None:
        """Ask it to end, and wait until it has."""
        if self.popen is None or self.popen.poll() is not None:
            return
        self.popen.terminate()
        self.popen.wait(END_LIMIT_S)
        assert self.popen.stdout is not None
        self.popen.stdout.close()


class Server:
    """A server in a directory of its own. A context manager."""

    def __init__(
        self, home: Path, *options: str, inside: Sequence[str] = (),
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.state = home / "server"
        words = ["server", "--state", str(self.state), "--listen", "127.0.0.1:0", *options]
        command = [*inside, sys.executable, "-m", "ruchu", *words]
        self.process = Process(command, home / "server.log")
        self.client = httpx.Client(timeout=CALL_LIMIT_S, transport=transport)

    def __enter__(self) -> Self:
        self.process.start()
        self.client.base_url = httpx.URL(f"{self.process.line['url']}/api/v1")
        link = self.process.line.get("link")
        if link:
            word = link.partition("#")[2]
            wanted = {"link": word, "name": NAME, "password": PASSWORD}
            self.post("/administrator", wanted)
        self.sign_in()
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        try:
            self.process.end()
        finally:
            # The node of a server that was killed goes on, and waits for it to come back.
            mine = ["pkill", "-KILL", "-f", re.escape(f"--state {self.state}/node ")]
            subprocess.run(mine, check=False)  # noqa: S603 - arguments of a test
            # Append-only files of the audit trail must not outlive the test.
            flags = ["chattr", "-R", "-f", "-a", "-i", str(self.home)]
            subprocess.run(flags, check=False)  # noqa: S603 - arguments of a test

    def sign_in(self, name: str = NAME, password: str = PASSWORD) -> None:
        """Sign in; what follows is asked by this account."""
        self.client.headers.pop("Authorization", None)
        found = self.post("/sessions", {"name": name, "password": password})
        self.client.headers["Authorization"] = f"Bearer {found['token']}"

    def restart(self) -> None:
        """Kill it and start it again in the same place; the session goes on."""
        self.process.kill()
        self.process.start()
        self.client.base_url = httpx.URL(f"{self.process.line['url']}/api/v1")

    # Requests; each must succeed.

    def call(self, method: str, path: str, **more: Any) -> Any:
        """Make a request; return the document that was answered."""
        answer = self.client.request(method, path, **more)
        assert answer.status_code < 400, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def get(self, path: str, **params: Any) -> Any:
        """Read something."""
        return self.call("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Make something."""
        return self.call("POST", path, json=dict(body or {}))

    def until(self, asked: Callable[[], Any], limit_s: float = READY_LIMIT_S) -> Any:
        """Ask until the answer is true; return it."""
        deadline = time.monotonic() + limit_s  # noqa: TID251 - the limit of a test
        while True:
            found = asked()
            if found:
                return found
            assert time.monotonic() < deadline, self.trouble()  # noqa: TID251
            time.sleep(POLL_S)  # noqa: TID251

    def trouble(self) -> str:
        """Return what helps to see why a test waits in vain."""
        runs = json.dumps(self.get("/runs")["items"], indent=1)[-3000:]
        return f"{runs}\n{self.said()}"

    def said(self) -> str:
        """Return the end of the server's log, and what people last asked it to do."""
        log = self.process.log.read_text(errors="replace")[-3000:]
        try:
            found = self.client.get("/audit", params={"limit": 12}).json()
        except (httpx.HTTPError, ValueError) as error:
            return f"{log}\n(no audit trail: {error})"
        return f"{log}\n{json.dumps(found)[:4000]}"

    def nodes_online(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many nodes are online; return them."""

        def online() -> list[dict[str, Any]] | None:
            found = [node for node in self.get("/nodes") if node["state"] == "online"]
            return found if len(found) >= count else None

        found: list[dict[str, Any]] = self.until(online)
        return found

    def over(self, run: str, limit_s: float = READY_LIMIT_S) -> dict[str, Any]:
        """Wait until a run is over; return it."""

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = self.get(f"/runs/{run}")
            return found if found["ended"] else None

        found: dict[str, Any] = self.until(ended, limit_s)
        return found


@contextlib.contextmanager
def node(home: Path, url: str, *options: str, inside: Sequence[str] = ()) -> Iterator[Process]:
    """Run a node; yield its process."""
    home.mkdir(parents=True, exist_ok=True)
    words = ["node", "--state", str(home / "node"), "--join", url, *options]
    process = Process([*inside, sys.executable, "-m", "ruchu", *words], home / "node.log")
    process.start()
    try:
        yield process
    finally:
        process.end()
