"""Where the migration of an instant restore puts the new disks, and how far it came."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from ruchu.errors import UsageError
from ruchu.model.machines import Placement
from ruchu.recovery.instant_records import Instant, store_document

_DOCUMENT = "migration.json"
_DOCUMENT_BYTES_MAX = 1 << 20


@dataclass(slots=True)
class Move:
    """What an interrupted migration remembers.

    Attributes:
        path: of its document.
        directory, format: of the new disks; no directory if there was no migration yet.
        begun: the export was told to begin its rounds for these disks.
        copied: by disk, bytes of the point that are durable in the new one.
    """

    path: Path
    directory: str = ""
    format: str = ""
    begun: bool = False
    copied: dict[str, int] = field(default_factory=dict)

    def leads_to(self, placement: Placement) -> bool:
        """Tell whether it is a migration to that place."""
        return (self.directory, self.format) == (placement.directory, placement.format)

    def placement(self, instant: Instant) -> Placement:
        """Return where the new disks are, as `Platform.abandon` wants it."""
        return Placement(
            name=instant.name,
            disks=instant.disks,
            directory=self.directory,
            format=self.format,
        )

    def store(self) -> None:
        """Write it durably.

        Raises:
            StorageError: it could not be.
        """
        names = ("directory", "format", "begun", "copied")
        store_document(self.path, {name: getattr(self, name) for name in names})


def of(folder: Path) -> Move:
    """Return the migration of the instant restore in a folder; an empty one if there was none.

    Raises:
        UsageError: the document is not what Ruchu wrote.
    """
    path = folder / _DOCUMENT
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_DOCUMENT_BYTES_MAX))
        copied = {str(key): int(number) for key, number in value["copied"].items()}
        return Move(
            path, str(value["directory"]), str(value["format"]), value["begun"] is True, copied
        )
    except FileNotFoundError:
        return Move(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"({path}: {error})", hint="Remove it to begin anew.") from None
