"""A server in this process, without its threads and its port: services, things, people, clients."""

import asyncio
import datetime
import json
import re
import shutil
import subprocess

import httpx
import pytest
from jsonschema import Draft202012Validator

from ruchu.api import application, routes_events, shielding
from ruchu.clock import to_text
from ruchu.control.accounts import accounts, sessions
from ruchu.control.accounts.groups import Group, Quota
from ruchu.control.accounts.passwords import Costs, Hasher
from ruchu.control.accounts.sessions import Origin
from ruchu.control.accounts.tokens import NewToken
from ruchu.control.accounts.users import Profile
from ruchu.control.anomalies.tables import RETENTION_FREEZES
from ruchu.control.approvals.tables import APPROVAL_SETTINGS
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.jobs.runs import NewRun
from ruchu.control.policies import documents
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.control.vault.vault import Owner
from ruchu.errors import NeedsApproval
from ruchu.model.principals import LOCAL, Right, Role
from ruchu.model.tasks import Severity
from ruchu.testing import databases
from ruchu.testing.clocks import ManualClock

CHEAP = Costs(memory_kib=8, iterations=1, lanes=1)
HERE = Origin("192.0.2.1", "test")
TEAM, OTHER = "team-a", "team-b"
STORAGE = "5" * 32
POINTS = ["a0" * 16, "a1" * 16, "a2" * 16]
CHAIN = "c" * 32
ALL = "*"
# What everybody may do everywhere, but for the last two.
PEOPLE = {
    "administrator": {ALL: {Role.ADMINISTRATOR}},
    "operator": {ALL: {Role.OPERATOR}},
    "restore-operator": {ALL: {Role.RESTORE_OPERATOR}},
    "auditor": {ALL: {Role.AUDITOR}},
    "read-only": {ALL: {Role.READ_ONLY}},
    "team-operator": {TEAM: {Role.OPERATOR}},
    "elsewhere": {OTHER: {Role.ADMINISTRATOR}},
    "no-role": {},
}
POLICY = {
    "name": "nightly",
    "selection": {"platform": "kvm", "patterns": ["web-*"]},
    "storage": "main",
    "schedules": [{"kind": "incremental", "daily": {"times": ["02:00"]}}],
    "retention": {"daily": 7},
    "group": TEAM,
}


class QuickServices(Services):
    """Services with an authority that is made once: its key is sealed at some cost."""

    kept = None

    def _authority(self):
        if QuickServices.kept is None:
            QuickServices.kept = super()._authority()
        return QuickServices.kept


def application_over(services, tell, kept=[]):  # noqa: B006 - kept from call to call
    """Return the application over services; its routes are worked out once, which takes longest."""
    if not kept:
        kept.append(application.create(services, tell))
        return kept[0]
    (app,) = kept
    app.state.services, app.state.tell = services, tell
    app.state.streams = routes_events.Streams()
    app.user_middleware.clear()
    app.middleware_stack = None
    shielding.install(app, services)
    return app


class InProcess(httpx.BaseTransport):
    """Carries requests to an application in this process."""

    def __init__(self, app, address="127.0.0.1"):
        self.runner = asyncio.Runner()
        self.transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))

    def handle_request(self, request):
        async def go():
            answer = await self.transport.handle_async_request(request)
            return answer, await answer.aread()

        answer, content = self.runner.run(go())
        found = httpx.Response(answer.status_code, headers=answer.headers, content=content)
        conform(request, found, self.transport.app)
        return found

    def close(self):
        self.runner.close()


def conform(request, answer, app, kept={}):  # noqa: B006 - kept from call to call
    """Hold an answer against the description of the API: status, media type, schema."""
    if not kept:
        kept.update(described(app.openapi()))
    matching = (answers for (method, pattern), answers in kept.items()
                if method == request.method and pattern.fullmatch(request.url.path))  # fmt: skip
    answers = next(matching, None)
    if answers is None or answer.status_code == 500:
        return  # no address of ours; or a bug, and the test says whether it wants one
    assert str(answer.status_code) in answers, (request.method, request.url.path, answer.text)
    content = answers[str(answer.status_code)]
    if not content:
        assert not answer.content
        return
    media = answer.headers["content-type"]
    known = next(each for each in content if media.partition(";")[0] == each.partition(";")[0])
    if content[known] is not None:
        content[known].validate(answer.json())


def described(document):
    """Return validators of all answers, by method and pattern of the address."""
    found = {}
    # An address without parameters is meant before one with.
    for path in sorted(document["paths"], key=lambda each: each.count("{")):
        pattern = re.compile(re.sub(r"{\w+}", "[^/]+", path))
        for method, operation in document["paths"][path].items():
            found[method.upper(), pattern] = {
                status: {
                    media: validator(each["schema"], document) if "json" in media else None
                    for media, each in answer.get("content", {}).items()
                }
                for status, answer in operation["responses"].items()
            }
    return found


def validator(schema, document):
    return Draft202012Validator({**schema, "components": document["components"]})


