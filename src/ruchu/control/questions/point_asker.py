"""Asks nodes about what is inside a point; all questions to one point go to one node, if they can.

A node keeps a point open for some minutes. Which node it is follows from the point and from who is
connected, so nobody has to remember it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ruchu.control.nodes.hub import Hub
from ruchu.control.storages.storages import StorageRow
from ruchu.errors import NodeAway, NodeFailed, NotFound, TooMany, UsageError

# To open a point of a large storage takes a while, a search up to a minute.
LIMIT_S = 360.0

_KNOWN = {kind.code: kind for kind in (NotFound, UsageError, TooMany)}


@dataclass(frozen=True, slots=True)
class PointAsker:
    """Asks about points. Safe in several threads."""

    hub: Hub
    secrets_of: Callable[[Sequence[str]], Mapping[str, str]]

    def ask(
        self, storage: StorageRow, point: str, what: str, body: Mapping[str, Any], node: str = ""
    ) -> tuple[str, Any]:
        """Ask the node of a point, or the one that is named; return its id and its answer.

        Raises:
            NodeAway: no node that reaches the storage is connected, or it does not answer.
            NodeFailed: it answered with an error.
            NotFound, UsageError, TooMany: that is what it answered.
        """
        chosen = node or self._node(storage, point)
        known = {"storages": [storage.order_fields()], "storage": storage.name, "point": point}
        arguments = {"body": {**known, **body}, "secrets": dict(self._secrets(storage))}
        try:
            return chosen, self.hub.ask(chosen, what, arguments, LIMIT_S)
        except NodeFailed as error:
            _raise(error)

    def _secrets(self, storage: StorageRow) -> Mapping[str, str]:
        return self.secrets_of(list(storage.secret_names()))

    def _node(self, storage: StorageRow, point: str) -> str:
        nodes = self.hub.connected_nodes()
        found = [each.id for each in nodes if not storage.nodes or each.id in storage.nodes]
        if not found:
            raise NodeAway(f"(no node that reaches storage {storage.name} is connected)")
        return max(found, key=lambda each: hashlib.sha256(f"{point} {each}".encode()).digest())


def _raise(error: NodeFailed) -> NoReturn:
    kind = _KNOWN.get(error.remote_code)
    if kind is None:
        raise error
    # The node sends the whole text; the fixed words come with the class again.
    fixed = (kind.__doc__ or "").splitlines()[0]
    detail = error.detail.removeprefix("(").removesuffix(")").removeprefix(fixed).strip()
    raise kind(detail, hint=error.advice) from None
