"""Accounts, groups, tokens, authenticators."""

import datetime
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from ruchu.api import identity, paging, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, Limit, Page
from ruchu.control.accounts.groups import Group, Quota
from ruchu.control.accounts.tokens import NewToken, Token
from ruchu.control.accounts.users import Profile, User
from ruchu.model.principals import ALL_GROUPS, Grants, Right, Role

router = APIRouter(tags=["accounts"])
DAYS_MAX = 730
COUNT_MAX = 1_000_000

GrantsDocument = Annotated[
    dict[str, list[Role]],
    Field(max_length=1000, description=f"roles by resource group; {ALL_GROUPS!r} is all of them",
          examples=[{"*": ["operator"]}]),
]  # fmt: skip


class NewUser(BaseModel):
    """An account that is to be."""

    name: str = Field(max_length=100, examples=["li.na"])
    display: str | None = Field(default=None, max_length=200)
    mail: str | None = Field(default=None, max_length=200)
    language: str | None = Field(default=None, max_length=10, examples=["zh"])
    grants: GrantsDocument = {}


class UserMade(BaseModel):
    """An account, and the word of the link with which its owner chooses a password."""

    user: User
    link: str


class UserChange(BaseModel):
    """What of an account may be changed; what is left out stays."""

    display: str | None = Field(default=None, max_length=200)
    mail: str | None = Field(default=None, max_length=200)
    language: str | None = Field(default=None, max_length=10)
    disabled: bool | None = None
    grants: GrantsDocument | None = None


class PasswordChange(BaseModel):
    """A new password of the account that is signed in."""

    current: str = Field(max_length=1000)
    new: str = Field(max_length=1000)


class PasswordChosen(BaseModel):
    """The password that the owner of a new account chooses."""

    link: str = Field(max_length=200)
    password: str = Field(max_length=1000)


class WantedToken(BaseModel):
    """A token that is to be made."""

    name: str = Field(max_length=100, examples=["monitoring"])
    rights: list[Right] = Field(max_length=20, examples=[["view"]])
    groups: list[str] = Field(default=[ALL_GROUPS], max_length=1000)
    days: int = Field(default=365, ge=1, le=DAYS_MAX)


class TokenMade(BaseModel):
    """A token; its word is shown once."""

    id: str
    token: str


class GroupDocument(BaseModel):
    """A resource group; its name is in the address."""

    title: str = Field(default="", max_length=200)
    bytes: int = Field(default=0, ge=0, le=1 << 62, description="stored at most; 0: no quota")
    machines: int = Field(default=0, ge=0, le=COUNT_MAX, description="protected; 0: no quota")
    runs: int = Field(default=0, ge=0, le=COUNT_MAX, description="backups a day; 0: no quota")


class Link(BaseModel):
    """A one-time link."""

    link: str = Field(description="the word of the link, shown once")


class Removed(BaseModel):
    """What was removed."""

    removed: str


class Enrolled(BaseModel):
    """An authenticator that waits for its first code."""

    secret: str
    uri: str = Field(description="for a picture that the authenticator reads")


class RecoveryCodes(BaseModel):
    """What opens the account without the authenticator, each once."""

    recovery_codes: list[str]


class PasswordOf(BaseModel):
    """Whose password was chosen."""

    user: str


class Code(BaseModel):
    """What the authenticator shows."""

    code: str = Field(max_length=50)


def _grants(document: dict[str, list[Role]]) -> Grants:
    return {group: frozenset(roles) for group, roles in document.items()}


@router.get("/users", responses=problems.responses())
def list_users(services: ServicesOf, by: By, after: After = "", limit: Limit = 100) -> Page[User]:
    """List the accounts."""
    by.demand(Right.ACCOUNTS)
    rows = services.accounts.users.list(after, limit + 1)
    return paging.page(rows, limit, lambda row: row.name)


@router.post("/users", status_code=201, responses=problems.responses(404, 409))
def add_user(services: ServicesOf, by: By, wanted: Annotated[NewUser, Body()]) -> UserMade:
    """Make an account; its owner chooses the password with a link."""
    profile = Profile(wanted.display, wanted.mail, wanted.language)
    user, link = services.accounts.users.create(by, wanted.name, profile, _grants(wanted.grants))
    return UserMade(user=services.accounts.users.get(user), link=link)


@router.get("/users/{user}", responses=problems.responses(404))
def show_user(services: ServicesOf, by: By, user: str) -> User:
    """Show an account."""
    if user != by.user:
        by.demand(Right.ACCOUNTS)
    return services.accounts.users.get(user)


