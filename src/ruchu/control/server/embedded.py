"""The node that a server brings along: a process of its own that enrols as any other does."""

import contextlib
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from ruchu import commands, process
from ruchu.clock import Clock
from ruchu.control.nodes.records import NodeRecords
from ruchu.errors import NotFound, Refused, RuchuError
from ruchu.wire import authority
from ruchu.wire.calling import Address
from ruchu.wire.enrolment import Invitation
from ruchu.wire.identity import Identity

NAME = "server"
_TOKEN_LIFE = timedelta(minutes=10)
# A node that dies again and again must not fill the log.
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.5, 30.0
_STEADY_S = 60.0
_END_LIMIT_S = 130.0


class EmbeddedNode:
    """Keeps the process of the embedded node alive."""

    def __init__(
        self, records: NodeRecords, state: Path, address: Address, fingerprint: str, clock: Clock,
        options: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._records = records
        self._state = state
        self._address = address
        self._fingerprint = fingerprint
        self._clock = clock
        self._options = tuple(options)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ruchu-embedded", daemon=True)

    def begin(self) -> None:
        """Run the node from now on."""
        self._thread.start()

    def close(self) -> None:
        """End the node, and wait until its tasks have cleaned up."""
        self._end.set()
        self._thread.join()

    def _end_orphan(self) -> None:
        """End the embedded node of a server that was killed: it may dial where nobody is."""
        lock = self._state / "node.lock"
        limit = self._clock.monotonic() + _END_LIMIT_S
        while (pid := process.holder(lock)) is not None and not self._end.is_set():
            late = self._clock.monotonic() > limit
            commands.signal_process(pid, signal.SIGKILL if late else signal.SIGTERM)
            self._end.wait(_PAUSE_FIRST_S)

    def _work(self) -> None:
        self._end_orphan()
        pause_s = _PAUSE_FIRST_S
        while not self._end.is_set():
            began = self._clock.monotonic()
            with contextlib.suppress(RuchuError):
                self._run()
            if self._clock.monotonic() - began > _STEADY_S:
                pause_s = _PAUSE_FIRST_S
            if self._end.wait(pause_s):
                return
            pause_s = min(2 * pause_s, _PAUSE_MOST_S)

    def _run(self) -> None:
        args = [sys.executable, "-m", "ruchu", "node", "--state", str(self._state), *self._options]
        if not self._is_enrolled():
            shutil.rmtree(self._state / "wire", ignore_errors=True)
            token = self._token()
            invitation = Invitation(self._address, token, self._fingerprint)
            args += ["--join", str(invitation)]
        with commands.start(args, stop_limit_s=_END_LIMIT_S) as running:
            while running.status() is None and not self._end.wait(0.2):
                pass

    def _token(self) -> str:
        """Return a token; an embedded node of before that lost its state gives its name up."""
        with contextlib.suppress(NotFound):
            old = self._records.get(NAME)
            if not old.revoked:
                self._records.revoke(old.id)
        return self._records.new_token(NAME, "server", embedded=True, life=_TOKEN_LIFE)

    def _is_enrolled(self) -> bool:
        path = self._state / "wire" / "identity.json"
        try:
            known = Identity.load(path)
            row = self._records.get(known.node)
        except (FileNotFoundError, Refused, NotFound):
            return False
        if authority.fingerprint(known.authority) != self._fingerprint or row.revoked:
            return False
        if known.address != self._address:
            # The server listens elsewhere since its last start; the node stays who it is.
            replace(known, address=self._address).save(path)
        return True
