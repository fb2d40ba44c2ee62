"""The keys of the server: where they lie, and what names them.

A line is a key: `ruchu-server-key-1 ID BASE64`. The first one seals, all of them open. They lie
in `server.key` in the state, or come from elsewhere where a key service unwraps them: from the
file that `RUCHU_SERVER_KEY_FILE` names, or out of the variable `RUCHU_SERVER_KEY` (lines parted
by commas).
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ruchu.errors import WrongServerKey

FILE_NAME = "server.key"
FILE_VARIABLE = "RUCHU_SERVER_KEY_FILE"
KEY_VARIABLE = "RUCHU_SERVER_KEY"

_MARK = "ruchu-server-key-1"
_KEY_BYTES = 32
# Old keys stay only until everything is sealed anew; this many at once is a mistake.
_KEYS_MAX = 16
_FILE_BYTES_MAX = _KEYS_MAX * 200


@dataclass(frozen=True, slots=True)
class ServerKey:
    """A key and its id, which is made from it and tells nothing about it."""

    id: str
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of a server; the first one seals."""

    keys: tuple[ServerKey, ...]

    @property
    def current(self) -> ServerKey:
        """The key that seals."""
        return self.keys[0]

    def find(self, key_id: str) -> ServerKey | None:
        """Return the key of an id."""
        return next((key for key in self.keys if key.id == key_id), None)


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the keys come from.

    Attributes:
        path: their file; None if they come out of the environment.
        ours: whether Ruchu may make and change the file.
        text: the keys out of the environment.
    """

    path: Path | None
    ours: bool = True
    text: str = field(default="", repr=False)

    def load(self) -> Keyring | None:
        """Return the keys, None if our file is not there.

        Raises:
            WrongServerKey: they cannot be read, others may read them, or they are no keys.
        """
        if self.path is None:
            return _parsed(self.text.replace(",", "\n"), f"the variable {KEY_VARIABLE}")
        try:
            return _parsed(_content(self.path), str(self.path))
        except FileNotFoundError:
            if self.ours:
                return None
            raise WrongServerKey(f"({self.path} is not there)") from None
        except OSError as error:
            raise WrongServerKey(f"({self.path}: {error.strerror})") from None

    def make(self) -> Keyring:
        """Make the first key, or take the one that somebody made meanwhile.

        Raises:
            WrongServerKey: the keys do not lie in a file of ours, or it cannot be written.
        """
        self._save(Keyring((new_key(),)), replace=False)
        found = self.load()
        assert found is not None
        return found

    def save(self, keyring: Keyring) -> None:
        """Replace the keys, durably.

        Raises:
            WrongServerKey: they do not lie in a file of ours, or it cannot be written.
        """
        self._save(keyring, replace=True)

    def _save(self, keyring: Keyring, *, replace: bool) -> None:
        if self.path is None or not self.ours:
            raise WrongServerKey("(the key comes from elsewhere, and is changed there)")
        try:
            _write(self.path, _text(keyring), replace=replace)
        except OSError as error:
            raise WrongServerKey(f"({self.path}: {error.strerror})") from None


def source(state: Path, environment: Mapping[str, str]) -> KeySource:
    """Return where the keys of a server come from."""
    if text := environment.get(KEY_VARIABLE):
        return KeySource(None, ours=False, text=text)
    if name := environment.get(FILE_VARIABLE):
        return KeySource(Path(name), ours=False)
    return KeySource(state / FILE_NAME)


def new_key() -> ServerKey:
    """Return a fresh key."""
    return _named(secrets.token_bytes(_KEY_BYTES))


def as_text(key: ServerKey) -> str:
    """Return the line of a key; for tests, and for whoever keeps it in a key service."""
    return f"{_MARK} {key.id} {base64.b64encode(key.value).decode()}"


def _named(value: bytes) -> ServerKey:
    return ServerKey(hashlib.sha256(b"ruchu server key id\0" + value).hexdigest()[:16], value)


def _text(keyring: Keyring) -> str:
    return "".join(f"{as_text(key)}\n" for key in keyring.keys)


def _parsed(text: str, where: str) -> Keyring:
    found: list[ServerKey] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        words = line.split()
        if len(words) != 3 or words[0] != _MARK:
            raise WrongServerKey(f"({where} holds no keys of a server)")
        try:
            value = base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            raise WrongServerKey(f"({where}: the key {words[1][:16]} is damaged)") from None
        key = _named(value)
        if len(value) != _KEY_BYTES or not hmac.compare_digest(key.id.encode(), words[1].encode()):
            raise WrongServerKey(f"({where}: the key {words[1][:16]} is damaged)")
        found.append(key)
    if not 0 < len(found) <= _KEYS_MAX:
        raise WrongServerKey(f"({where} holds {len(found)} keys)")
    return Keyring(tuple(found))


def _content(path: Path) -> str:
    # Not through a link that somebody else may have put there, and not from a pipe that waits.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _FILE_BYTES_MAX:
            raise WrongServerKey(f"({path} holds no keys of a server)")
        if status.st_mode & 0o077:
            hint = f"chmod 600 {path}"
            raise WrongServerKey(f"({path} may be read by other users)", hint=hint)
        return os.read(file, _FILE_BYTES_MAX).decode("ascii", "replace")
    finally:
        os.close(file)


def _write(path: Path, text: str, *, replace: bool) -> None:
    """Write the file under a temporary name, then give it its own."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(file, text.encode())
            os.fsync(file)
        finally:
            os.close(file)
        if replace:
            temporary.replace(path)
        else:
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
