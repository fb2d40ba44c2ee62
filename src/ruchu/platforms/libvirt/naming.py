"""Names of what we create on a host, so that it can be found again as ours.

A checkpoint is `ruchu-<owner>-<utc>-<random>`. A scratch file, socket or pid file begins with the
mark `ruchu-<owner>-<first 8 digits of the machine's UUID>-<random>`.
"""

import datetime
import re
import secrets

from ruchu.errors import InvalidName

# A socket path has at most 107 bytes, and libvirt's directory, the UUID and the rest take 60.
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
SOCKET_PATH_MAX = 107
_CHECKPOINT = re.compile(r"ruchu-(?P<owner>.+)-\d{8}T\d{12}Z-[0-9a-f]{8}")
_MARK = re.compile(r"ruchu-(?P<owner>.+)-(?P<machine>[0-9a-f]{8})-[0-9a-f]{8}")


# The owner of what a restore makes: no backup may be called so.
RESTORES = "restore"


def check_owner(owner: str) -> str:
    """Return the owner if it may be part of names.

    Raises:
        InvalidName: it may not.
    """
    if owner == RESTORES or not OWNER.fullmatch(owner):
        raise InvalidName(f"owner {owner!r}", hint="At most 40 letters, digits, `.`, `-`, `_`.")
    return owner


def checkpoint(owner: str, now: datetime.datetime) -> str:
    """Return the name of a new checkpoint."""
    moment = now.astimezone(datetime.UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return f"ruchu-{check_owner(owner)}-{moment}-{secrets.token_hex(4)}"


def is_checkpoint_of(name: str, owner: str) -> bool:
    """Tell whether a checkpoint is of this owner."""
    found = _CHECKPOINT.fullmatch(name)
    return found is not None and found["owner"] == owner


def mark(owner: str, machine_id: str) -> str:
    """Return a new mark for files of one run on one machine."""
    return f"ruchu-{check_owner(owner)}-{machine_id[:8].lower()}-{secrets.token_hex(4)}"


def restore_mark(machine_id: str) -> str:
    """Return a new mark for files of a restore."""
    return f"ruchu-{RESTORES}-{machine_id[:8].lower()}-{secrets.token_hex(4)}"


def is_mark_of(file_name: str, owner: str, machine_id: str) -> bool:
    """Tell whether a file name begins with a mark of this owner and machine."""
    return _marked(file_name) == (owner, machine_id[:8].lower())


def is_mark_of_owner(file_name: str, owner: str) -> bool:
    """Tell whether a file name begins with a mark of this owner, for any machine."""
    return _marked(file_name)[0] == owner


def _marked(file_name: str) -> tuple[str, str]:
    """Return owner and machine of the mark that a file name begins with, empty if none."""
    # What follows the mark is `.vda.scratch` and the like; an owner may hold dots itself.
    stem = file_name
    while stem:
        found = _MARK.fullmatch(stem)
        if found:
            return found["owner"], found["machine"]
        stem = stem.rpartition(".")[0]
    return "", ""
