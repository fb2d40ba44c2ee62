"""The tree of a platform: hosts, folders, machines, disks; each level fetched when it is opened."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.web.calling import part
from ruchu.web.language import Language
from ruchu.web.parts import asked, marks, resources
from ruchu.web.visiting import Visit

# Machines that are fetched at once below a host or folder.
PAGE = 50
Node = dict[str, Any]
_HEADER = r"""
<div class="r-tree-node">
  <q-icon v-if="props.node.icon" :name="props.node.icon" :class="'r-tree-icon ' + (props.node.tone || '')"
          aria-hidden="true"></q-icon>
  <a v-if="props.node.link" :href="props.node.link" @click.stop>{{ props.node.label }}</a>
  <span v-else :class="props.node.more ? 'r-tree-more' : ''">{{ props.node.label }}</span>
  <span v-if="props.node.sub" class="r-tree-sub">{{ props.node.sub }}</span>
</div>
"""


def top(language: Language, places: Sequence[Mapping[str, Any]]) -> list[Node]:
    """Return the nodes of the hosts; folders below them come at once, they are few.

    A level of which there is only one, without a name, is left out.
    """
    hosts: dict[str, list[Mapping[str, Any]]] = {}
    for each in places:
        hosts.setdefault(each["host"], []).append(each)
    found = []
    for host, inside in hosts.items():
        count = sum(each["machines"] for each in inside)
        node = _branch(f"h/{host}", host or language.say("without a host"), "dns", language, count)
        folders = [each["folder"] for each in inside]
        if folders == [""]:
            found.append({**node, "children": [_waiting(node["id"], language)],
                          "place": {"host": host, "folder": ""}})  # fmt: skip
        else:
            below = [_folder(language, host, each) for each in inside]
            found.append({**node, "children": below})
    return found


def _folder(language: Language, host: str, place: Mapping[str, Any]) -> Node:
    folder = place["folder"]
    node = _branch(f"f/{host}/{folder}", folder or language.say("without a folder"), "folder",
                   language, place["machines"])  # fmt: skip
    return {**node, "children": [_waiting(node["id"], language)],
            "place": {"host": host, "folder": folder}}  # fmt: skip


def _branch(identity: str, label: str, icon: str, language: Language, count: int) -> Node:
    machines = language.say("{count} machines", count=language.number(count))
    return {"id": identity, "label": label, "icon": icon, "sub": machines}


def _waiting(above: str, language: Language) -> Node:
    return {"id": f"w/{above}", "label": language.say("Loading…")}


def machine_nodes(
    language: Language, items: Sequence[Mapping[str, Any]], following: str | None, above: str
) -> list[Node]:
    """Return the nodes of machines, and one that asks for more if there are more."""
    found: list[Node] = []
    for each in items:
        machine = each["machine"]
        identity = f"m/{machine['id']}"
        mark = marks.of(marks.MACHINES, machine["state"])
        about = [language.say(mark.word), language.size(machine["disk_size"]), *machine["tags"]]
        if not each["protected"]:
            about.append(language.say("not protected"))
        found.append({
            "id": identity, "label": machine["name"], "icon": "computer",
            "tone": marks.GOOD if each["protected"] else marks.WARN, "sub": " · ".join(about),
            "link": resources.machine_address(machine), "machine": machine["id"],
            "children": [_waiting(identity, language)],
        })  # fmt: skip
    if following is not None:
        label = language.say("Show more machines")
        found.append({"id": f"more/{above}", "label": label, "icon": "expand_more", "more": True})
    return found


def disk_nodes(language: Language, disks: Sequence[Mapping[str, Any]], above: str) -> list[Node]:
    """Return the nodes of the disks of a machine."""
    found = [
        {"id": f"d/{above}/{each['key']}", "label": each["key"], "icon": "storage",
         "sub": f"{language.size(each['size'])} · {each['format']} · {each['location']}"}
        for each in disks
    ]  # fmt: skip
    return found or [{"id": f"d/{above}", "label": language.say("no disks")}]


class PlatformTree:
    """The tree of one platform; levels are fetched when they are opened."""

    def __init__(self, visit: Visit, platform: str) -> None:
        self._visit = visit
        self._platform = platform
        self._nodes: list[Node] = []
        self._loaded: set[str] = set()
        # Where the machines below a node go on.
        self._following: dict[str, str | None] = {}
        self._turn = asyncio.Lock()
        self._place = ui.element("div").classes("r-wide")
        with self._place:
            self._tree = ui.tree([], on_expand=self._opened, on_select=self._chosen)
        self._tree.props(
            f'no-connectors no-nodes-label="" data-test=tree aria-label="{visit.say("Machines")}"'
        )
        self._tree.classes("r-tree").add_slot("default-header", _HEADER)

    async def refresh(self) -> None:
        """Show the hosts as they are now; what was open is closed."""
        async with self._turn:
            await self._refresh()

    async def _refresh(self) -> None:
        path = f"/platforms/{part(self._platform)}/tree"
        self._nodes = top(self._visit.language, await self._visit.api.get(path))
        self._loaded.clear()
        self._following.clear()
        self._tree.props["expanded"] = [self._nodes[0]["id"]] if len(self._nodes) == 1 else []
        if len(self._nodes) == 1:
            await self._load(self._nodes[0])
        self._redraw()

    def _redraw(self) -> None:
        # The browser sees a change only if the list is another one.
        self._tree.props["nodes"] = [dict(each) for each in self._nodes]
        self._tree.update()

    async def _opened(self, event: Any) -> None:
        async with self._turn:
            for node in [each for each in _walk(self._nodes) if each["id"] in set(event.value)]:
                await self._visit.guarded(self._loading(node))
            self._redraw()

    def _loading(self, node: Node) -> Callable[[], Awaitable[None]]:
        async def load() -> None:
            await self._load(node)

        return load

    async def _load(self, node: Node) -> None:
        """Fetch what is below a node, unless that was done."""
        if node["id"] in self._loaded:
            return
        if "place" in node:
            self._loaded.add(node["id"])
            node["children"] = await self._machines(node, "")
        elif "machine" in node:
            self._loaded.add(node["id"])
            path = f"/machines/{part(self._platform)}/{part(node['machine'])}/hardware"
            found, problem = await asked.tried(self._visit, self._visit.api.get(path))
            disks = found["disks"] if found is not None else []
            node["children"] = disk_nodes(self._visit.language, disks, node["machine"])
            if problem:
                node["children"] = [{"id": f"p/{node['id']}", "label": problem, "icon": "warning"}]

    async def _machines(self, node: Node, after: str) -> list[Node]:
        found = await self._visit.api.get(
            "/machines/overview", platform=self._platform, after=after, limit=PAGE, **node["place"]
        )
        self._following[node["id"]] = found["next"]
        return machine_nodes(self._visit.language, found["items"], found["next"], node["id"])

    async def _chosen(self, event: Any) -> None:
        """Fetch more machines, if that was what was chosen."""
        chosen = str(event.value or "")
        self._tree.deselect()
        if not chosen.startswith("more/"):
            return
        async with self._turn:
            await self._more(chosen[len("more/") :])

    async def _more(self, identity: str) -> None:
        """Put the next machines below a node in place of the line that asks for them."""
        above = next((each for each in _walk(self._nodes) if each["id"] == identity), None)
        following = self._following.get(identity)
        if above is None or following is None:
            return  # whoever pressed twice has them all, or the listing is another one by now
        more = await self._machines(above, following)
        above["children"] = above["children"][:-1] + more
        self._redraw()


def _walk(nodes: Sequence[Node]) -> list[Node]:
    found = []
    for node in nodes:
        found += [node, *_walk(node.get("children", ()))]
    return found
