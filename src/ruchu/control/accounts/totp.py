"""Codes of an authenticator (RFC 6238), and recovery codes for the day it is lost."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyotp
import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.accounts import proofs, users
from ruchu.control.accounts.lockout import Lockout
from ruchu.control.accounts.tables import RECOVERY_CODES, USERS
from ruchu.control.audit.trail import REFUSED, Trail
from ruchu.control.database.database import Database
from ruchu.control.vault.vault import Owner, Vault
from ruchu.errors import AlreadyExists, Forbidden, NotFound
from ruchu.model.principals import Principal, Right

ISSUER = "Ruchu"
_STEP_S = 30
# Clocks of telephones: one step before, one behind. Each more would help who guesses.
_WINDOW = 1
# Guesses of somebody who took over an open session: they wait as at the door.
_INSIDE = "(inside)"
RECOVERY_CODES_COUNT = 10


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an authenticator is told; shown once."""

    secret: str = field(repr=False)
    uri: str = field(repr=False)


class Totp:
    """The authenticators of a server's accounts. Safe in several threads."""

    def __init__(
        self, database: Database, clock: Clock, trail: Trail, vault: Vault, lockout: Lockout
    ) -> None:
        self._database = database
        self._clock = clock
        self._trail = trail
        self._vault = vault
        self._lockout = lockout

    def enrol(self, by: Principal) -> Enrolment:
        """Make a secret for an authenticator; it counts once it is confirmed.

        Raises:
            Forbidden: it is no person.
            AlreadyExists: there is one; it has to be turned off first.
        """
        by.demand_person()
        secret = pyotp.random_base32()
        with self._trail.writing() as recording:
            row = users.row(recording.connection, by.user)
            if row.totp_since is not None:
                raise AlreadyExists("(an authenticator)", hint="Turn it off first.")
            self._vault.put(_pending(by.user), secret, recording.connection)
        uri = pyotp.TOTP(secret, interval=_STEP_S).provisioning_uri(
            name=row.name, issuer_name=ISSUER
        )
        return Enrolment(secret, uri)

    def confirm(self, by: Principal, code: str) -> Sequence[str]:
        """Turn it on with a first code; return the recovery codes, which are shown once.

        Raises:
            Forbidden: the code is wrong, or it is no person.
            NotFound: nothing waits to be confirmed.
            TooMany: too many wrong codes.
        """
        by.demand_person()
        self._lockout.begin(by.name, _INSIDE)
        codes = [proofs.fresh_recovery_code() for _ in range(RECOVERY_CODES_COUNT)]
        with self._trail.writing() as recording:
            connection = recording.connection
            row = users.row(connection, by.user)
            if row.totp_since is not None:
                raise NotFound("(an authenticator that waits)", hint="It is on already.")
            secret = self._vault.get(_pending(by.user), connection)
            step = matching_step(secret, code, self._clock.now(), row.totp_step)
            if step is not None:
                self._vault.put(_secret(by.user), secret, connection)
                self._vault.delete(_pending(by.user), connection)
                values = {"totp_since": to_text(self._clock.now()), "totp_step": step}
                connection.execute(USERS.update().where(USERS.c.id == by.user).values(values))
                _replace_recovery_codes(connection, by.user, codes)
            outcome = "done" if step is not None else REFUSED
            recording.record(by.actor, "user.authenticator-on", row.name, outcome)
        if step is None:
            raise Forbidden("(the code)", hint="Is the clock of the telephone right?")
        self._lockout.succeed(by.name, _INSIDE)
        return codes

    def new_recovery_codes(self, by: Principal, code: str) -> Sequence[str]:
        """Replace the recovery codes; return the new ones.

        Raises:
            Forbidden: the code is wrong, or it is no person.
            TooMany: too many wrong codes.
        """
        codes = [proofs.fresh_recovery_code() for _ in range(RECOVERY_CODES_COUNT)]
        self._with_code(by, code, "user.recovery-codes", codes)
        return codes

    def turn_off(self, by: Principal, code: str) -> None:
        """Turn one's own off, with a code of it or a recovery code.

        Raises:
            Forbidden: the code is wrong, or it is no person.
            TooMany: too many wrong codes.
        """
        self._with_code(by, code, "user.authenticator-off", None)

    def reset(self, by: Principal, user: str) -> None:
        """Turn off the authenticator of somebody who lost it.

        Raises:
            Forbidden: they may not, or it is their own.
            NotFound: there is no such account.
        """
        by.demand(Right.ACCOUNTS)
        if by.user == user:
            raise Forbidden("(one's own)", hint="Turn it off with a code or a recovery code.")
        with self._trail.writing() as recording:
            row = users.row(recording.connection, user)
            self._forget(recording.connection, user)
            users.mark_reset(recording.connection, user, self._clock)
            recording.record(by.actor, "user.authenticator-reset", row.name)

    def accept(self, connection: sa.Connection, row: sa.Row[tuple[Any, ...]], code: str) -> str:
        """Take a code of an account, each only once; within `Trail.writing`.

        Returns:
            `totp`, `recovery`, or an empty text if it is neither.
        """
        secret = self._vault.get(_secret(row.id), connection)
        step = matching_step(secret, code, self._clock.now(), row.totp_step)
        if step is not None:
            update = USERS.update().where(USERS.c.id == row.id)
            connection.execute(update.values(totp_step=step))
            return "totp"
        digest = proofs.digest("recovery", proofs.recovery_letters(code))
        found = (RECOVERY_CODES.c.hash == digest) & (RECOVERY_CODES.c.user == row.id)
        used = connection.execute(RECOVERY_CODES.delete().where(found)).rowcount
        return "recovery" if used else ""

    def recovery_codes_left(self, user: str) -> int:
        """Return how many recovery codes were not used yet."""
        select = sa.select(sa.func.count()).where(RECOVERY_CODES.c.user == user)
        with self._database.reading() as connection:
            return int(connection.execute(select).scalar_one())

    def _with_code(
        self, by: Principal, code: str, action: str, codes: Sequence[str] | None
    ) -> None:
        """Take a code; then replace the recovery codes, or turn everything off without some."""
        by.demand_person()
        self._lockout.begin(by.name, _INSIDE)
        with self._trail.writing() as recording:
            row = users.row(recording.connection, by.user)
            accepted = row.totp_since is not None and self.accept(recording.connection, row, code)
            if accepted and codes is not None:
                _replace_recovery_codes(recording.connection, by.user, codes)
            elif accepted:
                self._forget(recording.connection, by.user)
            recording.record(by.actor, action, row.name, "done" if accepted else REFUSED)
        if not accepted:
            raise Forbidden("(the code)")
        self._lockout.succeed(by.name, _INSIDE)

    def _forget(self, connection: sa.Connection, user: str) -> None:
        self._vault.delete(_secret(user), connection)
        self._vault.delete(_pending(user), connection)
        _replace_recovery_codes(connection, user, ())
        # The step stays: a code that was taken is not taken again after a new enrolment either.
        connection.execute(USERS.update().where(USERS.c.id == user).values(totp_since=None))


def matching_step(secret: str, code: str, now: datetime.datetime, last: int) -> int | None:
    """Return the step that a code belongs to, if it is later than the last one that was taken."""
    typed = code.replace(" ", "")
    current = int(now.timestamp()) // _STEP_S
    totp = pyotp.TOTP(secret, interval=_STEP_S)
    found = None
    # All of them are compared, so that the time tells nothing.
    for step in range(current - _WINDOW, current + _WINDOW + 1):
        if proofs.equal(totp.at(step * _STEP_S), typed) and step > last:
            found = step
    return found


def _replace_recovery_codes(connection: sa.Connection, user: str, codes: Sequence[str]) -> None:
    connection.execute(RECOVERY_CODES.delete().where(RECOVERY_CODES.c.user == user))
    rows = [
        {"hash": proofs.digest("recovery", proofs.recovery_letters(code)), "user": user}
        for code in codes
    ]
    if rows:
        connection.execute(RECOVERY_CODES.insert(), rows)


def _secret(user: str) -> Owner:
    return Owner("user", user, "totp")


def _pending(user: str) -> Owner:
    return Owner("user", user, "totp-pending")
