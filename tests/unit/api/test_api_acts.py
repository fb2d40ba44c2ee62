"""Acts that destroy: what will be lost is named, a second person agrees, and it happens once."""

import dataclasses
import datetime

import api_world
import pytest
from api_world import CHAIN, OTHER, POINTS, POLICY, STORAGE, TEAM

from ruchu.control.accounts.groups import Group, Quota
from ruchu.control.vault.vault import Owner
from ruchu.errors import NotFound, QuotaExceeded
from ruchu.model.principals import LOCAL, Role

IF = {"If-Match": '"1"'}


@pytest.fixture
def second(world):
    """Return a client of a second administrator, who was there before any request."""
    users = world.services.accounts.users
    user = users.find("auditor").id
    users.set_grants(LOCAL, user, {"*": frozenset({Role.ADMINISTRATOR})})
    world.clock.sleep(1)
    return world.client("auditor")


def needed(answer):
    """Return the id of the request that was entered instead."""
    assert answer.status_code == 409, answer.text
    found = answer.json()
    assert found["code"] == "needs-approval"
    assert found["request"] in found["detail"]
    return found["request"]


def agree(client, request):
    shown = client.get(f"/approvals/{request}").json()
    done = client.post(f"/approvals/{request}/approve", json={"digest": shown["digest"]})
    assert done.status_code == 200, done.text
    return done.json()


def test_points_are_deleted_by_a_run_for_exactly_these(world, admin):
    body = {"storage": "main", "points": [POINTS[0], POINTS[2]], "grace_days": 3}
    run = admin.post("/points/delete", json=body).json()
    assert run["kind"] == "delete-points"
    assert run["body"] == {"storage": "main", "points": [POINTS[0], POINTS[2]], "grace_days": 3}
    assert run["resource_group"] == TEAM
    assert run["started_by"] == "administrator"


def test_points_are_deleted_once_a_second_person_agreed(world, admin, second):
    api_world.four_eyes(world)
    body = {"storage": STORAGE, "points": [POINTS[1][:8], POINTS[0]]}
    request = needed(admin.post("/points/delete", json=body))
    assert needed(admin.post("/points/delete", json=body)) == request
    assert admin.get("/runs").json()["items"] == []
    shown = second.get(f"/approvals/{request}").json()
    assert shown["losses"] == [
        "2026-11-11T02:00:00.000000Z web-1 (full, 3.0 GiB) on main, a1a1a1a1",
        "2026-11-10T02:00:00.000000Z web-0 (full, 3.0 GiB) on main, a0a0a0a0",
    ]
    own = admin.post(f"/approvals/{request}/approve", json={"digest": shown["digest"]})
    assert own.status_code == 403
    wrong = second.post(f"/approvals/{request}/approve", json={"digest": "0" * 64})
    assert wrong.status_code == 412
    done = agree(second, request)
    assert (done["state"], done["result"]) == ("done", {"run": request})
    (run,) = admin.get("/runs").json()["items"]
    assert run["id"] == request
    whole = admin.get(f"/runs/{run['id']}").json()
    assert whole["body"]["points"] == sorted(POINTS[:2])
    # A crash in between: the same request makes no second run.
    world.services.acts._delete(request, shown["arguments"])
    assert len(admin.get("/runs").json()["items"]) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"storage": "main", "points": ["9" * 32]}, 404),
        ({"storage": "none", "points": POINTS}, 404),
        ({"storage": "main", "points": []}, 422),
        ({"storage": "main", "points": ["ab"]}, 422),
        ({"storage": "main", "points": POINTS, "grace_days": -1}, 422),
        ({"storage": "main", "points": ["9" * 32] * 501}, 422),
    ],
)
def test_only_points_that_are_there_are_deleted(world, admin, body, status):
    assert admin.post("/points/delete", json=body).status_code == status
    assert admin.get("/runs").json()["items"] == []


def test_starred_points_are_not_deleted(world, admin):
    world.services.catalogue.mark("main", POINTS[0], starred=True)
    answer = admin.post("/points/delete", json={"storage": "main", "points": POINTS})
    assert (answer.status_code, answer.json()["code"]) == (409, "point-protected")


def test_points_are_not_deleted_by_the_way(admin):
    for kind in ("delete-points", "backup", "none"):
        body = {"kind": kind, "body": {"storage": "main", "points": POINTS}}
        assert admin.post("/runs", json=body).status_code == 422


def test_retention_by_hand_is_an_act(world, admin, second):
    body = {"kind": "merge", "body": {"storage": "main", "retention": {"count": 1}}}
    assert admin.post("/runs", json=body).json()["body"]["retention"] == {"count": 1}
    api_world.four_eyes(world)
    request = needed(admin.post("/runs", json=body))
    assert agree(second, request)["result"] == {"run": request}
    for retention in ({}, {"none": 1}, {"count": "1"}, None, {"count": -1}):
        odd = {"kind": "merge", "body": {"storage": "main", "retention": retention}}
        assert admin.post("/runs", json=odd).status_code == 422


