"""What a channel does."""

from collections.abc import Sequence
from typing import Protocol

from ruchu.control.alarms.messages import Message


class Channel(Protocol):
    """Hands messages over. Used by one thread at a time; every call ends within a time limit."""

    def targets(self) -> Sequence[str]:
        """Return who is to be reached, one by one; the names are kept with the delivery.

        No target is a secret. A channel that reaches a room at once has one target.
        """

    def send(self, message: Message, target: str) -> None:
        """Hand a message over to one of the targets.

        It may be called again with the same message: receivers can tell by its id.

        Raises:
            ChannelRefused: the other side answered, and does not want it.
            ChannelFailed: it was not handed over, as far as is known.
        """
