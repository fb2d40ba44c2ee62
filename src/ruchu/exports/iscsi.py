"""Disks served over iSCSI by tgt (tgtd(8), tgtadm(8)), which we start, set up and end.

It is a tgtd of our own: with its own control port and portal, beside any that the host runs. Each
disk is a logical unit that is backed by a file, such as one of a FUSE mount. Clients are known by
CHAP (RFC 7143, section 12.1.3) and by their address.
"""

import contextlib
import errno
import ipaddress
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ruchu import commands
from ruchu.clock import SYSTEM, Clock
from ruchu.errors import CommandFailed, ExportError, UsageError

# tgtd(8) waits for its clients when it is told to end; what we have to say to it takes moments.
_CALL_LIMIT_S = 20.0
_START_LIMIT_S = 20.0
_STOP_LIMIT_S = 10.0
_POLL_S = 0.05
# Where tgtd puts the sockets of its control ports. Those above the usual ones are ours.
_SOCKETS = Path("/run/tgtd")
_PORT_FIRST, _PORT_COUNT = 1000, 30000
_PORTS_TRIED = 5
# RFC 3720 wants at least 96 bits of secret; initiators such as Windows' take 12 to 16 characters.
PASSWORD_CHARS_MIN = 12
PASSWORD_CHARS_MAX = 256
# tgtd numbers units from 1 (0 is its controller); more disks has no machine.
UNITS_MAX = 255
# RFC 3720, section 3.2.6.3.1: iqn.year-month.reversed.domain[:text], up to 223 bytes.
_TARGET = re.compile(r"iqn\.\d{4}-\d{2}\.[a-z0-9.-]+(:[a-z0-9.:-]+)?")
_TARGET_CHARS_MAX = 223
# tgtadm joins parameters with commas and has no way to quote one.
_WORD = re.compile(r"[A-Za-z0-9._~!@#^*+-]+")
_INSTALL = "Install tgt (Debian, Ubuntu: tgt; RHEL: scsi-target-utils from EPEL), or use NBD."


@dataclass(frozen=True, slots=True)
class Unit:
    """A disk: the file that backs it, and whether clients may write it."""

    path: Path
    writable: bool


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect.

    Attributes:
        user, password: for CHAP; the password has 12 characters at least.
        initiators: addresses or networks of clients, such as `10.0.0.7` or `10.0.0.0/24`.
    """

    user: str
    password: str = field(repr=False)
    initiators: tuple[str, ...] = ("127.0.0.1",)


@contextlib.contextmanager
def exported(
    units: Sequence[Unit],
    access: Access,
    *,
    target: str,
    listen: tuple[str, int],
    clock: Clock = SYSTEM,
) -> Iterator[list[str]]:
    """Serve disks as one target as long as the context lasts.

    Args:
        units: the disks; they become logical units 1, 2, …
        access: who may connect.
        target: its name, such as `iqn.2026-01.org.example:web`.
        listen: address and port of the portal.
        clock: for waiting.

    Yields:
        A URL for each disk, without user and password.

    Raises:
        UsageError: a name, password or address cannot be.
        ExportError: tgt is not installed, or refuses; the port is taken.
    """
    _check(units, access, target)
    program = _program("tgtd")
    _program("tgtadm")
    _require_free(listen)
    host, port = _bracketed(listen[0]), listen[1]
    with contextlib.ExitStack() as stack:
        control = stack.enter_context(_control_port())
        args = [program, "-f", "-C", str(control), "--iscsi", f"portal={host}:{port}"]
        started = commands.start(args, stop_limit_s=_STOP_LIMIT_S)
        daemon = _Daemon(stack.enter_context(started), control, access.password)
        daemon.wait(clock)
        # Before the target is made: whatever fails from here on leaves nothing behind.
        stack.callback(daemon.end, clock)
        daemon.set_up(units, access, target)
        yield [f"iscsi://{host}:{port}/{target}/{number}" for number in range(1, len(units) + 1)]


def _check(units: Sequence[Unit], access: Access, target: str) -> None:
    if not 0 < len(units) <= UNITS_MAX:
        raise UsageError(f"({len(units)} disks; 1 to {UNITS_MAX} can be served)")
    for unit in units:
        if "," in str(unit.path):
            raise UsageError(f"({unit.path}: tgt cannot take a path with a comma)")
    if not _TARGET.fullmatch(target) or len(target) > _TARGET_CHARS_MAX:
        hint = "Such as iqn.2026-01.org.example:web, in small letters."
        raise UsageError(f"(target name {target!r})", hint=hint)
    for what, word in (("user", access.user), ("password", access.password)):
        if not _WORD.fullmatch(word):
            hint = "Letters, digits and any of . _ ~ ! @ # ^ * + -"
            raise UsageError(
                f"(the {what} of iSCSI has characters that tgt cannot take)", hint=hint
            )
    if not PASSWORD_CHARS_MIN <= len(access.password) <= PASSWORD_CHARS_MAX:
        raise UsageError(f"(an iSCSI password has at least {PASSWORD_CHARS_MIN} characters)")
    if not access.initiators:
        raise UsageError("(no client may connect)", hint="Name their addresses.")
    for text in access.initiators:
        _acl(text)


def _acl(text: str) -> str:
    """Return an address or network as tgtadm takes it: it knows no prefix of a whole address."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(f"(client {text!r}: {error})") from None
    return str(network.network_address) if network.num_addresses == 1 else str(network)


