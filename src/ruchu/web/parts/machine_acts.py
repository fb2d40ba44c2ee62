"""What is done with machines: back one up now."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.web.calling import part
from ruchu.web.parts import acting, asking, marks
from ruchu.web.visiting import Visit

KINDS = ("incremental", "full")


async def back_up(visit: Visit, shown: Mapping[str, Any]) -> None:
    """Ask for policy and kind, and start a backup of one machine."""
    policies = [each for each in shown["policies"] if each["enabled"]]
    machine = shown["machine"]
    say = visit.say
    with asking.dialog(say("Back up {name} now", name=machine["name"])) as dialog:
        names = {each["id"]: each["name"] for each in policies}
        policy = asking.choice(say("Policy"), "policy", names, policies[0]["id"])
        kinds = {each: marks.kind(visit.language, each) for each in KINDS}
        kind = asking.choice(say("Kind"), "kind", kinds, KINDS[0])
        ui.label(
            say("A machine without a point gets a full backup, whatever is chosen here.")
        ).classes("r-help")

        async def go() -> bool:
            wanted = {"kind": kind.value, "machines": [machine["id"]]}
            run = await acting.act(
                visit, visit.api.post(f"/policies/{part(policy.value)}/run", wanted)
            )
            if run is not None:
                ui.navigate.to(f"/runs/{run['id']}")
            return run is not None

        asking.actions(visit, dialog, say("Back up"), go)
