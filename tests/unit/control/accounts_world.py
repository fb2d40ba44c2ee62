"""What tests of accounts share: cheap passwords, people, sessions, what was recorded."""

import datetime

from ruchu.control.accounts.passwords import Costs
from ruchu.control.accounts.sessions import Origin
from ruchu.control.accounts.signing_in import Credentials
from ruchu.control.accounts.users import Profile
from ruchu.control.audit.trail import Search
from ruchu.model.principals import LOCAL, Role

CHEAP = Costs(memory_kib=8, iterations=1, lanes=1)
GOOD, BETTER = "vier Birnen, ein Hut", "drei Pflaumen im Regen"
HERE = Origin("192.0.2.1", "Firefox")
ADMIN = {"*": frozenset({Role.ADMINISTRATOR})}


def person(accounts, name, grants=None, password=GOOD):
    """Make an account with a password; return its id."""
    user, word = accounts.users.create(LOCAL, name, Profile(name.title()), grants or {})
    accounts.entering.choose_password(word, password)
    return user


def sign_in(accounts, name, password=GOOD, code="", replacing="", origin=HERE):
    return accounts.signing_in.sign_in(Credentials(name, password, code), origin, replacing)


def principal(accounts, name):
    return accounts.sessions.authenticate(sign_in(accounts, name).word)


def pass_time(clock, **delta):
    clock.move(datetime.timedelta(**delta))


def recorded(trail, action=""):
    return [(r.actor, r.action, r.subject, r.outcome) for r in trail.search(Search(action=action))]
