"""Machines with what protects them, where they are; how storages fill; what nodes are asked."""

import datetime

import api_world
import pytest
from api_world import POLICY, TEAM

from ruchu.control.storages.tables import STORAGE_USE, STORAGES

GIB = 1 << 30
DISK = {"key": "vda", "size": 8 * GIB, "format": "qcow2", "location": "/images/a.qcow2",
        "bus": "virtio", "serial": "", "tracked": True}  # fmt: skip


def names(answer):
    return [each["machine"]["name"] for each in answer.json()["items"]]


def seen(world, count=6):
    """Let a platform have machines on two hosts; the policy takes `web-*`."""
    words = ("web", "db")
    world.services.inventory.saw("kvm", [
        api_world.machine(number, name=f"{words[number % 2]}-{number}", host=f"h{number % 3}",
                          folder="/生产" if number < 2 else "", tags=["财务"] * (number == 3))
        for number in range(count)
    ])  # fmt: skip


def test_machines_are_shown_with_what_protects_them_and_their_newest_point(world, admin):
    seen(world)
    world.services.catalogue.took(
        api_world.point("b0" * 16, 9, name="web-2"), policy=None, run=""
    )  # fmt: skip
    found = admin.get("/machines/overview", params={"text": "WEB"}).json()
    assert found["total"] == 3
    assert [each["policies"][0]["name"] for each in found["items"]] == ["nightly"] * 3
    assert [each["newest"] and each["newest"][:10] for each in found["items"]] == [
        "2026-11-10", "2026-11-19", None,
    ]  # fmt: skip
    one = admin.get(f"/machines/kvm/{2:032x}").json()
    assert one == found["items"][1]
    assert admin.get(f"/machines/kvm/{9:032x}").status_code == 404


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"protection": "unprotected"}, ["db-1", "db-3", "db-5"]),
        ({"protection": "protected", "host": "h1"}, ["web-4"]),
        ({"text": "财务"}, ["db-3"]),
        ({"text": "h2"}, ["db-5", "web-2"]),
        ({"folder": "/生产"}, ["db-1", "web-0"]),
        ({"platform": "none"}, []),
        ({"text": "kvm"}, ["db-1", "db-3", "db-5", "web-0", "web-2", "web-4"]),
    ],
)
def test_machines_are_found_by_text_place_and_protection(world, admin, query, found):
    seen(world)
    assert names(admin.get("/machines/overview", params=query)) == found


def test_pages_of_machines_go_on_where_they_ended(world, admin):
    seen(world)
    after, found = "", []
    while after is not None:
        page = admin.get("/machines/overview", params={"limit": 4, "after": after})
        found, after = found + names(page), page.json()["next"]
    assert found == ["db-1", "db-3", "db-5", "web-0", "web-2", "web-4"]


def test_what_protects_follows_machines_and_policies(world, admin):
    def unprotected():
        return names(admin.get("/machines/overview", params={"protection": "unprotected"}))

    seen(world)
    assert unprotected() == ["db-1", "db-3", "db-5"]
    world.clock.move(datetime.timedelta(minutes=1))
    seen(world, 8)
    assert unprotected() == ["db-1", "db-3", "db-5", "db-7"]
    tag = admin.get("/policies/nightly").headers["etag"]
    selection = {"platform": "kvm", "patterns": ["db-*"], "excluded": ["db-5"]}
    answer = admin.put(
        "/policies/nightly", json={**POLICY, "selection": selection}, headers={"If-Match": tag}
    )
    assert unprotected() == ["db-5", "web-0", "web-2", "web-4", "web-6"]
    admin.put(
        "/policies/nightly", json={**POLICY, "enabled": False},
        headers={"If-Match": answer.headers["etag"]},
    )  # fmt: skip
    assert len(unprotected()) == 8
    # A policy that is off still selects.
    assert admin.get(f"/machines/kvm/{2:032x}").json()["policies"][0]["enabled"] is False
    admin.delete(
        "/platforms/kvm", headers={"If-Match": admin.get("/platforms/kvm").headers["etag"]}
    )
    assert unprotected() == []


def test_policies_of_other_groups_are_not_named(world, admin):
    seen(world)
    mine = {**POLICY, "name": "theirs", "group": "default"}
    assert admin.post("/policies", json=mine).status_code == 201
    team = world.client("team-operator").get(f"/machines/kvm/{2:032x}").json()
    assert [each["name"] for each in team["policies"]] == ["nightly"]
    assert len(admin.get(f"/machines/kvm/{2:032x}").json()["policies"]) == 2


