"""Errors as documents of RFC 9457 (application/problem+json)."""

import secrets
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
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
    (errors.VersionMissing, HTTPStatus.PRECONDITION_REQUIRED),
    (errors.NeedsApproval, HTTPStatus.CONFLICT),
    (errors.DatabaseUnusable, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.IdentityProviderAway, HTTPStatus.BAD_GATEWAY),
    (errors.ServerAway, HTTPStatus.BAD_GATEWAY),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.AlreadyExists, HTTPStatus.CONFLICT),
    (errors.PointProtected, HTTPStatus.CONFLICT),
    (errors.UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.WireError, HTTPStatus.BAD_GATEWAY),
    (errors.ControlError, HTTPStatus.CONFLICT),
    (RuchuError, HTTPStatus.BAD_GATEWAY),
)
# Codes of what the framework refuses; phrases of statuses are not the same in every Python.
_CODES = {
    400: "bad-request", 404: "no-such-address", 405: "method-not-allowed", 413: "too-large",
    415: "media-type", 422: "invalid-request",
}  # fmt: skip
# A detail quotes what was sent, which may be long.
TEXT_MAX = 2000
RETRY_AFTER_S = 10


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
    request: str | None = Field(
        default=None, description="with the code `needs-approval`: id of the request that waits"
    )


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
    """Return a problem as an answer; `more` are `hint`, `retry`, `instance` and `request`."""
    problem = Problem(
        type="about:blank",
        title=status.phrase,
        status=status.value,
        detail=detail[:TEXT_MAX],
        code=code,
        **more,
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True), status.value, dict(headers or {}),
        media_type=MEDIA_TYPE,
    )  # fmt: skip


def of_error(error: RuchuError) -> JSONResponse:
    """Return the answer for an error of ours."""
    status = status_of(error)
    headers, more = {}, {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.TooMany):
        headers["Retry-After"] = f"{max(1, round(error.after_s or RETRY_AFTER_S))}"
    if isinstance(error, errors.NeedsApproval):
        more["request"] = error.request
    return answer(
        status, error.code, str(error), headers, hint=error.advice, retry=error.retry, **more
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of problems that an endpoint has besides those of all endpoints."""
    return {status: described(status) for status in sorted(statuses)}


def described(status: int) -> dict[str, Any]:
    """Return the description of a problem for the documentation."""
    return {
        "description": HTTPStatus(status).phrase,
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": example(status),
            }
        },
    }


def example(status: int) -> dict[str, Any]:
    """Return a problem of a status, as an example."""
    kinds = [kind for kind, of in _STATUSES if of == status and kind is not RuchuError]
    found = kinds[0]() if kinds else RuchuError()
    problem = Problem(
        type="about:blank", title=HTTPStatus(status).phrase, status=status,
        detail=str(found) if kinds else HTTPStatus(status).phrase,
        code=found.code if kinds else _CODES.get(status, found.code),
        hint=found.advice, retry=found.retry,
    )  # fmt: skip
    return problem.model_dump(exclude_none=True)


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
        # What was sent may hold halves of characters, which cannot be sent back.
        detail = detail.encode("utf-8", "backslashreplace").decode()
        return answer(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", detail)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        del request
        return of_http(error)

    @app.exception_handler(sa.exc.OperationalError)
    def _busy(request: Request, error: sa.exc.OperationalError) -> JSONResponse:
        # PostgreSQL gave up one of two transactions that met, or the database is away.
        request.app.state.tell(f"{request.method} {request.scope['path']}: {error.orig!r}")
        return of_error(errors.DatabaseUnusable("(it is busy, or away)"))

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> JSONResponse:
        instance = secrets.token_hex(8)
        text = "".join(traceback.format_exception(error))
        request.app.state.tell(f"{instance} {request.method} {request.scope['path']}\n{text}")
        return answer(
            HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "This is a bug of the server.",
            instance=instance,
        )  # fmt: skip


def of_http(error: HTTPException) -> JSONResponse:
    """Return the answer for what the framework refuses."""
    status = HTTPStatus(error.status_code)
    code = _CODES.get(error.status_code, f"http-{error.status_code}")
    return answer(status, code, str(error.detail), error.headers)
