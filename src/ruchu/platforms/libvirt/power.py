"""Starts, stops, pauses and removes machines."""

import contextlib

import libvirt

from ruchu.clock import Clock
from ruchu.errors import PlatformError, SourceBusy
from ruchu.model.machines import PowerState
from ruchu.platforms.libvirt import domain_xml, inventory, quiesce
from ruchu.platforms.libvirt.client import Domain, translated
from ruchu.platforms.libvirt.hosts import Host

# A state that libvirt was told to reach, and that needs no guest to cooperate.
STATE_LIMIT_S = 60.0
POLL_S = 0.1
# A request that fails again does so within milliseconds of the resume.
RETRY_LIMIT_S = 3.0
# All that libvirt remembers of a machine besides its definition.
_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)
UNDEFINE_FLAGS = _UNDEFINE | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
UNDEFINE_KEEPING_NVRAM = _UNDEFINE | libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM


def bring_to(domain: Domain, state: PowerState, clock: Clock, shutdown_limit_s: float) -> None:
    """Bring a machine to a power state and return when it is reached.

    A machine to be off is asked to shut down, and switched off after `shutdown_limit_s`.

    Raises:
        PlatformError: it is not reached.
    """
    with translated(f"machine {domain.name()}"):
        if quiesce.state(domain) is state:
            return
        if state is PowerState.OFF:
            _switch_off(domain, clock, shutdown_limit_s)
        elif state is PowerState.RUNNING:
            _run(domain)
        elif not domain.isActive():
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        else:
            domain.suspend()
        if not _reached(domain, state, clock, STATE_LIMIT_S):
            raise PlatformError(f"{domain.name()} is not {state.value} after {STATE_LIMIT_S:g} s")


def revive(domain: Domain, clock: Clock) -> str:
    """Let a machine go on that was held when its disks failed; return what was done.

    QEMU tries the failed requests again at once. If it is held again, it has given the server up:
    libvirt 9.0 and older cannot tell QEMU to connect again.
    """
    with translated(f"machine {domain.name()}"):
        found = quiesce.state(domain)
        if found is PowerState.OFF:
            domain.create()
            return "started"
        if found is PowerState.RUNNING:
            return ""
        domain.resume()
        deadline = clock.monotonic() + RETRY_LIMIT_S
        while clock.monotonic() < deadline:
            if quiesce.state(domain) is PowerState.PAUSED:
                domain.destroy()
                domain.create()
                return "restarted"
            clock.sleep(POLL_S)
        return "resumed"


def remove(domain: Domain, host: Host, *, disks: bool) -> None:
    """Undefine a machine that is off; remove its disk images if asked.

    Raises:
        SourceBusy: it runs.
        PlatformError: it could not be removed.
    """
    with translated(f"machine {domain.name()}"):
        if domain.isActive():
            raise SourceBusy(f"{domain.name()} runs", hint="Switch it off first.")
        root = domain_xml.parse(domain.XMLDesc(inventory.CONFIG_FLAGS))
        paths = [
            element.find("source").get("file", "")  # type: ignore[union-attr]
            for _, element in domain_xml.disk_elements(root)
            if element.get("type") == "file" and element.find("source") is not None
        ]
        domain.undefineFlags(UNDEFINE_FLAGS)
    if disks:
        for path in filter(None, paths):
            host.remove(path)


def _run(domain: Domain) -> None:
    if domain.isActive():
        domain.resume()
    else:
        domain.create()


def _switch_off(domain: Domain, clock: Clock, limit_s: float) -> None:
    if quiesce.state(domain) is PowerState.RUNNING and limit_s > 0:
        # A guest without an agent or ACPI refuses or ignores it; then it is switched off.
        with contextlib.suppress(libvirt.libvirtError):
            domain.shutdown()
        if _reached(domain, PowerState.OFF, clock, limit_s):
            return
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        # It went off between the look and the call.
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise


def _reached(domain: Domain, state: PowerState, clock: Clock, limit_s: float) -> bool:
    deadline = clock.monotonic() + limit_s
    while quiesce.state(domain) is not state:
        if clock.monotonic() > deadline:
            return False
        clock.sleep(POLL_S)
    return True
