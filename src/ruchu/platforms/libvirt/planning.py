"""Which disks are read how: decided before anything is frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ruchu.errors import NotFound
from ruchu.model.machines import DiskSpec
from ruchu.model.sources import ChangeRef, Reason
from ruchu.platforms.libvirt.checkpoints import Moment


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk that is read: its specification, and the base of its changes (empty: in full)."""

    disk: DiskSpec
    base: str = ""

    @property
    def key(self) -> str:
        """The disk's key."""
        return self.disk.key


@dataclass(frozen=True, slots=True)
class Plan:
    """How a machine is read: its disks, and why some are read in full though changes were asked."""

    disks: tuple[DiskPlan, ...]
    reasons: tuple[Reason, ...]

    def without_base(self, key: str, reason: Reason) -> "Plan":
        """Return the plan with one disk read in full."""
        disks = tuple(replace(plan, base="") if plan.key == key else plan for plan in self.disks)
        return Plan(disks, (*self.reasons, reason))

    def base_of(self, key: str) -> str:
        """Return the base of one disk."""
        return next((plan.base for plan in self.disks if plan.key == key), "")

    @property
    def tracked(self) -> Mapping[str, int]:
        """Key → size of the disks that a checkpoint can cover."""
        return {plan.key: plan.disk.size for plan in self.disks if plan.disk.tracked}


def chosen(disks: Sequence[DiskSpec], keys: Sequence[str]) -> tuple[DiskSpec, ...]:
    """Return the disks of these keys; all if no key is given.

    Raises:
        NotFound: the machine has no such disk, or none at all.
    """
    known = {disk.key: disk for disk in disks}
    missing = [key for key in keys if key not in known]
    if missing or not known:
        raise NotFound(f"disk {', '.join(missing)}; there are: {', '.join(known) or 'none'}")
    return tuple(known[key] for key in keys) if keys else tuple(disks)


def plan(disks: Sequence[DiskSpec], base: ChangeRef | None, moment: Moment | None) -> Plan:
    """Decide for each disk whether its changes since the base can be asked for.

    Args:
        disks: what is read.
        base: what was asked for.
        moment: the checkpoint of that name, None if it is not there (any more).
    """
    plans: list[DiskPlan] = []
    reasons: list[Reason] = []
    for disk in disks:
        reason = _why_full(disk, base, moment)
        if reason is not None:
            reasons.append(reason)
        tracked = base is not None and reason is None
        plans.append(DiskPlan(disk, base.name if base is not None and tracked else ""))
    return Plan(tuple(plans), tuple(reasons))


def _why_full(disk: DiskSpec, base: ChangeRef | None, moment: Moment | None) -> Reason | None:
    """Return why a disk is read in full; None if it is not, or if a full was asked for."""
    before = moment.sizes.get(disk.key, disk.size) if moment is not None else 0
    if not disk.tracked:
        code, text = "format-untracked", f"changes of a {disk.format} image cannot be tracked"
    elif base is None:
        return None
    elif moment is None:
        code, text = "no-reference", f"checkpoint {base.name} is not there"
    elif disk.key not in moment.bitmaps:
        code, text = "disk-new", f"checkpoint {base.name} does not cover it"
    elif before != disk.size:
        code, text = "disk-resized", f"{before} bytes then, {disk.size} now"
    else:
        return None
    return Reason(code, text, disk.key)
