"""Policies at a glance, and what one that is not kept would do."""

import datetime

from api_world import POLICY, TEAM, a_run

from ruchu.control.jobs.runs import NewRun


def backup(world, policy, kind="incremental"):
    body = {"policy": {}, "kind": kind}
    return world.services.runs.create(NewRun("backup", "nightly", body, policy, group=TEAM))


def test_a_policy_is_shown_with_its_newest_backup_and_its_next_start(world, admin):
    policy = admin.get("/policies/nightly").json()["id"]
    (line,) = admin.get("/policies/overview").json()
    assert (line["name"], line["storage"], line["last"]) == ("nightly", "main", None)
    assert line["next"]["kind"] == "incremental"
    assert line["retention"] == {"daily": 7}
    assert line["selection"]["patterns"] == ["web-*"]
    assert line["selection"]["counts"]["patterns"] == 1
    backup(world, policy)
    world.clock.move(datetime.timedelta(minutes=1))
    newest = backup(world, policy, "full")
    a_run(world.services, "verify")
    (line,) = admin.get("/policies/overview").json()
    assert (line["last"]["id"], line["last"]["kind"]) == (newest.id, "full")
    assert line["last"]["state"] == "queued"


def test_a_policy_that_is_off_has_no_next_start(admin):
    tag = {"If-Match": admin.get("/policies/nightly").headers["etag"]}
    admin.put("/policies/nightly", json={**POLICY, "enabled": False}, headers=tag)
    (line,) = admin.get("/policies/overview").json()
    assert line["next"] is None


def test_policies_of_another_group_are_not_in_the_list(world):
    assert world.client("elsewhere").get("/policies/overview").json() == []


def test_a_long_list_of_machines_is_shown_by_its_first_and_its_number(admin):
    names = [f"vm-{number}" for number in range(900)]
    wanted = {**POLICY, "name": "many", "selection": {"platform": "kvm", "machines": names}}
    assert admin.post("/policies", json=wanted).status_code == 201
    line = next(each for each in admin.get("/policies/overview").json() if each["name"] == "many")
    assert len(line["selection"]["machines"]) == 5
    assert line["selection"]["counts"]["machines"] == 900


def test_a_preview_names_machines_starts_and_what_remains(world, admin):
    wanted = {
        "selection": {"platform": "kvm", "machines": ["web-1", "gone"], "patterns": ["web-2"]},
        "schedules": [
            {"kind": "incremental", "daily": {"times": ["02:00"]}},
            {"kind": "full", "weekly": {"days": ["sun"], "times": ["02:00"]}},
        ],
        "retention": {"daily": 7, "weekly": 4}, "storage": "main", "count": 14,
    }  # fmt: skip
    found = admin.post("/policies/preview", json=wanted).json()
    assert [each["name"] for each in found["machines"]] == ["web-1", "web-2"]
    assert (found["count"], found["missing"]) == (2, ["gone"])
    assert len(found["starts"]) == 14
    assert [each["kind"] for each in found["starts"]].count("full") == 2
    remaining = found["remaining"]
    # Seven days, and the Sundays of the weeks before them.
    assert 9 <= remaining["points"] <= 11
    assert 2 <= remaining["fulls"] <= 4
    assert 14 <= remaining["oldest_days"] <= 28
    assert remaining["fulls"] < remaining["weight"] < remaining["points"]
    assert found["ratio"] is None  # nothing was read yet that is known


def test_a_preview_of_nothing_says_nothing(admin):
    found = admin.post("/policies/preview", json={}).json()
    assert (found["starts"], found["count"], found["remaining"]) == ([], 0, None)


def test_a_preview_of_what_cannot_be_says_what(admin):
    answer = admin.post("/policies/preview", json={"schedules": [{"kind": "full"}]})
    assert answer.status_code == 422
    assert admin.post("/policies/preview",
                      json={"selection": {"platform": "no"}}).status_code == 404  # fmt: skip


def test_places_are_counted(world, admin):
    machines = [
        {"id": f"{number:032x}", "name": f"vm-{number}", "state": "running", "disk_size": 10,
         "host": f"host-{number % 2}", "folder": "/prod", "tags": ["gold"] if number else []}
        for number in range(3)
    ]  # fmt: skip
    world.services.inventory.saw("kvm", machines)
    found = admin.get("/platforms/kvm/places").json()
    assert (found["machines"], found["disk_bytes"]) == (3, 30)
    assert found["hosts"] == [{"name": "host-0", "machines": 2}, {"name": "host-1", "machines": 1}]
    assert found["folders"] == [{"name": "/prod", "machines": 3}]
    assert found["tags"] == [{"name": "gold", "machines": 2}]
