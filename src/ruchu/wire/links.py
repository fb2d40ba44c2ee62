"""A node that is connected, as the server sees it."""

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final

from ruchu.errors import NodeAway, NodeFailed
from ruchu.model import ids
from ruchu.wire import messages
from ruchu.wire.outbox import Outbox

# A person waits for the answer, or a step of a job that tries again.
ASK_LIMIT_S: Final = 60.0


class Link:
    """A connected node. Safe in several threads, but not for the loop of the listener.

    Attributes:
        node: its id.
        serial: of the certificate it came with.
        release: of its Ruchu, once it has said hello.
        version: of the protocol, once it is agreed upon.
    """

    def __init__(
        self, node: str, serial: str, loop: asyncio.AbstractEventLoop, send_limit_s: float
    ) -> None:
        self.node = node
        self.serial = serial
        self.release = ""
        self.version = 0
        self.outbox = Outbox(loop, send_limit_s)
        self.ended = asyncio.Event()
        self.cut = asyncio.Event()
        self.why = ""
        self._loop = loop
        self._asked: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def send(self, message: messages.ServerMessage) -> None:
        """Queue a message; waits while the node does not read.

        What is queued is lost if the connection breaks: the node says in its next hello what it
        has, and the server sends what is missing.

        Raises:
            NodeAway: the node is gone, or has not read for too long (and is gone now).
            ProtocolViolation: the message cannot be sent at all.
        """
        text = messages.encode(message)
        try:
            self.outbox.put(text)
        except NodeAway as error:
            self.close(error.detail.strip("()"))
            raise NodeAway(self.why and f"({self.why})") from None

    def ask(self, what: str, arguments: Mapping[str, Any], timeout_s: float = ASK_LIMIT_S) -> Any:
        """Ask something and return the answer.

        Raises:
            NodeAway: the node is gone, or has not answered in time; it may have acted all the same.
            NodeFailed: the node answered with an error.
            ProtocolViolation: the question cannot be sent at all.
        """
        question = messages.Ask(ids.new_id(), what, arguments)
        answer: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise NodeAway(f"({self.why})")
            self._asked[question.request] = answer
        try:
            self.send(question)
            return answer.result(timeout_s)
        except TimeoutError:
            raise NodeAway(f"(it did not answer within {timeout_s:.0f} s)") from None
        finally:
            with self._lock:
                self._asked.pop(question.request, None)

    def close(self, why: str) -> None:
        """End the connection; the node may dial again. For any thread."""
        try:
            self._loop.call_soon_threadsafe(self.end, why)
        except RuntimeError:  # the loop has ended, and this link with it
            self.why = self.why or why

    def end(self, why: str) -> None:
        """End the connection. On the loop."""
        self.why = self.why or why
        self.cut.set()

    def answered(self, answer: messages.Answer) -> None:
        """Hand an answer to whoever asked. On the loop; one that nobody waits for is dropped."""
        with self._lock:
            waiting = self._asked.pop(answer.request, None)
        if waiting is None:
            return
        if answer.error is None:
            waiting.set_result(answer.value)
        else:
            waiting.set_exception(_failure(answer.error))

    def forget(self) -> None:
        """Let nobody wait any more: the connection is gone. On the loop."""
        self.outbox.close()
        with self._lock:
            self._closed = True
            waiting, self._asked = self._asked, {}
        for each in waiting.values():
            each.set_exception(NodeAway(f"({self.why})"))


def _failure(error: Mapping[str, Any]) -> NodeFailed:
    return NodeFailed(
        f"({error.get('message', '')})",
        hint=str(error.get("hint", "")),
        remote_code=str(error.get("code", "")),
    )
