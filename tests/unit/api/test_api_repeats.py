"""Requests that are sent twice are carried out once, and what is kept of them opens to nobody."""

import asyncio
import threading

import httpx
import sqlalchemy as sa
from api_world import TEAM

from ruchu.control.repeats.tables import REPEATS
from ruchu.model.principals import Right

KEY = {"Idempotency-Key": "one"}
RUN = {"kind": "verify", "body": {"storage": "main"}}


def runs(admin):
    return len(admin.get("/runs").json()["items"])


def kept(world):
    with world.database.reading() as connection:
        return connection.execute(sa.select(REPEATS)).all()


def test_the_same_request_is_answered_as_before(world, admin):
    first = admin.post("/runs", json=RUN, headers=KEY)
    again = admin.post("/runs", json=RUN, headers=KEY)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert runs(admin) == 1
    assert admin.post("/runs", json=RUN).json()["id"] != first.json()["id"]


def test_a_version_is_told_again(admin):
    new = {"name": "new", "uri": "qemu:///system"}
    answers = [admin.post("/platforms", json=new, headers=KEY) for _ in range(2)]
    assert [each.headers["etag"] for each in answers] == ['"1"', '"1"']


def test_a_key_is_for_one_request(admin):
    admin.post("/runs", json=RUN, headers=KEY)
    other = admin.post("/runs", json={**RUN, "name": "other"}, headers=KEY)
    assert (other.status_code, other.json()["code"]) == (422, "key-used")
    elsewhere = admin.post("/policies/nightly/run", json=RUN, headers=KEY)
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (422, "key-used")
    assert runs(admin) == 1


def test_what_failed_is_tried_again(world, admin):
    assert admin.post("/users", json={"name": "X y"}, headers=KEY).status_code == 422
    assert admin.post("/users", json={"name": "bob"}, headers=KEY).status_code == 201
    refused = {"Idempotency-Key": "two"}
    assert admin.post("/platforms/kvm/refresh", headers=refused).status_code == 502
    world.node()
    world.answers["inventory"] = {"machines": []}
    assert admin.post("/platforms/kvm/refresh", headers=refused).status_code == 200


def test_keys_belong_to_who_sends_them(world, admin):
    mine = admin.post("/runs", json=RUN, headers=KEY).json()["id"]
    other = world.client("operator").post("/runs", json=RUN, headers=KEY)
    assert other.status_code == 201
    assert other.json()["id"] != mine
    assert world.client("read-only").post("/runs", json=RUN, headers=KEY).status_code == 403
    assert world.client(None).post("/runs", json=RUN, headers=KEY).status_code == 401


def test_nothing_is_answered_again_to_a_session_that_ended(world):
    word = world.open("operator")
    client = world.client(word=word)
    assert client.post("/runs", json=RUN, headers=KEY).status_code == 201
    client.delete("/sessions/current")
    assert client.post("/runs", json=RUN, headers=KEY).status_code == 401


def test_secrets_in_answers_are_sealed(world, admin):
    wanted = {"name": "mine", "rights": ["view"]}
    first = admin.post("/tokens", json=wanted, headers=KEY).json()
    assert admin.post("/tokens", json=wanted, headers=KEY).json() == first
    (row,) = kept(world)
    text = repr(row)
    assert first["token"] not in text
    assert "mine" not in text
    assert world.word("administrator") not in text


def test_signing_in_is_never_answered_again(world):
    stranger = world.client(None)
    body = {"name": "operator", "password": "wrong"}
    for _ in range(2):
        assert stranger.post("/sessions", json=body, headers=KEY).status_code == 401
    assert kept(world) == []


def test_keys_have_a_length(admin):
    for key in ("", "x" * 201, "a b", b"\xe9"):
        answer = admin.post("/runs", json=RUN, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


def test_cookies_are_as_good_a_proof(world):
    client = world.client(None)
    client.cookies.set("ruchu_session", world.word("administrator"))
    client.cookies.set("theme", "dark")
    headers = {**KEY, "X-Ruchu-Request": "1"}
    first = client.post("/runs", json=RUN, headers=headers)
    client.cookies.set("theme", "light")
    again = client.post("/runs", json=RUN, headers=headers)
    assert first.json() == again.json()
    assert again.headers["idempotent-replay"] == "true"


def test_two_at_the_same_time_are_one(world):
    """The second one is told to wait, and nothing is done twice."""
    gate, begun = threading.Event(), threading.Event()
    create = world.services.runs.create

    def slow(new):
        begun.set()
        assert gate.wait(20)
        return create(new)

    world.services.runs.create = slow
    headers = {"Authorization": f"Bearer {world.word('administrator')}", **KEY}

    async def both():
        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://ruchu.test") as client:
            first = asyncio.create_task(client.post("/api/v1/runs", json=RUN, headers=headers))
            await asyncio.to_thread(begun.wait, 20)
            second = await client.post("/api/v1/runs", json=RUN, headers=headers)
            gate.set()
            return await first, second

    first, second = asyncio.run(both())
    assert first.status_code == 201
    assert (second.status_code, second.json()["code"]) == (409, "under-way")
    assert second.json()["retry"] is True
    assert runs(world.client()) == 1


def test_a_token_may_use_keys(world):
    token = world.client(word=world.token({Right.VIEW, Right.OPERATE}, [TEAM]))
    answers = [token.post("/policies/nightly/run", json={}, headers=KEY) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
