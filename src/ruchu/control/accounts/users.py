"""Accounts themselves: made, changed, disabled, removed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.accounts import links, names, passwords, rights, sessions
from ruchu.control.accounts.tables import IDENTITIES, USERS
from ruchu.control.audit.trail import Recording, Trail
from ruchu.control.database.database import Database
from ruchu.control.vault.vault import Vault
from ruchu.errors import AlreadyExists, Forbidden, InvalidName, NotFound
from ruchu.model.ids import is_id, new_id
from ruchu.model.principals import Grants, Principal, Right

# A directory of the people who work with one server; more belong into an identity provider.
USERS_MAX = 5_000
PAGE_MAX = 500


@dataclass(frozen=True, slots=True)
class User:
    """An account, as far as others may see it.

    Attributes:
        id: never used again.
        name: for signing in, unique.
        display: for people.
        mail: may be empty.
        language: such as `zh-CN`; empty is the server's.
        disabled: whether it may not sign in.
        created, signed_in: moments; the second one may be None.
        has_password: whether it signs in here.
        totp: whether it needs a code.
        elsewhere: whether it signs in through a provider.
        grants: its roles.
    """

    id: str
    name: str
    display: str
    mail: str
    language: str
    disabled: bool
    created: str
    signed_in: str | None
    has_password: bool
    totp: bool
    elsewhere: bool
    grants: Grants


@dataclass(frozen=True, slots=True)
class Profile:
    """What an account says of itself. None leaves what was there, when it is changed."""

    display: str | None = None
    mail: str | None = None
    language: str | None = None

    def columns(self) -> dict[str, str]:
        """Return what is to be written.

        Raises:
            UsageError: one of them is not allowed.
        """
        found: dict[str, str] = {}
        if self.display is not None:
            found["display"] = names.title(self.display)
        if self.mail is not None:
            found["mail"] = names.mail(self.mail)
        if self.language is not None:
            found["language"] = names.language(self.language)
        return found


class Users:
    """The accounts of a server. Safe in several threads."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        trail: Trail,
        vault: Vault,
        hasher: passwords.Hasher,
    ) -> None:
        self._database = database
        self._clock = clock
        self._trail = trail
        self._vault = vault
        self._hasher = hasher

    def create(self, by: Principal, name: str, profile: Profile, grants: Grants) -> tuple[str, str]:
        """Make an account; return its id, and the word of a link to choose its password.

        Raises:
            Forbidden: they may not.
            InvalidName, UsageError: a name is not allowed, or there are too many accounts.
            AlreadyExists: the name is taken.
            NotFound: there is no such resource group.
        """
        by.demand(Right.ACCOUNTS)
        with self._trail.writing() as recording:
            user = insert(recording, names.user(name), profile, to_text(self._clock.now()))
            rights.replace(recording.connection, user, grants)
            word = links.insert(recording.connection, links.Purpose.PASSWORD, user, self._clock)
            facts = {"id": user, "grants": rights.as_document(grants)}
            recording.record(by.actor, "user.create", names.user(name), facts=facts)
        return user, word

    def get(self, user: str) -> User:
        """Return an account.

        Raises:
            NotFound: there is none of this id.
        """
        with self._database.reading() as connection:
            return _read(connection, [row(connection, user)])[0]

    def find(self, name: str) -> User | None:
        """Return the account of a name."""
        try:
            select = sa.select(USERS).where(USERS.c.name == names.user(name))
        except InvalidName:
            return None
        with self._database.reading() as connection:
            found = connection.execute(select).one_or_none()
            return None if found is None else _read(connection, [found])[0]

    def list(self, after: str = "", limit: int = 100) -> Sequence[User]:
        """Return accounts by name, behind one."""
        select = sa.select(USERS).where(USERS.c.name > after).order_by(USERS.c.name)
        with self._database.reading() as connection:
            rows = connection.execute(select.limit(max(1, min(limit, PAGE_MAX)))).all()
            return _read(connection, rows)

    def change(self, by: Principal, user: str, profile: Profile) -> None:
        """Change what an account says of itself; everybody may for their own.

        Raises:
            Forbidden: they may not.
            NotFound: there is none of this id.
            UsageError: something is not allowed.
        """
        if by.user != user:
            by.demand(Right.ACCOUNTS)
        else:
            by.demand_person()
        values = profile.columns()
        with self._trail.writing() as recording:
            name = row(recording.connection, user).name
            if values:
                recording.connection.execute(
                    USERS.update().where(USERS.c.id == user).values(values)
                )
            recording.record(by.actor, "user.change", name, facts={"fields": sorted(values)})

    def set_grants(self, by: Principal, user: str, grants: Grants) -> None:
        """Give an account these roles, and no others; those of a provider's claims stay.

        Raises:
            Forbidden: they may not.
            NotFound: there is no such account or resource group.
            LastAdministrator: nobody would be left.
        """
        by.demand(Right.ACCOUNTS)
        with self._trail.writing() as recording:
            name = row(recording.connection, user).name
            before = rights.of_user(recording.connection, user)
            with rights.keeping_an_administrator(recording.connection):
                rights.replace(recording.connection, user, grants)
            if rights.widened(before, rights.of_user(recording.connection, user)):
                mark_reset(recording.connection, user, self._clock)
            facts = {"before": rights.as_document(before), "after": rights.as_document(grants)}
            recording.record(by.actor, "user.grant", name, facts=facts)

    def set_disabled(self, by: Principal, user: str, *, disabled: bool) -> None:
        """Shut an account out at once, with its sessions and tokens; or let it in again.

        Raises:
            Forbidden: they may not.
            NotFound: there is none of this id.
            LastAdministrator: nobody would be left.
        """
        by.demand(Right.ACCOUNTS)
        with self._trail.writing() as recording:
            name = row(recording.connection, user).name
            with rights.keeping_an_administrator(recording.connection):
                update = USERS.update().where(USERS.c.id == user)
                recording.connection.execute(update.values(disabled=disabled))
            if disabled:
                sessions.delete_all(recording.connection, user)
            action = "user.disable" if disabled else "user.enable"
            recording.record(by.actor, action, name)

    def remove(self, by: Principal, user: str) -> None:
        """Remove an account with everything that belongs to it.

        Raises:
            Forbidden: they may not.
            NotFound: there is none of this id.
            LastAdministrator: nobody would be left.
        """
        by.demand(Right.ACCOUNTS)
        with self._trail.writing() as recording:
            name = row(recording.connection, user).name
            grants = rights.of_user(recording.connection, user)
            with rights.keeping_an_administrator(recording.connection):
                recording.connection.execute(USERS.delete().where(USERS.c.id == user))
            self._vault.delete_all("user", user, recording.connection)
            facts = {"id": user, "grants": rights.as_document(grants)}
            recording.record(by.actor, "user.remove", name, facts=facts)

    def set_password(self, by: Principal, current: str, new: str) -> None:
        """Change one's own password; every other session of the account ends.

        Raises:
            Forbidden: the current one is wrong, or it is no person.
            WeakPassword: the new one would be guessed.
        """
        by.demand_person()
        with self._database.reading() as connection:
            before = row(connection, by.user)
        passwords.check(new, before.name)
        right = self._hasher.verify(before.password, current)
        fresh = self._hasher.hash(new) if right else ""
        with self._trail.writing() as recording:
            same = right and row(recording.connection, by.user).password == before.password
            if same:
                write_password(recording.connection, by.user, fresh)
                sessions.delete_all(recording.connection, by.user, but=by.proof)
            outcome = "done" if same else "refused"
            recording.record(by.actor, "user.password", before.name, outcome)
        if not same:
            raise Forbidden("(the current password is wrong)", hint="Type it once more.")

    def password_link(self, by: Principal, user: str) -> str:
        """Return the word of a link with which an account chooses a new password.

        Raises:
            Forbidden: they may not.
            NotFound: there is none of this id.
        """
        by.demand(Right.ACCOUNTS)
        with self._trail.writing() as recording:
            name = row(recording.connection, user).name
            mark_reset(recording.connection, user, self._clock)
            word = links.insert(recording.connection, links.Purpose.PASSWORD, user, self._clock)
            recording.record(by.actor, "user.password-link", name)
        return word