@router.patch("/users/{user}", responses=problems.responses(404, 409))
def change_user(
    services: ServicesOf, by: By, user: str, change: Annotated[UserChange, Body()]
) -> User:
    """Change an account: its profile, its roles, whether it may sign in."""
    users = services.accounts.users
    profile = Profile(change.display, change.mail, change.language)
    if profile.columns():
        users.change(by, user, profile)
    if change.grants is not None:
        users.set_grants(by, user, _grants(change.grants))
    if change.disabled is not None:
        users.set_disabled(by, user, disabled=change.disabled)
    return show_user(services, by, user)


@router.delete("/users/{user}", responses=problems.responses(404, 409))
def remove_user(services: ServicesOf, by: By, user: str) -> Removed:
    """Remove an account; one with roles takes four eyes if they are on."""
    return Removed(**services.user_removal.remove(by, user))


@router.post("/users/{user}/link", status_code=201, responses=problems.responses(404))
def password_link(services: ServicesOf, by: By, user: str) -> Link:
    """Make a link with which the owner of an account chooses a new password."""
    return Link(link=services.accounts.users.password_link(by, user))


@router.post("/password", responses=problems.responses(401, 403))
def choose_password(services: ServicesOf, wanted: Annotated[PasswordChosen, Body()]) -> PasswordOf:
    """Choose the password of an account with its link."""
    user = services.accounts.entering.choose_password(wanted.link, wanted.password)
    return PasswordOf(user=user)


@router.put("/password", status_code=204, responses=problems.responses())
def change_password(
    services: ServicesOf, by: By, wanted: Annotated[PasswordChange, Body()]
) -> None:
    """Change the password of the account that is signed in."""
    services.accounts.users.set_password(by, wanted.current, wanted.new)


@router.post("/authenticator", status_code=201, responses=problems.responses(409))
def enrol_authenticator(services: ServicesOf, by: By) -> Enrolled:
    """Begin to use an authenticator (TOTP); it counts once a code of it was confirmed."""
    found = services.accounts.totp.enrol(by)
    return Enrolled(secret=found.secret, uri=found.uri)


@router.post("/authenticator/confirm", responses=problems.responses(404, 409))
def confirm_authenticator(
    services: ServicesOf, by: By, wanted: Annotated[Code, Body()]
) -> RecoveryCodes:
    """Confirm the authenticator; the answer holds the recovery codes, once."""
    return RecoveryCodes(recovery_codes=list(services.accounts.totp.confirm(by, wanted.code)))


@router.post("/authenticator/off", status_code=204, responses=problems.responses())
def turn_authenticator_off(services: ServicesOf, by: By, wanted: Annotated[Code, Body()]) -> None:
    """Use the authenticator no more."""
    services.accounts.totp.turn_off(by, wanted.code)


@router.delete("/users/{user}/authenticator", status_code=204, responses=problems.responses(404))
def reset_authenticator(services: ServicesOf, by: By, user: str) -> None:
    """Take the authenticator of somebody else away, who has lost it."""
    services.accounts.totp.reset(by, user)


@router.get("/tokens", responses=problems.responses())
def list_tokens(services: ServicesOf, by: By) -> list[Token]:
    """List the API tokens of this account."""
    return list(services.accounts.tokens.list(by))


@router.post("/tokens", status_code=201, responses=problems.responses(409))
def add_token(services: ServicesOf, by: By, wanted: Annotated[WantedToken, Body()]) -> TokenMade:
    """Make an API token."""
    lifetime = datetime.timedelta(days=wanted.days)
    new = NewToken(wanted.name, frozenset(wanted.rights), frozenset(wanted.groups), lifetime)
    made = services.accounts.tokens.create(by, new)
    return TokenMade(id=made.id, token=made.word)


@router.delete("/tokens/{token}", status_code=204, responses=problems.responses(404))
def revoke_token(services: ServicesOf, by: By, token: str) -> None:
    """Revoke an API token."""
    services.accounts.tokens.revoke(by, token)


@router.get("/groups", responses=problems.responses())
def list_groups(services: ServicesOf, by: By) -> list[Group]:
    """List the resource groups."""
    seen = identity.groups_of(by)
    return [each for each in services.accounts.groups.list() if seen is None or each.name in seen]


@router.put("/groups/{name}", responses=problems.responses(404, 409))
def put_group(
    services: ServicesOf, by: By, name: str, wanted: Annotated[GroupDocument, Body()]
) -> Group:
    """Make a resource group, or change its title and quota."""
    quota = Quota(wanted.bytes, wanted.machines, wanted.runs)
    group = Group(name, wanted.title, quota)
    groups = services.accounts.groups
    if any(known.name == name for known in groups.list()):
        groups.change(by, group)
    else:
        groups.create(by, group)
    return groups.get(name)


@router.delete("/groups/{name}", status_code=204, responses=problems.responses(404))
def remove_group(services: ServicesOf, by: By, name: str) -> None:
    """Remove a resource group that is empty."""
    services.accounts.groups.remove(by, name)
