"""Who a node is, kept in one file: so key and certificates never belong to different renewals."""

import dataclasses
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ruchu.errors import Refused, WireError
from ruchu.wire.calling import Address

_VERSION: Final = 1
# Three certificates and a key take 4 KiB.
FILE_BYTES_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is.

    Attributes:
        address: where its server listens.
        node: its id.
        key: PEM; leaves this host never.
        client, streams, authority: as in `Certificates`.
    """

    address: Address
    node: str
    key: str = field(repr=False)
    client: str = field(repr=False)
    streams: str = field(repr=False)
    authority: str = field(repr=False)

    def save(self, path: Path) -> None:
        """Write it, for its owner only; the one before it stays whole until this one is durable.

        Raises:
            WireError: it could not be written.
        """
        document = {"version": _VERSION, **dataclasses.asdict(self)}
        temporary = path.with_name(f".{path.name}.new")
        try:
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            descriptor = os.open(temporary, flags, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise WireError(f"({path}: {error.strerror})") from None

    @classmethod
    def load(cls, path: Path) -> "Identity":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: this node was not enrolled.
            Refused: others may read it, or it is damaged.
        """
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(FILE_BYTES_MAX)
        if stat.S_IMODE(mode) & 0o077:
            raise Refused(
                f"({path} can be read by others)",
                hint=f"If nobody has, `chmod 600 {path}`; if somebody may have, enrol it again.",
            )
        try:
            document = json.loads(content)
            names = [each.name for each in dataclasses.fields(cls) if each.name != "address"]
            address = Address(str(document["address"]["host"]), int(document["address"]["port"]))
            return cls(address=address, **{name: str(document[name]) for name in names})
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused(f"({path} is damaged)") from None
