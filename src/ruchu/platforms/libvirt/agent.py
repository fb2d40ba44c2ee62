"""The QEMU guest agent: commands in the guest, through libvirt.

The commands are QEMU's docs/interop/qemu-ga-ref. What the agent answers comes from the guest, and
is not trusted.
"""

import json
from typing import Any

import libvirt
import libvirt_qemu

from ruchu.errors import GuestAgentError
from ruchu.platforms.libvirt.client import Domain, translated

# An agent that is there answers at once.
PING_LIMIT_S = 2
COMMAND_LIMIT_S = 30


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
