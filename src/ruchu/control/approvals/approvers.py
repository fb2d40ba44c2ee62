"""Who may approve."""

import sqlalchemy as sa

from ruchu.control.accounts import rights
from ruchu.control.accounts.tables import GRANTS, USERS
from ruchu.errors import NeedsApproval
from ruchu.model.principals import ALL_GROUPS, ROLES, Right

HOW_TO_GET_ONE = (
    "Give another person an account of their own with the role administrator (Accounts, New); "
    "they choose their password by the link, sign in, and then approve what is asked for."
)
_NOBODY = f"At the moment nobody else can approve. {HOW_TO_GET_ONE} Then ask again."


def ids(connection: sa.Connection, group: str = ALL_GROUPS) -> set[str]:
    """Return the enabled accounts that may approve in a group."""
    able = [role.value for role, held in ROLES.items() if Right.APPROVE in held]
    select = sa.select(GRANTS.c.user).join(USERS).where(USERS.c.disabled.is_(False))
    select = select.where(GRANTS.c.role.in_(able) & GRANTS.c.group.in_([ALL_GROUPS, group]))
    return set(connection.execute(select.where(rights.usable())).scalars())


def hint(connection: sa.Connection, requester: str, group: str) -> str:
    """Return what somebody who asks should do now."""
    return NeedsApproval.hint if ids(connection, group) - {requester} else _NOBODY


def objection(connection: sa.Connection, user: str, requested: str) -> str:
    """Return why an account may not approve a request; empty if it may.

    Who may give roles could make a second account for themselves, or open that of a colleague,
    and approve their own request with it.
    """
    select = sa.select(USERS.c.created, USERS.c.reset).where(USERS.c.id == user)
    row = connection.execute(select).one_or_none()
    if row is None:
        return "the account is gone"
    if row.created >= requested:
        return "this account was made after the request; let the request be entered again"
    if row.reset is not None and row.reset >= requested:
        return "this account was opened or got a role after the request; enter the request again"
    return ""
