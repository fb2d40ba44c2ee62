"""Whether a run may begin now, and if not, why and until when."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ruchu.clock import Clock, from_text
from ruchu.control.jobs.runs import PAUSED, STOPPED, WAITING, OpenRun, RunRow, Runs
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
        # Of the runs that wait: what is in a run stays as it is.
        self._known: dict[str, Policy] = {}

    def decide(self, run: OpenRun, among: Sequence[OpenRun]) -> Wait | None:
        """Return why a run must wait (or has ended: `stopped`); None if it may begin.

        `among` are all runs that have not ended, this one too.
        """
        now = self._clock.now()
        if run.stop:
            return Wait(STOPPED, "stopped before it began")
        if run.pause:
            return Wait(PAUSED, "")
        if run.next_attempt is not None and from_text(run.next_attempt) > now:
            return Wait(WAITING, f"attempt {run.attempt + 1} follows", from_text(run.next_attempt))
        return self._of_policy(run, among, now)

    def forget(self, among: Sequence[OpenRun]) -> None:
        """Keep in memory what these runs need, and nothing of others."""
        waiting = {run.id for run in among}
        self._known = {run: kept for run, kept in self._known.items() if run in waiting}

    def _of_policy(self, run: OpenRun, among: Sequence[OpenRun], now: datetime) -> Wait | None:
        if run.policy is None:
            return None
        if earlier := _earlier(run, among):
            return Wait(WAITING, f"run {earlier[:8]} of this policy has not ended")
        policy = self._policy(run.id)
        if policy.after_policy and (first := self._first(policy.after_policy, among)):
            return Wait(WAITING, f"run {first[:8]} of {policy.after_policy} has not ended")
        opens = self._opens_at(policy, now)
        if opens is not None:
            return Wait(WAITING, f"its window opens at {opens:%Y-%m-%d %H:%M} UTC", opens)
        return None

    def _policy(self, run: str) -> Policy:
        found = self._known.get(run)
        if found is None:
            found = policy_of(self._runs.get(run))
            assert found is not None, "a run of a policy has it in its body"
            self._known[run] = found
        return found

    def _first(self, name: str, among: Sequence[OpenRun]) -> str | None:
        try:
            policy = self._policies.get(name)
        except NotFound:
            return None
        return next((other.id for other in among if other.policy == policy.id), None)


def _earlier(run: OpenRun, among: Sequence[OpenRun]) -> str | None:
    """Return an open run of the same policy that was made before."""
    for other in among:
        if other.policy == run.policy and (other.created, other.id) < (run.created, run.id):
            return other.id
    return None
