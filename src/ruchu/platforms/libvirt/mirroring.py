"""Migration by the hypervisor: a block copy of each served disk, then the pivot.

The guest runs on all the time: QEMU mirrors what it writes to both sides until the pivot.
libvirt's virDomainBlockCopy and virDomainBlockJobAbort are in docs/kbase and libvirt-domain.
"""

import contextlib
from collections.abc import Callable, Mapping

import libvirt

from ruchu.clock import Clock
from ruchu.errors import AlreadyExists, Cancelled, NotFound, PlatformError, SourceBusy
from ruchu.model.machines import PowerState
from ruchu.platforms.contract import Mirrored
from ruchu.platforms.libvirt import domain_xml, instants, quiesce
from ruchu.platforms.libvirt.capture import Settings
from ruchu.platforms.libvirt.client import Client, Domain, translated
from ruchu.platforms.libvirt.domain_xml import NewImage

POLL_S = 0.1
Watch = Callable[[int, int], None]
Asked = Callable[[], bool]


def mirror(
    client: Client,
    settings: Settings,
    domain: Domain,
    targets: Mapping[str, NewImage],
    watch: Watch,
    cancelled: Asked,
) -> Mirrored:
    """Move the served disks of a running machine into new images.

    Block copies that an interrupted call has left are gone on with; disks that were moved by it
    are found in the running machine.

    Raises:
        SourceBusy: the machine does not run, or another block job works on it.
        AlreadyExists: there is an image in the way.
        Cancelled: it was wanted; the machine runs on where it was.
    """
    keys = instants.served_keys(domain)
    if not keys and not instants.served_disks(domain):
        raise NotFound(f"(a served disk of machine {domain.name()})")
    with translated(f"migration of {domain.name()}"):
        if quiesce.state(domain) is not PowerState.RUNNING:
            raise SourceBusy(f"{domain.name()} does not run", hint="Start it, or use --method own.")
        sizes = {key: int(domain.blockInfo(key)[0]) for key in keys}
        _follow(domain, keys, settings, targets, (watch, cancelled))
        began = settings.clock.monotonic()
        for key in keys:
            # From here on they may be the machine's own.
            settings.host.remove(instants.begun_mark(targets[key].path))
            _pivot(domain, key, settings.clock)
        took = settings.clock.monotonic() - began
        client.connection().defineXML(instants.moved_definition(domain, targets))
        for key, image in targets.items():
            if instants.source_of(domain, key) == image.path:
                # Somebody may have ended the copy of an interrupted call by hand.
                settings.host.remove(instants.begun_mark(image.path))
    return Mirrored(sum(sizes.values()), took)


def _follow(
    domain: Domain,
    keys: tuple[str, ...],
    settings: Settings,
    targets: Mapping[str, NewImage],
    asked: tuple[Watch, Asked],
) -> None:
    """Copy disks, and return when each new image follows its disk; else nothing is left."""
    begun = {key for key in keys if _is_begun(domain, key, targets[key])}
    new = [key for key in keys if key not in begun]
    for key in new:
        _make_room(settings, targets[key])
    try:
        for key in new:
            instants.put_mark(settings.host, targets[key].path)
            begun.add(key)
            _begin(domain, key, targets[key])
        _wait(domain, keys, settings.clock, *asked)
    except BaseException:
        _take_back(domain, begun, settings, targets)
        raise


def _make_room(settings: Settings, image: NewImage) -> None:
    settings.host.make_directory(image.path.rpartition("/")[0])
    instants.clear_begun(settings.host, image)
    if settings.host.exists(image.path):
        raise AlreadyExists(image.path, hint="Choose another directory.")


def _is_begun(domain: Domain, key: str, image: NewImage) -> bool:
    """Tell whether a block copy into this image is under way.

    Raises:
        SourceBusy: it is one into another image.
    """
    if not domain.blockJobInfo(key, 0):
        return False
    found = _mirrored_to(domain, key)
    if found != image.path:
        hint = "Go on with the directory and format of that copy, or end it first."
        raise SourceBusy(f"disk {key} of {domain.name()} is copied to {found or '?'}", hint=hint)
    return True


def _mirrored_to(domain: Domain, key: str) -> str:
    """Return where a block copy of a disk goes; empty if there is none."""
    elements = dict(domain_xml.disk_elements(domain_xml.parse(domain.XMLDesc(0))))
    mirror = elements[key].find("mirror")
    return domain_xml.disk_location(mirror) if mirror is not None else ""


def _begin(domain: Domain, key: str, image: NewImage) -> None:
    flags = libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
    domain.blockCopy(key, domain_xml.disk_source(image), {}, flags)


def _wait(
    domain: Domain, keys: tuple[str, ...], clock: Clock, watch: Watch, cancelled: Asked
) -> None:
    """Return when every copy is as the disk is, and follows it."""
    while True:
        if cancelled():
            raise Cancelled
        jobs = [domain.blockJobInfo(key, 0) for key in keys]
        if not all(jobs):
            raise PlatformError(f"a block copy of {domain.name()} ended before its time")
        watch(sum(job["cur"] for job in jobs), sum(job["end"] for job in jobs))
        if all(_is_ready(domain, key) for key in keys):
            return
        clock.sleep(POLL_S)


def _is_ready(domain: Domain, key: str) -> bool:
    elements = dict(domain_xml.disk_elements(domain_xml.parse(domain.XMLDesc(0))))
    mirror = elements[key].find("mirror")
    return mirror is not None and mirror.get("ready") == "yes"


def _pivot(domain: Domain, key: str, clock: Clock) -> None:
    domain.blockJobAbort(key, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    while domain.blockJobInfo(key, 0):
        clock.sleep(POLL_S)


def _take_back(
    domain: Domain, begun: set[str], settings: Settings, targets: Mapping[str, NewImage]
) -> None:
    """End the copies that were begun and remove what they wrote."""
    for key in begun:
        with contextlib.suppress(libvirt.libvirtError):
            if domain.blockJobInfo(key, 0):
                domain.blockJobAbort(key, 0)
        with contextlib.suppress(libvirt.libvirtError):
            # A machine that ended has no job any more; a job that would not end keeps its image.
            if not domain.isActive() or not domain.blockJobInfo(key, 0):
                settings.host.remove(targets[key].path)
                settings.host.remove(instants.begun_mark(targets[key].path))
