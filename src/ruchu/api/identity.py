"""Who asks: a bearer word in the header, or the cookie of a browser."""

import hmac
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from ruchu.control.accounts.sessions import Origin
from ruchu.control.server.services import Services
from ruchu.errors import Forbidden, NotAuthenticated
from ruchu.model.principals import Principal

COOKIE = "ruchu_session"
# A page of another site can make a browser send the cookie, but not set this header.
CSRF_HEADER = "x-ruchu-request"
_SAFE = {"GET", "HEAD", "OPTIONS"}
AGENT_MAX = 200

_bearer = HTTPBearer(auto_error=False, description="An API token, or the word of a session.")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="The session of a browser.")


def services_of(request: Request) -> Services:
    """Return the services of the server."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


ServicesOf = Annotated[Services, Depends(services_of)]


def origin_of(request: Request) -> Origin:
    """Return where a request comes from."""
    address = request.client.host if request.client else ""
    return Origin(address, request.headers.get("user-agent", "")[:AGENT_MAX])


def principal_of(
    request: Request,
    services: ServicesOf,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    cookie: Annotated[str | None, Depends(_cookie)],
) -> Principal:
    """Return who asks.

    Raises:
        NotAuthenticated: nobody is known by what was shown.
        Forbidden: the request was made by a page of another site.
    """
    if bearer is not None:
        return services.accounts.bearer(bearer.credentials)
    if not cookie:
        raise NotAuthenticated
    if request.method not in _SAFE and not hmac.compare_digest(
        request.headers.get(CSRF_HEADER, "").encode(), b"1"
    ):
        raise Forbidden(f"(the header {CSRF_HEADER}: 1 is missing)")
    return services.accounts.bearer(cookie)


By = Annotated[Principal, Depends(principal_of)]


def set_cookie(response: Response, word: str, *, secure: bool) -> None:
    """Give a browser its session."""
    response.set_cookie(COOKIE, word, httponly=True, secure=secure, samesite="strict", path="/")
