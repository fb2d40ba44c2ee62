"""The ways of each kind of thing over HTTP: made, shown, changed, removed, walked page by page.

Every answer here is held against the description of the API, too (`api_world.conform`).
"""

import api_world
import pytest
from api_world import CHAIN, POINTS, POLICY, TEAM

from ruchu.control.vault.vault import Owner
from ruchu.errors import NotFound
from ruchu.model.tasks import Severity


def walked(client, path, limit=2, **more):
    """Return the items of all pages, and how many pages there were."""
    found, after, pages = [], "", 0
    while after is not None:
        page = client.get(path, params={"limit": limit, "after": after, **more}).json()
        found, after, pages = found + page["items"], page["next"], pages + 1
        assert len(page["items"]) == limit or after is None
    return found, pages


def etag(client, path):
    return {"If-Match": client.get(path).headers["etag"]}


# ------------------------------------------------------------------------------- accounts


def test_accounts_are_made_changed_and_removed(world, admin):
    wanted = {"name": "Li.Na", "display": "李娜", "grants": {TEAM: ["operator"]}}
    made = admin.post("/users", json=wanted).json()
    user = made["user"]["id"]
    assert made["user"]["name"] == "li.na"
    chosen = {"link": made["link"], "password": "vier Birnen, ein Hut"}
    stranger = world.client(None)
    assert stranger.post("/password", json=chosen).json() == {"user": user}
    assert stranger.post("/password", json=chosen).status_code == 401  # used up
    signed = stranger.post("/sessions", json={"name": "li.na", "password": chosen["password"]})
    her = world.client(word=signed.json()["token"])
    assert her.get("/sessions/current").json()["grants"] == {TEAM: ["operator"]}
    assert [each["agent"][:12] for each in her.get("/sessions").json()] == ["python-httpx"]
    assert her.patch(f"/users/{user}", json={"display": "Li Na"}).json()["display"] == "Li Na"
    assert her.patch(f"/users/{user}", json={"grants": {}}).status_code == 403
    change = {"current": chosen["password"], "new": "drei Pflaumen im Regen"}
    assert her.put("/password", json=change).status_code == 204
    assert her.put("/password", json=change).status_code == 403
    assert admin.patch(f"/users/{user}", json={"disabled": True}).json()["disabled"] is True
    assert her.get("/about").status_code == 401
    assert admin.post(f"/users/{user}/link").json()["link"]
    assert admin.delete(f"/users/{user}").json() == {"removed": user}
    assert admin.get(f"/users/{user}").status_code == 404


def test_accounts_are_pages(admin):
    found, pages = walked(admin, "/users")
    assert [each["name"] for each in found] == sorted(api_world.PEOPLE)
    assert pages == 4


def test_the_last_administrator_stays(world, admin):
    me = admin.get("/sessions/current").json()["id"]
    chosen = {"link": admin.post(f"/users/{me}/link").json()["link"],
              "password": "drei Pflaumen im Regen"}  # fmt: skip
    assert world.client(None).post("/password", json=chosen).status_code == 200
    admin = world.client(word=world.open("administrator"))
    answer = admin.patch(f"/users/{me}", json={"grants": {}})
    assert (answer.status_code, answer.json()["code"]) == (409, "last-administrator")


def test_an_authenticator_is_enrolled_and_turned_off(world):
    import pyotp  # noqa: PLC0415

    client = world.client("operator")
    found = client.post("/authenticator").json()
    assert found["secret"] in found["uri"]
    code = pyotp.TOTP(found["secret"]).at(world.clock.now())
    wrong = {"code": "000000" if code != "000000" else "000001"}
    assert client.post("/authenticator/confirm", json=wrong).status_code == 403
    codes = client.post("/authenticator/confirm", json={"code": code}).json()["recovery_codes"]
    assert len(codes) > 5
    assert client.post("/authenticator").status_code == 409
    assert client.post("/authenticator/off", json={"code": codes[0]}).status_code == 204
    assert client.get("/sessions/current").json()["totp"] is False


