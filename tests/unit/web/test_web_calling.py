"""Calls of the API within the process, against an application that answers what a test wants."""

import asyncio

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from ruchu.errors import Answered
from ruchu.web import calling
from ruchu.web.calling import Api, part


@pytest.fixture
def app():
    app = FastAPI()

    @app.get("/api/v1/nothing", status_code=204)
    def nothing():
        return Response(status_code=204, media_type="application/json")

    @app.get("/api/v1/text")
    def text():
        return PlainTextResponse("as it is")

    @app.put("/api/v1/things/{thing}")
    async def put(thing: str, request: Request):
        headers = {key: request.headers.get(key) for key in ("authorization", "if-match")}
        asked = {"thing": thing, "body": await request.json(), "query": str(request.query_params)}
        return JSONResponse({**asked, **headers}, headers={"etag": '"8"'})

    @app.post("/api/v1/things")
    def post(request: Request):
        return JSONResponse({"key": request.headers.get("idempotency-key")}, status_code=201)

    @app.get("/api/v1/refused")
    def refused():
        return JSONResponse(
            {"status": 409, "detail": "No.", "code": "in-use", "hint": "Wait."}, status_code=409
        )

    return app


def test_an_answer_without_content_is_none(app):
    assert asyncio.run(Api(app, "word").get("/nothing")) is None


def test_what_is_no_document_is_text(app):
    assert asyncio.run(Api(app, "word").get("/text")) == "as it is"


def test_a_call_carries_session_tag_body_and_quoted_parts(app):
    api = Api(app, "word")
    path = f"/things/{part('Müller %2F?')}"
    answer = asyncio.run(api.call("PUT", path, {"a": 1}, tag='"7"', query={"x": [1, 2], "y": None}))
    assert answer.tag == '"8"'
    assert answer.body == {
        "thing": "Müller %2F?", "body": {"a": 1}, "query": "x=1&x=2",
        "authorization": "Bearer word", "if-match": '"7"',
    }  # fmt: skip


def test_what_must_happen_once_carries_its_key(app):
    api = Api(app, "word")
    assert asyncio.run(api.post_once("/things", {}, "guide-1")) == {"key": "guide-1"}
    assert asyncio.run(api.post("/things", {})) == {"key": None}


def test_a_refusal_is_an_error_with_its_words(app):
    with pytest.raises(Answered) as caught:
        asyncio.run(Api(app, "word").get("/refused"))
    assert (caught.value.status, caught.value.reason, caught.value.advice) == (
        409, "in-use", "Wait.",
    )  # fmt: skip


@pytest.fixture
def jobs():
    """Yield an application that starts jobs, and what was started."""
    app, done = FastAPI(), []

    @app.post("/api/v1/runs")
    async def post(request: Request):
        done.append(await request.json())
        number, status = len(done), 409 if done[-1] == "no" else 201
        await asyncio.sleep(0)
        return JSONResponse({"number": number, "status": status}, status_code=status)

    @app.delete("/api/v1/runs/{number}", status_code=204)
    def delete(number: int):
        return Response(status_code=204)

    return app, done


def test_the_same_sent_twice_is_done_once(jobs):
    app, done = jobs

    async def pressing():
        api = Api(app, "word")
        told = await asyncio.gather(*(api.post("/runs", body) for body in ("a", "a", "b")))
        assert [each["number"] for each in told] == [1, 1, 2]
        assert (await api.post("/runs", "a"))["number"] == 1  # the page has not gone on yet
        assert (await Api(app, "word").post("/runs", "a"))["number"] == 3  # of another page
        await api.delete("/runs/1")
        assert (await api.post("/runs", "a"))["number"] == 4

    asyncio.run(pressing())
    assert done == ["a", "b", "a", "a"]


def test_the_same_sent_later_is_done_anew(jobs, monkeypatch):
    app, _ = jobs
    monkeypatch.setattr(calling, "TWICE_S", 0)

    async def pressing():
        api = Api(app, "word")
        assert (await api.post("/runs", "a"))["number"] == 1
        await asyncio.sleep(0)
        assert (await api.post("/runs", "a"))["number"] == 2

    asyncio.run(pressing())


def test_what_was_refused_is_tried_again(jobs):
    app, done = jobs

    async def pressing():
        api = Api(app, "word")
        pair = (api.post("/runs", "no") for _ in range(2))
        told = await asyncio.gather(*pair, return_exceptions=True)
        assert [type(each) for each in told] == [Answered, Answered]
        assert done == ["no"]
        await asyncio.sleep(0)
        with pytest.raises(Answered):
            await api.post("/runs", "no")

    asyncio.run(pressing())
    assert done == ["no", "no"]


def test_who_leaves_takes_nothing_from_another_press(jobs):
    app, done = jobs

    async def pressing():
        api = Api(app, "word")
        leaving = asyncio.create_task(api.post("/runs", "c"))
        await asyncio.sleep(0)
        staying = asyncio.create_task(api.post("/runs", "c"))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying)["number"] == 1

    asyncio.run(pressing())
    assert done == ["c"]


def test_what_was_sent_anew_is_not_forgotten_with_what_was_sent_before(jobs, monkeypatch):
    app, done = jobs
    monkeypatch.setattr(calling, "TWICE_S", 0.05)

    async def pressing():
        api = Api(app, "word")
        await api.post("/runs", "a")
        monkeypatch.setattr(calling, "TWICE_S", 60.0)
        await api.delete("/runs/1")
        await api.post("/runs", "a")
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        loop.call_later(0.1, over.set_result, None)  # the first one would have been forgotten
        await over
        assert (await api.post("/runs", "a"))["number"] == 2

    asyncio.run(pressing())
    assert done == ["a", "a"]
