"""The QEMU guest agent: commands in the guest, through libvirt.

The commands are QEMU's docs/interop/qemu-ga-ref. What the agent answers comes from the guest, and
is not trusted.
"""

import base64
import json
from collections.abc import Sequence
from typing import Any

import libvirt
import libvirt_qemu

from ruchu.clock import Clock
from ruchu.errors import GuestAgentError
from ruchu.platforms.contract import GuestRun
from ruchu.platforms.libvirt.client import Domain, translated

# An agent that is there answers at once.
PING_LIMIT_S = 2
COMMAND_LIMIT_S = 30
# A program in the guest may have to read a large file to its end.
PROGRAM_LIMIT_S = 3600.0
_POLL_FIRST_S, _POLL_MOST_S = 0.01, 0.5
# An agent without KVM takes 96 KiB at once and falls silent at 192; it is no faster with more.
WRITE_BYTES = 48 << 10


def answers(domain: Domain) -> bool:
    """Tell whether the agent of a running guest answers."""
    try:
        libvirt_qemu.qemuAgentCommand(domain, '{"execute": "guest-ping"}', PING_LIMIT_S, 0)
    except libvirt.libvirtError:
        return False
    return True


def command(domain: Domain, name: str, arguments: dict[str, Any] | None = None) -> Any:
    """Let the agent do something and return its answer.

    Raises:
        GuestAgentError: it refused, or does not answer.
    """
    request: dict[str, Any] = {"execute": name}
    if arguments:
        request["arguments"] = arguments
    with translated(name, default=GuestAgentError):
        text = libvirt_qemu.qemuAgentCommand(domain, json.dumps(request), COMMAND_LIMIT_S, 0)
    try:
        return json.loads(text)["return"]
    except (ValueError, KeyError, TypeError) as error:
        raise GuestAgentError(f"{name}: an answer that is none ({error!r})") from error


class AgentChannel:
    """Files and programs of a running guest, through its agent; a `GuestChannel`.

    For one thread. Every command may raise GuestAgentError.
    """

    def __init__(self, domain: Domain, clock: Clock) -> None:
        self._domain = domain
        self._clock = clock

    def open(self, path: str) -> int:
        """Open a file to be written, and make it empty; return a handle."""
        handle = command(self._domain, "guest-file-open", {"path": path, "mode": "wb"})
        return _number(handle, "guest-file-open")

    def write(self, handle: int, content: memoryview) -> None:
        """Write all of the bytes behind what was written before."""
        at = 0
        while at < len(content):
            piece = base64.b64encode(content[at : at + WRITE_BYTES]).decode()
            arguments = {"handle": handle, "buf-b64": piece}
            answer = command(self._domain, "guest-file-write", arguments)
            count = answer.get("count") if isinstance(answer, dict) else None
            written = _number(count, "guest-file-write")
            if not 0 < written <= WRITE_BYTES:
                raise GuestAgentError(f"guest-file-write: {written} bytes were written")
            at += written

    def close(self, handle: int) -> None:
        """Flush and close a file."""
        command(self._domain, "guest-file-flush", {"handle": handle})
        command(self._domain, "guest-file-close", {"handle": handle})

    def run(self, program: str, arguments: Sequence[str]) -> GuestRun:
        """Run a program of the guest to its end; no shell is involved."""
        asked = {"path": program, "arg": list(arguments), "capture-output": True}
        answer = command(self._domain, "guest-exec", asked)
        process = _number(answer.get("pid") if isinstance(answer, dict) else None, "guest-exec")
        deadline = self._clock.monotonic() + PROGRAM_LIMIT_S
        wait_s = _POLL_FIRST_S
        while True:
            state = command(self._domain, "guest-exec-status", {"pid": process})
            if not isinstance(state, dict):
                raise GuestAgentError("guest-exec-status: an answer that is none")
            if state.get("exited"):
                return _run_of(state)
            if self._clock.monotonic() > deadline:
                raise GuestAgentError(f"{program} runs for more than {PROGRAM_LIMIT_S:g} s")
            self._clock.sleep(wait_s)
            wait_s = min(wait_s * 1.5, _POLL_MOST_S)


def _number(value: object, name: str) -> int:
    if not isinstance(value, int):
        raise GuestAgentError(f"{name}: an answer that is none ({value!r:.80})")
    return value


def _run_of(state: dict[str, Any]) -> GuestRun:
    """Return how a program ended; one that a signal ended has the status that a shell gives."""
    try:
        output = base64.b64decode(state.get("out-data", ""))
        said = base64.b64decode(state.get("err-data", ""))
    except (ValueError, TypeError) as error:
        raise GuestAgentError(f"guest-exec-status: {error}") from error
    status = state.get("exitcode", 128 + int(state.get("signal", 0)))
    return GuestRun(_number(status, "guest-exec-status"), output, said.decode("utf-8", "replace"))