def test_sessions_live_in_a_cookie_if_that_is_asked_for(world, admin):
    made = admin.post("/users", json={"name": "bob", "grants": {}}).json()
    stranger = world.client(None)
    password = "drei Pflaumen im Regen"
    stranger.post("/password", json={"link": made["link"], "password": password})
    answer = stranger.post("/sessions", json={"name": "bob", "password": password, "cookie": True})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert stranger.get("/sessions/current").json()["name"] == "bob"
    out = stranger.delete("/sessions/current", headers={"X-Ruchu-Request": "1"})
    assert out.status_code == 204
    assert stranger.get("/sessions/current").status_code == 401
    wrong = {"name": "bob", "password": "wrong"}
    assert world.client(None).post("/sessions", json=wrong).status_code == 401


def test_too_many_attempts_wait(world):
    stranger = world.client(None)
    answers = [
        stranger.post("/sessions", json={"name": "operator", "password": "wrong"})
        for _ in range(30)
    ]
    last = answers[-1]
    assert (last.status_code, last.json()["code"]) == (429, "too-many")
    assert int(last.headers["retry-after"]) >= 1
    assert last.json()["retry"] is True


def test_the_first_link_makes_an_administrator_once(world):
    from ruchu.model.principals import LOCAL  # noqa: PLC0415

    link = world.services.accounts.entering.rescue_link(LOCAL)
    body = {"link": link, "name": "boss", "password": "drei Pflaumen im Regen"}
    stranger = world.client(None)
    weak = stranger.post("/administrator", json={**body, "password": "123456"})
    assert (weak.status_code, weak.json()["code"]) == (422, "weak-password")
    assert stranger.post("/administrator", json=body).json()["grants"] == {"*": ["administrator"]}
    assert stranger.post("/administrator", json={**body, "name": "two"}).status_code == 401


def test_tokens_are_made_listed_and_revoked(world, admin):
    made = admin.post("/tokens", json={"name": "ci", "rights": ["view"], "groups": [TEAM]}).json()
    token = world.client(word=made["token"])
    assert token.get("/storages/main").status_code == 200
    listed = [each for each in admin.get("/tokens").json() if each["name"] == "ci"]
    assert listed[0]["groups"] == [TEAM]
    assert made["token"] not in admin.get("/tokens").text
    assert admin.post("/tokens", json={"name": "ci", "rights": ["view"]}).status_code == 409
    assert admin.delete(f"/tokens/{made['id']}").status_code == 204
    assert token.get("/storages/main").status_code == 401


def test_groups_are_made_changed_and_removed(admin):
    made = admin.put("/groups/team-c", json={"title": "Team C", "runs": 3}).json()
    assert made == {"name": "team-c", "title": "Team C",
                    "quota": {"bytes": 0, "machines": 0, "runs": 3}}  # fmt: skip
    assert admin.put("/groups/team-c", json={}).json()["quota"]["runs"] == 0
    assert "team-c" in {each["name"] for each in admin.get("/groups").json()}
    assert admin.delete("/groups/team-c").status_code == 204
    assert admin.delete("/groups/default").status_code == 422
    new = {"name": "x", "uri": "qemu:///system", "resource_group": "team-c"}
    assert admin.post("/platforms", json=new).status_code == 404


# ---------------------------------------------------------------------------- audit, alarms


def test_the_audit_trail_is_searched_in_pages_and_verified(admin):
    for number in range(3):
        admin.put(f"/groups/g{number}", json={})
    found, pages = walked(admin, "/audit", action="group.create")
    subjects = [each["subject"] for each in found]
    assert subjects[:3] == ["g2", "g1", "g0"]
    assert pages == 3
    assert admin.get("/audit", params={"after": "x"}).status_code == 422
    assert admin.get("/audit/verification").json()["whole"] is True
    failed = admin.post("/platforms", json={"name": "kvm", "uri": "qemu:///system"})
    assert failed.status_code == 409
    newest = admin.get("/audit").json()["items"][0]
    assert (newest["action"], newest["outcome"]) == ("platform.add", "failed")
    assert newest["facts"]["error"] == "already-exists"


def test_four_eyes_take_two_and_two_to_end(world, admin):
    alone = admin.put("/four-eyes", json={"on": True})
    assert alone.status_code == 422
    assert admin.get("/four-eyes").json() == {"on": False}
    api_world.four_eyes(world)
    off = admin.put("/four-eyes", json={"on": False})
    assert (off.status_code, off.json()["code"]) == (409, "needs-approval")
    assert admin.get("/four-eyes").json() == {"on": True}


