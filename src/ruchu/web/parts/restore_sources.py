"""What a form of a restore is made from: the point, its machine, where it may go."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ruchu.errors import Answered
from ruchu.model.principals import Right
from ruchu.web import restore_form
from ruchu.web.calling import part
from ruchu.web.restore_form import Machine
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
_MACHINES_AT_ONCE = 499


@dataclass(frozen=True, slots=True)
class Known:
    """What a form needs to know.

    Attributes:
        copies: the point on each storage where the visitor may restore from.
        machine: that it holds.
        unread: why only the catalogue could tell about it; empty: it was read.
        platforms: where the visitor may restore to.
        taken: names of the machines of the platform of the point, with their states.
    """

    copies: Sequence[Found]
    machine: Machine
    unread: str
    platforms: Sequence[str]
    taken: Mapping[str, str]

    @property
    def platform(self) -> str:
        """The platform that is proposed: that of the point if it is still there."""
        own = str(self.copies[0]["platform"])
        return own if own in self.platforms else next(iter(self.platforms), "")


async def known(visit: Visit, point: str) -> Known:
    """Find out what the server knows by itself; `read` has a node tell the rest.

    Raises:
        Answered: there is no such point.
    """
    copies = await visit.api.get(f"/points/{part(point)}")
    storages = {each["name"]: each for each in await visit.api.get("/storages")}
    able = [each for each in copies if each["storage"] in storages
            and visit.may(Right.RESTORE, storages[each["storage"]]["resource_group"])]  # fmt: skip
    able.sort(key=lambda each: storages[each["storage"]]["role"] != "backup")
    platforms = [each["name"] for each in await visit.api.get("/platforms")
                 if visit.may(Right.RESTORE, each["resource_group"])]  # fmt: skip
    found = Known(able, restore_form.machine_of_point(copies[0]), "", platforms, {})
    if able and platforms:
        found = replace(found, taken=await names_on(visit, found.platform))
    return found


async def read(visit: Visit, found: Known) -> tuple[Known, Found]:
    """Have a node read the machine of the point, and another one say what the platform offers."""
    path = f"/points/{part(found.copies[0]['id'])}/machine"
    machine: Any
    offered: Any
    machine, offered = await asyncio.gather(
        visit.api.get(path), offers(visit, found.platform), return_exceptions=True
    )
    if isinstance(offered, BaseException):
        raise offered
    if isinstance(machine, Answered) and machine.status != 401:
        return replace(found, unread=visit.language.problem(machine)), offered
    if isinstance(machine, BaseException):
        raise machine
    return replace(found, machine=restore_form.machine_of(machine)), offered


async def offers(visit: Visit, platform: str) -> Found:
    """Return what a platform offers to a machine; nothing, if it cannot be asked now.

    What it offers can be typed in as well.
    """
    try:
        found: Found = await visit.api.get(f"/platforms/{part(platform)}/offers")
    except Answered as error:
        if error.status == 401:
            raise
        return {"networks": [], "places": []}
    return found


async def names_on(visit: Visit, platform: str) -> dict[str, str]:
    """Return the states of the machines of a platform, by name."""
    found: dict[str, str] = {}
    after: str | None = ""
    while after is not None:
        page_ = await visit.api.get(
            "/machines", platform=platform, after=after, limit=_MACHINES_AT_ONCE
        )
        found |= {each["name"]: each["state"] for each in page_["items"]}
        after = page_["next"]
    return found
