"""What the work of a task is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu.errors import UsageError
from ruchu.model.tasks import Order
from ruchu.nodes.places import Places
from ruchu.nodes.telling import Teller


@dataclass(frozen=True, slots=True)
class Work:
    """One attempt at work.

    Attributes:
        order: what to do.
        state: directory of the node's local state.
        places: the storages and platforms that the order names.
        teller: hears what happens.
        cancelled: asked now and then; work ends with Cancelled once it says yes.
        commands: folder of the programs that policies may run on this node; None if there is none.
    """

    order: Order
    state: Path
    places: Places
    teller: Teller
    cancelled: Callable[[], bool]
    commands: Path | None = None

    @property
    def body(self) -> Mapping[str, Any]:
        """Names and options of the work."""
        return self.order.body

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text of the body.

        Raises:
            UsageError: it is not there, or none.
        """
        value = self.order.body.get(key, default)
        if not isinstance(value, str):
            raise UsageError(f"(the order lacks {key!r})")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of texts of the body; absent means empty."""
        value = self.order.body.get(key) or ()
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise UsageError(f"({key!r} of the order is no list of texts)")
        return tuple(value)


Result = dict[str, Any]
Worker = Callable[[Work], Result]
