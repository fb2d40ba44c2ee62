"""What a client sent, in one buffer: many small requests come with one system call."""

from typing import Final

from ruchu.exports.nbd.channels import Channel
from ruchu.units import KIB

# Some sixty small writes; a client that sends faster fills it again. It is kept in the caches of
# the processor, so more would cost.
INBOX_BYTES: Final = 256 * KIB


class Inbox:
    """Bytes of one connection that were received, and not yet taken.

    Views of it are good until `wait` or `fill` is called. One thread uses it.

    Attributes:
        buffer: where the bytes are.
        at: the first one that was not taken; whoever takes some moves it on.
        end: behind the last one.
    """

    __slots__ = ("_channel", "at", "buffer", "end")

    def __init__(self, channel: Channel, size: int = INBOX_BYTES) -> None:
        self._channel = channel
        self.buffer = memoryview(bytearray(size))
        self.at = 0
        self.end = 0

    def wait(self, least: int) -> bool:
        """Have at least so many bytes, receiving what is missing; False: the client left before.

        Raises:
            OSError: the client left, or stalled, in the middle of a message.
        """
        left = self.end - self.at
        if left >= least:
            return True
        if self.at:
            self.buffer[:left] = self.buffer[self.at : self.end]
            self.at, self.end = 0, left
        room = self.buffer[left:]
        count = self._channel.receive_some(room, least - left, begun=left > 0)
        self.end += count
        return count > 0

    def fill(self, view: memoryview) -> None:
        """Fill a view, all of it in the middle of a message.

        Raises:
            OSError: the client left or stalled.
        """
        count = min(self.end - self.at, len(view))
        view[:count] = self.buffer[self.at : self.at + count]
        self.at += count
        if count < len(view):
            rest = view[count:]
            self._channel.receive_some(rest, len(rest), begun=True)