def _program(name: str) -> str:
    # Daemons are in sbin, which is not in everybody's path.
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=places)
    if found is None:
        raise ExportError(f"({name} is not installed)", hint=_INSTALL)
    return found


def _require_free(listen: tuple[str, int]) -> None:
    """See that the portal can be had: tgtd itself goes on without one."""
    family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(listen)
        except OSError as error:
            raise ExportError(f"({listen[0]}:{listen[1]}: {error.strerror})") from None


@contextlib.contextmanager
def _control_port() -> Iterator[int]:
    """Choose a control port that nobody uses, and remove what tgtd leaves of it."""
    try:
        _SOCKETS.mkdir(mode=0o755, exist_ok=True)
        port = _unused_port()
    except OSError as error:
        hint = "tgt serves for root only."
        raise ExportError(f"({_SOCKETS}: {error.strerror})", hint=hint) from None
    try:
        yield port
    finally:
        for suffix in ("", ".lock"):
            (_SOCKETS / f"socket.{port}{suffix}").unlink(missing_ok=True)


def _unused_port() -> int:
    for turn in range(_PORTS_TRIED):
        port = _PORT_FIRST + (os.getpid() + turn) % _PORT_COUNT
        path = _SOCKETS / f"socket.{port}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ECONNREFUSED}:
                    raise
                return port
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


@dataclass(frozen=True, slots=True)
class _Daemon:
    """A tgtd that runs."""

    process: commands.Process
    control: int
    password: str = field(repr=False)

    def wait(self, clock: Clock) -> None:
        """Return when it answers."""
        end = clock.monotonic() + _START_LIMIT_S
        while True:
            if self.process.status() is not None or clock.monotonic() > end:
                raise ExportError(f"(tgtd did not start: {self.process.said()})", hint=_INSTALL)
            with contextlib.suppress(CommandFailed):
                self._admin("--mode", "sys", "--op", "show")
                return
            clock.sleep(_POLL_S)

    def set_up(self, units: Sequence[Unit], access: Access, target: str) -> None:
        """Make the target with its disks; clients may connect at the very end only."""
        try:
            self._target("target", "new", "--targetname", target)
            for number, unit in enumerate(units, 1):
                self._add(number, unit)
            user = ("--user", access.user)
            account = ("--lld", "iscsi", "--mode", "account", "--op", "new", *user)
            self._admin(*account, "--password", access.password)
            self._target("account", "bind", *user)
            for text in access.initiators:
                self._target("target", "bind", "--initiator-address", _acl(text))
        except CommandFailed as error:
            raise ExportError(f"(tgt: {error.detail} {self.process.said()})") from None

    def _add(self, number: int, unit: Unit) -> None:
        lun = ("--lun", str(number))
        self._target("logicalunit", "new", *lun, "--backing-store", str(unit.path))
        read_only = 0 if unit.writable else 1
        facts = f"readonly={read_only},thin_provisioning={1 - read_only},vendor_id=Ruchu"
        self._target("logicalunit", "update", *lun, "--params", facts)

    def end(self, clock: Clock) -> None:
        """Cut clients off and let it end by itself: it ignores signals while it has a target."""
        with contextlib.suppress(CommandFailed):
            self._target("target", "delete", "--force")
        with contextlib.suppress(CommandFailed):
            self._admin("--mode", "sys", "--op", "delete")
        end = clock.monotonic() + _STOP_LIMIT_S
        while self.process.status() is None and clock.monotonic() < end:
            clock.sleep(_POLL_S)

    def _target(self, mode: str, op: str, *rest: str) -> None:
        self._admin("--lld", "iscsi", "--mode", mode, "--op", op, "--tid", "1", *rest)

    def _admin(self, *args: str) -> None:
        commands.run(
            [_program("tgtadm"), "-C", str(self.control), *args],
            timeout_s=_CALL_LIMIT_S,
            secrets=[self.password],
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
