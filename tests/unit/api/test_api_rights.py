"""Every endpoint for every role, held against the table of rights; and what strangers get."""

import re
from pathlib import Path

import api_world
import pytest
from api_world import CHAIN, OTHER, POINTS, POLICY, TEAM
from fastapi.routing import APIRoute
from starlette.routing import Route

from ruchu.api import application, describing, rights_table
from ruchu.api.rights_table import Where
from ruchu.model.principals import Right, Role

DOCS = Path(__file__).parents[3] / "docs" / "operators" / "api.md"
IF = {"headers": {"If-Match": '"1"'}}
PEOPLE = [*api_world.PEOPLE, "token"]
GUARDED = [name for name, need in rights_table.TABLE.items() if need.where is not Where.OPEN]
FILE = {"ruchu": 1, "owner": TEAM,
        "policies": {"nightly": {key: POLICY[key] for key in POLICY if key != "name"}}}  # fmt: skip


def user(world, name="administrator"):
    return world.services.accounts.users.find(name).id


def alarm(world):
    return world.services.alarms.open_alarms()[0].id


def run(world):
    return api_world.a_run(world.services).id


# How each operation is asked for, with things of the team: what goes into the path, and the rest.
REQUESTS = {
    "revoke_session": lambda _: {"session": "0" * 32},
    "show_provider": lambda _: {"name": "corp"},
    "put_provider": lambda _: {
        "name": "corp", "json": {"issuer": "https://id.example", "client": "ruchu"}},
    "remove_provider": lambda _: {"name": "corp"},
    "add_user": lambda _: {"json": {"name": "bob"}},
    "show_user": lambda world: {"user": user(world)},
    "change_user": lambda world: {"user": user(world), "json": {"display": "Bob"}},
    "remove_user": lambda world: {"user": user(world, "no-role")},
    "password_link": lambda world: {"user": user(world, "no-role")},
    "change_password": lambda _: {"json": {"current": "a", "new": "vier Birnen, ein Hut"}},
    "confirm_authenticator": lambda _: {"json": {"code": "1"}},
    "turn_authenticator_off": lambda _: {"json": {"code": "1"}},
    "user_sessions": lambda world: {"user": user(world, "no-role")},
    "group_usage": lambda _: {"name": TEAM},
    "reset_authenticator": lambda world: {"user": user(world, "no-role")},
    "add_token": lambda _: {"json": {"name": "mine", "rights": ["view"]}},
    "revoke_token": lambda _: {"token": "0" * 32},
    "put_group": lambda _: {"name": "new", "json": {}},
    "remove_group": lambda _: {"name": "team-c"},
    "show_approval": lambda world: {"request": api_world.waiting(world)},
    "approve": lambda world: {"request": api_world.waiting(world), "json": {"digest": "0"}},
    "refuse": lambda world: {"request": api_world.waiting(world), "json": {}},
    "set_four_eyes": lambda _: {"json": {"on": True}},
    "show_alarm": lambda world: {"alarm": alarm(world)},
    "alarm_history": lambda world: {"alarm": alarm(world)},
    "alarm_deliveries": lambda world: {"alarm": alarm(world)},
    "acknowledge": lambda world: {"alarm": alarm(world), "json": {}},
    "put_rule": lambda _: {"name": "r", "json": {"channels": ["none"]}},
    "remove_rule": lambda _: {"name": "none"},
    "put_channel": lambda _: {"name": "c", "json": {"kind": "none", "settings": {}}},
    "remove_channel": lambda _: {"name": "none"},
    "test_channel": lambda _: {"name": "none"},
    "decide": lambda _: {"chain": CHAIN, "json": {"decision": "keep"}},
    "new_token": lambda _: {"json": {"name": "node-3"}},
    "show_node": lambda _: {"node": "node-2"},
    "change_node": lambda _: {"node": "node-2", "json": {"parallel": 3}, **IF},
    "revoke_node": lambda _: {"node": "node-2"},
    "doctor": lambda _: {"node": "node-2"},
    "instants": lambda _: {"node": "node-2"},
    "console_picture": lambda _: {
        "node": "node-2", "instant": "e" * 32, "params": {"storage": "main"}},
    "platform_offers": lambda _: {"platform": "kvm"},
    "saved_machine": lambda _: {"point": POINTS[0]},
    "point_history": lambda _: {"params": {"name": "web-0", "platform": "kvm"}},
    "point_days": lambda _: {"params": {"name": "web-0", "platform": "kvm"}},
    "add_platform": lambda _: {"json": {"name": "new", "uri": "qemu:///system"}},
    "show_platform": lambda _: {"platform": "kvm"},
    "change_platform": lambda _: {"platform": "kvm", "json": {"parallel": 2}, **IF},
    "remove_platform": lambda _: {"platform": "kvm", **IF},
    "check_platform": lambda _: {"platform": "kvm"},
    "refresh_platform": lambda _: {"platform": "kvm"},
    "platform_tree": lambda _: {"platform": "kvm"},
    "reap_platform": lambda _: {"platform": "kvm", "json": {"storage": "main"}},
    "show_machine": lambda _: {"platform": "kvm", "machine": f"{1:032x}"},
    "machine_hardware": lambda _: {"platform": "kvm", "machine": f"{1:032x}"},
    "node_tasks": lambda _: {"node": "node-2"},
    "grow_storage": lambda _: {"storage": "main"},
    "probe_storage": lambda _: {"storage": "main"},
    "storage_use": lambda _: {"storage": "main"},
    "add_storage": lambda _: {"json": {"name": "new", "location": "/srv/new"}},
    "show_storage": lambda _: {"storage": "main"},
    "change_storage": lambda _: {"storage": "main", "json": {"readers": 2}, **IF},
    "remove_storage": lambda _: {"storage": "main", **IF},
    "refresh_storage": lambda _: {"storage": "main"},
    "show_point": lambda _: {"point": POINTS[0]},
    "list_files": lambda _: {"point": POINTS[0]},
    "search_files": lambda _: {"point": POINTS[0], "params": {"pattern": "x"}},
    "fetch_files": lambda _: {"point": POINTS[0], "params": {"path": "/vda1/x"}},
    "return_files": lambda _: {"point": POINTS[0], "json": {
        "keys": ["L3g"], "machine": "web-0", "directory": "/root/back"}},
    "disk_image": lambda _: {"point": POINTS[0], "disk": "vda"},
    "star": lambda _: {"point": POINTS[0], "json": {"starred": True}},
    "delete_points": lambda _: {"json": {"storage": "main", "points": POINTS}},
    "add_policy": lambda _: {"json": {**POLICY, "name": "weekly"}},
    "show_policy": lambda _: {"policy": "nightly"},
    "change_policy": lambda _: {"policy": "nightly", "json": POLICY, **IF},
    "remove_policy": lambda _: {"policy": "nightly", **IF},
    "run_policy": lambda _: {"policy": "nightly", "json": {"kind": "full"}},
    "dry_run": lambda _: {"policy": "nightly"},
    "preview_policy": lambda _: {"json": {}},
    "platform_places": lambda _: {"platform": "kvm"},
    "start_run": lambda _: {"json": {"kind": "verify", "body": {"storage": "main"}}},
    "show_run": lambda world: {"run": run(world)},
    "run_tasks": lambda world: {"run": run(world)},
    "run_history": lambda world: {"run": run(world)},
    "stop_run": lambda world: {"run": run(world)},
    "pause_run": lambda world: {"run": run(world)},
    "resume_run": lambda world: {"run": run(world)},
    "export_definitions": lambda _: {"json": {"passphrase": "sieben Berge 7"}},
    "import_definitions": lambda _: {"json": {"file": "no such file"}},
    "plan_file": lambda _: {"json": {"document": FILE}},
    "apply_file": lambda _: {"json": {"document": FILE, "digest": "0"}},
    "attach_site": lambda _: {"json": {"name": "far", "url": "http://127.0.0.1:1", "token": "x"}},
    "show_site": lambda _: {"site": "none"},
    "detach_site": lambda _: {"site": "none"},
    "refresh_site": lambda _: {"site": "none"},
    "call_site": lambda _: {"site": "none", "json": {"method": "GET", "path": "/runs"}},
    "follow_events": lambda _: {"params": {"once": True}},
    "put_settings": lambda _: {"json": {}, "headers": {"If-Match": '"0"'}},
}  # fmt: skip
# What is not there for anybody: the right is asked for first.
ABSENT = {"remove_rule", "remove_channel", "test_channel", "show_provider", "remove_provider",
          "show_site", "detach_site", "refresh_site", "call_site", "revoke_token", "revoke_session", "remove_group", "confirm_authenticator"}  # fmt: skip