def insert(recording: Recording, name: str, profile: Profile, now: str) -> str:
    """Add the row of an account; return its id.

    Raises:
        AlreadyExists: the name is taken.
        UsageError: something is not allowed, or there are too many accounts.
    """
    connection = recording.connection
    if connection.execute(sa.select(sa.func.count()).select_from(USERS)).scalar_one() >= USERS_MAX:
        raise AlreadyExists(f"({USERS_MAX} accounts)", hint="Remove some that nobody needs.")
    taken = sa.select(USERS.c.id).where(USERS.c.name == name)
    if connection.execute(taken).one_or_none() is not None:
        raise AlreadyExists(f"(the account {name})")
    values: dict[str, Any] = {"display": name, "mail": "", "language": ""}
    values |= {"id": new_id(), "name": name, "disabled": False, "created": now, "totp_step": 0}
    connection.execute(USERS.insert().values(values | profile.columns()))
    return str(values["id"])


def row(connection: sa.Connection, user: str) -> sa.Row[tuple[Any, ...]]:
    """Return the row of an account.

    Raises:
        NotFound: there is none of this id.
    """
    select = sa.select(USERS).where(USERS.c.id == user)
    found = connection.execute(select).one_or_none() if is_id(user) else None
    if found is None:
        raise NotFound("(the account)")
    return found


def write_password(connection: sa.Connection, user: str, kept: str) -> None:
    """Write the hash of a password."""
    connection.execute(USERS.update().where(USERS.c.id == user).values(password=kept))


def mark_reset(connection: sa.Connection, user: str, clock: Clock) -> None:
    """Write down that somebody else opened an account, or gave it more; `approvals` minds it."""
    update = USERS.update().where(USERS.c.id == user)
    connection.execute(update.values(reset=to_text(clock.now())))


def _read(connection: sa.Connection, rows: Sequence[sa.Row[tuple[Any, ...]]]) -> Sequence[User]:
    ids = [each.id for each in rows]
    grants: Mapping[str, Grants] = rights.of_users(connection, ids)
    select = sa.select(IDENTITIES.c.user).where(IDENTITIES.c.user.in_(ids))
    elsewhere = set(connection.execute(select).scalars())
    return [
        User(
            each.id, each.name, each.display, each.mail, each.language, each.disabled,
            each.created, each.signed_in, each.password is not None,
            each.totp_since is not None, each.id in elsewhere, grants[each.id],
        )
        for each in rows
    ]  # fmt: skip
