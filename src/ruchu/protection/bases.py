"""Which point a new one builds upon."""

from dataclasses import dataclass

from ruchu.model.sources import Kind, Reason
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head


@dataclass(frozen=True, slots=True)
class Base:
    """The kind of point that will be made, its base (None for a full), and why it differs."""

    kind: Kind
    head: Head | None
    reasons: tuple[Reason, ...] = ()


def choose(chain: Chain, wanted: Kind) -> Base:
    """Return the base for a kind: the latest point, or the last full for a differential.

    Without a base the point becomes a full, with the reason.
    """
    if wanted is Kind.FULL:
        return Base(Kind.FULL, None)
    head = chain.latest() if wanted is Kind.INCREMENTAL else last_full(chain)
    if head is not None:
        return Base(wanted, head)
    first = chain.latest() is None
    text = "first point of its chain" if first else "the chain holds no full point any more"
    return Base(Kind.FULL, None, (Reason("no-base", text),))


def last_full(chain: Chain) -> Head | None:
    """Return the newest full point."""
    for stem in reversed(chain.stems()):
        head = chain.head(stem)
        if head.kind is Kind.FULL:
            return head
    return None
