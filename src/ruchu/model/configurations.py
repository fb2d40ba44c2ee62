"""A machine's specification as a document: what a point keeps of it besides its disks."""

import dataclasses
import re
from typing import Any

from ruchu.model.machines import DiskSpec, MachineSpec, NicSpec

# Names of the attachments of a point.
_PASSWORD = re.compile(r"""\spasswd\s*=\s*('[^']*'|"[^"]*")""")
SPEC, NATIVE, NVRAM = "machine.json", "native", "nvram"


def to_document(spec: MachineSpec) -> dict[str, Any]:
    """Return the neutral part of a specification; `native` and `nvram` are kept beside it."""
    document = dataclasses.asdict(spec)
    del document["native"], document["nvram"]
    return document


def without_secrets(native: str) -> str:
    """Return a native configuration without passwords, for storages that do not encrypt."""
    return _PASSWORD.sub("", native)


def from_document(document: dict[str, Any], native: str, nvram: bytes) -> MachineSpec:
    """Return the specification in a document. Fields of later releases are left out.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return MachineSpec(
        **_known(MachineSpec, document, {"disks", "nics", "native", "nvram"}),
        disks=tuple(DiskSpec(**_known(DiskSpec, disk)) for disk in document["disks"]),
        nics=tuple(NicSpec(**_known(NicSpec, nic)) for nic in document["nics"]),
        native=native,
        nvram=nvram,
    )


def _known(
    kind: type[DiskSpec | NicSpec | MachineSpec],
    document: dict[str, Any],
    apart: frozenset[str] | set[str] = frozenset(),
) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise TypeError(f"{kind.__name__} is no object")
    names = {field.name for field in dataclasses.fields(kind)} - apart
    return {name: value for name, value in document.items() if name in names}
