"""Signing in and out."""

from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Field

from ruchu.api import identity, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.control.accounts.sessions import Session
from ruchu.control.accounts.signing_in import Credentials
from ruchu.control.accounts.users import Profile, User

router = APIRouter(tags=["sessions"])


class SignIn(BaseModel):
    """What a person proves who they are with."""

    name: str = Field(max_length=200, examples=["admin"])
    password: str = Field(max_length=1000, examples=["correct horse battery staple"])
    code: str = Field(
        default="", max_length=50, description="of the authenticator, if there is one"
    )
    cookie: bool = Field(default=False, description="keep the session in a cookie, for a browser")


class Opened(BaseModel):
    """A session."""

    session: str
    token: str = Field(description="send it as `Authorization: Bearer …`")
    user: str


class FirstAdministrator(BaseModel):
    """The first account of a server."""

    link: str = Field(max_length=200, description="word of the one-time link")
    name: str = Field(max_length=100, examples=["admin"])
    password: str = Field(max_length=1000)
    display: str | None = Field(default=None, max_length=200)
    mail: str | None = Field(default=None, max_length=200)
    language: str | None = Field(default=None, max_length=10, examples=["zh"])


@router.post("/sessions", status_code=201, responses=problems.responses(401))
def sign_in(
    request: Request, response: Response, services: ServicesOf, wanted: Annotated[SignIn, Body()]
) -> Opened:
    """Sign in; the answer holds the word of the session, once."""
    credentials = Credentials(wanted.name, wanted.password, wanted.code)
    opened = services.accounts.signing_in.sign_in(credentials, identity.origin_of(request))
    if wanted.cookie:
        identity.set_cookie(response, opened.word, secure=request.scope["scheme"] == "https")
    return Opened(session=opened.session, token=opened.word, user=opened.user)


@router.post("/administrator", status_code=201, responses=problems.responses(401, 403, 409))
def make_administrator(services: ServicesOf, wanted: Annotated[FirstAdministrator, Body()]) -> User:
    """Make the first administrator with the one-time link that the server printed."""
    profile = Profile(wanted.display, wanted.mail, wanted.language)
    user = services.accounts.entering.make_administrator(
        wanted.link, wanted.name, wanted.password, profile
    )
    return services.accounts.users.get(user)


@router.get("/sessions", responses=problems.responses())
def list_sessions(services: ServicesOf, by: By) -> list[Session]:
    """List the sessions of this account."""
    return list(services.accounts.sessions.list(by))


@router.get("/sessions/current", responses=problems.responses())
def who(services: ServicesOf, by: By) -> User:
    """Say who is signed in."""
    return services.accounts.users.get(by.user)


@router.delete("/sessions/current", status_code=204, responses=problems.responses())
def sign_out(response: Response, services: ServicesOf, by: By) -> None:
    """Sign out."""
    services.accounts.signing_in.sign_out(by)
    response.delete_cookie(identity.COOKIE)


@router.delete("/sessions/{session}", status_code=204, responses=problems.responses(404))
def revoke_session(services: ServicesOf, by: By, session: str) -> None:
    """End a session of this account."""
    services.accounts.sessions.revoke(by, session)
