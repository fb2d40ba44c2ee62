"""What can be restored: machines with points, the points of one, what a restore is planned with."""

import base64

import pytest
from api_world import OTHER, POINTS, point
from httpx import Client

from ruchu.control.vault.vault import Owner
from ruchu.errors import NodeAway
from ruchu.platforms import pictures

INSTANT = "e" * 32
LINE = {
    "instant": INSTANT, "name": "web-0-now", "machine": "id", "state": "running",
    "export": "running", "point": POINTS[0], "storage": "main", "platform": "kvm",
    "protocol": "nbd", "disks": ["vda"], "cache": "/c", "cache_bytes": 4096,
    "since": "2026-11-22T18:00:00.000000Z",
}  # fmt: skip
PICTURE = pictures.png(b"P6 2 1 255\n" + bytes(6))


@pytest.fixture
def more(world):
    """Add a copy storage of another group, an image, and more points of web-0."""
    services = world.services
    made = {"id": "6" * 32, "name": "copies", "role": "copy", "encrypted": False}
    services.storages.add(made, "/srv/copies", {"resource_group": OTHER})
    took = [
        point(POINTS[0], 0, storage="copies"),
        point("b0" * 16, 0, kind="incremental", time="2026-11-10T22:30:00.000000Z"),
        point("b1" * 16, 0, kind="incremental", time="2026-11-12T02:00:00.000000Z", starred=True),
        point("b2" * 16, 0, name="web-0", platform="", object="image"),
        point("b3" * 16, 0, name="gone"),
    ]
    for each in took:
        services.catalogue.took(each, policy=None, run="")
    return world


def names(client: Client, **query: object) -> list[tuple[str, str, int]]:
    found = client.get("/points/machines", params=query).json()["items"]
    return [(each["name"], each["platform"], each["points"]) for each in found]


def test_machines_that_have_points_are_found_whether_they_exist_or_not(more, admin):
    everything = [("gone", "kvm", 1), ("web-0", "", 1), ("web-0", "kvm", 3), ("web-1", "kvm", 1),
                  ("web-2", "kvm", 1)]  # fmt: skip
    assert names(admin) == everything
    assert names(admin, text="EB-0") == everything[1:3]
    paged, after = [], ""
    while after is not None:
        page = admin.get("/points/machines", params={"limit": 1, "after": after}).json()
        paged += [(each["name"], each["platform"], each["points"]) for each in page["items"]]
        after = page["next"]
    assert paged == everything
    found = {(each["name"], each["platform"]): each
             for each in admin.get("/points/machines").json()["items"]}  # fmt: skip
    assert [each["exists"] for each in found.values()] == [False, None, True, True, True]
    web = found["web-0", "kvm"]
    assert web["newest"] == "2026-11-12T02:00:00.000000Z"
    assert (web["point"], web["kind"], web["starred"]) == ("b1" * 16, "incremental", 1)
    assert web["storages"] == ["copies", "main"]


def test_a_moment_leads_to_the_newest_point_before_it(more, admin):
    at = "2026-11-10T23:00:00+08:00"
    found = admin.get("/points/machines", params={"at": at}).json()["items"]
    assert [(each["name"], each["point"]) for each in found][:1] == [("gone", "b3" * 16)]
    web = next(each for each in found if (each["name"], each["platform"]) == ("web-0", "kvm"))
    assert (web["points"], web["point"]) == (1, POINTS[0])
    assert admin.get("/points/machines", params={"at": "yesterday"}).status_code == 422


def test_a_point_and_its_copies_are_one(more, admin):
    query = {"name": "web-0", "platform": "kvm", "limit": 2}
    page = admin.get("/points/history", params=query).json()
    assert [each["id"][:2] for each in page["items"]] == ["b1", "b0"]
    assert page["items"][0]["starred"] is True
    rest = admin.get("/points/history", params={**query, "after": page["next"]}).json()
    assert [[copy["storage"] for copy in each["copies"]] for each in rest["items"]] == [
        ["copies", "main"]
    ]
    assert rest["next"] is None
    day = {"since": "2026-11-10T12:00:00Z", "until": "2026-11-11T00:00:00Z"}
    found = admin.get("/points/history", params={**query, **day}).json()["items"]
    assert [each["id"][:2] for each in found] == ["b0"]


