"""Opens a point of a machine that is off: its images, read-only through qemu-nbd.

libvirt cannot begin a backup then. QEMU has stored the bitmaps in the qcow2 images when the
machine ended, so changes are known if they are whole. As nothing can make a new checkpoint
either, the change reference of such a point is an older checkpoint: what changed since then holds
all that changes after this moment, so the next increment is right, and larger than need be.
qemu-nbd locks the images: the machine cannot be started while they are read.
"""

import contextlib
from collections.abc import Sequence

from ruchu.errors import CommandFailed, SourceBusy, Unsupported
from ruchu.model.machines import DiskSpec, PowerState
from ruchu.model.sources import ChangeRef, Consistency, Reason
from ruchu.platforms.contract import SourcePoint
from ruchu.platforms.libvirt import checkpoints, disks, images, leftovers, naming, planning, quiesce
from ruchu.platforms.libvirt.capture import Settings, Target
from ruchu.platforms.libvirt.client import translated

# More layers than QEMU copes with; ends a loop that a looping chain would not.
BACKING_MAX = 256


class OfflineCapture:
    """One machine that is off. The steps are those of `Capture`."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self._domain = target.domain
        self._spec = target.spec
        self._request = target.request
        self._settings = settings
        self._stack = contextlib.ExitStack()
        self._plan = planning.Plan((), ())
        self._images: dict[str, images.ImageInfo] = {}
        self._bitmaps: dict[str, list[str]] = {}
        self._opened: list[disks.PointDisk] = []

    def prepare(self) -> None:
        """Remove what is stale and decide what is read how."""
        request = self._request
        for directory in sorted(self._settings.directories):
            self._settings.host.make_directory(directory)
        leftovers.reconcile(
            self._domain,
            request.owner,
            self._settings.host,
            self._settings.directories,
            self._settings.clock,
        )
        wanted = planning.chosen(self._spec.disks, request.disks)
        for disk in wanted:
            if not disk.location.startswith("/"):
                raise Unsupported(f"{disk.key} of a machine that is off lies on {disk.location}")
            self._images[disk.key] = self._information(disk)
        base = checkpoints.find(self._domain, request.base.name) if request.base else None
        self._plan = planning.plan(wanted, request.base, base)
        for plan in self._plan.disks:
            if plan.base:
                self._choose_bitmaps(plan)

    def freeze(self) -> None:
        """Do nothing: nothing runs."""

    def begin(self) -> None:
        """Open the images, which locks them."""
        for plan in self._plan.disks:
            mark = naming.mark(self._request.owner, self._spec.id)
            bitmaps = self._bitmaps.get(plan.key)
            opening = images.Opening(
                plan.disk.location, plan.disk.format, bitmaps=tuple(bitmaps or ())
            )
            disk = self._stack.enter_context(
                images.served(
                    self._settings.host,
                    self._settings.clock,
                    opening,
                    f"{self._settings.socket_directory}/{mark}",
                )
            )
            self._opened.append(disks.PointDisk(plan.key, disk, bitmaps))
        if quiesce.state(self._domain) is not PowerState.OFF:
            raise SourceBusy(f"{self._spec.name} was started just now")
        self._time = self._settings.clock.now()

    def thaw(self) -> None:
        """Do nothing: nothing was frozen."""

    def connect(self) -> SourcePoint:
        """Return the point."""
        saved = self._is_saved()
        reasons = self._plan.reasons
        if saved:
            text = "its memory is saved: the disks are as after a power cut"
            reasons = (*reasons, Reason("machine-saved", text))
        return SourcePoint(
            spec=self._spec,
            disks=tuple(self._opened),
            change_ref=self._change_ref(),
            consistency=Consistency.CRASH if saved else Consistency.OFFLINE,
            degraded=reasons,
            frozen_s=0.0,
            time=self._time,
        )

    def keep(self) -> None:
        """Do nothing: no checkpoint was made."""

    def close(self) -> None:
        """Close the images."""
        self._stack.close()

    def _information(self, disk: DiskSpec) -> images.ImageInfo:
        try:
            return images.information(self._settings.host, disk.location, disk.format)
        except CommandFailed as error:
            if "lock" in error.detail:
                raise SourceBusy(f"{disk.location} is in use: {error.detail}") from error
            raise

    def _is_saved(self) -> bool:
        with translated(f"machine {self._spec.name}"):
            return bool(self._domain.hasManagedSaveImage(0))

    def _choose_bitmaps(self, plan: planning.DiskPlan) -> None:
        """Take all bitmaps since the base: together they mark each change since then.

        libvirt keeps each one recording, older releases only the newest: right for both.
        """
        names = [
            moment.bitmaps[plan.key]
            for moment in checkpoints.since(self._domain, plan.base)
            if plan.key in moment.bitmaps
        ]
        reason = self._why_not(plan.key, names)
        if reason is None:
            self._bitmaps[plan.key] = names
        else:
            self._plan = self._plan.without_base(plan.key, reason)

    def _why_not(self, key: str, names: Sequence[str]) -> Reason | None:
        image = self._images[key]
        if image.backing and self._below(image.backing, image.backing_format) & set(names):
            text = "the machine is off and its bitmaps are spread over a backing chain"
            return Reason("machine-off", text, key)
        for name in names:
            bitmap = image.bitmaps.get(name)
            if bitmap is None:
                return Reason("bitmap-lost", f"the image has no bitmap {name}", key)
            if not bitmap.consistent:
                text = f"bitmap {name} was not stored when the machine ended"
                return Reason("bitmap-broken", text, key)
        return None

    def _below(self, path: str, form: str) -> set[str]:
        """Return the names of the bitmaps of a backing file, of any depth."""
        found: set[str] = set()
        for _ in range(BACKING_MAX):
            if not path:
                break
            image = images.information(self._settings.host, path, form)
            found |= set(image.bitmaps)
            path, form = image.backing, image.backing_format
        return found

    def _change_ref(self) -> ChangeRef | None:
        """Return the newest checkpoint of ours whose bitmaps are whole in all tracked images."""
        tracked = tuple(self._plan.tracked)
        for name in reversed(checkpoints.ours(self._domain, self._request.owner)):
            moment = checkpoints.find(self._domain, name)
            if moment is not None and tracked and self._covers(moment, tracked):
                return ChangeRef(name, tracked)
        return None

    def _covers(self, moment: checkpoints.Moment, keys: Sequence[str]) -> bool:
        return all(
            key in moment.bitmaps
            and moment.sizes.get(key) == self._images[key].size
            and self._why_not(key, [moment.bitmaps[key]]) is None
            for key in keys
        )
