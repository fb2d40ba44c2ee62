"""What changed in a storage while nobody watched: what was recorded against what is there."""

from collections.abc import Mapping
from dataclasses import dataclass

from ruchu.model.tasks import Severity
from ruchu.storage.guarding.reporting import Report
from ruchu.storage.guarding.trees import Seen

NAMED_MAX = 20  # an alarm names so many objects; the count tells the rest


@dataclass(frozen=True, slots=True)
class Comparison:
    """Names of objects, by what became of them.

    Attributes:
        changed: the content is another, or another file lies there.
        removed: it is gone.
        added: it was not there before.
        unsealed: its content is as it was, and it lost its flags.
    """

    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    unsealed: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether all is as it was."""
        return not (self.changed or self.removed or self.added or self.unsealed)


def compare(recorded: Mapping[str, Seen], found: Mapping[str, Seen]) -> Comparison:
    """Compare what was recorded with what is there."""
    both = recorded.keys() & found.keys()
    changed = {name for name in both if recorded[name].content != found[name].content}
    unsealed = {
        name for name in both - changed if recorded[name].protected and not found[name].protected
    }
    return Comparison(
        tuple(sorted(changed)),
        tuple(sorted(recorded.keys() - found.keys())),
        tuple(sorted(found.keys() - recorded.keys())),
        tuple(sorted(unsealed)),
    )


_KINDS = (
    ("changed", "tamper-changed", Severity.CRITICAL, "were changed or replaced"),
    ("removed", "tamper-removed", Severity.WARNING, "are gone"),
    ("unsealed", "tamper-unsealed", Severity.WARNING, "lost their flags"),
    ("added", "tamper-added", Severity.INFO, "are new"),
)


def reports(root: str, comparison: Comparison) -> list[Report]:
    """Return what to tell of a comparison: one report for each kind of change.

    Ruchu itself adds and removes objects while no guard runs (a backup, a purge), which nobody can
    tell from another program's work afterwards. It never changes one.
    """
    found = []
    for kind, code, severity, what in _KINDS:
        changed: tuple[str, ...] = getattr(comparison, kind)
        if changed:
            text = f"{len(changed)} objects {what} since the guard last saw them"
            named = ", ".join(changed[:3])
            facts = {"count": len(changed), "objects": list(changed[:NAMED_MAX])}
            found.append(Report(code, severity, root, f"{text}: {named}", facts))
    return found
