"""Hosts with addresses of their own on this machine: network namespaces and wires between them.

The layout of `three_hosts`: a server and a node on one network, and a second node on another one
behind a router that translates addresses, so that nobody can dial in to it.

    server 10.211.N.1 ── switch ── near 10.211.N.2
                           └────── router 10.211.N.3 / 192.168.N.1 ── far 192.168.N.2
"""

import contextlib
import ctypes
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from ruchu import commands

LIMIT_S = 20.0
_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace: its name, its address, and the end of its wire on the switch."""

    name: str
    address: str
    wire: str = ""

    @property
    def inside(self) -> tuple[str, ...]:
        """The words before a command that runs there."""
        return _into(self.name)


def _into(name: str) -> tuple[str, ...]:
    """Return what a command begins with that runs in a namespace.

    Not `ip netns exec`: that copies the mounts, too, so that what a test beside it has mounted for
    a moment would stay mounted as long as the command runs.
    """
    return ("nsenter", f"--net=/var/run/netns/{name}", "--")


@dataclass(frozen=True, slots=True)
class Network:
    """Three hosts and the switch between them."""

    switch: Host
    server: Host
    near: Host
    far: Host
    router: Host

    def cut(self, host: Host) -> None:
        """Pull the plug of a host at the switch; what is on the way is lost."""
        run(*self.switch.inside, "ip", "link", "set", host.wire, "down")

    def mend(self, host: Host) -> None:
        """Put the plug back."""
        run(*self.switch.inside, "ip", "link", "set", host.wire, "up")


def run(*words: str) -> None:
    """Run a command that must succeed."""
    commands.run(list(words), timeout_s=LIMIT_S)


@contextlib.contextmanager
def three_hosts() -> Iterator[Network]:
    """Yield the network; it is taken down on leaving."""
    mark = secrets.token_hex(2)
    number = secrets.randbelow(250) + 2
    near, behind = f"10.211.{number}", f"192.168.{number}"
    made = [f"rn{mark}{kind}" for kind in ("w", "s", "n", "r", "f")]
    switch, server, node, router, far = made
    with contextlib.ExitStack() as stack:
        for name in made:
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "delete", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", switch, "link", "add", "sw", "type", "bridge")
        run("ip", "-n", switch, "link", "set", "sw", "up")
        for at, name in ((1, server), (2, node), (3, router)):
            _plug(switch, name, f"{near}.{at}")
        _wire((router, "in", f"{behind}.1"), (far, "up", f"{behind}.2"))
        run("ip", "-n", far, "route", "add", "default", "via", f"{behind}.1")
        inside = _into(router)
        run(*inside, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        rule = ("POSTROUTING", "-o", "up", "-j", "MASQUERADE")
        run(*inside, "iptables", "-t", "nat", "-A", *rule)
        yield Network(
            Host(switch, ""),
            Host(server, f"{near}.1", _port(server)),
            Host(node, f"{near}.2", _port(node)),
            Host(far, f"{behind}.2", _port(router)),
            Host(router, f"{near}.3", _port(router)),
        )


def _port(name: str) -> str:
    return f"p{name[-5:]}"


def _plug(switch: str, name: str, address: str) -> None:
    """Lay a wire from a host to the switch."""
    port = _port(name)
    run("ip", "-n", switch, "link", "add", port, "type", "veth",
        "peer", "name", "up", "netns", name)  # fmt: skip
    run("ip", "-n", switch, "link", "set", port, "master", "sw")
    run("ip", "-n", switch, "link", "set", port, "up")
    run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "up")
    run("ip", "-n", name, "link", "set", "dev", "up", "up")


def _wire(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    run("ip", "-n", one[0], "link", "add", one[1], "type", "veth",
        "peer", "name", other[1], "netns", other[0])  # fmt: skip
    for name, device, address in (one, other):
        run("ip", "-n", name, "address", "add", f"{address}/24", "dev", device)
        run("ip", "-n", name, "link", "set", "dev", device, "up")


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Let this thread be in a namespace: sockets that are made within stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(f"/var/run/netns/{name}", os.O_RDONLY)
    try:
        if libc.setns(other, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), name)
        try:
            yield
        finally:
            libc.setns(own, _CLONE_NEWNET)
    finally:
        os.close(other)
        os.close(own)


class _Inside(httpcore.SyncBackend):
    """Connects as a host of the network would."""

    def __init__(self, name: str) -> None:
        self._name = name

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None,
        local_address: str | None = None, socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        with entered(self._name):
            return super().connect_tcp(host, port, timeout, local_address, socket_options)


def transport(host: Host) -> httpx.HTTPTransport:
    """Return what lets a client make its requests from a host."""
    made = httpx.HTTPTransport()
    made._pool = httpcore.ConnectionPool(network_backend=_Inside(host.name))  # noqa: SLF001 - httpx has no door for this
    return made
