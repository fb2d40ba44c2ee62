"""Whether a run may begin now, and if not, why and until when."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ruchu.clock import Clock, from_text
from ruchu.control.jobs.runs import PAUSED, STOPPED, WAITING, RunRow, Runs
from ruchu.control.policies import documents
from ruchu.control.policies.policies import Policies
from ruchu.errors import NotFound
from ruchu.model.policies import Policy

OpensAt = Callable[[Policy, datetime], datetime | None]
"""When the windows of a policy open next; None if one is open now."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A run must wait: the state it is in meanwhile, why, and until when if that is known."""

    state: str
    reason: str
    until: datetime | None = None


def policy_of(run: RunRow) -> Policy | None:
    """Return the policy as it was when a run was made; None for what people start by hand."""
    document = run.body.get("policy")
    return documents.from_document(document) if isinstance(document, dict) else None


class Admission:
    """Decides for the runs of a server."""

    def __init__(self, runs: Runs, policies: Policies, opens_at: OpensAt, clock: Clock) -> None:
        self._runs = runs
        self._policies = policies
        self._opens_at = opens_at
        self._clock = clock

    def decide(self, run: RunRow) -> Wait | None:
        """Return why a run must wait (or has ended: `stopped`); None if it may begin."""
        now = self._clock.now()
        if run.stop:
            return Wait(STOPPED, "stopped before it began")
        if run.pause:
            return Wait(PAUSED, "")
        if run.next_attempt is not None and from_text(run.next_attempt) > now:
            return Wait(WAITING, f"attempt {run.attempt + 1} follows", from_text(run.next_attempt))
        return self._of_policy(run, now)

    def _of_policy(self, run: RunRow, now: datetime) -> Wait | None:
        policy = policy_of(run)
        if policy is None or run.policy is None:
            return None
        if earlier := self._earlier(run):
            return Wait(WAITING, f"run {earlier[:8]} of this policy has not ended")
        if policy.after_policy and (first := self._first(policy.after_policy)):
            return Wait(WAITING, f"run {first[:8]} of {policy.after_policy} has not ended")
        opens = self._opens_at(policy, now)
        if opens is not None:
            return Wait(WAITING, f"its window opens at {opens:%Y-%m-%d %H:%M} UTC", opens)
        return None

    def _earlier(self, run: RunRow) -> str | None:
        """Return an open run of the same policy that was made before."""
        assert run.policy is not None
        for other in self._runs.open_of_policy(run.policy, run.id):
            row = self._runs.get(other)
            if (row.created, row.id) < (run.created, run.id) and not row.over:
                return other
        return None

    def _first(self, name: str) -> str | None:
        try:
            policy = self._policies.get(name)
        except NotFound:
            return None
        return next(iter(self._runs.open_of_policy(policy.id, "")), None)
