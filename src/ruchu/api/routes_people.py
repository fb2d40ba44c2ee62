"""What administrators see of others: where they are signed in, and what a group uses."""

from fastapi import APIRouter

from ruchu.api import problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.control.accounts.groups import Usage
from ruchu.control.accounts.sessions import Session
from ruchu.model.principals import Right

router = APIRouter(tags=["accounts"])


@router.get("/users/{user}/sessions", responses=problems.responses(404))
def user_sessions(services: ServicesOf, by: By, user: str) -> list[Session]:
    """List where an account is signed in; `DELETE /sessions/{session}` ends one of them."""
    by.demand(Right.ACCOUNTS)
    found = services.accounts.users.get(user)
    return list(services.accounts.sessions.list(by, found.id))


@router.get("/groups/{name}/usage", responses=problems.responses(404))
def group_usage(services: ServicesOf, by: By, name: str) -> Usage:
    """Show how much of its quota a group uses: bytes, machines, and backups since midnight, UTC."""
    reach.require(by, Right.VIEW, name, f"(the group {name[:80]})")
    services.accounts.groups.get(name)
    return services.quotas.usage(name)
