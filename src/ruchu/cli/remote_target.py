"""Which server a command is for."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """The server that a command is for, as the options say.

    Attributes:
        url: of it.
        named: whether it was named on the command line, and not by the environment.
        token_file: file whose line is the token.
        ca_file: certificates that may vouch for the server.
        state: directory where sign-ins are remembered.
    """

    url: str
    named: bool
    token_file: Path | None
    ca_file: Path | None
    state: Path


def target(
    url: str | None, token_file: Path | None, ca_file: Path | None, state: Path
) -> Target | None:
    """Return the server that the options or the environment name, if any."""
    found = url or os.environ.get("RUCHU_SERVER", "")
    if not found:
        return None
    return Target(found.rstrip("/"), bool(url), token_file, ca_file, state)


class Choice:
    """The server that this run of the program is for; not every command is handed its session."""

    def __init__(self) -> None:
        self.target: Target | None = None


CHOSEN = Choice()
