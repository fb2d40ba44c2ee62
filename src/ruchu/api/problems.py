"""Errors as documents of RFC 9457 (application/problem+json)."""

import secrets
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ruchu import errors
from ruchu.errors import RuchuError

MEDIA_TYPE = "application/problem+json"
# The first class that an error is one of decides.
_STATUSES: tuple[tuple[type[RuchuError], HTTPStatus], ...] = (
    (errors.NotAuthenticated, HTTPStatus.UNAUTHORIZED),
    (errors.Forbidden, HTTPStatus.FORBIDDEN),
    (errors.TooMany, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.Stale, HTTPStatus.PRECONDITION_FAILED),
    (errors.NeedsApproval, HTTPStatus.CONFLICT),
    (errors.DatabaseUnusable, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.AlreadyExists, HTTPStatus.CONFLICT),
    (errors.PointProtected, HTTPStatus.CONFLICT),
    (errors.UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.WireError, HTTPStatus.BAD_GATEWAY),
    (errors.ControlError, HTTPStatus.CONFLICT),
    (RuchuError, HTTPStatus.BAD_GATEWAY),
)
# What a request may send us: definitions of thousands of machines.
TEXT_MAX = 2000


class Problem(BaseModel):
    """What went wrong, and what to do about it."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no such thing. (policy 'nightly')"])
    code: str = Field(description="stable: programs match it", examples=["not-found"])
    hint: str = Field(default="", examples=["See `GET /api/v1/policies`."])
    retry: bool = Field(default=False, description="the same request may succeed later")
    instance: str = Field(default="", description="names this occurrence in the log of the server")


def status_of(error: RuchuError) -> HTTPStatus:
    """Return the status that an error is answered with."""
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


def answer(
    status: HTTPStatus,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> JSONResponse:
    """Return a problem as an answer; `more` are `hint`, `retry` and `instance`."""
    problem = Problem(
        type="about:blank",
        title=status.phrase,
        status=status.value,
        detail=detail[:TEXT_MAX],
        code=code,
        **more,
    )
    return JSONResponse(
        problem.model_dump(), status.value, dict(headers or {}), media_type=MEDIA_TYPE
    )


def of_error(error: RuchuError) -> JSONResponse:
    """Return the answer for an error of ours."""
    status = status_of(error)
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status is HTTPStatus.TOO_MANY_REQUESTS:
        headers["Retry-After"] = "10"
    return answer(
        status, error.code, str(error), hint=error.advice, retry=error.retry, headers=headers
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of problems for the documentation of an endpoint."""
    every = {401, 403, 422, 429, *statuses}
    return {
        status: {
            "model": Problem,
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted(every)
    }


def install(app: FastAPI) -> None:
    """Let an application answer errors with problems."""

    @app.exception_handler(RuchuError)
    def _ours(request: Request, error: RuchuError) -> JSONResponse:
        del request
        return of_error(error)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        del request
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        detail = f"({where}: {first.get('msg')})"
        return answer(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", detail)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        del request
        status = HTTPStatus(error.status_code)
        code = status.phrase.lower().replace(" ", "-")
        return answer(status, code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> JSONResponse:
        instance = secrets.token_hex(8)
        text = "".join(traceback.format_exception(error))
        request.app.state.tell(f"{instance} {request.method} {request.url.path}\n{text}")
        return answer(
            HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "This is a bug of the server.",
            instance=instance,
        )  # fmt: skip
