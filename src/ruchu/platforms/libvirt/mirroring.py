"""Migration by the hypervisor: a block copy of each served disk, then the pivot.

The guest runs on all the time: QEMU mirrors what it writes to both sides until the pivot.
libvirt's virDomainBlockCopy and virDomainBlockJobAbort are in docs/kbase and libvirt-domain.
"""

import contextlib
from collections.abc import Callable, Mapping

import libvirt

from ruchu.clock import Clock
from ruchu.errors import AlreadyExists, Cancelled, PlatformError, SourceBusy
from ruchu.model.machines import PowerState
from ruchu.platforms.contract import Mirrored
from ruchu.platforms.libvirt import domain_xml, instants, inventory, quiesce
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

    Raises:
        SourceBusy: the machine does not run, or another block job works on it.
        AlreadyExists: there is an image in the way.
        Cancelled: it was wanted; the machine runs on where it was.
    """
    keys = instants.require_served(domain)
    with translated(f"migration of {domain.name()}"):
        if quiesce.state(domain) is not PowerState.RUNNING:
            raise SourceBusy(f"{domain.name()} does not run", hint="Start it, or use --method own.")
        for key in keys:
            settings.host.make_directory(targets[key].path.rpartition("/")[0])
            if settings.host.exists(targets[key].path):
                raise AlreadyExists(targets[key].path, hint="Choose another directory.")
        sizes = {key: int(domain.blockInfo(key)[0]) for key in keys}
        try:
            for key in keys:
                _begin(domain, key, targets[key])
            _wait(domain, keys, settings.clock, watch, cancelled)
        except BaseException:
            _take_back(domain, keys, settings, targets)
            raise
        began = settings.clock.monotonic()
        for key in keys:
            _pivot(domain, key, settings.clock)
        took = settings.clock.monotonic() - began
        config = domain_xml.with_images(domain.XMLDesc(inventory.CONFIG_FLAGS), targets)
        client.connection().defineXML(config)
    return Mirrored(sum(sizes.values()), took)


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
    domain: Domain, keys: tuple[str, ...], settings: Settings, targets: Mapping[str, NewImage]
) -> None:
    """End the copies and remove what they wrote; a disk that was not begun has none."""
    for key in keys:
        with contextlib.suppress(libvirt.libvirtError):
            if domain.blockJobInfo(key, 0):
                domain.blockJobAbort(key, 0)
                settings.host.remove(targets[key].path)
