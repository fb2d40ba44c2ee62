"""Errors of the server, and of the line between server and nodes."""

from collections.abc import Mapping
from typing import Any, Self

from ruchu.errors.root import RuchuError


class ControlError(RuchuError):
    """The server did not carry this out."""

    code = "control"
    exit_status = 14


class NotAuthenticated(ControlError):
    """Nobody is signed in, or what was shown is not valid."""

    code = "not-authenticated"
    hint = "Sign in again, or give a token that is valid."


class CodeNeeded(NotAuthenticated):
    """A code of the authenticator is needed as well."""

    code = "code-needed"
    hint = "Give the code that the authenticator shows now, or a recovery code."


class Forbidden(ControlError):
    """This account may not do that."""

    code = "forbidden"
    hint = "An administrator can give the role or the group that it takes."


class TooMany(ControlError):
    """Too many requests in a short time."""

    code = "too-many"
    retry = True
    hint = "Wait a little, then try again."
    after_s: float = 0.0


class Stale(ControlError):
    """It was changed by somebody else in the meantime."""

    code = "stale"
    hint = "Read it again, then decide anew."


class VersionMissing(ControlError):
    """Say which version is meant, with the header If-Match."""

    code = "version-missing"
    hint = "Read it first, and send its ETag."


class NeedsApproval(ControlError):
    """A second person has to agree to this first."""

    code = "needs-approval"
    hint = "It was entered as a request; another administrator approves or refuses it."
    request: str = ""


class LastAdministrator(ControlError):
    """This is the last administrator who can sign in; nobody could administer the server."""

    code = "last-administrator"
    hint = "Make another account administrator of all groups first."


class QuotaExceeded(ControlError):
    """The group would exceed its quota:"""

    code = "quota-exceeded"
    hint = "Raise the quota of the group, or remove what is not needed any more."


class WrongServerKey(ControlError):
    """The key of this server does not open the secrets in its database."""

    code = "wrong-server-key"
    hint = "Put the right key back in its place; the secrets are untouched."


class SecretDamaged(ControlError):
    """A stored secret does not open: it was changed, or moved here from elsewhere."""

    code = "secret-damaged"
    hint = "Somebody may have tampered with the database. Enter this secret again."


class IdentityProviderAway(ControlError):
    """The identity provider does not answer, or not as it should."""

    code = "identity-provider-away"
    retry = True
    hint = "Try again later, or sign in with a password; an administrator checks its address."


class AuditBroken(ControlError):
    """The audit trail was changed:"""

    code = "audit-broken"
    hint = "Keep the database and the file of anchors as evidence; compare with your copies."


class DatabaseUnusable(ControlError):
    """The database of the server cannot be used."""

    code = "database-unusable"


class ServerAway(ControlError):
    """The server does not answer."""

    code = "server-away"
    retry = True
    hint = "Check the address, the network, and that `ruchu server` runs there."


class Answered(ControlError):
    """The server refused."""

    code = "answered"

    status = 500
    reason = ""
    request: str | None = None

    @classmethod
    def of(cls, problem: Mapping[str, Any]) -> Self:
        """Return the error for a problem (RFC 9457), with its words, its code and its hint."""
        error = cls(hint=str(problem.get("hint", "")))
        error.args = (str(problem.get("detail", "")) or str(error),)
        error.status = int(problem.get("status", 500))
        error.reason = str(problem.get("code", ""))
        error.request = problem.get("request")
        return error


class LaterFormat(ControlError):
    """This file was written by a later release:"""

    code = "later-format"
    hint = "Update the server first, then import it again."


class SealedFileClosed(ControlError):
    """The passphrase does not open this file, or the file is damaged."""

    code = "sealed-file-closed"
    hint = "Give the passphrase that it was exported with."


class ChannelFailed(ControlError):
    """The message could not be handed over."""

    code = "channel-failed"
    retry = True
    hint = "It is tried again by itself."


class ChannelRefused(ChannelFailed):
    """The message was refused."""

    code = "channel-refused"
    hint = "Check the settings and the secret of the channel; it is tried again by itself."


class WireError(RuchuError):
    """The connection between server and node failed."""

    code = "wire"
    exit_status = 15
    retry = True


class ProtocolViolation(WireError):
    """The other side does not keep to the protocol."""

    code = "protocol-violation"
    retry = False


class Refused(WireError):
    """The other side refused the connection."""

    code = "refused"
    retry = False
    hint = "Enrol this node again with a fresh token from the server."


class NodeAway(WireError):
    """The node is not connected."""

    code = "node-away"


class NodeFailed(WireError):
    """The node answered with an error:"""

    code = "node-failed"
    retry = False

    def __init__(self, detail: str = "", *, hint: str = "", remote_code: str = "") -> None:
        super().__init__(detail, hint=hint)
        self.remote_code = remote_code


class WrongAuthorityKey(WireError):
    """The key of the certificate authority does not open with this passphrase."""

    code = "wrong-authority-key"
    retry = False
    hint = "Give the server what it was made with; its nodes trust this authority only."