# Operations that look at something else than the rights of whoever asks.
REFUSED_FOR_OTHER_REASONS = {
    "change_password": "the account has no password",
    "turn_authenticator_off": "there is no authenticator",
    "set_four_eyes": "nobody else could approve",
    "add_token": "whoever has no right makes no token that has one",
}


def operations(app):
    """Return method and path of each operation, by its name."""
    document = app.openapi()
    return {
        each["operationId"]: (method.upper(), path)
        for method, path, each in describing.operations(document)
    }


def ask(world, client, name):
    """Make a request for an operation; return the answer."""
    method, path = operations(world.app)[name]
    wanted = REQUESTS.get(name, lambda _: {})(world)
    for part in re.findall(r"{(\w+)}", path):
        path = path.replace(f"{{{part}}}", wanted.pop(part))
    return client.request(method, f"http://ruchu.test{path}", **wanted)


def expected(name, by, me):
    """Return the statuses that the table allows for somebody, with things of the team; or None.

    None is whatever the operation itself answers.
    """
    need = rights_table.TABLE[name]
    if need.person and me == "token":
        return {403}
    if need.where in {Where.SIGNED_IN, Where.PERSON}:
        return None
    if need.where is Where.OWN:
        mine = me in {"administrator", "token"}
        return None if by.may(Right.ACCOUNTS) or mine else {403}
    if need.where is Where.EVERYWHERE:
        return None if all(by.may(right) for right in need.rights) else {403}
    if not any(by.groups(right) for right in need.rights):
        return {403}
    if need.where in {Where.ANY, Where.ITEMS}:
        return None
    rights = {Right.OPERATE} if len(need.rights) > 1 else set(need.rights)
    if any(by.may(right, TEAM) for right in rights):
        return None
    if need.where is Where.NAMED:
        return {403, 404}
    return {403} if by.may(Right.VIEW, TEAM) else {404}


