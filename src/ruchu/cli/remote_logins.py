"""Who we are to servers: tokens that are given, and sign-ins that `ruchu login` keeps."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruchu.cli.remote_target import Target
from ruchu.errors import UsageError

_FILE = "servers.json"
_BYTES_MAX = 1 << 20
_TOKEN_MAX = 4096


@dataclass(frozen=True, slots=True)
class Login:
    """A token, and the certificates (PEM) that may vouch for the server."""

    token: str = field(default="", repr=False)
    trusted: str = ""


def find(target: Target) -> Login:
    """Return who we are to a server: given for this command, or kept.

    Raises:
        UsageError: a file cannot be read.
    """
    kept = _kept(target.state).get(target.url, {})
    token, trusted = str(kept.get("token", "")), str(kept.get("trusted", ""))
    if os.environ.get("RUCHU_TOKEN"):
        token = os.environ["RUCHU_TOKEN"].strip()
    if target.token_file is not None:
        token = first_line(target.token_file)
    if target.ca_file is not None:
        trusted = _text(target.ca_file, _BYTES_MAX)
    return Login(token, trusted)


def keep(target: Target, login: Login) -> None:
    """Keep a sign-in, for this user only."""
    kept = _kept(target.state)
    kept[target.url] = {"token": login.token, "trusted": login.trusted}
    _write(target.state, kept)


def forget(target: Target) -> bool:
    """Forget a sign-in; tell whether there was one."""
    kept = _kept(target.state)
    if kept.pop(target.url, None) is None:
        return False
    _write(target.state, kept)
    return True


def first_line(path: Path) -> str:
    """Return the token in a file.

    Raises:
        UsageError: there is none.
    """
    lines = _text(path, _TOKEN_MAX).split()
    if not lines:
        raise UsageError(f"({path} holds no token)")
    return lines[0]


def _kept(state: Path) -> dict[str, Any]:
    path = state / _FILE
    if not path.exists():
        return {}
    try:
        found = json.loads(_text(path, _BYTES_MAX))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"({path} is damaged)", hint="Remove it, and sign in again.")
    return found


def _write(state: Path, kept: dict[str, Any]) -> None:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = state / f"{_FILE}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        os.write(descriptor, json.dumps(kept).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(state / _FILE)


def _text(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"({path}: {error})") from None
    if len(data) > most:
        raise UsageError(f"({path} is too large)")
    return text