def test_alarms_are_shown_acknowledged_and_walked(world, admin):
    (alarm,) = admin.get("/alarms").json()
    said = {"remark": "on it"}
    done = world.client("operator").post(f"/alarms/{alarm['id']}/acknowledge", json=said)
    assert done.json()["acknowledged_by"] == "operator"
    history = admin.get(f"/alarms/{alarm['id']}/history").json()
    assert [each["what"] for each in history] == ["opened", "acknowledged"]
    assert admin.get(f"/alarms/{alarm['id']}/deliveries").json() == []
    for number in range(5):  # at one moment: what is equal has an order
        world.services.alarms.raise_alarm("rpo-missed", Severity.ERROR, f"vm-{number}", "", {})
        world.services.alarms.clear("rpo-missed", f"vm-{number}")
    found, pages = walked(admin, "/alarms/past")
    assert {each["subject"] for each in found} == {f"vm-{number}" for number in range(5)}
    assert pages == 3


def test_rules_and_channels_are_written_and_secrets_are_not_read(world, admin):
    channel = {
        "kind": "webhook", "settings": {"url": "https://example.com/hook"},
        "secrets": {"secret": "sesame"},
    }  # fmt: skip
    made = admin.put("/alarm-channels/ops", json=channel)
    assert made.status_code == 200, made.text
    assert "sesame" not in made.text + admin.get("/alarm-channels").text
    assert world.services.vault.get(Owner("channel", "ops", "secret")) == "sesame"
    rule = {"channels": ["ops"], "codes": ["*-failed"], "severity": "error",
            "quiet": {"zone": "UTC", "start": "22:00", "end": "06:00"},
            "steps": [{"after_min": 10, "channels": ["ops"]}]}  # fmt: skip
    assert admin.put("/alarm-rules/failures", json=rule).json()["steps"][0]["after_min"] == 10
    assert [each["name"] for each in admin.get("/alarm-rules").json()] == ["failures"]
    assert admin.delete("/alarm-channels/ops").status_code == 422  # a rule names it
    assert admin.post("/alarm-channels/ops/test").status_code == 201
    assert admin.delete("/alarm-rules/failures").status_code == 204
    assert admin.delete("/alarm-channels/ops").status_code == 204
    with pytest.raises(NotFound):
        world.services.vault.get(Owner("channel", "ops", "secret"))


# ---------------------------------------------------------------------------- nodes, platforms


def test_nodes_are_invited_changed_and_revoked(world, admin):
    away = admin.post("/nodes/tokens", json={"name": "node-3"})
    assert away.status_code == 409  # nobody listens here
    assert [each["name"] for each in admin.get("/nodes").json()] == ["node-2"]
    changed = admin.patch(
        "/nodes/node-2", json={"parallel": 7}, headers=etag(admin, "/nodes/node-2")
    )
    assert changed.json()["parallel"] == 7
    world.node()
    world.answers |= {"doctor": {"checks": [{"name": "kvm", "ok": True}]},
                      "instants": {"instants": []}}  # fmt: skip
    assert admin.get("/nodes/node-2/doctor").json() == [{"name": "kvm", "ok": True}]
    assert admin.get("/nodes/node-2/instants").json() == []
    assert admin.delete("/nodes/node-2").json()["state"] == "revoked"


def test_platforms_are_known_checked_read_and_forgotten(world, admin):
    new = {"name": "new", "uri": "qemu+ssh://kvm-2/system", "nodes": ["node-2"]}
    made = admin.post("/platforms", json=new)
    assert made.headers["etag"] == '"1"'
    assert made.json()["nodes"] == [world.services.nodes.get("node-2").id]
    world.node()
    world.answers |= {"platform-check": {"ok": True},
                      "inventory": {"machines": [api_world.machine(n) for n in range(5)]}}  # fmt: skip
    assert admin.post("/platforms/kvm/check").json() == {"ok": True}
    world.clock.sleep(60)
    assert admin.post("/platforms/kvm/refresh").json()["problem"] == ""
    found, pages = walked(admin, "/machines")
    assert [each["name"] for each in found] == [f"web-{number}" for number in range(5)]
    assert pages == 3
    assert walked(admin, "/machines", text="-4")[0][0]["name"] == "web-4"
    assert admin.delete("/platforms/new", headers=etag(admin, "/platforms/new")).status_code == 204
    bad = admin.post("/platforms", json={"name": "odd", "uri": "no address"})
    assert bad.status_code == 422