def passphrase(world):
    return world.services.vault.get(Owner("storage", STORAGE, "passphrase"))


def test_a_storage_is_forgotten_with_its_passphrase(world, admin):
    used = admin.delete("/storages/main", headers=IF)
    assert (used.status_code, used.json()["code"]) == (409, "control")
    assert "nightly" in used.text
    assert admin.delete("/policies/nightly", headers=IF).status_code == 204
    assert passphrase(world)
    assert admin.delete("/storages/main", headers=IF).status_code == 204
    assert admin.get("/storages").json() == []
    assert admin.get("/points").json()["items"] == []
    with pytest.raises(NotFound):
        passphrase(world)


def test_a_storage_is_forgotten_as_it_was_shown_or_not_at_all(world, admin, second):
    api_world.four_eyes(world)
    admin.delete("/policies/nightly", headers=IF)
    request = needed(admin.delete("/storages/main", headers=IF))
    losses = second.get(f"/approvals/{request}").json()["losses"]
    assert "/srv/backup" in losses[0]
    assert "passphrase" in losses[1]
    assert len(losses) == 5
    assert all(line.startswith("No longer known: 2026-11-1") for line in losses[2:])
    world.services.catalogue.took(api_world.point("d" * 32, 9), policy=None, run="")
    done = agree(second, request)
    assert (done["state"], done["result"]["error"]) == ("failed", "stale")
    assert passphrase(world)
    request = needed(admin.delete("/storages/main", headers=IF))
    assert agree(second, request)["state"] == "done"
    assert admin.get("/storages/main").status_code == 404
    assert world.services.acts._remove(request, {"name": "main", "storage": STORAGE,
                                                 "points": ""}) == {"storage": "main"}  # fmt: skip


def put(client, **changes):
    return client.put("/policies/nightly", json={**POLICY, **changes}, headers=IF)


@pytest.mark.parametrize(
    ("changes", "waits"),
    [
        ({"retention": {"daily": 8}}, False),
        ({"retention": {"daily": 7, "weekly": 1}}, False),
        ({"retention": {}}, False),  # without a rule nothing goes
        ({"retention": {"daily": 6}}, True),
        ({"retention": {"weekly": 50}}, True),
        ({"retention": {"daily": 6, "weekly": 50}}, True),
        ({"priority": 1}, False),
        ({"enabled": False, "retention": {"daily": 1}}, True),
    ],
)
def test_what_keeps_less_waits(world, admin, second, changes, waits):
    api_world.four_eyes(world)
    answer = put(admin, **changes)
    if not waits:
        assert answer.status_code == 200
        assert answer.headers["etag"] == '"2"'
        return
    request = needed(answer)
    before = admin.get("/policies/nightly").json()
    assert before["policy"]["retention"]["daily"] == 7
    losses = second.get(f"/approvals/{request}").json()["losses"]
    assert "daily: 7 before" in losses[0]
    assert agree(second, request)["state"] == "done"
    after = admin.get("/policies/nightly").json()
    assert after["policy"]["retention"]["daily"] == changes["retention"].get("daily", 0)
    assert after["version"] == 2


def test_without_four_eyes_a_policy_changes_at_once_and_it_is_recorded(world, admin):
    assert put(admin, retention={"daily": 1}).json()["policy"]["retention"]["daily"] == 1
    found = admin.get("/audit", params={"action": "act.shorten-retention"}).json()["items"]
    assert {each["outcome"] for each in found} == {"requested", "done"}


def test_the_rules_of_no_rules_are_less(world, admin, second):
    put(admin, retention={})
    api_world.four_eyes(world)
    version = admin.get("/policies/nightly").headers["etag"]
    answer = admin.put("/policies/nightly", json=POLICY, headers={"If-Match": version})
    request = needed(answer)
    assert "all of them stayed" in second.get(f"/approvals/{request}").json()["losses"][0]


def test_a_second_policy_for_the_same_machines_does_not_shorten_by_the_way(world, admin, second):
    api_world.four_eyes(world)
    sly = {**POLICY, "name": "sly", "retention": {"daily": 1}}
    request = needed(admin.post("/policies", json=sly))
    assert "nightly" in second.get(f"/approvals/{request}").json()["losses"][0]
    assert admin.get("/policies/sly").status_code == 404
    other = {**sly, "selection": {"platform": "kvm", "patterns": ["db-*"]}}
    assert admin.post("/policies", json={**other, "name": "db"}).status_code == 201
    assert agree(second, request)["state"] == "done"
    assert admin.get("/policies/sly").status_code == 200
    world.services.acts._shorten(request, second.get(f"/approvals/{request}").json()["arguments"])


