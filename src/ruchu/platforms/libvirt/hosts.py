"""The host that QEMU runs on: files, programs and unix sockets there, local or through ssh.

`LocalHost` is what the tests cover most; `SshHost` runs the same programs through OpenSSH with
keys (no password is ever asked), and forwards unix sockets with `ssh -L`.
"""

import contextlib
import os
import shlex
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ruchu import commands
from ruchu.clock import Clock
from ruchu.errors import CommandFailed, PlatformError, Unreachable, Unsupported

# Small file operations: even through ssh they take well under a second.
FILE_LIMIT_S = 30.0
# qemu-img create with preallocation off is instant; renames and syncs wait for the disk.
PROGRAM_LIMIT_S = 300.0
CONNECT_LIMIT_S = 20
POLL_S = 0.02
# A UEFI variable store has 64 KiB to 4 MiB; a configuration file is smaller.
READ_MAX = 16 * 1024 * 1024


class Host(Protocol):
    """Files, programs and sockets of the host that QEMU runs on."""

    def run(self, args: Sequence[str], *, input: bytes | None = None) -> commands.Result:  # noqa: A002
        """Run a program to its end.

        Raises:
            CommandFailed: it failed.
        """

    def start(self, args: Sequence[str]) -> AbstractContextManager[commands.Process]:
        """Run a program in the background, until the context is left."""

    def socket(self, path: str) -> AbstractContextManager[str]:
        """Yield a path on this host that reaches the unix socket `path` of that host."""

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory; none if it is not there."""

    def exists(self, path: str) -> bool:
        """Tell whether there is something at a path."""

    def read(self, path: str) -> bytes:
        """Return a small file.

        Raises:
            PlatformError: it cannot be read.
        """

    def write(self, path: str, data: bytes) -> None:
        """Write a small new file."""

    def remove(self, path: str) -> None:
        """Remove a file; no error if it is not there."""

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents, unless it is there."""

    def rename(self, source: str, target: str) -> None:
        """Rename a file and make that durable. Replaces what is at `target`."""

    def sync(self, path: str) -> None:
        """Return when the content of a file is durable."""

    def close(self) -> None:
        """Give back what was opened."""


