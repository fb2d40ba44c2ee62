"""Problems, versions, sizes, rates, headers: what every endpoint has in common."""

import json

import pytest
from api_world import POLICY

from ruchu.api import problems, shielding

PROBLEM = "application/problem+json"


def problem(answer, status, code):
    """Hold an answer against RFC 9457 and what is expected of it; return the document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    found = answer.json()
    assert found["status"] == status
    assert found["code"] == code
    assert found["title"]
    return found


def test_errors_are_problems_with_stable_codes(world, admin):
    problem(admin.get("/storages/none"), 404, "not-found")
    problem(admin.get("/nothing"), 404, "no-such-address")
    problem(admin.put("/storages"), 405, "method-not-allowed")
    problem(admin.post("/users", json={"name": 7}), 422, "invalid-request")
    problem(admin.post("/users", json={"name": "X y"}), 422, "invalid-name")
    problem(admin.post("/users", json={"name": "operator"}), 409, "already-exists")
    problem(admin.post("/platforms/kvm/refresh"), 502, "node-away")
    bad = admin.post("/users", content="{", headers={"content-type": "application/json"})
    problem(bad, 422, "invalid-request")
    problem(world.client("read-only").post("/users", json={"name": "bob"}), 403, "forbidden")
    problem(world.client(None).get("/storages"), 401, "not-authenticated")
    assert world.client(None).get("/storages").headers["www-authenticate"] == "Bearer"
    problem(world.client(None, "no such word").get("/storages"), 401, "not-authenticated")


def test_a_bug_is_told_to_the_log_and_not_to_the_client(world, admin, monkeypatch):
    def broken():
        raise ZeroDivisionError("secret inside")

    monkeypatch.setattr(world.services.storages, "all", broken)
    found = problem(admin.get("/storages"), 500, "internal")
    assert "secret inside" not in json.dumps(found)
    assert found["instance"] in world.told[0]
    assert "ZeroDivisionError: secret inside" in world.told[0]
    world.told.clear()


def test_a_change_says_which_version_it_is_meant_for(admin):
    shown = admin.get("/platforms/kvm")
    assert shown.headers["etag"] == '"1"'
    change = {"parallel": 9}
    problem(admin.patch("/platforms/kvm", json=change), 428, "version-missing")
    stale = {"If-Match": '"7"'}
    problem(admin.patch("/platforms/kvm", json=change, headers=stale), 412, "stale")
    odd = {"If-Match": "whatever"}
    problem(admin.patch("/platforms/kvm", json=change, headers=odd), 422, "usage")
    fresh = {"If-Match": shown.headers["etag"]}
    done = admin.patch("/platforms/kvm", json=change, headers=fresh)
    assert (done.status_code, done.json()["parallel"]) == (200, 9)
    assert done.headers["etag"] == '"2"'
    problem(admin.patch("/platforms/kvm", json=change, headers=fresh), 412, "stale")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/storages/main", {"readers": 1}),
        ("PUT", "/policies/nightly", POLICY),
        ("DELETE", "/policies/nightly", None),
        ("DELETE", "/platforms/kvm", None),
        ("DELETE", "/storages/main", None),
        ("PATCH", "/nodes/node-2", {"parallel": 1}),
        ("PUT", "/settings", {}),
    ],
)
def test_versions_are_asked_for_everywhere(admin, method, path, body):
    problem(admin.request(method, path, json=body), 428, "version-missing")
    stale = {"If-Match": '"999"'}
    problem(admin.request(method, path, json=body, headers=stale), 412, "stale")


def test_what_is_too_large_is_refused_by_its_length_and_by_what_comes(admin):
    large = b'"' + b"x" * shielding.BODY_BYTES_MAX + b'"'
    problem(admin.post("/runs", content=large), 413, "too-large")
    pieces = (b"x" * (1 << 20) for _ in range(5))
    answer = admin.post("/runs", content=b"".join(pieces),
                        headers={"content-length": "10"})  # fmt: skip
    problem(answer, 413, "too-large")
    keyed = {"content-length": "10", "idempotency-key": "k"}
    problem(admin.post("/runs", content=large, headers=keyed), 413, "too-large")


def test_too_many_requests_are_refused_for_each_address(world):
    admin = world.client()
    for _ in range(int(shielding.BURST)):
        assert admin.get("/nothing").status_code == 404
    refused = admin.get("/about")
    problem(refused, 429, "too-fast")
    assert refused.headers["retry-after"] == "1"
    assert world.client(address="192.0.2.9").get("/about").status_code == 200
    world.clock.sleep(1.0)
    assert admin.get("/about").status_code == 200


def test_addresses_of_one_network_are_one_client():
    assert shielding.network("192.0.2.1") == "192.0.2.1"
    assert shielding.network("2001:db8::1") == shielding.network("2001:db8::ffff")
    assert shielding.network("2001:db8::1") != shielding.network("2001:db8:0:1::1")
    assert shielding.network("testclient") == "testclient"


def test_answers_have_headers_that_keep_browsers_careful(world, admin):
    for answer in (admin.get("/about"), world.client(None).get("/about")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("kind", ["storages", "platforms", "policies", "runs", "users", "nodes",
                                  "alarms", "points", "approvals", "identity-providers"])  # fmt: skip
def test_odd_names_find_nothing(admin, kind):
    for name in ("..%2fmain", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%5cmain", "main%00",
                 "main%0d%0aSet-Cookie: a=b", "'; DROP TABLE users; --", "%25", "%f0%9f%98%80",
                 "%ff%fe", "x" * 5000):  # fmt: skip
        answer = admin.get(f"/{kind}/{name}")
        assert answer.status_code in {404, 422}, (name, answer.text)
        assert answer.headers["content-type"] == PROBLEM
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("name", ["../../etc/cron.d/x", "a/b", "a\\b", "..", "", "a\nb", "x" * 300])
def test_odd_names_are_not_given(world, admin, name):
    world.node()
    for path, body in (
        ("/storages", {"name": name, "location": "/srv/x"}),
        ("/platforms", {"name": name, "uri": "qemu:///system"}),
        ("/nodes/tokens", {"name": name}),
        ("/users", {"name": name}),
        ("/policies", {**POLICY, "name": name}),
    ):
        answer = admin.post(path, json=body)
        assert answer.status_code == 422, (path, answer.text)
    assert world.asked == []


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "\udfff and more"])
def test_characters_that_no_database_keeps_are_refused(admin, text):
    body = json.dumps({"name": "bob", "display": text})
    answer = admin.post("/users", content=body, headers={"content-type": "application/json"})
    problem(answer, 422, "usage")
    deep = json.dumps({**POLICY, "name": "new", "options": {"level": [{text: 1}]}})
    answer = admin.post("/policies", content=deep, headers={"content-type": "application/json"})
    problem(answer, 422, "usage")
    fine = json.dumps({"name": "bob", "display": "\u674e \U0001f600"})
    answer = admin.post("/users", content=fine, headers={"content-type": "application/json"})
    assert answer.status_code == 201


def test_a_nul_in_an_address_is_refused(admin):
    problem(admin.get("/points?text=a%00b"), 422, "invalid-request")
    problem(admin.get("/storages/a%00b"), 422, "invalid-request")


def test_what_is_nested_without_end_is_refused(admin):
    body = b"[" * 100_000
    answer = admin.post("/runs", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}


def test_every_error_has_a_status():
    from ruchu import errors  # noqa: PLC0415

    for name in errors.__all__:
        kind = getattr(errors, name)
        if name != "PartlyFailed":
            assert 400 <= problems.status_of(kind()) < 504


def test_cookies_take_a_header_that_no_other_site_can_send(world):
    client = world.client(None)
    client.cookies.set("ruchu_session", world.word("administrator"))
    assert client.get("/sessions/current").json()["name"] == "administrator"
    body = {"name": "bob"}
    problem(client.post("/users", json=body), 403, "forbidden")
    cross = {"X-Ruchu-Request": "0"}
    problem(client.post("/users", json=body, headers=cross), 403, "forbidden")
    ours = {"X-Ruchu-Request": "1"}
    assert client.post("/users", json=body, headers=ours).status_code == 201


def test_metrics_are_read_by_prometheus(world, admin):
    from prometheus_client.openmetrics.parser import (  # noqa: PLC0415
        text_string_to_metric_families,
    )

    answer = admin.get("http://ruchu.test/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    families = {each.name: each for each in text_string_to_metric_families(answer.text)}
    assert {"ruchu_about", "ruchu_nodes", "ruchu_scheduler_lateness_seconds"} <= set(families)
    free = families["ruchu_storage_free_bytes"].samples
    assert [(each.labels, each.value) for each in free] == [({"storage": "main"}, 70.0)]
    newest = families["ruchu_object_newest_point"].samples
    assert {each.labels["name"] for each in newest} == {"web-0", "web-1", "web-2"}
    team = world.client("team-operator").get("http://ruchu.test/metrics")
    problem(team, 403, "forbidden")


def test_health_needs_nobody_and_says_little(world):
    answer = world.client(None).get("http://ruchu.test/healthz")
    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "version", "at"}


def events(text):
    blocks = [block for block in text.split("\n\n") if block.startswith("id:")]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def test_events_are_told_in_order_and_from_where_one_was(world, admin):
    answer = admin.get("/events", params={"once": True, "after": 0})
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    numbers = [int(each["id"]) for each in found]
    assert numbers == sorted(numbers)
    assert "alarm.raised" in {each["event"] for each in found}
    last = {"Last-Event-ID": found[-2]["id"]}
    assert events(admin.get("/events", params={"once": True}, headers=last).text) == found[-1:]
    assert events(admin.get("/events", params={"once": True}).text) == []


def test_events_tell_members_of_a_group_only_that_something_changed(world):
    answer = world.client("team-operator").get("/events", params={"once": True, "after": 0})
    for each in events(answer.text):
        assert set(json.loads(each["data"])) == {"at"}
    assert events(answer.text)
    problem(world.client("no-role").get("/events", params={"once": True}), 403, "forbidden")


def test_events_end_by_themselves_and_make_room(world, admin):
    streams = world.app.state.streams
    for _ in range(3):
        admin.get("/events", params={"once": True, "after": 0})
    assert streams._open == 0
    streams._open = 500
    problem(admin.get("/events", params={"once": True}), 429, "too-many")


def test_settings_are_written_and_their_secret_is_not_read(world, admin):
    shown = admin.get("/settings")
    body = {**shown.json(), "server_name": "备份", "heartbeat_url": "https://example.com/secret"}
    done = admin.put("/settings", json=body, headers={"If-Match": shown.headers["etag"]})
    assert done.status_code == 200
    assert "secret" not in done.text + admin.get("/settings").text
    assert admin.get("/settings").json()["server_name"] == "备份"
    odd = {**shown.json(), "zone": "Nowhere/Land"}
    answer = admin.put("/settings", json=odd, headers={"If-Match": done.headers["etag"]})
    problem(answer, 422, "usage")
