"""Coming in by a one-time link: the first administrator, and choosing a password."""

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.accounts import links, names, passwords, rights, sessions, users
from ruchu.control.accounts.links import Link, Purpose
from ruchu.control.accounts.tables import USERS
from ruchu.control.accounts.users import Profile
from ruchu.control.audit.trail import Recording, Trail
from ruchu.control.database.database import Database
from ruchu.errors import Forbidden
from ruchu.model.principals import ALL_GROUPS, Principal, Role, Via


class Entering:
    """The one-time links of a server. Safe in several threads."""

    def __init__(
        self, database: Database, clock: Clock, trail: Trail, hasher: passwords.Hasher
    ) -> None:
        self._database = database
        self._clock = clock
        self._trail = trail
        self._hasher = hasher

    def first_link(self) -> str | None:
        """Return the word of a link that makes the first administrator.

        For the start of a server. None as soon as there is any account; an earlier link that
        nobody used ends.
        """
        with self._trail.writing() as recording:
            select = sa.select(USERS.c.id).limit(1)
            if recording.connection.execute(select).one_or_none() is not None:
                return None
            return self._first(recording, "system")

    def rescue_link(self, by: Principal) -> str:
        """Return the word of a link that makes one more administrator, whoever there is.

        Raises:
            Forbidden: it is not the local command line that asks.
        """
        if by.via is not Via.LOCAL:
            hint = "Use the command line on the server itself."
            raise Forbidden("(another first administrator)", hint=hint)
        with self._trail.writing() as recording:
            return self._first(recording, by.actor)

    def sweep(self) -> int:
        """Remove the links whose time is over; return how many. To be called now and then."""
        with self._trail.writing() as recording:
            return links.sweep(recording.connection, to_text(self._clock.now()))

    def look(self, word: str) -> Link:
        """Return what a link is for; it stays.

        Raises:
            NotAuthenticated: there is none, it was used, or its time is over.
        """
        with self._database.reading() as connection:
            return links.find(connection, word, self._clock)

    def make_administrator(self, word: str, name: str, password: str, profile: Profile) -> str:
        """Use a link up: make an administrator of everything; return the id of the account.

        Raises:
            NotAuthenticated: there is no such link, or it was used, or its time is over.
            InvalidName, AlreadyExists, UsageError, WeakPassword: a field is not allowed; the
                link stays.
        """
        self._look_for(word, Purpose.FIRST)
        name = names.user(name)
        passwords.check(password, name)
        kept = self._hasher.hash(password)
        with self._trail.writing() as recording:
            connection = recording.connection
            # Once more: of two who come at the same time, the second one finds it used.
            links.delete(connection, links.find(connection, word, self._clock))
            user = users.insert(recording, name, profile, to_text(self._clock.now()))
            users.write_password(connection, user, kept)
            rights.replace(connection, user, {ALL_GROUPS: frozenset({Role.ADMINISTRATOR})})
            recording.record(name, "user.first", name, facts={"id": user})
        return user

    def choose_password(self, word: str, password: str) -> str:
        """Use a link up: set the password of its account, end its sessions; return its id.

        Raises:
            NotAuthenticated: there is no such link, or it was used, or its time is over.
            WeakPassword: the password would be guessed; the link stays.
        """
        link = self._look_for(word, Purpose.PASSWORD)
        passwords.check(password, link.name)
        kept = self._hasher.hash(password)
        with self._trail.writing() as recording:
            connection = recording.connection
            link = links.find(connection, word, self._clock)
            links.delete(connection, link)
            users.write_password(connection, link.user, kept)
            sessions.delete_all(connection, link.user)
            recording.record(link.name, "user.password", link.name, facts={"by": "link"})
        return link.user

    def _look_for(self, word: str, purpose: Purpose) -> Link:
        link = self.look(word)
        if link.purpose is not purpose:
            raise Forbidden("(this link is for something else)")
        return link

    def _first(self, recording: Recording, actor: str) -> str:
        word = links.insert(recording.connection, Purpose.FIRST, None, self._clock)
        recording.record(actor, "user.first-link", "")
        return word