@pytest.mark.parametrize("name", GUARDED)
def test_every_role_may_what_the_table_says(world, world_template, tmp_path, name):
    method, _ = operations(world.app)[name]
    able = []
    for who in PEOPLE:
        statuses = expected(name, world.principal(who), who)
        if statuses is None:
            able.append(who)
            continue
        answer = ask(world, world.client(who), name)
        assert answer.status_code in statuses, (who, answer.text)
    for number, who in enumerate(able):
        # What was changed by the one before must not matter.
        own = api_world.copied(world_template, tmp_path / str(number)) if number else world
        try:
            check_able(own, who, name)
        finally:
            if own is not world:
                own.close()
        assert own.told == []
    assert able, method


def check_able(world, who, name):
    answer = ask(world, world.client(who), name)
    if name in REFUSED_FOR_OTHER_REASONS:
        assert answer.status_code in {201, 403, 422}
    elif name == "change_user" and who == "token":
        assert answer.status_code == 403  # its own account, and no person
    elif name == "approve" and who == "operator":
        assert answer.status_code == 403
    elif name == "refuse" and who in {"restore-operator", "auditor", "read-only"}:
        assert answer.status_code == 403  # that of somebody else takes APPROVE
    elif name == "refuse" and who in {"team-operator", "token"}:
        assert answer.status_code == 403
    else:
        absent = {404} if name in ABSENT else set()
        fine = {200, 201, 204, 303, 409, 412, 422, 502} | absent
        assert answer.status_code in fine, (who, answer.text)


def test_the_table_names_every_operation_and_no_other(world):
    assert set(operations(world.app)) == set(rights_table.TABLE)


def test_every_address_is_an_operation_or_open(world):
    documented = {(method, path) for method, path in operations(world.app).values()}
    found = set()
    for route in world.app.routes:
        if isinstance(route, Route):
            found |= {(method, route.path) for method in route.methods - {"HEAD"}}
    for router in (*application.ROUTERS, application.routes_system.bare):
        prefix = "" if router is application.routes_system.bare else application.PREFIX
        for route in router.routes:
            assert isinstance(route, APIRoute)
            found |= {(method, prefix + route.path) for method in route.methods}
    assert found - documented == {("GET", f"{application.PREFIX}/openapi.json")}