def test_a_machine_that_is_on_two_platforms_is_shown_twice(world, admin):
    services = world.services
    for name in ("a", "b", "c"):
        services.inventory.add(name, "qemu:///system")
        services.inventory.saw(name, [api_world.machine(1)])
    found, _ = walked(admin, "/machines", limit=1)
    assert sorted(each["platform"] for each in found if each["name"] == "web-1") == [
        "a", "b", "c", "kvm"]  # fmt: skip
    lacking, _ = walked(admin, "/machines/unprotected", limit=1)
    assert [each["platform"] for each in lacking] == ["a", "b", "c"]


# ----------------------------------------------------------------------------- storages, points


def test_storages_are_made_by_a_node(world, admin):
    world.node()
    made = {"id": "7" * 32, "name": "new", "role": "copy", "encrypted": True, "free": 1, "size": 2,
            "location": "/srv/new"}  # fmt: skip
    world.answers["storage-make"] = {"storage": made, "points": [
        api_world.point("e" * 32, storage="new")], "problems": ["one is damaged"]}  # fmt: skip
    wanted = {"name": "new", "location": "/srv/new", "role": "copy", "adopt": True,
              "passphrase": "sieben Berge 7"}  # fmt: skip
    answer = admin.post("/storages", json=wanted)
    assert answer.status_code == 201, answer.text
    assert answer.json()["points"] == 1
    assert "sieben Berge" not in answer.text
    assert "sieben Berge" not in admin.get("/audit").text
    assert admin.post("/storages", json=wanted).status_code == 409
    changed = admin.patch(
        "/storages/new", json={"readers": 9}, headers=etag(admin, "/storages/new")
    )
    assert changed.json()["readers"] == 9
    odd = {**wanted, "name": "odd", "role": "none"}
    assert admin.post("/storages", json=odd).status_code == 422


def test_storages_are_read_anew(world, admin):
    world.node()
    listing = [api_world.point(f"{n:02x}" * 16, n) for n in range(0xB0, 0xB5)]
    world.answers |= {"points": {"points": listing, "problems": []},
                      "storage-look": {"storages": [{"free": 5, "size": 10}]}}  # fmt: skip
    found = admin.post("/storages/main/refresh").json()
    assert found["points"] == 5
    assert found["storage"]["free"] == 5
    points, pages = walked(admin, "/points")
    assert [each["id"] for each in points] == [f"{n:02x}" * 16 for n in range(0xB4, 0xAF, -1)]
    assert pages == 3


def test_a_point_and_its_copy_are_two(world, admin):
    made = {"id": "6" * 32, "name": "copy", "role": "copy", "encrypted": False}
    world.services.storages.add(made, "/srv/copy", {"resource_group": TEAM})
    for number, identity in enumerate(POINTS):
        copy = api_world.point(identity, number, storage="copy")
        world.services.catalogue.took(copy, policy=None, run="")
    found, _ = walked(admin, "/points", limit=1)
    assert len(found) == 6
    assert len({(each["id"], each["storage"]) for each in found}) == 6
    assert [each["storage"] for each in admin.get(f"/points/{POINTS[0]}").json()] == [
        "copy", "main"]  # fmt: skip
    assert len(walked(admin, "/points", storage="copy")[0]) == 3
    assert len(walked(admin, "/points", name="web-1")[0]) == 2
    body = {"kind": "restore", "body": {"point": POINTS[0]}}
    assert admin.post("/runs", json=body).json()["body"]["storage"] == "main"


def test_points_are_found_by_how_they_begin(admin):
    assert admin.get("/points/a0a0a0").json()[0]["id"] == POINTS[0]
    assert admin.get("/points/a0").status_code == 422
    assert admin.get("/points/ffff").status_code == 404


# ------------------------------------------------------------------------------ policies, runs


