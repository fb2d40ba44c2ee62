"""Our own migration's landing: new images beside a machine that runs from served disks.

The images have names made from the migration's token until the switch, so that a migration that
was interrupted finds them again; one that was interrupted within the switch finds a mark beside
them, and takes them back. The switch saves the paused guest's memory, defines the machine
anew with the new images, and lets it go on there: the guest sees a pause, not a restart. The memory
lies beside the new images meanwhile (virDomainSaveFlags of libvirt, with the new definition).
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Self

import libvirt

from ruchu.errors import AlreadyExists, CommandFailed, UsageError
from ruchu.model.machines import Placement, PowerState
from ruchu.platforms.libvirt import (
    domain_xml,
    images,
    instants,
    inventory,
    leftovers,
    naming,
    power,
    quiesce,
)
from ruchu.platforms.libvirt.capture import Settings
from ruchu.platforms.libvirt.client import Client, Domain, translated
from ruchu.platforms.libvirt.domain_xml import NewImage
from ruchu.platforms.libvirt.machines import Sink

# The definition as libvirt takes it back: without what it fills in at each start.
_MOVABLE = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
TOKEN = re.compile(r"[0-9a-f]{8,32}")


class DiskLanding:
    """One migration of one machine, as a context manager."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        domain: Domain,
        targets: Mapping[str, NewImage],
        token: str,
    ) -> None:
        _check(token)
        self._client = client
        self._settings = settings
        self._host = settings.host
        self._domain = domain
        self._keys = instants.require_served(domain)
        self._targets = {key: targets[key] for key in self._keys}
        self._partial = {key: _partial(targets[key].path, token) for key in self._keys}
        self._memory = _memory(targets[self._keys[0]].path, token)
        self._servers = contextlib.ExitStack()
        self._sinks: list[Sink] = []
        self._continued = False

    def __enter__(self) -> Self:
        """Create the images, or find those of an interrupted migration, and serve them."""
        try:
            self._begin()
        except BaseException:
            self._servers.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Serve them no longer; they stay for the next landing with the same token."""
        self._servers.close()

    @property
    def sinks(self) -> Sequence[Sink]:
        """One sink for each disk, in the order of the machine."""
        return tuple(self._sinks)

    @property
    def continued(self) -> bool:
        """Whether the images were begun by an earlier landing."""
        return self._continued

    def pause(self) -> None:
        """Hold the machine; QEMU finishes and flushes what it had begun."""
        power.bring_to(self._domain, PowerState.PAUSED, self._settings.clock, 0)

    def resume(self) -> None:
        """Let the machine go on where it is."""
        power.bring_to(self._domain, PowerState.RUNNING, self._settings.clock, 0)

    def switch(self) -> bool:
        """Let the paused machine go on from the new images, always with its memory.

        Raises:
            PlatformError: it could not be switched; it is paused, or its memory was given back.
        """
        for sink in self._sinks:
            sink.flush()
        self._servers.close()
        domain, name = self._domain, self._domain.name()
        with translated(f"switch of {name}"), contextlib.ExitStack() as undo:
            live_before = domain.XMLDesc(_MOVABLE)
            live = domain_xml.with_images(live_before, self._targets)
            before = domain.XMLDesc(inventory.CONFIG_FLAGS)
            config = instants.moved_definition(domain, self._targets)
            for key in self._keys:
                self._put_in_place(key)
                undo.callback(self._host.rename, self._targets[key].path, self._partial[key])
            self._host.remove(self._memory)
            undo.callback(self._host.remove, self._memory)
            domain.saveFlags(self._memory, live, libvirt.VIR_DOMAIN_SAVE_PAUSED)
            undo.callback(self._go_back, live_before)
            for key in self._keys:
                # From here on they are the machine's own.
                self._host.remove(instants.begun_mark(self._targets[key].path))
            self._client.connection().defineXML(config)
            undo.callback(self._client.connection().defineXML, before)
            self._go_on(live)
            undo.pop_all()
        self._host.remove(self._memory)
        return True

    def abandon(self) -> None:
        """Remove the images."""
        self._servers.close()
        for path in self._partial.values():
            self._host.remove(path)

    def _begin(self) -> None:
        leftovers.sweep_restores(self._host, self._settings.socket_directory)
        self._host.remove(self._memory)
        for key in self._keys:
            self._host.make_directory(self._targets[key].path.rpartition("/")[0])
            self._take_back(key)
            if self._host.exists(self._targets[key].path):
                hint = "Choose another directory."
                raise AlreadyExists(self._targets[key].path, hint=hint)
        found = [self._host.exists(path) for path in self._partial.values()]
        self._continued = all(found)
        for key in self._keys:
            path, image = self._partial[key], self._targets[key]
            if self._continued:
                self._wait_until_free(path, image.format)
            else:
                # One of several may be there: what it holds is not known any more.
                self._host.remove(path)
                size = int(self._domain.blockInfo(key)[0])
                images.create(self._host, path, image.format, size)
            mark = naming.restore_mark(self._domain.UUIDString())
            disk = self._servers.enter_context(
                images.served(
                    self._host,
                    self._settings.clock,
                    images.Opening(path, image.format, writable=True),
                    f"{self._settings.socket_directory}/{mark}",
                )
            )
            self._sinks.append(Sink(key, disk))

    def _put_in_place(self, key: str) -> None:
        """Give an image its name, with a mark that it is not yet the machine's."""
        target = self._targets[key].path
        self._host.sync(self._partial[key])
        if self._host.exists(target):
            raise AlreadyExists(target)
        instants.put_mark(self._host, target)
        self._host.rename(self._partial[key], target)

    def _take_back(self, key: str) -> None:
        """Take an image back that an interrupted switch has left under its last name."""
        target, mark = self._targets[key].path, instants.begun_mark(self._targets[key].path)
        if not self._host.exists(mark):
            return
        if not self._host.exists(self._partial[key]) and self._host.exists(target):
            self._wait_until_free(target, self._targets[key].format)
            self._host.rename(target, self._partial[key])
        else:
            instants.clear_begun(self._host, self._targets[key])
        self._host.remove(mark)

    def _wait_until_free(self, path: str, image_format: str) -> None:
        """Return when the server of a landing that was killed has let go of an image.

        Raises:
            CommandFailed: somebody keeps it.
        """
        clock = self._settings.clock
        deadline = clock.monotonic() + images.STOP_LIMIT_S
        while True:
            try:
                images.information(self._host, path, image_format)
            except CommandFailed:
                if clock.monotonic() > deadline:
                    raise
                clock.sleep(images.POLL_S)
            else:
                return

    def _go_on(self, live: str) -> None:
        """Give the guest its memory on the new images."""
        connection = self._client.connection()
        try:
            connection.restoreFlags(self._memory, live, libvirt.VIR_DOMAIN_SAVE_RUNNING)
        except BaseException:
            # Interrupted after the guest went on: there is no way back, and no need of one.
            if quiesce.state(self._domain) is not PowerState.RUNNING:
                raise

    def _go_back(self, live: str) -> None:
        """Give the guest back its memory on the served disks, paused."""
        self._client.connection().restoreFlags(self._memory, live, libvirt.VIR_DOMAIN_SAVE_PAUSED)


def abandon(settings: Settings, placement: Placement, token: str) -> None:
    """Remove the images and the memory that interrupted moves have left.

    Raises:
        CommandFailed: one is in use.
    """
    _check(token)
    host = settings.host
    leftovers.sweep_restores(host, settings.socket_directory)
    for image in instants.images_of(placement.name, placement.disks, placement).values():
        host.remove(_partial(image.path, token))
        host.remove(_memory(image.path, token))
        instants.clear_begun(host, image)


def _check(token: str) -> None:
    if not TOKEN.fullmatch(token):
        raise UsageError(f"(token {token!r})")


def _partial(path: str, token: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.{token}.ruchu-landing"


def _memory(path: str, token: str) -> str:
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.{token}.ruchu-memory"
