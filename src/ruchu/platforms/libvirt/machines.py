"""Restores a machine: new images under temporary names, then the definition.

An image is created, written through qemu-nbd, flushed, renamed into place, and only then the
machine is defined. Leaving early removes all of it. Where an old machine is replaced, its images
stay beside the new ones, under temporary names, until the new definition is accepted.
"""

import contextlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ruchu.blocks import nbd
from ruchu.errors import AlreadyExists, CommandFailed, InvalidName, PlatformError, SourceBusy
from ruchu.model.machines import DiskSpec, MachineSpec, Placement
from ruchu.platforms.libvirt import (
    domain_xml,
    images,
    inventory,
    leftovers,
    naming,
    planning,
    power,
)
from ruchu.platforms.libvirt.capture import Settings
from ruchu.platforms.libvirt.client import Client, Domain, translated

# libvirt takes any name without a slash; what becomes part of a path is held to this.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,99}")
KEY = re.compile(r"[A-Za-z0-9]{1,16}")
PARTIAL = ".ruchu-partial"
REPLACED = ".ruchu-replaced"
NVRAM_SUFFIX = "_VARS.fd"
# A partial image that nobody writes and that is so old was left by a restore that died.
STALE_MINUTES = 60


@dataclass(frozen=True, slots=True)
class Image:
    """One image to be restored: where it is written, and where it goes."""

    disk: DiskSpec
    partial: str
    path: str
    format: str


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore will do: the machine's new names, its images, whom it replaces."""

    name: str
    uuid: str
    images: tuple[Image, ...]
    directory: str
    new_identity: bool
    old: Domain | None


class Sink:
    """A new disk, being written. Reads as zeros where nothing was written."""

    def __init__(self, key: str, disk: nbd.NbdDisk) -> None:
        self._key = key
        self._disk = disk

    @property
    def key(self) -> str:
        """The disk's key in the machine."""
        return self._key

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._disk.size

    def write(self, start: int, buffer: memoryview) -> None:
        """Store the buffer at `start`."""
        self._disk.write(start, buffer)

    def zero(self, start: int, length: int) -> None:
        """Make the range read as zeros."""
        self._disk.zero(start, length)

    def flush(self) -> None:
        """Return when everything written before is durable."""
        self._disk.flush()


