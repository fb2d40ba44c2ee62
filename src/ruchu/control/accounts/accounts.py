"""The accounts of a server, put together."""

from ruchu.clock import Clock
from ruchu.control.accounts.entering import Entering
from ruchu.control.accounts.groups import Groups
from ruchu.control.accounts.lockout import Lockout
from ruchu.control.accounts.oidc import Oidc
from ruchu.control.accounts.oidc_providers import Providers
from ruchu.control.accounts.passwords import Hasher
from ruchu.control.accounts.sessions import Sessions
from ruchu.control.accounts.signing_in import SigningIn
from ruchu.control.accounts.tokens import MARK, Tokens
from ruchu.control.accounts.totp import Totp
from ruchu.control.accounts.users import Users
from ruchu.control.audit.trail import Trail
from ruchu.control.database.database import Database
from ruchu.control.vault.vault import Vault
from ruchu.model.principals import Principal


class Accounts:
    """Everything about accounts. Safe in several threads.

    Attributes:
        users: accounts themselves.
        groups: resource groups and their quotas.
        entering: one-time links.
        signing_in: with name and password.
        sessions: of browsers.
        tokens: of programs.
        totp: authenticators.
        providers: identity providers.
        oidc: signing in through one.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        trail: Trail,
        vault: Vault,
        hasher: Hasher | None = None,
    ) -> None:
        hasher = hasher or Hasher()
        lockout = Lockout(clock)
        self.users = Users(database, clock, trail, vault, hasher)
        self.groups = Groups(database, trail)
        self.entering = Entering(database, clock, trail, hasher)
        self.totp = Totp(database, clock, trail, vault, lockout)
        self.signing_in = SigningIn(database, clock, trail, hasher, lockout, self.totp)
        self.sessions = Sessions(database, clock, trail)
        self.tokens = Tokens(database, clock, trail)
        self.providers = Providers(database, trail, vault)
        self.oidc = Oidc(clock, trail, self.providers)

    def bearer(self, word: str) -> Principal:
        """Return who is behind the word of a request: a token, or else a session.

        Raises:
            NotAuthenticated: nobody is.
        """
        if word.startswith(f"{MARK}_"):
            return self.tokens.authenticate(word)
        return self.sessions.authenticate(word)
