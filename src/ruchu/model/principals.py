"""Who asks, and what they may do: rights, the roles that bundle them, groups of resources.

A right holds for one resource group, or for all (`ALL_GROUPS`). What belongs to no group, such as
accounts and settings, takes a right for all.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ruchu.errors import Forbidden

ALL_GROUPS = "*"
# What nobody put into another group is in this one.
DEFAULT_GROUP = "default"


class Right(enum.StrEnum):
    """Something that may be done."""

    VIEW = "view"
    OPERATE = "operate"  # policies, runs
    RESTORE = "restore"
    CONFIGURE = "configure"  # platforms, storages, nodes, settings
    ACCOUNTS = "accounts"
    AUDIT = "audit"
    APPROVE = "approve"


class Role(enum.StrEnum):
    """A bundle of rights."""

    ADMINISTRATOR = "administrator"
    OPERATOR = "operator"
    RESTORE_OPERATOR = "restore-operator"
    AUDITOR = "auditor"
    READ_ONLY = "read-only"


ROLES: Mapping[Role, frozenset[Right]] = MappingProxyType(
    {
        Role.ADMINISTRATOR: frozenset(Right),
        Role.OPERATOR: frozenset({Right.VIEW, Right.OPERATE}),
        Role.RESTORE_OPERATOR: frozenset({Right.VIEW, Right.RESTORE}),
        Role.AUDITOR: frozenset({Right.VIEW, Right.AUDIT}),
        Role.READ_ONLY: frozenset({Right.VIEW}),
    }
)

Grants = Mapping[str, frozenset[Role]]
"""Roles by resource group. A person may have several in one, such as operator and auditor."""


class Via(enum.StrEnum):
    """How somebody proved who they are."""

    SESSION = "session"
    TOKEN = "token"  # noqa: S105 - a way, no password
    LOCAL = "local"  # at the command line of the server itself


@dataclass(frozen=True, slots=True)
class Limits:
    """What a token is narrowed to, whatever its owner may do.

    Attributes:
        rights: those it may use.
        groups: those it may work in; `ALL_GROUPS` is all of its owner's.
    """

    rights: frozenset[Right]
    groups: frozenset[str]

    def allow(self, right: Right, group: str) -> bool:
        """Tell whether a right in a group lies within."""
        return right in self.rights and bool(self.groups & {ALL_GROUPS, group})


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever asks for something, as far as it was proved. Made for one request.

    Attributes:
        user: id of the account; empty for the local command line.
        name: of the account.
        grants: the roles of the account.
        via: how it was proved.
        proof: id of the session or token.
        limits: what the token is narrowed to; None narrows nothing.
    """

    user: str
    name: str
    grants: Grants
    via: Via
    proof: str = ""
    limits: Limits | None = None

    @property
    def actor(self) -> str:
        """Name for the audit trail."""
        return self.name if self.via is Via.SESSION else f"{self.name} ({self.via})"

    def may(self, right: Right, group: str = ALL_GROUPS) -> bool:
        """Tell whether they have a right in a group; without a group: everywhere."""
        if self.limits is not None and not self.limits.allow(right, group):
            return False
        roles = self.grants.get(ALL_GROUPS, frozenset()) | self.grants.get(group, frozenset())
        return any(right in ROLES[role] for role in roles)

    def groups(self, right: Right) -> frozenset[str]:
        """Return the groups in which they have a right; `ALL_GROUPS` alone if it is everywhere."""
        if self.may(right):
            return frozenset({ALL_GROUPS})
        named = set(self.grants) | (set(self.limits.groups) if self.limits else set())
        return frozenset(group for group in named - {ALL_GROUPS} if self.may(right, group))

    def demand(self, right: Right, group: str = ALL_GROUPS) -> None:
        """Refuse unless they have the right.

        Raises:
            Forbidden: they have not.
        """
        if not self.may(right, group):
            where = "" if group == ALL_GROUPS else f" in the group {group}"
            raise Forbidden(f"(it takes the right {right}{where})")

    def demand_person(self) -> None:
        """Refuse unless a person is signed in: no token makes tokens, or agrees to anything.

        Raises:
            Forbidden: it is a token, or the local command line.
        """
        if self.via is not Via.SESSION:
            raise Forbidden(
                "(a person has to be signed in for this)", hint="Sign in to the console."
            )


LOCAL = Principal(
    "", "local", {ALL_GROUPS: frozenset({Role.ADMINISTRATOR})}, Via.LOCAL
)  # root of this machine may read the database anyway
