"""Asks a node that reaches what the question is about, and takes the answer to where it belongs."""

import base64
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from ruchu.clock import Clock, from_text
from ruchu.control.inventory.inventory import Inventory, PlatformRow
from ruchu.control.nodes.hub import Hub
from ruchu.control.nodes.records import NodeRecords, NodeRow
from ruchu.control.storages.catalogue import Catalogue
from ruchu.control.storages.storages import StorageDefinitions, StorageRow
from ruchu.errors import NodeAway, NodeFailed, RuchuError, UsageError

# A listing of a large platform takes a while, that of 100,000 points longer.
INVENTORY_LIMIT_S = 180.0
POINTS_LIMIT_S = 900.0
CHECK_LIMIT_S = 60.0
# Parts of a listing: enough for a million points.
PARTS_MAX = 1000
# Many policies that start together need one listing, not one each.
FRESH_FOR = timedelta(seconds=20)

SecretsOf = Callable[[Sequence[str]], Mapping[str, str]]


class Asker:
    """Asks nodes. Safe in several threads."""

    def __init__(
        self, hub: Hub, records: NodeRecords, inventory: Inventory,
        places: tuple[StorageDefinitions, Catalogue], secrets_of: SecretsOf, clock: Clock,
    ) -> None:  # fmt: skip
        self._hub = hub
        self._records = records
        self._inventory = inventory
        self._storages, self._catalogue = places
        self._secrets_of = secrets_of
        self._clock = clock
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def node_ids(self, names: Sequence[str]) -> Sequence[str]:
        """Return the ids of nodes by their names or ids.

        Raises:
            NotFound: one is not there.
        """
        return [self._records.get(name).id for name in names]

    def _any_node(self, allowed: Sequence[str], what: str) -> NodeRow:
        """Return a node that is there and may.

        Raises:
            NodeAway: none is.
        """
        found = [node for node in self._hub.connected_nodes() if not allowed or node.id in allowed]
        if not found:
            raise NodeAway(f"(no node that reaches {what} is connected)")
        return min(found, key=lambda node: (float(node.load.get("tasks", 0)), node.name))

    def ask(
        self, node: str, what: str, body: Mapping[str, Any], secrets: Sequence[str] = (),
        limit_s: float = CHECK_LIMIT_S,
    ) -> Any:  # fmt: skip
        """Ask a node and return its answer.

        Raises:
            NodeAway: it is not connected, or does not answer.
            NodeFailed: it answered with an error.
        """
        arguments = {"body": dict(body), "secrets": dict(self._secrets_of(list(secrets)))}
        return self._hub.ask(node, what, arguments, limit_s)

    # Platforms.

    def refresh(self, platform: PlatformRow) -> None:
        """Bring the machines of a platform up to date, unless they just were.

        Raises:
            RuchuError: nobody could tell.
        """
        with self._locks[platform.name]:
            row = self._inventory.platform(platform.id)
            if row.seen and self._clock.now() - from_text(row.seen) < FRESH_FOR:
                return
            try:
                machines = self._list(row)
            except RuchuError as error:
                self._inventory.failed(row.name, str(error))
                raise
            self._inventory.saw(row.name, machines)

    def _list(self, row: PlatformRow) -> Sequence[Mapping[str, Any]]:
        node = self._any_node(row.nodes, f"platform {row.name}")
        answer = self.ask(node.id, "inventory", _of_platform(row), limit_s=INVENTORY_LIMIT_S)
        machines: Sequence[Mapping[str, Any]] = answer["machines"]
        return machines

    def check_platform(self, row: PlatformRow) -> Mapping[str, Any]:
        """Ask what a platform can do."""
        node = self._any_node(row.nodes, f"platform {row.name}")
        answer: Mapping[str, Any] = self.ask(node.id, "platform-check", _of_platform(row))
        return answer

    def machine(self, row: PlatformRow, machine: str) -> Mapping[str, Any]:
        """Ask a platform for the disks and network cards of a machine."""
        node = self._any_node(row.nodes, f"platform {row.name}")
        body = {**_of_platform(row), "machine": machine}
        answer: Mapping[str, Any] = self.ask(node.id, "machine", body)
        return answer

    def offers(self, row: PlatformRow) -> Mapping[str, Any]:
        """Return what a platform offers to a machine that comes."""
        node = self._any_node(row.nodes, f"platform {row.name}")
        answer: Mapping[str, Any] = self.ask(node.id, "platform-offers", _of_platform(row))
        return answer

    # Storages.

    def make_storage(
        self, node: str, wanted: Mapping[str, Any], given: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """Let a node make or adopt a storage; `wanted` has `name`, `directory`, `role`, `adopt`.

        `given` are its `passphrase` and the `credentials` of its server, as far as there are any.
        Returns what it is, and its points if it was adopted.
        """
        name = str(wanted["name"])
        chosen = self._records.get(node) if node else self._any_node([], f"storage {name}")
        prefixes = {"passphrase": "storage", "credentials": "credentials"}
        secrets = {f"{prefixes[key]}:{name}": text for key, text in given.items()}
        arguments = {"body": dict(wanted), "secrets": secrets}
        answer: Mapping[str, Any] = self._hub.ask(
            chosen.id, "storage-make", arguments, POINTS_LIMIT_S
        )
        return answer

    def look(self, storage: StorageRow) -> StorageRow:
        """Bring what is known of a storage up to date."""
        answer = self._of_storage(storage, "storage-look", {}, CHECK_LIMIT_S)
        (state,) = answer["storages"]
        return self._storages.saw(storage.name, state, self._catalogue.stored(storage.name))

    def list_points(self, storage: StorageRow) -> Sequence[str]:
        """Bring the catalogue of a storage up to date; return what could not be read."""
        # What a run adds while we read is not in our listing, and is no point that is gone.
        known = self._catalogue.ids(storage.name)
        found: list[Mapping[str, Any]] = []
        problems: list[str] = []
        after = ""
        for _ in range(PARTS_MAX):
            answer = self._of_storage(storage, "points", {"after": after}, POINTS_LIMIT_S)
            found += answer["points"]
            problems += answer["problems"]
            # A node of the release before answers with everything at once.
            after = answer.get("next") or ""
            if not after:
                break
        else:
            raise NodeFailed(f"(storage {storage.name} has more points than can be)")
        self._catalogue.saw(storage.name, found, known)
        return problems

    def grow(self, storage: StorageRow) -> Mapping[str, int]:
        """Let a storage use all of a device that has become larger."""
        found: Mapping[str, int] = self._of_storage(storage, "storage-grow", {}, POINTS_LIMIT_S)
        return found

    def probe(self, storage: StorageRow) -> Mapping[str, Any]:
        """Find out what a storage can do."""
        found: Mapping[str, Any] = self._of_storage(storage, "storage-probe", {}, CHECK_LIMIT_S)
        return found

    def star(self, storage: StorageRow, point: str, *, starred: bool) -> None:
        """Star a point, or take its star away."""
        body = {"point": point, "starred": starred}
        self._of_storage(storage, "point-star", body, CHECK_LIMIT_S)
        self._catalogue.mark(storage.name, point, starred=starred)

    def saved_machine(self, storage: StorageRow, point: str) -> Mapping[str, Any]:
        """Return the machine that a point holds."""
        answer = self._of_storage(storage, "point-machine", {"point": point}, CHECK_LIMIT_S)
        found: Mapping[str, Any] = answer["machine"]
        return found

    def _of_storage(
        self, row: StorageRow, what: str, body: Mapping[str, Any], limit_s: float
    ) -> Any:
        node = self._any_node(row.nodes, f"storage {row.name}")
        known = {"storages": [row.order_fields()], "storage": row.name, **body}
        return self.ask(node.id, what, known, row.secret_names(), limit_s)

    def reap(self, storage: StorageRow, platform: PlatformRow) -> Mapping[str, Sequence[str]]:
        """Remove what dead runs left on a platform; return it by machine."""
        body = {**_of_platform(platform), "platform": platform.name}
        answer = self._of_storage(storage, "reap", body, INVENTORY_LIMIT_S)
        cleaned: Mapping[str, Sequence[str]] = answer["cleaned"]
        return cleaned

    # Nodes.

    def instants(
        self, node: NodeRow, limit_s: float = CHECK_LIMIT_S
    ) -> Sequence[Mapping[str, Any]]:
        """Return the instant restores of a node.

        It knows them by itself: neither storages nor their passphrases are sent, so one that is
        not kept here is no reason to see none of them.
        """
        answer = self.ask(node.id, "instants", {}, limit_s=limit_s)
        found: Sequence[Mapping[str, Any]] = answer["instants"]
        return found

    def console_picture(self, node: NodeRow, instant: str) -> tuple[str, bytes]:
        """Return the storage of an instant restore, and what its display shows, as PNG.

        Raises:
            NodeAway, NodeFailed: the node is away, or could not tell.
        """
        platforms = [_fields(row) for row in self._inventory.platforms()]
        body = {"instant": instant, "platforms": platforms}
        answer = self.ask(node.id, "console-picture", body)
        return str(answer["storage"]), base64.b64decode(answer["png"])

    def doctor(self, node: NodeRow) -> Sequence[Mapping[str, Any]]:
        """Return what the host of a node has and lacks."""
        found: Sequence[Mapping[str, Any]] = self.ask(node.id, "doctor", {})["checks"]
        return found


def _fields(row: PlatformRow) -> dict[str, str]:
    return {"name": row.name, "uri": row.uri, "scratch": row.scratch}


def _of_platform(row: PlatformRow) -> dict[str, Any]:
    return {"platform": row.name, "platforms": [_fields(row)]}


def secret_owners(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return storage and field behind names of secrets such as `storage:main`.

    Raises:
        UsageError: there is another kind of secret.
    """
    fields = {"storage": "passphrase", "credentials": "credentials"}
    found = {}
    for name in names:
        kind, _, rest = name.partition(":")
        if kind not in fields or not rest:
            raise UsageError(f"(the secret {name[:40]!r})")
        found[name] = (rest, fields[kind])
    return found