def test_what_is_open_is_listed(world):
    open_ = {
        operations(world.app)[name]
        for name, need in rights_table.TABLE.items()
        if need.where is Where.OPEN
    }
    assert open_ | {("GET", f"{application.PREFIX}/openapi.json")} == application.OPEN


def test_nothing_else_answers_a_stranger(world):
    stranger, forged = world.client(None), world.client(word="ruchu_00000000_forged")
    for name in GUARDED:
        for client in (stranger, forged):
            answer = ask_badly(world, client, name)
            assert answer.status_code == 401, (name, answer.text)
            assert answer.json()["code"] == "not-authenticated"
        world.clock.sleep(1.0)  # for the limit of requests


def ask_badly(world, client, name):
    """Ask with nothing right but the address: who asks is looked at first."""
    method, path = operations(world.app)[name]
    return client.request(method, f"http://ruchu.test{re.sub('{.*?}', 'x', path)}")


def test_disabled_accounts_and_ended_sessions_are_strangers(world):
    client, word = world.client("operator"), world.word("operator")
    assert client.get("/about").status_code == 200
    world.services.accounts.users.set_disabled(
        world.principal(), user(world, "operator"), disabled=True
    )
    assert client.get("/about").status_code == 401
    assert world.client(word=word).get("/about").status_code == 401


# ------------------------------------------------------------------- things of other groups


def test_lists_show_what_is_of_ones_groups_and_pages_stay_full(world):
    services = world.services
    services.inventory.add("other", "qemu:///system", resource_group=OTHER)
    services.inventory.saw("other", [api_world.machine(n, name=f"web-{n}b") for n in range(7)])
    made = {"id": "6" * 32, "name": "second", "role": "backup", "encrypted": False}
    services.storages.add(made, "/srv/second", {"resource_group": OTHER})
    for number in range(7):
        point = api_world.point(f"{0xB0000000 + number:032x}", number, storage="second")
        services.catalogue.took(point, policy=None, run="")
    for number in range(3):
        api_world.a_run(services, group=OTHER)
        api_world.a_run(services, group=TEAM)
        world.clock.sleep(1)
        services.alarms.raise_alarm("rpo-missed", "error", f"vm-{number}", "", {"group": OTHER})
        for subject in ("mine", "theirs"):
            group = TEAM if subject == "mine" else OTHER
            services.alarms.raise_alarm("rpo-missed", "error", subject, "", {"group": group})
            services.alarms.clear("rpo-missed", subject)
    team, everybody = world.client("team-operator"), world.client()
    for path, mine, all_ in (
        ("/machines", 3, 10), ("/points", 3, 10), ("/runs", 3, 6), ("/alarms/past", 3, 6),
        ("/machines/unprotected", 0, 7),
    ):  # fmt: skip
        assert len(walked(team, path)) == mine, path
        assert len(walked(everybody, path)) == all_, path
    assert [each["name"] for each in team.get("/storages").json()] == ["main"]
    assert [each["name"] for each in team.get("/platforms").json()] == ["kvm"]
    assert [each["name"] for each in team.get("/groups").json()] == [TEAM]
    assert {each["subject"] for each in team.get("/alarms").json()} == {"web-1"}
    counts = []
    for client in (team, world.client("elsewhere"), everybody):
        counts.append(client.get("/alarms/count").json()["open"])
        assert counts[-1] == len(client.get("/alarms").json())
    assert counts[0] < counts[2]
    assert counts[1] < counts[2]
    assert world.client("elsewhere").get("/policies").json() == []
    assert walked(world.client("elsewhere"), "/approvals") == []


def walked(client, path, limit=2):
    """Return the items of all pages; each but the last is full, and none is shown twice."""
    found, after = [], ""
    while True:
        page = client.get(path, params={"limit": limit, "after": after}).json()
        found += page["items"]
        if page["next"] is None:
            break
        assert len(page["items"]) == limit
        after = page["next"]
    keys = [repr(sorted(each.items(), key=str)) for each in found]
    assert len(set(keys)) == len(keys)
    return found


