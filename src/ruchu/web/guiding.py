"""How far a new server is on its way to a first verified backup. Pure: from what there is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Found = Mapping[str, Any]
STORAGE, PLATFORM, POLICY, BACKUP, DONE = "storage", "platform", "policy", "backup", "done"
STEPS = (STORAGE, PLATFORM, POLICY, BACKUP)
_GOOD = frozenset({"succeeded", "partly"})


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is of a first backup.

    Attributes:
        storage: that points go to.
        platform: that machines are on.
        policy: a line of `GET /policies/overview`.
        backup: its newest run.
        check: the newest verification of what that saved: one that began after it had ended.
        clean: whether that found nothing; None while it is not known.
        proven: whether a point on the storage was verified and is sound.
    """

    storage: Found | None = None
    platform: Found | None = None
    policy: Found | None = None
    backup: Found | None = None
    check: Found | None = None
    clean: bool | None = None
    proven: bool = False

    @property
    def step(self) -> str:
        """What comes next."""
        if self.policy is None:
            missing = [(STORAGE, self.storage), (PLATFORM, self.platform)]
            return next((step for step, thing in missing if thing is None), POLICY)
        proven = self.proven and self.clean is not False
        return DONE if self.verified or proven else BACKUP

    @property
    def saved(self) -> bool:
        """Whether a backup has ended well, at least in part."""
        return self.backup is not None and self.backup["state"] in _GOOD

    @property
    def failed(self) -> bool:
        """Whether the backup has ended and there is nothing to verify."""
        return self.backup is not None and bool(self.backup["ended"]) and not self.saved

    @property
    def verified(self) -> bool:
        """Whether a backup was verified and found sound."""
        return self.saved and bool(self.clean)

    @property
    def wants_check(self) -> bool:
        """Whether a verification should start: nothing was ever found sound on this server."""
        return self.saved and self.check is None and not self.proven


def the_storage(storages: Sequence[Found]) -> Found | None:
    """Return the storage that a first policy goes to."""
    return next((row for row in storages if row["role"] == "backup"), None)


def the_platform(platforms: Sequence[Found]) -> Found | None:
    """Return the platform that a first policy protects: one whose machines were listed."""
    return next((row for row in platforms if row["seen"]), None)


def the_policy(policies: Sequence[Found]) -> Found | None:
    """Return the policy whose backup is followed: the one that ran last, if any ran."""
    ran = [line for line in policies if line["last"] is not None]
    if ran:
        return max(ran, key=lambda line: str(line["last"]["created"]))
    return next(iter(policies), None)


def the_check(checks: Sequence[Found], policy: Found, backup: Found | None) -> Found | None:
    """Return the newest verification of what a backup saved; earlier ones tell nothing of it.

    Args:
        checks: runs of verifications, the newest first.
        policy: whose storage is verified.
        backup: the newest run of the policy.
    """
    if backup is None or not backup["ended"]:
        return None
    later = (each for each in checks if each["created"] >= backup["ended"])
    return next((each for each in later if each["name"] == policy["storage"]), None)


def sound(points: Sequence[Found]) -> list[Found]:
    """Return the points that a verification found sound."""
    return [each for each in points if each["verified"] and each["verdict"] == "sound"]


def clean(tasks: Sequence[Found]) -> bool | None:
    """Return whether a verification found nothing; None if it did not end."""
    results = [task["result"] for task in tasks if task["result"] is not None]
    if not results or len(results) < len(tasks):
        return None
    return all(bool(result.get("clean")) for result in results)


def libvirt_here(checks: Sequence[Found]) -> bool:
    """Tell whether the host of a node runs libvirt, by what its doctor says."""
    states = {each["name"]: each["state"] for each in checks}
    return all(states.get(name) == "ok" for name in ("libvirtd", "libvirt-python"))
