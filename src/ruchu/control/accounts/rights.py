"""What an account may do: its grants, and the rule that somebody can always administer."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from ruchu.control.accounts.tables import GRANTS, GROUPS, IDENTITIES, USERS
from ruchu.errors import LastAdministrator, NotFound
from ruchu.model.principals import ALL_GROUPS, DEFAULT_GROUP, Grants, Role


def of_users(connection: sa.Connection, users: list[str]) -> Mapping[str, Grants]:
    """Return the roles of accounts by their ids; each of them is there."""
    found: dict[str, dict[str, set[Role]]] = {user: defaultdict(set) for user in users}
    select = sa.select(GRANTS.c.user, GRANTS.c.group, GRANTS.c.role)
    for user, group, role in connection.execute(select.where(GRANTS.c.user.in_(users))):
        found[user][group].add(Role(role))
    return {
        user: {group: frozenset(roles) for group, roles in groups.items()}
        for user, groups in found.items()
    }


def of_user(connection: sa.Connection, user: str) -> Grants:
    """Return the roles of an account."""
    return of_users(connection, [user])[user]


def replace(connection: sa.Connection, user: str, grants: Grants, source: str = "") -> None:
    """Give an account these roles in the place of those that came from the same source.

    Raises:
        NotFound: there is no such resource group.
    """
    known = {ALL_GROUPS, DEFAULT_GROUP, *connection.execute(sa.select(GROUPS.c.name)).scalars()}
    for group in grants:
        if group not in known:
            raise NotFound(f"(the group {group})")
    own = (GRANTS.c.user == user) & (GRANTS.c.source == source)
    connection.execute(GRANTS.delete().where(own))
    rows = [
        {"user": user, "group": group, "role": role.value, "source": source}
        for group, roles in grants.items()
        for role in sorted(roles)
    ]
    if rows:
        connection.execute(GRANTS.insert(), rows)


@contextlib.contextmanager
def keeping_an_administrator(connection: sa.Connection) -> Iterator[None]:
    """Let something be changed, unless it takes the last administrator away.

    Raises:
        LastAdministrator: it does; the transaction has to be given up.
    """
    before = administrators(connection)
    yield
    if before and not administrators(connection):
        raise LastAdministrator


def administrators(connection: sa.Connection) -> int:
    """Return how many enabled accounts administer everything and have a way to sign in."""
    granted = (
        sa.select(GRANTS.c.user)
        .where(GRANTS.c.user == USERS.c.id)
        .where((GRANTS.c.group == ALL_GROUPS) & (GRANTS.c.role == Role.ADMINISTRATOR.value))
        .exists()
    )
    enabled = USERS.c.disabled.is_(False)
    select = sa.select(sa.func.count()).select_from(USERS)
    return int(connection.execute(select.where(enabled & granted & usable())).scalar_one())


def usable() -> sa.ColumnElement[bool]:
    """Return the condition that an account has a way to sign in: a password, or an identity."""
    elsewhere = sa.select(IDENTITIES.c.user).where(IDENTITIES.c.user == USERS.c.id).exists()
    return USERS.c.password.is_not(None) | elsewhere


def widened(before: Grants, after: Grants) -> bool:
    """Tell whether an account has a role that it had not."""
    return any(roles - before.get(group, frozenset()) for group, roles in after.items())


def as_document(grants: Grants) -> dict[str, list[str]]:
    """Return roles as a document."""
    return {group: sorted(role.value for role in roles) for group, roles in grants.items()}
