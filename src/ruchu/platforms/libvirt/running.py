"""Opens a point of a running machine: a checkpoint and a backup job in pull mode.

QEMU keeps the blocks of the moment in a scratch file before the guest overwrites them, and offers
the disks by NBD on a unix socket. The formats are libvirt's docs/formatbackup.rst and
docs/formatcheckpoint.rst.
"""

import contextlib
import re
from xml.sax.saxutils import quoteattr

import libvirt

from ruchu.blocks import nbd
from ruchu.errors import PlatformError, SourceChanged
from ruchu.model.sources import ChangeRef, Reason
from ruchu.platforms.contract import SourcePoint
from ruchu.platforms.libvirt import checkpoints, disks, images, leftovers, naming, planning
from ruchu.platforms.libvirt.capture import Settings, Target
from ruchu.platforms.libvirt.client import translated
from ruchu.platforms.libvirt.quiesce import Quiesce

# libvirt: "missing or broken bitmap 'B' for disk 'vda'".
_BROKEN = re.compile(r"for disk '(?P<disk>[^']+)'")


class RunningCapture:
    """One running machine. The steps are those of `Capture`."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self._domain = target.domain
        self._spec = target.spec
        self._target = target
        self._request = target.request
        self._settings = settings
        self._quiesce = Quiesce(
            self._domain, self._request.owner, settings.clock, settings.freeze_limit_s
        )
        self._stack = contextlib.ExitStack()
        self._mark = naming.mark(self._request.owner, self._spec.id)
        self._plan = planning.Plan((), ())
        self._checkpoint = ""
        self._began = False
        self._kept = False

    def prepare(self) -> None:
        """Remove what is stale and decide what is read how. Nothing is frozen yet."""
        request = self._request
        images.check_socket(self._socket)
        for directory in sorted(self._settings.directories):
            self._settings.host.make_directory(directory)
        leftovers.reconcile(
            self._domain,
            request.owner,
            self._settings.host,
            self._settings.directories,
            self._settings.clock,
        )
        base = request.base.name if request.base else ""
        with translated(f"machine {self._spec.name}"):
            checkpoints.prune(self._domain, request.owner, self._target.keeps(base))
        wanted = planning.chosen(self._spec.disks, request.disks)
        moment = checkpoints.find(self._domain, base) if base else None
        self._plan = planning.plan(wanted, request.base, moment)

    def freeze(self) -> None:
        """Freeze the guest's file systems, if asked and possible."""
        if self._request.quiesce or self._request.require_quiesce:
            self._quiesce.freeze(required=self._request.require_quiesce)

    def begin(self) -> None:
        """Begin the backup job, and with it the checkpoint."""
        name = naming.checkpoint(self._request.owner, self._settings.clock.now())
        # Each failure names one disk whose bitmap is of no use; that one is read in full.
        for _ in range(len(self._plan.disks) + 1):
            try:
                self._domain.backupBegin(self._backup_xml(), self._checkpoint_xml(name), 0)
            except libvirt.libvirtError as error:
                reason = self._broken_bitmap(error)
                if reason is None:
                    with translated(f"backup of {self._spec.name}"):
                        raise
                else:
                    self._plan = self._plan.without_base(reason.disk, reason)
            else:
                self._began = True
                self._time = self._settings.clock.now()
                self._checkpoint = name if self._plan.tracked else ""
                break
        else:
            raise PlatformError(f"backup of {self._spec.name}: bitmaps fail again and again")
        self._quiesce.check()

    def thaw(self) -> None:
        """Thaw the guest."""
        self._quiesce.thaw()

    def connect(self) -> SourcePoint:
        """Connect to the disks and return the point."""
        opened = [self._open(plan) for plan in self._plan.disks]
        tracked = tuple(self._plan.tracked)
        return SourcePoint(
            spec=self._spec,
            disks=opened,
            change_ref=ChangeRef(self._checkpoint, tracked) if self._checkpoint else None,
            consistency=self._quiesce.reached,
            degraded=(*self._plan.reasons, *self._quiesce.reasons),
            frozen_s=self._quiesce.frozen_s,
            time=self._time,
        )

    def keep(self) -> None:
        """Remember that the point was committed."""
        self._kept = True

    def close(self) -> None:
        """End the job, delete the checkpoint unless it is kept, remove the files."""
        # An ExitStack runs all of them, the last first, and raises the last error.
        with translated(f"machine {self._spec.name}"), contextlib.ExitStack() as stack:
            stack.callback(self._remove_files)
            if self._is_known():
                stack.callback(self._settle_checkpoints)
                if self._began:
                    stack.callback(leftovers.end_job, self._domain, self._settings.clock)
            stack.callback(self._stack.close)

    def _is_known(self) -> bool:
        """Tell whether the machine is still there; one that is gone took its job with it."""
        try:
            self._domain.isActive()
        except libvirt.libvirtError as error:
            return bool(error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN)
        return True

    @property
    def _socket(self) -> str:
        return f"{self._settings.socket_directory}/{self._mark}.sock"

    def _scratch(self, key: str) -> str:
        return f"{self._settings.scratch_directory}/{self._mark}.{key}.scratch"

    def _open(self, plan: planning.DiskPlan) -> disks.PointDisk:
        local = self._stack.enter_context(self._settings.host.socket(self._socket))
        address = nbd.Address(export=plan.key, path=local)
        disk = nbd.NbdDisk(address, connections=self._settings.connections)
        self._stack.callback(disk.close)
        if disk.size != plan.disk.size:
            raise SourceChanged(f"{plan.key} has {disk.size} bytes, not {plan.disk.size}")
        return disks.PointDisk(plan.key, disk, [disks.EXPORT_BITMAP] if plan.base else None)

    def _backup_xml(self) -> str:
        parts = []
        for plan in self._plan.disks:
            mode = "backupmode='full'"
            if plan.base:
                mode = f"backupmode='incremental' incremental={quoteattr(plan.base)}"
                mode += f" exportbitmap='{disks.EXPORT_BITMAP}'"
            parts.append(
                f"<disk name={quoteattr(plan.key)} backup='yes' type='file' {mode} "
                f"exportname={quoteattr(plan.key)}>"
                f"<scratch file={quoteattr(self._scratch(plan.key))}/></disk>"
            )
        parts += [f"<disk name={quoteattr(key)} backup='no'/>" for key in self._others()]
        return (
            f"<domainbackup mode='pull'><server transport='unix' "
            f"socket={quoteattr(self._socket)}/><disks>{''.join(parts)}</disks></domainbackup>"
        )

    def _checkpoint_xml(self, name: str) -> str | None:
        tracked = self._plan.tracked
        if not tracked:
            return None
        others = [plan.key for plan in self._plan.disks if not plan.disk.tracked]
        return checkpoints.definition(name, tracked, [*others, *self._others()])

    def _others(self) -> list[str]:
        read = {plan.key for plan in self._plan.disks}
        return [disk.key for disk in self._spec.disks if disk.key not in read]

    def _broken_bitmap(self, error: libvirt.libvirtError) -> Reason | None:
        if error.get_error_code() != libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT:
            return None
        found = _BROKEN.search(str(error))
        if found is None or not self._plan.base_of(found["disk"]):
            return None
        return Reason("bitmap-lost", str(error), found["disk"])

    def _settle_checkpoints(self) -> None:
        if not self._checkpoint:
            return
        if self._kept:
            keep = self._target.keeps(self._checkpoint)
            checkpoints.prune(self._domain, self._request.owner, keep)
        else:
            checkpoints.delete(self._domain, self._checkpoint)

    def _remove_files(self) -> None:
        if self._began:
            for plan in self._plan.disks:
                self._settings.host.remove(self._scratch(plan.key))
            self._settings.host.remove(self._socket)
