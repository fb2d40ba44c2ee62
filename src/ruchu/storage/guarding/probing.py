"""What this host can enforce, found out by doing it in a temporary directory."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ruchu import errors
from ruchu.storage.filesystem import OsFileSystem
from ruchu.storage.guarding import trees
from ruchu.storage.guarding.admitting import Admitted
from ruchu.storage.guarding.bpf.enforcing import Enforcement
from ruchu.storage.guarding.deciding import Decider
from ruchu.storage.guarding.verdicts import Rules

_HOST = OsFileSystem()


@dataclass(frozen=True, slots=True)
class Finding:
    """One way to protect a storage: whether it works here, and what was seen."""

    name: str
    works: bool
    detail: str


def all_findings(path: Path) -> list[Finding]:
    """Try everything below a directory; each try cleans up after itself."""
    return [
        _tried("sealed files", path, _seal_file),
        _tried("append-only directories", path, _seal_directory),
        _tried("open guard (fanotify)", path, _refuse_open),
        _tried("kernel guard (BPF LSM)", path, _refuse_in_kernel),
    ]


def _tried(name: str, path: Path, attempt: Callable[[str], str]) -> Finding:
    try:
        with tempfile.TemporaryDirectory(prefix="ruchu-doctor-", dir=path) as directory:
            Path(directory, "probe").write_bytes(b"probe")
            return Finding(name, True, attempt(directory))
    except errors.StorageError as error:
        return Finding(name, False, error.detail)
    except OSError as error:
        return Finding(name, False, error.strerror or str(error))


def _seal_file(directory: str) -> str:
    probe = Path(directory, "probe")
    trees.seal(directory, "probe")
    try:
        _require_refused("writing", lambda: _write(directory))
        _require_refused("removing", probe.unlink)
        _require_refused("renaming", lambda: probe.rename(f"{directory}/other"))
    finally:
        trees.unseal(directory, "probe")
    return "writing, removing and renaming refused"


def _seal_directory(directory: str) -> str:
    probe = Path(directory, "probe")
    trees.seal(directory, "")
    try:
        _require_refused("removing", probe.unlink)
        Path(directory, "below").mkdir()
    finally:
        trees.unseal(directory, "")
    Path(directory, "below").rmdir()
    return "removing refused, adding allowed"


def _refuse_open(directory: str) -> str:
    with _deciding(directory):
        _require_refused("opening", lambda: _write(directory))
        Path(directory, "probe").read_bytes()
    return "opening for writing refused, for reading allowed"


@contextlib.contextmanager
def _deciding(directory: str) -> Iterator[None]:
    decider = Decider(Rules(), Admitted(), lambda: None)
    decider.open()
    try:
        decider.mark(directory)
        yield
    finally:
        decider.close()


def _refuse_in_kernel(directory: str) -> str:
    probe = Path(directory, "probe")
    enforcement = Enforcement()
    try:
        enforcement.guard(directory)
        _require_refused("removing", probe.unlink)
        _require_refused("changing flags", lambda: _lift(directory))
    finally:
        enforcement.close()
    return f"removing and changing flags refused, {len(enforcement.hooks)} hooks"


def _write(directory: str) -> None:
    with Path(directory, "probe").open("ab"):
        pass


def _lift(directory: str) -> None:
    handle = os.open(f"{directory}/probe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _HOST.set_sealed(handle, sealed=False)
    finally:
        os.close(handle)


def _require_refused(what: str, action: Callable[[], object]) -> None:
    """Check that the system refuses something to this very process.

    Raises:
        GuardUnsupported: it does not.
    """
    try:
        action()
    except PermissionError:
        return
    raise errors.GuardUnsupported(f"{what} was not refused")
