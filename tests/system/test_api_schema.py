"""The whole OpenAPI against a real server: nothing fails, nothing is answered that is not written.

Every operation is asked with what its description allows and with what it does not, in the name of
an administrator. The names of things that exist are put into half of the addresses, and the ETag
that is right into half of the changes. What is generated never reaches a node, since there is none
here: what needs one answers 502, as is written.
"""

import os
import time
import urllib.parse

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ruchu.api import serving
from ruchu.clock import SYSTEM
from ruchu.control.accounts.groups import Group, Quota
from ruchu.control.accounts.users import Profile
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.jobs.runs import NewRun
from ruchu.control.migrations import upgrading
from ruchu.control.policies import documents
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.model.principals import LOCAL, Role
from ruchu.model.tasks import Severity
from ruchu.testing.servers import NAME, PASSWORD, Server

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(7200)]

FAULTS = os.environ.get("RUCHU_PROFILE") == "faults"
# For each operation and each way to generate; three minutes in all on two busy cores.
EXAMPLES = 200 if FAULTS else 8
CHECKS = (
    not_a_server_error,  # but for what is documented: 502, 503
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
)
# An address that fits into what the server takes as the headers of a request.
ADDRESS_BYTES = serving.HEADERS_BYTES_MAX // 2
# What would end the session that all of this is asked in, and shows nothing else.
LAST = ("sign_out",)
SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=not FAULTS,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
STORAGE, POINT, CHAIN = "5" * 32, "a" * 32, "c" * 32
POLICY = {
    "name": "nightly",
    "selection": {"platform": "kvm", "patterns": ["web-*"]},
    "storage": "main",
    "retention": {"daily": 7},
    "enabled": False,
}


def furnish(directory):
    """Put a bit of everything into the state of a server that has not started yet."""
    directory.mkdir(parents=True)
    state = ServerState(directory)
    with Database(sqlite_url(state.database)) as database:
        upgrading.bring_up(database)
        services = Services(state, SYSTEM, database)
        accounts = services.accounts
        everything = {"*": frozenset({Role.ADMINISTRATOR})}
        user, link = accounts.users.create(LOCAL, NAME, Profile("Admin"), everything)
        accounts.entering.choose_password(link, PASSWORD)
        accounts.groups.create(LOCAL, Group("team", "Team", Quota()))
        services.inventory.add("kvm", "qemu:///system")
        machine = {"id": "1" * 32, "name": "web-1", "state": "running"}
        services.inventory.saw("kvm", [machine])
        made = {"id": STORAGE, "name": "main", "role": "backup", "encrypted": False, "free": 1,
                "size": 2}  # fmt: skip
        services.storages.add(made, "/srv/backup", {})
        point = {
            "storage": "main", "point": POINT, "chain": CHAIN, "sequence": 0, "name": "web-1",
            "platform": "kvm", "kind": "full", "time": "2026-11-10T02:00:00.000000Z",
        }  # fmt: skip
        services.catalogue.took(point, policy=None, run="")
        services.policies.add(documents.from_document(POLICY))
        run = services.runs.create(NewRun("verify", "main", {"storage": "main"}))
        services.runs.move(run.id, "failed", "an example")
        services.alarms.raise_alarm("run-failed", Severity.ERROR, "main", "An example.", {})
        alarm = services.alarms.open_alarms()[0].id
        services.nodes.expect("node-2", 2)
    return {
        "storage": "main", "platform": "kvm", "policy": "nightly", "point": POINT, "run": run.id,
        "alarm": alarm, "node": "node-2", "user": user, "chain": CHAIN,
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Yield a server that knows a bit of everything, and the names of it."""
    home = tmp_path_factory.mktemp("schema")
    names = furnish(home / "server")
    with Server(home, "--no-node") as running:
        running.names = names
        yield running
    log = (home / "server.log").read_text()
    assert "Traceback" not in log, log[-5000:]


@pytest.fixture(scope="module")
def schema(server):
    """Return the description of a server, as it tells it."""
    document = server.get("/openapi.json")
    found = schemathesis.openapi.from_dict(document)
    found.config.update(base_url=str(server.client.base_url.copy_with(path="/")))
    return found


def operations(schema):
    found = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        found[operation.definition.raw["operationId"]] = operation
    return found


def call(server, case):
    """Make the request of a case; one that came too fast is made again."""
    if case.operation.definition.raw["operationId"] == "follow_events":
        case.query = {**(case.query or {}), "once": "true"}  # or it would go on for a minute
    headers = {"Authorization": server.client.headers["Authorization"]}
    while True:
        try:
            answer = case.call(headers=headers, timeout=60)
        except OSError:  # what the client of schemathesis raises is one
            # What is longer than the headers of a request may be is answered with 400; the
            # connection is closed with the rest unread, so the answer may be lost.
            if len(urllib.parse.urlencode(case.query or {}, doseq=True)) < ADDRESS_BYTES:
                raise
            hypothesis.reject()
        if answer.status_code != 429 or answer.json()["code"] != "too-fast":
            return answer
        time.sleep(0.5)


def prepared(server, case, data):
    """Put names of things that are there into half of the cases."""
    known = {key: server.names[key] for key in case.path_parameters or {} if key in server.names}
    if known and data.draw(st.booleans(), "a name that is there"):
        case.path_parameters = {**case.path_parameters, **known}
        if "If-Match" in str(case.headers) or data.draw(st.booleans(), "the right version"):
            path = case.operation.path.format(**case.path_parameters)
            if case.method in {"PUT", "PATCH"}:
                shown = server.client.get(path.removeprefix("/api/v1"))
                if "etag" in shown.headers:
                    case.headers = {**(case.headers or {}), "If-Match": shown.headers["etag"]}
    return case


def explore(server, operation, mode):
    """Ask an operation with many examples; return the statuses that it answered."""
    statuses = set()

    @hypothesis.seed(int(os.environ.get("RUCHU_SEED", "1")))
    @SETTINGS
    @hypothesis.given(data=st.data())
    def ask(data):
        case = data.draw(operation.as_strategy(generation_mode=mode))
        case = prepared(server, case, data)
        answer = call(server, case)
        statuses.add(answer.status_code)
        checks = list(CHECKS)
        if answer.status_code in {502, 503}:
            checks.remove(not_a_server_error)
        case.validate_response(answer, checks=checks)

    ask()
    return statuses


def takes_something(operation):
    raw = operation.definition.raw
    # A part of the address may be any text.
    parameters = [each for each in raw.get("parameters", ()) if each["in"] == "query"]
    return "requestBody" in raw or bool(parameters)


def test_everything_is_as_it_is_described(server, schema):
    found = operations(schema)
    assert len(found) > 90
    told, wrong, whole = {}, {}, set()
    for name in sorted(found, key=lambda each: (each in LAST, each)):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                told.setdefault(name, set()).update(explore(server, found[name], mode))
            except Unsatisfiable:
                # There is no way to ask it wrongly.
                assert mode is GenerationMode.NEGATIVE
                whole.add(name)
            except (FailureGroup, Exception) as error:  # noqa: BLE001 - all of it is shown
                wrong[f"{name} {mode.value}"] = str(error)
    assert not wrong, "\n\n".join(f"{name}: {text[:2000]}" for name, text in wrong.items())
    assert not {name for name in whole if takes_something(found[name])}
    worked = {name for name, statuses in told.items() if min(statuses, default=999) < 300}
    assert len(worked) > 40, sorted(set(told) - worked)