class World:
    """A server and who uses it.

    Attributes:
        told: what would stand in the log.
        asked: questions to nodes, and what they are answered with, by kind.
    """

    def __init__(self, directory):
        self.directory = directory
        self.clock = ManualClock()
        self.database = Database(sqlite_url(directory / "ruchu.db"))
        with pytest.MonkeyPatch.context() as patch:  # no password costs a tenth of a second
            patch.setattr(accounts, "Hasher", lambda: Hasher(CHEAP))
            self.services = QuickServices(ServerState(directory), self.clock, self.database)
        self.told = []
        kept = directory / "words.json"
        self.words = json.loads(kept.read_text()) if kept.exists() else {}
        self.app = application_over(self.services, self.told.append)
        self.clients = []
        self.answers = {}
        self.asked = []

    def close(self):
        for client in self.clients:
            client.close()
        self.database.close()
        subprocess.run(["chattr", "-R", "-f", "-a", str(self.directory)], check=False)

    # People.

    def word(self, name):
        """Return the secret of a session of an account, or of a token that only sees."""
        if name not in self.words:
            self.words[name] = self.token({Right.VIEW}) if name == "token" else self.open(name)
        return self.words[name]

    def open(self, name):
        """Open one more session for an account; return its secret."""
        user = self.services.accounts.users.find(name).id
        with self.database.writing() as connection:
            return sessions.insert(connection, user, HERE, self.clock)[1]

    def client(self, name="administrator", word=None, **options):
        """Return a client that a person (or whoever has the word) uses; nobody with None."""
        if word is None and name is not None:
            word = self.word(name)
        headers = {"Authorization": f"Bearer {word}"} if word else {}
        made = httpx.Client(
            transport=InProcess(self.app, **options), base_url="http://ruchu.test/api/v1",
            headers=headers, trust_env=False,
        )  # fmt: skip
        self.clients.append(made)
        return made

    def token(self, rights, groups=(ALL,), name="administrator"):
        """Make a token of an account; return its word."""
        by = self.services.accounts.bearer(self.word(name))
        new = NewToken(
            f"token {len(self.services.accounts.tokens.list(by))}",
            frozenset(rights), frozenset(groups), datetime.timedelta(days=1),
        )  # fmt: skip
        return self.services.accounts.tokens.create(by, new).word

    def principal(self, name="administrator"):
        return self.services.accounts.bearer(self.word(name))

    # Nodes.

    def node(self):
        """Let a node be connected that answers what `answers` says."""
        row = self.services.nodes.expect("node-1", 2)
        self.services.hub.connected_nodes = lambda: [row]

        def ask(node, what, arguments, limit_s):
            self.asked.append((what, arguments))
            return self.answers[what]

        self.services.hub.ask = ask
        return row


def furnish(world):
    """Put a bit of everything into a world."""
    services = world.services
    for group in (TEAM, OTHER):
        services.accounts.groups.create(LOCAL, Group(group, group.title(), Quota()))
    for name, grants in PEOPLE.items():
        held = {group: frozenset(roles) for group, roles in grants.items()}
        services.accounts.users.create(LOCAL, name, Profile(name.title()), held)
    services.inventory.add("kvm", "qemu:///system", resource_group=TEAM)
    services.inventory.saw("kvm", [machine(number) for number in range(3)])
    made = {"id": STORAGE, "name": "main", "role": "backup", "encrypted": True, "free": 70,
            "size": 100}  # fmt: skip
    services.storages.add(made, "/srv/backup", {"resource_group": TEAM})
    for number, point_id in enumerate(POINTS):
        services.catalogue.took(point(point_id, number), policy=None, run="")
    services.policies.add(documents.from_document(POLICY))
    world.clock.move(datetime.timedelta(minutes=1))
    services.alarms.raise_alarm(
        "backup-failed", Severity.ERROR, "web-1", "The storage is full.", {"group": TEAM}
    )
    with world.database.writing() as connection:
        row = {"id": "f" * 32, "chain": CHAIN, "subject": "web-1", "why": "encrypted",
               "since": to_text(world.clock.now()), "active": True}  # fmt: skip
        connection.execute(RETENTION_FREEZES.insert().values(row))
    services.vault.put(Owner("storage", STORAGE, "passphrase"), "sieben Berge 7")
    services.nodes.expect("node-2", 2)
    world.clock.move(datetime.timedelta(minutes=1))


def machine(number, **more):
    return {"id": f"{number:032x}", "name": f"web-{number}", "state": "running", **more}


def point(identity, number=0, **more):
    return {
        "storage": "main", "point": identity, "chain": CHAIN, "sequence": number,
        "name": f"web-{number}", "platform": "kvm", "kind": "full",
        "time": f"2026-11-{10 + number:02}T02:00:00.000000Z", "bytes_stored": 3 << 30, **more,
    }  # fmt: skip


def a_run(services, kind="backup", group=TEAM, **body):
    return services.runs.create(NewRun(kind, "by hand", body, group=group))


def template(directory):
    """Make the files of a furnished world."""
    directory.mkdir(exist_ok=True)
    with databases.sqlite(directory / "ruchu.db"):
        pass
    world = World(directory)
    furnish(world)
    for name in (*PEOPLE, "token"):
        world.word(name)
    (directory / "words.json").write_text(json.dumps(world.words))
    world.close()


def copied(kept, directory):
    """Return a world of its own, as the template was."""
    shutil.copytree(kept, directory)
    world = World(directory)
    world.clock.move(datetime.timedelta(minutes=2))
    return world


def four_eyes(world):
    """Let acts that destroy wait, without the two people that it takes to turn this on."""
    with world.database.writing() as connection:
        row = {"name": "four_eyes", "value": "on"}
        connection.execute(APPROVAL_SETTINGS.insert().values(row))


def waiting(world, name="operator"):
    """Return the id of a request that waits: to delete a point."""
    services = world.services
    if not services.approvals.four_eyes():
        four_eyes(world)
    storage = services.storages.get("main")
    try:
        services.acts.delete_points(world.principal(name), storage, POINTS[:1], 0)
    except NeedsApproval as error:
        return error.request
    raise AssertionError
