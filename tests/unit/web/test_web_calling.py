"""Calls of the API within the process, against an application that answers what a test wants."""

import asyncio

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from ruchu.errors import Answered
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
