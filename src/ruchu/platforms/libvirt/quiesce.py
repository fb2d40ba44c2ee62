"""Freezes and thaws a guest's file systems, and never leaves them frozen.

Before the freeze a mark goes into the running machine's metadata; after the thaw it is removed.
So a freeze whose maker died is found, on whatever host reconcile runs, and only ours is undone.
A timer thaws a guest that was frozen for too long, whatever hangs meanwhile.
"""

import contextlib
import threading
from xml.sax import saxutils

import libvirt

from ruchu.clock import Clock
from ruchu.errors import GuestAgentError
from ruchu.model.machines import PowerState
from ruchu.model.sources import Consistency, Reason
from ruchu.platforms.libvirt import domain_xml
from ruchu.platforms.libvirt.client import Domain, translated

METADATA_URI = "https://ruchu.invalid/libvirt/1"
# A freeze waits for the guest to flush; one that takes longer hurts the guest more than it helps.
AGENT_LIMIT_S = 30
# qemu-ga: "Command guest-fsfreeze-freeze has been disabled: the agent is in frozen state".
_ALREADY_FROZEN = "frozen state"


class Quiesce:
    """The freeze of one machine, at most once."""

    def __init__(self, domain: Domain, owner: str, clock: Clock, limit_s: float) -> None:
        self._domain = domain
        self._owner = owner
        self._clock = clock
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._frozen_at: float | None = None
        self._expired = False
        self.frozen_s = 0.0
        self.reached = Consistency.CRASH
        self.reasons: list[Reason] = []

    def freeze(self, *, required: bool) -> None:
        """Freeze the file systems, or note why they are not.

        Raises:
            GuestAgentError: it is required and cannot be done.
        """
        why = self._cannot()
        if why is None:
            why = self._freeze()
        if why is None:
            self.reached = Consistency.FILESYSTEM
            return
        if required:
            raise GuestAgentError(why.text)
        self.reasons.append(why)

    def thaw(self) -> None:
        """Thaw what was frozen; again is no error.

        Raises:
            GuestAgentError: the guest may still be frozen.
        """
        with self._lock:
            if self._frozen_at is None:
                return
            if self._timer is not None:
                self._timer.cancel()
            try:
                thaw(self._domain)
            finally:
                self.frozen_s = self._clock.monotonic() - self._frozen_at
            self._frozen_at = None

    def check(self) -> None:
        """Note it if the freeze had ended before the moment was taken; call it after that."""
        if self._expired:
            self.reached = Consistency.CRASH
            text = f"the freeze was ended after {self._limit_s:g} s, before the snapshot was there"
            self.reasons.append(Reason("freeze-expired", text))

    def _cannot(self) -> Reason | None:
        with translated(f"machine {self._domain.name()}"):
            if state(self._domain) is not PowerState.RUNNING:
                return Reason("machine-paused", "a paused guest cannot be frozen")
            connected = domain_xml.agent_connected(self._domain.XMLDesc(0))
        if connected is None:
            return Reason("agent-missing", "the machine has no channel for a guest agent")
        if not connected:
            return Reason("agent-missing", "no guest agent runs in the guest")
        return None

    def _freeze(self) -> Reason | None:
        self._frozen_at = self._clock.monotonic()
        try:
            with translated("freeze", default=GuestAgentError):
                self._domain.agentSetResponseTimeout(AGENT_LIMIT_S, 0)
                _mark(self._domain, self._owner)
                self._domain.fsFreeze(None, 0)
        except GuestAgentError as error:
            if _ALREADY_FROZEN in error.detail:
                # By somebody else, who would be surprised if we thawed it.
                self._frozen_at = None
                _forget(self._domain)
            else:
                # It may have been frozen in part, or freeze late: thaw in any case.
                self._thaw_after_failure(error)
            return Reason("agent-failed", error.detail)
        except BaseException as error:
            self._thaw_after_failure(error)
            raise
        self._timer = threading.Timer(self._limit_s, self._expire)
        self._timer.daemon = True
        self._timer.start()
        return None

    def _expire(self) -> None:
        self._expired = True
        # Whoever froze it thaws again, and reports the error of that.
        with contextlib.suppress(GuestAgentError, libvirt.libvirtError):
            thaw(self._domain)

    def _thaw_after_failure(self, error: BaseException) -> None:
        try:
            self.thaw()
        except GuestAgentError as second:
            error.add_note(f"And the guest may still be frozen: {second}")
        self._frozen_at = None


def thaw(domain: Domain) -> None:
    """Thaw a guest, and remove the mark.

    Raises:
        GuestAgentError: the agent did not do it.
    """
    with translated(f"thaw of {domain.name()}", default=GuestAgentError):
        if not domain.isActive():
            return
        domain.fsThaw(None, 0)
        _forget(domain)


def left_frozen_by(domain: Domain, owner: str) -> bool:
    """Tell whether the owner's freeze mark is on a running machine."""
    try:
        text = domain.metadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI, libvirt.VIR_DOMAIN_AFFECT_LIVE
        )
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return False
        with translated("metadata"):
            raise
    return saxutils.quoteattr(owner) in text or f"'{owner}'" in text


def state(domain: Domain) -> PowerState:
    """Return whether a machine runs."""
    current, _ = domain.state()
    if current in {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED}:
        return PowerState.RUNNING
    if current in {libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED}:
        return PowerState.PAUSED
    # Being shut down it still runs; crashed it does not.
    return PowerState.RUNNING if domain.isActive() else PowerState.OFF


def _mark(domain: Domain, owner: str) -> None:
    element = f"<frozen by={saxutils.quoteattr(owner)}/>"
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT,
        element,
        "ruchu",
        METADATA_URI,
        libvirt.VIR_DOMAIN_AFFECT_LIVE,
    )


def _forget(domain: Domain) -> None:
    """Undo what was noted for a freeze: the time limit (libvirt has none) and the mark."""
    domain.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)
    domain.setMetadata(
        libvirt.VIR_DOMAIN_METADATA_ELEMENT,
        None,
        "ruchu",
        METADATA_URI,
        libvirt.VIR_DOMAIN_AFFECT_LIVE,
    )