class LocalHost:
    """This host."""

    def run(self, args: Sequence[str], *, input: bytes | None = None) -> commands.Result:  # noqa: A002
        """Run a program to its end."""
        return commands.run(args, timeout_s=PROGRAM_LIMIT_S, input=input)

    def start(self, args: Sequence[str]) -> AbstractContextManager[commands.Process]:
        """Run a program in the background, until the context is left."""
        return commands.start(args)

    @contextlib.contextmanager
    def socket(self, path: str) -> Iterator[str]:
        """Yield the path itself."""
        yield path

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory; none if it is not there."""
        try:
            return sorted(os.listdir(directory))  # noqa: PTH208 - names, not paths
        except FileNotFoundError:
            return []
        except OSError as error:
            raise PlatformError(f"{directory}: {error.strerror}") from error

    def exists(self, path: str) -> bool:
        """Tell whether there is something at a path."""
        return os.path.lexists(path)

    def read(self, path: str) -> bytes:
        """Return a small file."""
        try:
            with Path(path).open("rb") as file:
                data = file.read(READ_MAX + 1)
        except OSError as error:
            raise PlatformError(f"{path}: {error.strerror}") from error
        if len(data) > READ_MAX:
            raise PlatformError(f"{path} has more than {READ_MAX} bytes")
        return data

    def write(self, path: str, data: bytes) -> None:
        """Write a small new file."""
        with _as_platform_error(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)

    def remove(self, path: str) -> None:
        """Remove a file; no error if it is not there."""
        with _as_platform_error(path):
            Path(path).unlink(missing_ok=True)

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents, unless it is there."""
        with _as_platform_error(path):
            # The QEMU user must pass through it; what lies in it has its own permissions.
            Path(path).mkdir(mode=0o711, parents=True, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        """Rename a file and make that durable."""
        with _as_platform_error(target):
            Path(source).rename(target)
            self._sync(os.path.dirname(target), os.O_DIRECTORY)  # noqa: PTH120

    def sync(self, path: str) -> None:
        """Return when the content of a file is durable."""
        with _as_platform_error(path):
            self._sync(path, 0)

    def close(self) -> None:
        """Do nothing."""

    @staticmethod
    def _sync(path: str, flags: int) -> None:
        descriptor = os.open(path, os.O_RDONLY | flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class SshHost:
    """Another host, through OpenSSH. One connection is shared by all that is run."""

    def __init__(self, target: str, options: Sequence[str], clock: Clock) -> None:
        self._clock = clock
        self._directory = tempfile.TemporaryDirectory(prefix="ruchu-ssh-")
        self._target = target
        self._options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_LIMIT_S}"]
        self._options += ["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
        self._options += ["-o", f"ControlPath={self._directory.name}/c"]
        self._options += options
        self._counter = iter(range(1 << 30))

    def run(self, args: Sequence[str], *, input: bytes | None = None) -> commands.Result:  # noqa: A002
        """Run a program to its end, there."""
        return commands.run(self._remote(args), timeout_s=PROGRAM_LIMIT_S, input=input)

    def start(self, args: Sequence[str]) -> AbstractContextManager[commands.Process]:
        """Run a program in the background, there.

        Ending ssh does not end the program: it must end by itself, as qemu-nbd does when its
        last client leaves.
        """
        return commands.start(self._remote(args))

    @contextlib.contextmanager
    def socket(self, path: str) -> Iterator[str]:
        """Forward the socket for as long as the context is open."""
        local = f"{self._directory.name}/s{next(self._counter)}"
        forward = ["ssh", *self._options, "-S", "none", "-N", "-o", "ExitOnForwardFailure=yes"]
        forward += ["-L", f"{local}:{path}", "--", self._target]
        with commands.start(forward) as process:
            deadline = self._clock.monotonic() + CONNECT_LIMIT_S
            while not os.path.lexists(local):
                if process.status() is not None or self._clock.monotonic() > deadline:
                    raise Unreachable(f"{self._target}: ssh -L: {process.said()}")
                self._clock.sleep(POLL_S)
            yield local

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory; none if it is not there."""
        # `find` fails if the directory is not there, so ask first: an error is never "empty".
        if not self.exists(directory):
            return []
        found = self.run(["find", directory, "-mindepth", "1", "-maxdepth", "1", "-print0"])
        return sorted(path.rpartition("/")[2] for path in found.text.split("\0") if path)

    def exists(self, path: str) -> bool:
        """Tell whether there is something at a path."""
        probe = f"if [ -e {shlex.quote(path)} ]; then echo yes; else echo no; fi"
        return self.run(["sh", "-c", probe]).text.strip() == "yes"

    def read(self, path: str) -> bytes:
        """Return a small file."""
        try:
            return self.run(["head", "-c", str(READ_MAX), path]).stdout
        except CommandFailed as error:
            raise PlatformError(f"{path}: {error.detail}") from error

    def write(self, path: str, data: bytes) -> None:
        """Write a small new file."""
        script = f"umask 077; set -C; cat > {shlex.quote(path)} && sync {shlex.quote(path)}"
        self.run(["sh", "-c", script], input=data)

    def remove(self, path: str) -> None:
        """Remove a file; no error if it is not there."""
        self.run(["rm", "-f", "--", path])

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents, unless it is there."""
        self.run(["mkdir", "-p", "-m", "711", "--", path])

    def rename(self, source: str, target: str) -> None:
        """Rename a file and make that durable."""
        self.run(["mv", "-fT", "--", source, target])
        self.run(["sync", target.rpartition("/")[0] or "/"])

    def sync(self, path: str) -> None:
        """Return when the content of a file is durable."""
        self.run(["sync", path])

    def close(self) -> None:
        """End the shared connection."""
        args = ["ssh", *self._options, "-O", "exit", "--", self._target]
        commands.run(args, timeout_s=FILE_LIMIT_S, check=False)
        self._directory.cleanup()

    def _remote(self, args: Sequence[str]) -> list[str]:
        # ssh hands one line to a shell there, so each argument is quoted for it.
        return ["ssh", *self._options, "--", self._target, shlex.join(args)]


def host_of(uri: str, clock: Clock) -> Host:
    """Return the host that a libvirt URI names.

    Raises:
        Unsupported: files and sockets of that host cannot be reached.
    """
    parts = urllib.parse.urlsplit(uri)
    driver, _, transport = parts.scheme.partition("+")
    if driver != "qemu":
        raise Unsupported(f"{uri}: only QEMU's driver of libvirt", hint="Use qemu:///system.")
    if not parts.hostname and transport in {"", "unix"}:
        return LocalHost()
    if transport in {"ssh", "libssh", "libssh2"} and parts.hostname:
        user = f"{parts.username}@" if parts.username else ""
        query = urllib.parse.parse_qs(parts.query)
        options = ["-p", str(parts.port)] if parts.port else []
        for key_file in query.get("keyfile", [])[:1]:
            options += ["-i", key_file]
        if query.get("no_verify") == ["1"]:
            # Only where whoever wrote the URI asked libvirt for the same.
            options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
            options += ["-o", "LogLevel=ERROR"]
        return SshHost(f"{user}{parts.hostname}", options, clock)
    raise Unsupported(
        f"{uri}: the files of that host cannot be reached this way",
        hint="Use qemu+ssh://, or run a node on that host.",
    )


@contextlib.contextmanager
def _as_platform_error(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PlatformError(f"{path}: {error.strerror}") from error