def test_policies_are_kept_tried_out_and_run(admin):
    new = {**POLICY, "name": "weekly", "schedules": [
        {"kind": "full", "weekly": {"days": ["sun"], "times": ["02:00"]}}]}  # fmt: skip
    made = admin.post("/policies", json=new)
    assert made.headers["etag"] == '"1"'
    identity = made.json()["id"]
    dry = admin.get("/policies/weekly/dry-run", params={"count": 3}).json()
    assert [each["at"] for each in dry["starts"]] == [
        "2026-11-29T02:00:00.000000Z", "2026-12-06T02:00:00.000000Z",
        "2026-12-13T02:00:00.000000Z"]  # fmt: skip
    assert [each["name"] for each in dry["machines"]] == ["web-0", "web-1", "web-2"]
    run = admin.post("/policies/weekly/run", json={"kind": "full", "machines": ["web-1"]}).json()
    assert (run["policy"], run["body"]["machines"]) == (identity, ["web-1"])
    assert admin.post("/policies/weekly/run", json={"kind": "none"}).status_code == 422
    changed = admin.put(
        "/policies/weekly", json={**new, "priority": 1}, headers=etag(admin, "/policies/weekly")
    )
    assert changed.json()["policy"]["priority"] == 1
    assert admin.post("/policies", json=new).status_code == 409
    for odd in ({"zone": "Nowhere/Land"}, {"priority": 0}, {"none": 1}, {"retention": {"x": 1}},
                {"selection": {}}, {"schedules": [{"kind": "full"}]}):  # fmt: skip
        assert admin.post("/policies", json={**new, "name": "odd", **odd}).status_code == 422
    gone = admin.delete(f"/policies/{identity}", headers=etag(admin, "/policies/weekly"))
    assert gone.status_code == 204


def test_runs_are_started_followed_and_stopped(world, admin):
    wanted = {"kind": "verify", "name": "look", "body": {"storage": "main"}, "priority": 2}
    run = admin.post("/runs", json=wanted).json()
    assert (run["state"], run["started_by"], run["priority"]) == ("queued", "administrator", 2)
    assert admin.post(f"/runs/{run['id']}/pause").json()["pause"] is True
    assert admin.post(f"/runs/{run['id']}/resume").json()["pause"] is False
    assert admin.post(f"/runs/{run['id']}/stop").json()["stop"] is True
    history = admin.get(f"/runs/{run['id']}/history").json()
    assert [each["name"] for each in history] == [
        "queued", "pause asked for", "resume asked for", "stop asked for"]  # fmt: skip
    later = admin.get(f"/runs/{run['id']}/history", params={"after": history[1]["number"]})
    assert later.json() == history[2:]
    assert admin.get(f"/runs/{run['id']}/tasks").json() == []
    world.services.runs.move(run["id"], "failed", "an example")
    assert admin.post(f"/runs/{run['id']}/stop").status_code == 422
    for body in ({"storage": 7}, {}, {"point": ["x"]}):
        assert admin.post("/runs", json={"kind": "verify", "body": body}).status_code == 422


def test_runs_are_pages_newest_first_and_filtered(world, admin):
    for number in range(5):
        api_world.a_run(world.services, kind="verify" if number % 2 else "backup")
    found, pages = walked(admin, "/runs")
    assert pages == 3
    assert len({each["id"] for each in found}) == 5
    assert len(walked(admin, "/runs", kind="verify")[0]) == 2
    assert len(walked(admin, "/runs", state=["failed", "queued"])[0]) == 5
    assert len(walked(admin, "/runs", state="failed")[0]) == 0


def test_a_whole_page_says_whether_more_follows(world, admin):
    for _ in range(3):
        api_world.a_run(world.services)
    assert admin.get("/runs", params={"limit": 3}).json()["next"] is None
    assert admin.get("/runs", params={"limit": 2}).json()["next"] is not None
    for limit in (0, 500, "x"):
        assert admin.get("/runs", params={"limit": limit}).status_code == 422


def test_freezes_are_kept(admin):
    assert [each["chain"] for each in admin.get("/freezes").json()] == [CHAIN]
    kept = admin.post(f"/freezes/{CHAIN}/decision", json={"decision": "keep"}).json()
    assert kept[0]["active"] is True
    assert admin.post("/freezes/none/decision", json={"decision": "keep"}).status_code == 404


def test_about_tells_what_this_is(world):
    assert world.client("no-role").get("/about").json()["nodes_at"] is None
