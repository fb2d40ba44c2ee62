"""Names of objects in a storage (`docs/formats/vds.md`, section 1). Ids are checked here."""

import re

from ruchu.errors import UnsafeName
from ruchu.model.ids import is_id

STORAGE = "ruchu-storage.json"
KEYS = "keys"
CHAINS = "chains"
KIT = ("FORMAT.txt", "restore.py")

_POINT = re.compile(r"([0-9]{10})-([0-9a-f]{32})")


def _checked(identity: str) -> str:
    if not is_id(identity):
        raise UnsafeName(repr(identity)[:80])
    return identity


def key_slot(slot: str) -> str:
    """Return the name of a key slot."""
    return f"{KEYS}/{_checked(slot)}.json"


def chain(chain_id: str) -> str:
    """Return the directory of a chain."""
    return f"{CHAINS}/{_checked(chain_id)}"


def chain_document(chain_id: str) -> str:
    """Return the name of `chain.json`."""
    return f"{chain(chain_id)}/chain.json"


def packs(chain_id: str) -> str:
    """Return the directory of the packs."""
    return f"{chain(chain_id)}/packs"


def pack(chain_id: str, pack_id: str) -> str:
    """Return the name of a pack."""
    return f"{packs(chain_id)}/{_checked(pack_id)[:2]}/{pack_id}.pack"


def moved(chain_id: str, pack_id: str) -> str:
    """Return the name of the table that says where the chunks of a pack went."""
    return f"{packs(chain_id)}/{_checked(pack_id)[:2]}/{pack_id}.moved"


def points(chain_id: str) -> str:
    """Return the directory of the heads."""
    return f"{chain(chain_id)}/points"


def point_stem(sequence: int, point_id: str) -> str:
    """Return what a head's file name is made of."""
    return f"{sequence:010d}-{_checked(point_id)}"


def parse_point_stem(stem: str) -> tuple[int, str]:
    """Return sequence and id of a stem.

    Raises:
        UnsafeName: it is none.
    """
    match = _POINT.fullmatch(stem)
    if match is None:
        raise UnsafeName(repr(stem)[:80])
    return int(match[1]), match[2]


def is_head(name: str) -> bool:
    """Tell whether an object in the directory of the heads is one."""
    leaf = name.rsplit("/", 1)[-1]
    return leaf.endswith(".json") and _POINT.fullmatch(leaf.removesuffix(".json")) is not None


def head(chain_id: str, stem: str) -> str:
    """Return the name of a head, by its stem."""
    parse_point_stem(stem)
    return f"{points(chain_id)}/{stem}.json"


def marks(chain_id: str) -> str:
    """Return the directory of stars and locks."""
    return f"{chain(chain_id)}/marks"


def star(chain_id: str, point_id: str) -> str:
    """Return the name of a star."""
    return f"{marks(chain_id)}/{_checked(point_id)}.star.json"


def lock_until(chain_id: str, point_id: str, stamp: str) -> str:
    """Return the name of a lock that ends at `stamp` (YYYYMMDDTHHMMSSZ)."""
    return f"{marks(chain_id)}/{_checked(point_id)}.lock-{stamp}.json"


def trash(chain_id: str) -> str:
    """Return the directory of the trash."""
    return f"{chain(chain_id)}/trash"


def trash_record(chain_id: str, record: str) -> str:
    """Return the name of a trash record."""
    return f"{trash(chain_id)}/{_checked(record)}.json"


def locks(chain_id: str) -> str:
    """Return the directory of the writer's locks."""
    return f"{chain(chain_id)}/locks"


def leases(chain_id: str) -> str:
    """Return the directory of the readers' leases."""
    return f"{chain(chain_id)}/leases"


def lease(chain_id: str, point_id: str, lease_id: str) -> str:
    """Return the name of a lease."""
    return f"{leases(chain_id)}/{_checked(point_id)}.{_checked(lease_id)}.json"


def stem_of(name: str, suffix: str = ".json") -> str:
    """Return the last component of a name without its suffix."""
    return name.rsplit("/", 1)[-1].removesuffix(suffix)
