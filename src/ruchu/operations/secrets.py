"""Where the secret of a storage comes from: a file that the state remembers, or a question.

Also the credentials of the server that a storage is on, which are something else: with them one
reaches the storage, with the secret one reads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruchu.errors import NotFound, UsageError
from ruchu.operations.registry import StorageEntry
from ruchu.repository.keyring import NO_SECRET, Secret

Ask = Callable[[str], str]
"""Asks a person for a secret; the argument is the question."""

# A key file is random bytes; a passphrase is a line. Larger ones are a mistake.
_SECRET_BYTES_MAX = 1 << 20
_HINT = (
    "Give --passphrase-file or --key-file; without them the passphrase is asked for on a terminal."
)


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a secret comes from: `none`, `prompt`, `passphrase` or `keyfile`, and its file."""

    method: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a server knows us by.

    Attributes:
        user: of a share or target; the access key of S3.
        password: of the user; the secret key of S3.
        token: of temporary credentials of S3.
        domain: of a user of a share.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    domain: str = ""


NO_CREDENTIALS = Credentials()
ASK = "ask"
"""In place of a file: they are asked for, or handed in by the caller."""

_FIELDS: Mapping[str, str] = {
    "user": "user",
    "username": "user",
    "access_key": "user",
    "aws_access_key_id": "user",
    "password": "password",
    "secret_key": "password",
    "aws_secret_access_key": "password",
    "session_token": "token",
    "aws_session_token": "token",
    "domain": "domain",
}


def read_credentials(source: str, ask: Ask | None, what: str) -> Credentials:
    """Return the credentials of a server: from a file of lines `name = value`, or asked for.

    Args:
        source: path of the file, `ask`, or empty (there are none).
        ask: asks a person.
        what: the storage, for the question.

    Raises:
        NotFound: the file is gone.
        UsageError: it has something else in it, or nobody can be asked.
    """
    if not source:
        return NO_CREDENTIALS
    if source == ASK:
        if ask is None:
            hint = "Give --credentials-file, or run it on a terminal."
            raise UsageError(f"(the credentials of {what} must be asked for)", hint=hint)
        return Credentials(ask(f"User or access key of {what}"), ask("Password or secret key"))
    values: dict[str, str] = {}
    for number, line in enumerate(
        _content(Path(source)).decode("utf-8", "replace").splitlines(), 1
    ):
        name, sign, value = line.partition("=")
        name = name.strip().lower()
        if not name or name.startswith(("#", ";", "[")):
            continue
        if not sign or name not in _FIELDS:
            known = ", ".join(_FIELDS)
            raise UsageError(f"({source}, line {number}: not `name = value`; names: {known})")
        values[_FIELDS[name]] = value.strip()
    return Credentials(**values)


def of_entry(entry: StorageEntry) -> SecretSource:
    """Return where the secret of a known storage comes from."""
    return SecretSource(entry.secret, entry.file)


def choose(
    passphrase_file: Path | None, key_file: Path | None, *, none: bool, ask: Ask | None
) -> SecretSource:
    """Return the source that the options name.

    Raises:
        UsageError: they name none, and nobody can be asked; or they name several.
    """
    if sum((passphrase_file is not None, key_file is not None, none)) > 1:
        raise UsageError("(--passphrase-file, --key-file, --no-encryption: only one of them)")
    if passphrase_file is not None:
        return SecretSource("passphrase", str(passphrase_file.absolute()))
    if key_file is not None:
        return SecretSource("keyfile", str(key_file.absolute()))
    if none:
        return SecretSource("none")
    if ask is None:
        hint = f"{_HINT} Or --no-encryption, if you mean it."
        raise UsageError("(backups are encrypted, and no secret was given)", hint=hint)
    return SecretSource("prompt")


def read(source: SecretSource, ask: Ask | None, *, new: bool = False) -> Secret:
    """Return the secret; a new one is asked for twice.

    Raises:
        NotFound: its file is gone.
        UsageError: it is empty, or nobody can be asked.
    """
    if source.method == "none":
        return NO_SECRET
    if source.method == "prompt":
        return Secret("passphrase", _asked(ask, new=new).encode())
    data = _content(Path(source.file))
    if source.method == "passphrase":
        data = data.removesuffix(b"\n").removesuffix(b"\r")
    if not data:
        raise UsageError(f"({source.file} is empty)")
    return Secret(source.method, data)


def _asked(ask: Ask | None, *, new: bool) -> str:
    if ask is None:
        raise UsageError("(the passphrase must be asked for, and there is no terminal)", hint=_HINT)
    given = ask("New passphrase" if new else "Passphrase")
    if not given:
        raise UsageError("(the passphrase is empty)")
    if new and ask("Once more") != given:
        raise UsageError("(the two passphrases differ)")
    return given


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_SECRET_BYTES_MAX + 1)
    except OSError as error:
        hint = "Put it back, or `ruchu storage adopt` the storage with another file."
        raise NotFound(f"(the secret in {path}: {error.strerror})", hint=hint) from None
    if len(data) > _SECRET_BYTES_MAX:
        raise UsageError(f"({path} is too large for a secret)")
    return data
