"""Who asks, and whether they may ask this at all."""

import hmac
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from ruchu.api import rights_table
from ruchu.api.rights_table import Need, Where
from ruchu.control.accounts.sessions import Origin
from ruchu.control.server.services import Services
from ruchu.errors import Forbidden, NotAuthenticated, UsageError
from ruchu.model.principals import Principal, Right

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
        Forbidden: the request was made by a page of another site, or they may not ask this.
    """
    if bearer is not None:
        by = services.accounts.bearer(bearer.credentials)
    else:
        if not cookie:
            raise NotAuthenticated
        if request.method not in _SAFE and not hmac.compare_digest(
            request.headers.get(CSRF_HEADER, "").encode(), b"1"
        ):
            raise Forbidden(f"(the header {CSRF_HEADER}: 1 is missing)")
        by = services.accounts.bearer(cookie)
    # An endpoint without a row in the table answers nobody.
    _admit(by, rights_table.TABLE[operation_of(request)])
    return by


def operation_of(request: Request) -> str:
    """Return the name of the operation that a request asks for."""
    return str(request.scope["route"].name).removesuffix("_")


def _admit(by: Principal, need: Need) -> None:
    if need.person:
        by.demand_person()
    if need.where in {Where.OPEN, Where.SIGNED_IN, Where.PERSON, Where.OWN}:
        return
    if need.where is Where.EVERYWHERE:
        for right in need.rights:
            by.demand(right)
    elif not any(by.groups(right) for right in need.rights):
        names = " or ".join(need.rights)
        raise Forbidden(f"(it takes the right {names} in a group)")


By = Annotated[Principal, Depends(principal_of)]


def set_cookie(response: Response, word: str, *, secure: bool) -> None:
    """Give a browser its session."""
    response.set_cookie(COOKIE, word, httponly=True, secure=secure, samesite="strict", path="/")


def groups_of(by: Principal, right: Right = Right.VIEW) -> tuple[str, ...] | None:
    """Return the groups in which somebody has a right; None if it is everywhere."""
    return None if by.may(right) else tuple(sorted(by.groups(right)))


async def sound(request: Request) -> None:
    """Refuse a body with characters that no database takes: NUL, and halves of characters.

    Raises:
        UsageError: it has.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return
    body = await request.body()
    # Nearly every body has no escape at all, and need not be looked at twice.
    if b"\\u" in body and not _is_sound(await request.json()):
        raise UsageError("(the body holds a character that cannot be kept)")


def _is_sound(document: Any) -> bool:
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and ("\0" in value or not _encodes(value)):
            return False
    return True


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