def test_a_request_that_is_overtaken_changes_nothing(world, admin, second):
    api_world.four_eyes(world)
    request = needed(put(admin, retention={"daily": 1}))
    assert put(admin, retention={"daily": 9}).status_code == 200
    done = agree(second, request)
    assert (done["state"], done["result"]["error"]) == ("failed", "stale")
    assert admin.get("/policies/nightly").json()["policy"]["retention"]["daily"] == 9


def test_a_star_is_given_at_once_and_taken_with_four_eyes(world, admin, second):
    world.node()
    world.answers["point-star"] = {}
    api_world.four_eyes(world)
    given = admin.put(f"/points/{POINTS[0]}/star", json={"starred": True})
    assert given.json()[0]["starred"] is True
    request = needed(admin.put(f"/points/{POINTS[0]}/star", json={"starred": False}))
    assert admin.get(f"/points/{POINTS[0]}").json()[0]["starred"] is True
    assert "web-0" in second.get(f"/approvals/{request}").json()["losses"][0]
    assert agree(second, request)["state"] == "done"
    assert admin.get(f"/points/{POINTS[0]}").json()[0]["starred"] is False
    taken = admin.put(f"/points/{POINTS[0]}/star", json={"starred": False})
    assert taken.status_code == 200  # it has none


def test_a_freeze_is_released_with_four_eyes(world, admin, second):
    api_world.four_eyes(world)
    keep = admin.post(f"/freezes/{CHAIN}/decision", json={"decision": "keep", "note": "wait"})
    assert keep.json()[0]["decision"] == "keep"
    said = {"decision": "release", "note": "it was a test"}
    request = needed(admin.post(f"/freezes/{CHAIN}/decision", json=said))
    assert agree(second, request)["state"] == "done"
    assert admin.get("/freezes").json() == []
    (released,) = admin.get("/freezes", params={"released": True}).json()
    assert released["decided_by"] == "administrator"
    assert released["note"] == "it was a test"
    assert admin.post(f"/freezes/{CHAIN}/decision", json=said).status_code == 404


def test_a_request_is_refused_or_withdrawn(world, admin, second):
    api_world.four_eyes(world)
    request = needed(put(admin, retention={"daily": 1}))
    refused = second.post(f"/approvals/{request}/refuse", json={"remark": "no"}).json()
    assert (refused["state"], refused["remark"]) == ("refused", "no")
    request = needed(put(admin, retention={"daily": 1}))
    assert admin.post(f"/approvals/{request}/refuse", json={}).json()["state"] == "withdrawn"
    again = second.post(f"/approvals/{request}/refuse", json={})
    assert again.status_code == 412


def test_requests_are_pages(world, admin):
    api_world.four_eyes(world)
    for number in range(5):
        needed(put(admin, retention={"daily": number + 1}))
    found, after = [], ""
    while after is not None:
        page = admin.get("/approvals", params={"limit": 2, "after": after}).json()
        found += page["items"]
        after = page["next"]
    assert len({each["id"] for each in found}) == 5
    waiting = admin.get("/approvals", params={"state": "waiting"}).json()["items"]
    assert len(waiting) == 5


# ------------------------------------------------------------------------------------- quotas


def limit(world, **quota):
    world.services.accounts.groups.change(LOCAL, Group(TEAM, "Team", Quota(**quota)))


def start(admin):
    answer = admin.post("/policies/nightly/run", json={})
    return answer.status_code, answer.json().get("code")


def test_a_group_has_backups_for_a_day(world, admin):
    limit(world, runs=2)
    assert [start(admin) for _ in range(3)] == [
        (201, None), (201, None), (409, "quota-exceeded")]  # fmt: skip
    world.clock.move(datetime.timedelta(days=1))
    fresh = world.client(word=world.open("administrator"))
    assert start(fresh) == (201, None)
    restore = {"kind": "restore", "body": {"point": POINTS[0]}}
    assert fresh.post("/runs", json=restore).status_code == 201  # never refused


def test_a_group_has_room_for_bytes_and_machines(world, admin):
    limit(world, bytes=9 << 30)
    assert start(admin) == (409, "quota-exceeded")
    limit(world, bytes=10 << 30)
    assert start(admin) == (201, None)
    limit(world, machines=2)
    assert start(admin) == (409, "quota-exceeded")
    limit(world, machines=3)
    assert start(admin) == (201, None)


def test_scheduled_backups_are_held_to_the_quota_of_their_group_alone(world):
    services = world.services
    policy = services.policies.get("nightly").policy
    limit(world, runs=1)
    first, second = (api_world.a_run(services) for _ in range(2))
    early, late = sorted((first, second), key=lambda run: (run.created, run.id))
    services.quotas.check_backup(policy, early)
    with pytest.raises(QuotaExceeded):
        services.quotas.check_backup(policy, late)
    services.quotas.check_backup(dataclasses.replace(policy, group=OTHER), late)
    services.quotas.check_backup(dataclasses.replace(policy, group="gone"), late)
