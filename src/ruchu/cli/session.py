"""What a command works with: the local state, a terminal to ask on, a way to be cancelled."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ruchu.cli.cancelling import CANCELLATION, Cancellation

if TYPE_CHECKING:
    from ruchu.cli.remote_target import Target
    from ruchu.operations.platforms import Platforms
    from ruchu.operations.registry import Registry
    from ruchu.operations.storages import Storages


@dataclass(frozen=True, slots=True)
class Session:
    """The state directory of this run, and what is opened from it when it is needed."""

    directory: Path
    cancellation: Cancellation = CANCELLATION
    # The server that carries commands out (`cli.remote`); None: this host does.
    target: "Target | None" = None

    @property
    def registry(self) -> "Registry":
        """The local state."""
        from ruchu.operations.registry import Registry

        return Registry(self.directory)

    @property
    def storages(self) -> "Storages":
        """The storages in it."""
        from ruchu.operations.storages import Storages

        return Storages(self.registry, ask if can_ask() else None)

    @property
    def platforms(self) -> "Platforms":
        """The platforms in it."""
        from ruchu.operations.platforms import Platforms

        return Platforms(self.registry)


class Opened(Session):
    """A session whose storages stay open from one use to the next."""

    def __init__(self, directory: Path, storages: "Storages") -> None:
        super().__init__(directory)
        object.__setattr__(self, "_opened", storages)

    @property
    def storages(self) -> "Storages":
        """The storages that were opened."""
        found: Storages = self.__dict__["_opened"]
        return found


def of(context: typer.Context) -> Session:
    """Return the session of a command."""
    session = context.obj
    assert isinstance(session, Session)
    return session


def default_directory() -> Path:
    """Return where the state is if nobody says otherwise."""
    return Path(os.environ.get("RUCHU_STATE") or Path("~/.local/state/ruchu").expanduser())


def can_ask() -> bool:
    """Tell whether a person is there."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> str:
    """Ask a person for a secret."""
    return str(typer.prompt(question, hide_input=True, err=True))