class Restore:
    """One restore, as a context manager. `finish` is what makes it real."""

    def __init__(
        self, client: Client, settings: Settings, spec: MachineSpec, placement: Placement
    ) -> None:
        self._client = client
        self._settings = settings
        self._host = settings.host
        self._spec = spec
        self._placement = placement
        self._plan = plan_restore(client, spec, placement)
        # Two stacks: the servers end first, then what they wrote is removed or kept.
        self._undo = contextlib.ExitStack()
        self._servers = contextlib.ExitStack()
        self._sinks: list[Sink] = []
        self._finished = False

    def __enter__(self) -> Self:
        """Create the images and serve them."""
        try:
            self._begin()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Remove everything unless it was finished."""
        self._close()

    @property
    def sinks(self) -> Sequence[Sink]:
        """One sink for each restored disk, in the order of the specification."""
        return tuple(self._sinks)

    def finish(self) -> str:
        """Flush, put the disks in place, define the machine; return its id.

        Images of a replaced machine that lie elsewhere are not touched.

        Raises:
            PlatformError: it failed; what was there before is still there. If only the start
                failed, the new machine stays, off.
        """
        if self._finished:
            raise PlatformError("this restore was finished before")
        for sink in self._sinks:
            sink.flush()
        self._servers.close()
        for image in self._plan.images:
            self._host.sync(image.partial)
        self._check_old_is_off()
        forget: list[str] = []
        for image in self._plan.images:
            self._put_in_place(image.partial, image.path, forget)
        nvram = self._put_nvram(forget)
        domain = self._define(nvram)
        # From here on the new machine is the one that counts: nothing is undone any more.
        self._undo.pop_all()
        self._finished = True
        for path in forget:
            self._host.remove(path)
        if self._placement.start:
            with translated(f"start of {self._plan.name}"):
                domain.create()
        return self._plan.uuid

    def _begin(self) -> None:
        for directory in {self._settings.socket_directory, *map(_parent, self._paths())}:
            self._host.make_directory(directory)
        leftovers.sweep_restores(self._host, self._settings.socket_directory)
        for directory in set(map(_parent, self._paths())):
            self._remove_stale(directory)
        for image in self._plan.images:
            if not self._placement.replace and self._host.exists(image.path):
                raise AlreadyExists(image.path, hint="Choose another name or directory.")
            images.create(self._host, image.partial, image.format, image.disk.size)
            self._undo.callback(self._host.remove, image.partial)
            mark = naming.restore_mark(self._plan.uuid)
            disk = self._servers.enter_context(
                images.served(
                    self._host,
                    self._settings.clock,
                    images.Opening(image.partial, image.format, writable=True),
                    f"{self._settings.socket_directory}/{mark}",
                )
            )
            self._sinks.append(Sink(image.disk.key, disk))

    def _close(self) -> None:
        try:
            self._servers.close()
        finally:
            self._undo.close()

    def _paths(self) -> list[str]:
        return [image.path for image in self._plan.images]

    def _remove_stale(self, directory: str) -> None:
        args = ["find", directory, "-maxdepth", "1", "-type", "f", "-name", f".*{PARTIAL}"]
        args += ["-mmin", f"+{STALE_MINUTES}", "-print0"]
        for path in filter(None, self._host.run(args).text.split("\0")):
            # What is being written is locked, and qemu-img refuses it. As raw: nothing that a
            # guest wrote is ever taken for a format.
            with contextlib.suppress(CommandFailed):
                self._host.run(["qemu-img", "info", "-f", "raw", path])
                self._host.remove(path)

    def _put_in_place(self, partial: str, path: str, forget: list[str]) -> None:
        if self._host.exists(path):
            if not self._placement.replace:
                raise AlreadyExists(path)
            aside = f"{_parent(path)}/.{_base(path)}.{secrets.token_hex(4)}{REPLACED}"
            self._host.rename(path, aside)
            self._undo.callback(self._host.rename, aside, path)
            forget.append(aside)
        self._host.rename(partial, path)
        self._undo.callback(self._host.remove, path)

    def _put_nvram(self, forget: list[str]) -> str:
        old = domain_xml.nvram_path(self._spec.native)
        if not old or not self._spec.nvram:
            return ""
        path = old
        if self._plan.new_identity or self._plan.name != self._spec.name:
            path = f"{_parent(old)}/{self._plan.name}{NVRAM_SUFFIX}"
        partial = f"{_parent(path)}/.{_base(path)}.{secrets.token_hex(4)}{PARTIAL}"
        self._host.make_directory(_parent(path))
        self._undo.callback(self._host.remove, partial)
        self._host.write(partial, self._spec.nvram)
        self._put_in_place(partial, path, forget)
        return path

    def _check_old_is_off(self) -> None:
        if self._plan.old is not None:
            _check_off(self._plan.old)

    def _define(self, nvram: str) -> Domain:
        placement = self._placement
        changes = domain_xml.Changes(
            name=self._plan.name,
            uuid=self._plan.uuid,
            images={
                image.disk.key: domain_xml.NewImage(image.path, image.format)
                for image in self._plan.images
            },
            vcpus=placement.vcpus,
            memory=placement.memory,
            networks=placement.networks,
            new_macs=placement.macs == "new" or self._plan.new_identity,
            nvram=nvram,
            new_identity=self._plan.new_identity,
        )
        text = domain_xml.restored(self._spec, changes)
        old = self._plan.old
        with translated(f"definition of {self._plan.name}"):
            if old is not None:
                before = old.XMLDesc(inventory.CONFIG_FLAGS)
                # Its checkpoints belong to the old images, and go with them.
                old.undefineFlags(power.UNDEFINE_KEEPING_NVRAM)
                self._undo.callback(self._client.connection().defineXML, before)
            return self._client.connection().defineXML(text)


def plan_restore(client: Client, spec: MachineSpec, placement: Placement) -> RestorePlan:
    """Decide names and places, and refuse what must not be.

    Raises:
        AlreadyExists: the machine is there, and is neither to be replaced nor to be renamed.
        InvalidName: a name cannot be part of a path.
        NotFound: a disk that the backup does not have.
        SourceBusy: the machine to be replaced runs.
    """
    name = placement.name or spec.name
    if not NAME.fullmatch(name):
        raise InvalidName(f"machine name {name!r}")
    same, named = client.find(spec.id), client.find(name)
    old = _replaced(same, named) if placement.replace else None
    if named is not None and not placement.replace:
        raise AlreadyExists(f"machine {name}", hint="Give a new name, or replace it.")
    new_identity = old is None and same is not None
    identity = domain_xml.new_uuid() if new_identity else spec.id
    wanted = planning.chosen(spec.disks, placement.disks)
    made = tuple(_image(disk, name, placement) for disk in wanted)
    if len({image.path for image in made}) != len(made):
        raise AlreadyExists("two disks would get the same path", hint="Give a directory.")
    directory = placement.directory or _parent(made[0].path)
    return RestorePlan(name, identity, made, directory, new_identity, old)


def _replaced(same: Domain | None, named: Domain | None) -> Domain | None:
    if same is not None and named is not None and same.UUIDString() != named.UUIDString():
        raise AlreadyExists(
            f"machine {named.name()}",
            hint=f"Only one of {named.name()} and {same.name()} can be replaced.",
        )
    old = same if same is not None else named
    if old is not None:
        _check_off(old)
    return old


def _check_off(domain: Domain) -> None:
    with translated(f"machine {domain.name()}"):
        if domain.isActive():
            raise SourceBusy(f"{domain.name()} runs", hint="Switch it off before replacing it.")


def _image(disk: DiskSpec, name: str, placement: Placement) -> Image:
    if not KEY.fullmatch(disk.key):
        raise InvalidName(f"disk {disk.key!r}")
    image_format = placement.format or disk.format
    if image_format not in images.FORMATS:
        # Other formats hold the same bytes; these two are what we write.
        image_format = "qcow2"
    path = disk.location
    if placement.directory:
        if not placement.directory.startswith("/"):
            raise InvalidName(f"directory {placement.directory!r}", hint="Give a full path.")
        path = f"{placement.directory.rstrip('/')}/{name}-{disk.key}.{image_format}"
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise InvalidName(f"{disk.key} lies on {path!r}", hint="Give a directory for the images.")
    partial = f"{_parent(path)}/.{_base(path)}.{secrets.token_hex(4)}{PARTIAL}"
    return Image(disk, partial, path, image_format)


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _base(path: str) -> str:
    return path.rpartition("/")[2]
