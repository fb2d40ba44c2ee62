"""What the guard last saw of a storage, kept outside of it: an append-only file, chained by HMAC.

Each line is a JSON list `[number, fields, mac]`; the MAC covers the line before, so that nobody
without the key changes, inserts or drops a line. A second file holds the number and MAC of the
last line, so that a journal that was cut off is noticed, too. Root can read the key: the chain
tells of tampering by who cannot, and of damage; it is no proof against somebody who is root here
and knows Ruchu.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruchu.errors import Damaged
from ruchu.storage.guarding.trees import Seen

_KEY_BYTES = 32
_LINE_MAX = 4 * 1024 * 1024  # a line names `_BATCH` objects at most, each of 1,000 characters
_BATCH = 2000
# A journal is written anew at the start of a guard once it holds so many times what there is.
_REWRITE_FACTOR = 4
_REWRITE_MIN = 10_000
_START = "0" * 64


class Journal:
    """The journal of one storage. For one thread.

    Args:
        directory: where it lies; made if it is not there.
        writable: False to read what a guard may be writing.

    Raises:
        Damaged: somebody changed it.
    """

    def __init__(self, directory: Path, *, writable: bool = True) -> None:
        if writable:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writable = writable
        self._path, self._head = directory / "journal", directory / "head"
        self.is_new = not self._path.exists()
        self._key = _key(directory / "key") if writable or not self.is_new else b""
        self._number, self._mac = 0, _START
        self._entries = 0
        self.seen: dict[str, Seen] = {}
        if not self.is_new:
            self._read()

    def record(self, changes: Mapping[str, Seen | None]) -> None:
        """Note what objects look like now; None: it is gone. Durable when it returns."""
        if not changes:
            return
        items = list(changes.items())
        with self._path.open("ab") as file:
            for start in range(0, len(items), _BATCH):
                fields = {name: _packed(seen) for name, seen in items[start : start + _BATCH]}
                file.write(self._line(fields))
            file.flush()
            os.fsync(file.fileno())
        self._write_head()
        for name, seen in items:
            if seen is None:
                self.seen.pop(name, None)
            else:
                self.seen[name] = seen
        self._entries += len(items)

    def rewrite(self, seen: Mapping[str, Seen]) -> None:
        """Begin anew with what is there now."""
        # The head first: a journal without one is read as far as it goes, whatever is lost here.
        self._head.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)
        self._number, self._mac, self._entries = 0, _START, 0
        self.seen = {}
        self._path.touch(mode=0o600)
        self.record(seen)

    def is_long(self) -> bool:
        """Tell whether it should be written anew."""
        return self._entries > max(_REWRITE_MIN, _REWRITE_FACTOR * len(self.seen))

    def _line(self, fields: dict[str, Any]) -> bytes:
        self._number += 1
        self._mac = self._sign(self._number, fields, self._mac)
        return json.dumps([self._number, fields, self._mac]).encode() + b"\n"

    def _sign(self, number: int, fields: Any, before: str) -> str:
        text = json.dumps([before, number, fields], sort_keys=True)
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def _read(self) -> None:
        # Read first: whoever writes at the moment writes the line before the head.
        last, last_mac = self._read_head()
        for number, fields, mac in self._lines():
            expected = self._sign(number, fields, self._mac)
            if number != self._number + 1 or not hmac.compare_digest(mac, expected):
                raise Damaged(f"{self._path}: line {self._number + 1} is not what was written")
            self._number, self._mac = number, mac
            self._entries += len(fields)
            for name, packed in fields.items():
                if packed is None:
                    self.seen.pop(name, None)
                else:
                    self.seen[name] = Seen(*packed[:3], *map(bool, packed[3:5]))
            if number == last and mac != last_mac:
                raise Damaged(f"{self._path}: line {number} was written anew")
        # A guard that was killed after a line and before the head has one line more.
        if last > self._number:
            raise Damaged(f"{self._path}: it ends at line {self._number}, {last} were written")

    def _lines(self) -> Iterator[tuple[int, dict[str, Any], str]]:
        with self._path.open("rb") as file:
            while line := file.readline(_LINE_MAX):
                if not line.endswith(b"\n") and not file.read(1):
                    # Killed within the write, or still at it: this line does not count.
                    if self._writable:
                        os.truncate(self._path, file.tell() - len(line))
                    return
                try:
                    number, fields, mac = json.loads(line)
                    yield int(number), dict(fields), str(mac)
                except (ValueError, TypeError):
                    detail = f"{self._path}: line {self._number + 1} is no line of a journal"
                    raise Damaged(detail) from None

    def _write_head(self) -> None:
        passing = self._head.with_suffix(".new")
        passing.write_text(json.dumps([self._number, self._mac]))
        passing.replace(self._head)

    def _read_head(self) -> tuple[int, str]:
        try:
            number, mac = json.loads(self._head.read_text())
            return int(number), str(mac)
        except FileNotFoundError:
            return 0, _START
        except (ValueError, TypeError):
            raise Damaged(f"{self._head}: it is not what was written") from None


def _packed(seen: Seen | None) -> list[int] | None:
    if seen is None:
        return None
    return [seen.size, seen.mtime_ns, seen.inode, int(seen.sealed), int(seen.locked)]


def _key(path: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError):
        key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise Damaged(f"{path}: it is no key")
        return key
    key = secrets.token_bytes(_KEY_BYTES)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(key)
        os.fsync(file.fileno())
    return key