def test_a_thing_of_another_group_looks_as_if_it_were_not_there(world):
    elsewhere = world.client("elsewhere")
    for there, absent in (
        ("/storages/main", "/storages/none"),
        ("/platforms/kvm", "/platforms/none"),
        ("/policies/nightly", "/policies/none"),
        (f"/points/{POINTS[0]}", f"/points/{'9' * 32}"),
        (f"/runs/{run(world)}", f"/runs/{'9' * 32}"),
        (f"/alarms/{alarm(world)}", f"/alarms/{'9' * 32}"),
        (f"/approvals/{api_world.waiting(world)}", f"/approvals/{'9' * 32}"),
    ):
        one, other = (elsewhere.get(path) for path in (there, absent))
        assert one.status_code == other.status_code == 404
        names = there.rpartition("/")[2], absent.rpartition("/")[2]
        assert one.text.replace(names[0], "") == other.text.replace(names[1], "")


def test_a_policy_reaches_into_no_group_where_one_may_not_operate(world):
    elsewhere = world.client("elsewhere")
    mine = {**POLICY, "name": "theft", "group": OTHER}
    assert elsewhere.post("/policies", json=mine).status_code == 404
    made = {"id": "6" * 32, "name": "second", "role": "backup", "encrypted": False}
    world.services.storages.add(made, "/srv/second", {"resource_group": OTHER})
    assert elsewhere.post("/policies", json={**mine, "storage": "second"}).status_code == 404
    reader = {TEAM: ["read-only"], OTHER: ["administrator"]}
    admin = world.client()
    admin.patch(f"/users/{user(world, 'elsewhere')}", json={"grants": reader})
    answer = elsewhere.post("/policies", json={**mine, "storage": "second"})
    assert answer.status_code == 403  # seen, and not to be backed up elsewhere


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("restore", {"point": POINTS[0]}),
        ("instant", {"point": POINTS[0], "platform": "other"}),
        ("verify", {"storage": "main"}),
        ("verify", {"point": POINTS[0]}),
        ("repair", {"storage": "second", "from": "main"}),
        ("restore", {"point": "b" * 32, "platform": "kvm"}),
        ("migration", {"storage": "second", "platform": "kvm"}),
    ],
)
def test_work_by_hand_reaches_into_no_other_group(world, kind, body):
    services = world.services
    services.inventory.add("other", "qemu:///system", resource_group=OTHER)
    made = {"id": "6" * 32, "name": "second", "role": "backup", "encrypted": False}
    services.storages.add(made, "/srv/second", {"resource_group": OTHER})
    mine = api_world.point("b" * 32, storage="second", platform="other")
    services.catalogue.took(mine, policy=None, run="")
    elsewhere = world.client("elsewhere")
    assert elsewhere.post("/runs", json={"kind": kind, "body": body}).status_code == 404
    own = {"kind": "restore", "body": {"point": "b" * 32}}
    started = elsewhere.post("/runs", json=own)
    assert started.status_code == 201, started.text
    assert started.json()["resource_group"] == OTHER
    assert started.json()["body"]["storage"] == "second"


def test_addresses_and_places_take_the_right_everywhere(world):
    world.services.accounts.users.set_grants(
        world.principal(), user(world, "team-operator"), {TEAM: frozenset({Role.ADMINISTRATOR})}
    )
    team = world.client("team-operator")
    for path, body, status in (
        ("/platforms/kvm", {"parallel": 7}, 200),
        ("/platforms/kvm", {"uri": "qemu+ssh://elsewhere/system"}, 403),
        ("/platforms/kvm", {"resource_group": OTHER}, 403),
        ("/storages/main", {"warn_percent": 70}, 200),
        ("/storages/main", {"nodes": ["node-2"]}, 403),
    ):
        version = team.get(path).headers["etag"]
        answer = team.patch(path, json=body, headers={"If-Match": version})
        assert answer.status_code == status, (path, body, answer.text)


def test_a_token_is_as_narrow_as_it_was_made(world):
    token = world.client(word=world.token({Right.VIEW, Right.OPERATE}, [TEAM]))
    assert token.get("/storages/main").status_code == 200
    assert token.post("/policies/nightly/run", json={}).status_code == 201
    assert token.get("/users").status_code == 403
    assert token.post("/tokens", json={"name": "x", "rights": ["view"]}).status_code == 403
    other = world.client(word=world.token({Right.VIEW}, [OTHER]))
    assert other.get("/storages/main").status_code == 404
    assert other.get("/storages").json() == []


# ------------------------------------------------------------------------------ the document


def test_the_documentation_has_the_table(world):
    rows = [
        rights_table.row(method, path, rights_table.TABLE[name])
        for name, (method, path) in operations(world.app).items()
    ]
    found = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert found == rows, "\n".join(rows)
