"""What one person alone may not change: it is agreed to by itself, never as part of a document."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ruchu.control.definitions.bench import Bench
from ruchu.control.policies import documents
from ruchu.errors import NeedsApproval
from ruchu.model.policies import Policy


class PolicyGuard(Protocol):
    """Knows which changes of policies take a second person."""

    def __call__(self, before: Policy | None, after: Policy) -> Sequence[str]:
        """Return what would be lost, a line each; empty if nobody else has to agree."""


def demand(bench: Bench, guard: PolicyGuard, name: str, fields: Mapping[str, Any]) -> None:
    """Refuse to write a policy that takes a second person.

    Raises:
        NeedsApproval: it does.
    """
    known = {row.policy.name: row.policy for row in bench.policies.all()}
    after = documents.from_document({**fields, "name": name})
    if losses := guard(known.get(name), after):
        hint = "Four eyes are on: change this policy by itself first, then do this again."
        raise NeedsApproval(f"(policy {name}: {losses[0]})", hint=hint)
