"""Removing an account with rights, as an act for four eyes."""

from collections.abc import Mapping
from typing import Any

from ruchu.control.accounts import rights
from ruchu.control.accounts.users import Users
from ruchu.control.approvals.acts import Act, Kind
from ruchu.control.approvals.approvals import Approvals
from ruchu.errors import NotFound, Stale
from ruchu.model.principals import LOCAL, Principal, Right


class UserRemoval:
    """Removes accounts: those with rights by an act, those without any at once."""

    def __init__(self, users: Users, approvals: Approvals) -> None:
        self._users = users
        self._approvals = approvals
        approvals.register(Kind.REMOVE_USER, self._carry_out)

    def remove(self, by: Principal, user: str) -> Mapping[str, Any]:
        """Remove an account.

        Raises:
            Forbidden: they may not.
            NotFound: there is none of this id.
            LastAdministrator: nobody would be left.
            NeedsApproval: it has rights, and four eyes are on.
        """
        by.demand(Right.ACCOUNTS)
        found = self._users.get(user)
        if not found.grants:
            self._users.remove(by, user)
            return {"removed": user}
        grants = rights.as_document(found.grants)
        roles = "; ".join(f"{', '.join(names)} in {group}" for group, names in grants.items())
        losses = (
            f"The account {found.name} ({found.display}) with its roles: {roles}.",
            "Its sessions, tokens and authenticator end at once.",
        )
        arguments = {"user": user, "name": found.name, "grants": grants}
        return self._approvals.carry_out(Act(Kind.REMOVE_USER, found.name, arguments, losses), by)

    def _carry_out(self, request: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        del request  # removing what is removed already does nothing
        try:
            found = self._users.get(arguments["user"])
        except NotFound:
            return {"removed": arguments["user"]}
        if rights.as_document(found.grants) != arguments["grants"]:
            raise Stale("(the roles of the account)", hint="Ask again.")
        self._users.remove(LOCAL, found.id)
        return {"removed": found.id}
