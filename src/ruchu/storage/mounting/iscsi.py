"""Disks of iSCSI targets, through open-iscsi: log in, find the disk, log out.

The secrets go into the record that open-iscsi keeps of a target, readable by root alone, and
never onto a command line.
"""

from collections.abc import Mapping
from pathlib import Path

from ruchu import clock, commands, errors
from ruchu.storage.locations import Location

PORT_DEFAULT = 3260
LOGIN_LIMIT_S = 60.0
# The disk of a session appears a moment after the login.
APPEAR_LIMIT_S = 30.0
_POLL_S = 0.1
_RECORDS = Path("/etc/iscsi/nodes")
_SESSIONS = Path("/sys/class/iscsi_session")


def device_of(location: Location) -> str | None:
    """Return the disk of a target that we are logged in to, None if there is none."""
    target, unit = location.target
    for session in sorted(_SESSIONS.glob("session*")):
        if _text(session / "targetname") != target:
            continue
        for disk in sorted(session.glob(f"device/target*/*:{unit}/block/*")):
            return f"/dev/{disk.name}"
    return None


def log_in(location: Location, user: str, password: str, clock: clock.Clock) -> str:
    """Log in to a target, if we are not; return its disk.

    Raises:
        StorageGone: the target is not there, or does not take the credentials.
    """
    found = device_of(location)
    if found is not None:
        return found
    words = _words(location)
    try:
        commands.run([*words, "--op", "new"], timeout_s=LOGIN_LIMIT_S)
        # What is logged in again at the start of the host is for us to say.
        _record(location, {"node.startup": "manual", **_secrets(user, password)})
        commands.run([*words, "--login"], timeout_s=LOGIN_LIMIT_S)
    except errors.CommandFailed as error:
        hint = "Check portal and name of the target, its credentials, and that iscsid runs."
        raise errors.StorageGone(f"({location}: {error.detail})", hint=hint) from error
    deadline = clock.monotonic() + APPEAR_LIMIT_S
    while (found := device_of(location)) is None or not Path(found).exists():
        if clock.monotonic() > deadline:
            raise errors.StorageGone(f"({location}: the target has no such unit)")
        clock.sleep(_POLL_S)
    return found


def log_out(location: Location) -> None:
    """Log out of a target and forget it; one that we are not logged in to is no error."""
    words = _words(location)
    commands.run([*words, "--logout"], timeout_s=LOGIN_LIMIT_S, check=False)
    commands.run([*words, "--op", "delete"], timeout_s=LOGIN_LIMIT_S, check=False)


def rescan(location: Location) -> None:
    """Ask the target for the sizes of its disks."""
    try:
        commands.run([*_words(location), "--rescan"], timeout_s=LOGIN_LIMIT_S)
    except errors.CommandFailed as error:
        raise errors.StorageGone(f"({error.detail})") from error


def _words(location: Location) -> list[str]:
    portal = f"{location.host}:{location.port or PORT_DEFAULT}"
    return ["iscsiadm", "--mode", "node", "--targetname", location.target[0], "--portal", portal]


def _secrets(user: str, password: str) -> dict[str, str]:
    if not user:
        return {}
    if any(bad in user + password for bad in "\n\0"):
        raise errors.UsageError("(a user or password with a line break)")
    return {
        "node.session.auth.authmethod": "CHAP",
        "node.session.auth.username": user,
        "node.session.auth.password": password,
    }


def _record(location: Location, settings: Mapping[str, str]) -> None:
    """Put settings into the record of a target."""
    records = sorted((_RECORDS / location.target[0]).rglob("*"))
    files = [path for path in records if path.is_file()]
    for path in files:
        kept = [
            line
            for line in path.read_text().splitlines()
            if line.partition("=")[0].strip() not in settings
        ]
        # Between the first and the last line, which begin and end the record.
        new = [f"{key} = {value}" for key, value in settings.items()]
        path.write_text("\n".join([*kept[:-1], *new, *kept[-1:]]) + "\n")
        path.chmod(0o600)
    if not files:
        raise errors.StorageGone(f"({location}: open-iscsi keeps its records elsewhere)")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