def test_a_platform_has_places(world, admin):
    seen(world)
    assert admin.get("/platforms/kvm/tree").json() == [
        {"host": "h0", "folder": "", "machines": 1, "protected": 0},
        {"host": "h0", "folder": "/生产", "machines": 1, "protected": 1},
        {"host": "h1", "folder": "", "machines": 1, "protected": 1},
        {"host": "h1", "folder": "/生产", "machines": 1, "protected": 0},
        {"host": "h2", "folder": "", "machines": 2, "protected": 1},
    ]


def test_hardware_is_asked_of_a_node(world, admin):
    world.node()
    world.answers["machine"] = {"id": "1", "name": "web-1", "firmware": "uefi", "disks": [DISK],
                                "nics": [{"mac": "52:54:00:00:00:01", "network": "lan"}]}  # fmt: skip
    found = admin.get(f"/machines/kvm/{1:032x}/hardware").json()
    assert (found["firmware"], found["disks"]) == ("uefi", [DISK])
    assert world.asked[-1][1]["body"]["machine"] == f"{1:032x}"


def test_leftovers_are_removed_and_that_is_recorded(world, admin):
    world.node()
    world.answers["reap"] = {"cleaned": {"web-1": ["snapshot ruchu-1"]}, "busy": []}
    assert admin.post("/platforms/kvm/reap", json={"storage": "main"}).json() == {
        "cleaned": {"web-1": ["snapshot ruchu-1"]}
    }
    actions = [each["action"] for each in admin.get("/audit").json()["items"]]
    assert "platform.reap" in actions


def test_a_storage_grows_and_is_probed(world, admin):
    world.node()
    world.answers |= {
        "storage-grow": {"bytes_before": 100, "bytes_after": 200},
        "storage-look": {"storages": [{"free": 170, "total": 200, "problem": ""}]},
        "storage-probe": {"file_system": "xfs", "immutable": True},
    }
    assert admin.post("/storages/main/grow").json()["bytes_after"] == 200
    assert admin.get("/storages/main").json()["size"] == 200
    assert admin.post("/storages/main/probe").json()["immutable"] is True
    assert admin.get("/storages/main").json()["facts"]["probe"]["file_system"] == "xfs"


def test_how_a_storage_fills_is_told_with_a_forecast(world, admin):
    storage = world.services.storages.get("main")
    few = admin.get("/storages/main/use").json()
    assert (few["points"], few["bytes_stored"], few["growth_bytes"]) == (3, 9 * GIB, None)
    with world.database.writing() as connection:
        connection.execute(STORAGES.update().values(size=101))
        for day in range(1, 11):
            row = {"storage": storage.id, "day": f"2026-11-{day:02}", "free": 101 - 4 * day,
                   "stored": 4 * day}  # fmt: skip
            connection.execute(STORAGE_USE.insert().values(row))
    found = admin.get("/storages/main/use", params={"days": 3}).json()
    assert [each["day"] for each in found["days"]] == ["2026-11-08", "2026-11-09", "2026-11-10"]
    assert (round(found["growth_bytes"]), found["full_on"]) == (4, "2026-11-26")


def test_a_node_in_maintenance_gets_no_tasks(world, admin):
    row = world.services.nodes.expect("node-1", 2)
    tag = admin.get("/nodes/node-1").headers["etag"]
    number = world.services.events.last
    answer = admin.patch(
        "/nodes/node-1", json={"maintenance": True}, headers={"If-Match": tag}
    ).json()
    assert (answer["maintenance"], answer["parallel"]) == (True, 2)
    assert [each.name for each in world.services.events.after(number)] == ["node"]
    assert world.services.nodes.get(row.id).maintenance
    assert admin.get("/nodes/node-1/tasks").json() == []


def test_what_a_storage_needs_on_a_device_goes_to_the_node(world, admin):
    world.node()
    made = {"id": "7" * 32, "name": "disk", "role": "backup", "encrypted": False, "total": 10,
            "free": 9, "location": "device:///dev/sdb"}  # fmt: skip
    world.answers["storage-make"] = {"storage": made}
    wanted = {"name": "disk", "location": "device:///dev/sdb", "file_system": "xfs",
              "erase": "/dev/sdb", "resource_group": TEAM}  # fmt: skip
    assert admin.post("/storages", json=wanted).status_code == 201
    body = world.asked[-1][1]["body"]
    assert (body["file_system"], body["erase"], body["one_writer"]) == ("xfs", "/dev/sdb", False)
    bad = {**wanted, "name": "other", "file_system": "ntfs"}
    assert admin.post("/storages", json=bad).status_code == 422