def test_days_are_those_of_the_zone(more, admin):
    query = {"name": "web-0", "platform": "kvm"}
    found = admin.get("/points/days", params=query).json()
    assert [(each["day"], each["kinds"]) for each in found] == [
        ("2026-11-10", {"full": 1, "incremental": 1}), ("2026-11-12", {"incremental": 1}),
    ]  # fmt: skip
    tag = {"If-Match": admin.get("/settings").headers["etag"]}
    settings = admin.get("/settings").json()
    put = admin.put("/settings", json={**settings, "zone": "Asia/Shanghai"}, headers=tag)
    assert put.status_code == 200, put.text
    found = admin.get("/points/days", params=query).json()
    assert [(each["day"], each["points"], each["starred"]) for each in found] == [
        ("2026-11-10", 1, 0), ("2026-11-11", 1, 0), ("2026-11-12", 1, 1),
    ]  # fmt: skip


def test_who_sees_one_group_finds_what_is_in_it(more):
    elsewhere = more.client("elsewhere")
    assert names(elsewhere) == [("web-0", "kvm", 1)]
    (only,) = elsewhere.get("/points/history", params={"name": "web-0", "platform": "kvm"}).json()[
        "items"
    ]
    assert [copy["storage"] for copy in only["copies"]] == ["copies"]
    assert elsewhere.get("/points/days", params={"name": "web-1", "platform": "kvm"}).json() == []


def test_what_a_restore_is_planned_with(world, admin):
    world.node()
    machine = {"name": "web-0", "vcpus": 2, "memory": 1 << 30, "firmware": "bios", "id": "x",
               "platform": "libvirt", "disks": [], "nics": [
                   {"mac": "52:54:00:00:00:01", "network": "default", "model": "virtio",
                    "kind": "network"}]}  # fmt: skip
    offers = {"networks": ["default"], "places": [{"name": "pool", "path": "/p", "free": 7}]}
    world.answers |= {"point-machine": {"machine": machine}, "platform-offers": offers}
    found = admin.get(f"/points/{POINTS[0]}/machine").json()
    assert (found["vcpus"], found["nics"][0]["network"]) == (2, "default")
    assert admin.get("/platforms/kvm/offers").json() == offers
    assert world.asked[0][1]["secrets"] == {"storage:main": "sieben Berge 7"}


# ------------------------------------------------------------------------------ instant restores


def test_instant_restores_of_all_nodes_are_listed_without_any_passphrase(world, admin):
    world.services.vault.delete_all("storage", "5" * 32)
    with pytest.raises(Exception, match="There is no such thing"):
        world.services.vault.get(Owner("storage", "5" * 32, "passphrase"))
    world.node()
    world.answers |= {"instants": {"instants": [LINE, {**LINE, "storage": "removed"}]}}
    found = admin.get("/instants").json()
    assert [(each["name"], each["node_name"]) for each in found["instants"]] == [
        ("web-0-now", "node-1")
    ] * 2
    assert found["silent"] == []
    assert world.asked == [("instants", {"body": {}, "secrets": {}})]
    assert admin.get("/nodes/node-1/instants").status_code == 200
    assert len(world.client("team-operator").get("/instants").json()["instants"]) == 1
    assert world.client("elsewhere").get("/instants").json()["instants"] == []


def test_a_node_that_does_not_answer_hides_no_other(world, admin):
    one = world.node()
    two = world.services.nodes.get("node-2")
    world.services.hub.connected_nodes = lambda: [one, two]
    world.answers |= {"instants": {"instants": [LINE]}}
    answered = world.services.hub.ask

    def ask(node, *rest):
        if node == two.id:
            raise NodeAway("(it is slow)")
        return answered(node, *rest)

    world.services.hub.ask = ask
    found = admin.get("/instants").json()
    assert [each["node_name"] for each in found["instants"]] == ["node-1"]
    assert [each["name"] for each in found["silent"]] == ["node-2"]
    assert "slow" in found["silent"][0]["why"]


def test_the_picture_of_a_console_is_of_the_storage_that_was_named(world):
    world.node()
    picture = {"storage": "main", "png": base64.b64encode(PICTURE).decode()}
    world.answers |= {"console-picture": picture}
    path, query = f"/nodes/node-1/instants/{INSTANT}/picture", {"storage": "main"}
    restorer = world.client("restore-operator")
    found = restorer.get(path, params=query)
    assert (found.headers["content-type"], found.content) == ("image/png", PICTURE)
    assert world.client("operator").get(path, params=query).status_code == 403
    assert world.client("elsewhere").get(path, params=query).status_code == 404
    world.answers |= {"console-picture": {**picture, "storage": "other"}}
    assert restorer.get(path, params=query).status_code == 404
    assert restorer.get("/nodes/node-1/instants/x/picture", params=query).status_code == 404
