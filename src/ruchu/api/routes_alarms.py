"""Alarms, the rules and channels they go by, and chains whose retention is frozen."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, Field

from ruchu.api import auditing, paging, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, Limit, Page
from ruchu.control.alarms.records import (
    Alarm,
    ChannelDefinition,
    Delivery,
    HistoryEntry,
    Rule,
)
from ruchu.control.anomalies.watch import Decision, Freeze
from ruchu.control.vault.vault import Owner
from ruchu.model.principals import ALL_GROUPS, Principal, Right

router = APIRouter(tags=["alarms"])


class Acknowledged(BaseModel):
    """Who looks after an alarm says so."""

    remark: str = Field(default="", max_length=500)


class ChannelDocument(BaseModel):
    """A way to reach people."""

    kind: str = Field(max_length=32, examples=["mail"])
    settings: dict[str, Any] = Field(
        examples=[{"host": "mail.example.com", "port": 587, "recipients": ["ops@example.com"]}]
    )
    language: str = Field(default="en", max_length=10)
    hourly_max: int = Field(default=60, ge=1, le=10_000)
    enabled: bool = True
    secrets: dict[str, str] = Field(
        default={}, max_length=20, description="written, never read; what is left out stays"
    )


class FreezeDecision(BaseModel):
    """What a person says to a freeze."""

    decision: Decision
    note: str = Field(default="", max_length=1000)


def _visible(by: Principal, alarm: Alarm) -> bool:
    return by.may(Right.VIEW, alarm.group or ALL_GROUPS) or by.may(Right.VIEW)


@router.get("/alarms", responses=problems.responses())
def list_alarms(services: ServicesOf, by: By) -> list[Alarm]:
    """List the open alarms, the newest first."""
    return [alarm for alarm in services.alarms.open_alarms() if _visible(by, alarm)]


@router.get("/alarms/past", responses=problems.responses())
def past_alarms(services: ServicesOf, by: By, after: After = "", limit: Limit = 100) -> Page[Alarm]:
    """List the alarms that were cleared, the newest first."""
    rows = [alarm for alarm in services.alarms.past(after or "~", limit + 1) if _visible(by, alarm)]
    return paging.page(rows, limit, lambda alarm: alarm.last_at)


@router.get("/alarms/{alarm}", responses=problems.responses(404))
def show_alarm(services: ServicesOf, by: By, alarm: str) -> Alarm:
    """Show an alarm."""
    found = services.alarms.get(alarm)
    by.demand(Right.VIEW, found.group or ALL_GROUPS)
    return found


@router.get("/alarms/{alarm}/history", responses=problems.responses(404))
def alarm_history(services: ServicesOf, by: By, alarm: str) -> list[HistoryEntry]:
    """Show what happened to an alarm."""
    show_alarm(services, by, alarm)
    return list(services.alarms.history(alarm))


@router.get("/alarms/{alarm}/deliveries", responses=problems.responses(404))
def alarm_deliveries(services: ServicesOf, by: By, alarm: str) -> list[Delivery]:
    """Show who was told of an alarm, and what did not arrive."""
    show_alarm(services, by, alarm)
    return list(services.alarms.deliveries(alarm))


@router.post("/alarms/{alarm}/acknowledge", responses=problems.responses(404))
def acknowledge(
    services: ServicesOf, by: By, alarm: str, said: Annotated[Acknowledged, Body()]
) -> Alarm:
    """Say that one looks after an alarm; it does not escalate any more."""
    found = services.alarms.get(alarm)
    by.demand(Right.OPERATE, found.group or ALL_GROUPS)
    with auditing.recorded(services, by, "alarm.acknowledge", found.subject, {"code": found.code}):
        services.alarms.acknowledge(alarm, by.name, said.remark)
    return services.alarms.get(alarm)


@router.get("/alarm-rules", responses=problems.responses())
def list_rules(services: ServicesOf, by: By) -> list[Rule]:
    """List the rules that say which alarms go to which channels."""
    by.demand(Right.VIEW)
    return services.rules.rules()


@router.put("/alarm-rules/{name}", responses=problems.responses(404))
def put_rule(services: ServicesOf, by: By, name: str, rule: Annotated[Rule, Body()]) -> Rule:
    """Write a rule."""
    by.demand(Right.CONFIGURE)
    with auditing.recorded(services, by, "alarm-rule.put", name, {"rule": asdict(rule)}):
        services.rules.save_rule(Rule(**{**_fields(rule), "name": name}))
    return next(each for each in services.rules.rules() if each.name == name)


def _fields(rule: Rule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in Rule.__dataclass_fields__}


@router.delete("/alarm-rules/{name}", status_code=204, responses=problems.responses(404))
def remove_rule(services: ServicesOf, by: By, name: str) -> None:
    """Remove a rule."""
    by.demand(Right.CONFIGURE)
    with auditing.recorded(services, by, "alarm-rule.remove", name):
        services.rules.remove_rule(name)


@router.get("/alarm-channels", responses=problems.responses())
def list_channels(services: ServicesOf, by: By) -> list[ChannelDefinition]:
    """List the channels, without their secrets."""
    by.demand(Right.CONFIGURE)
    return services.rules.channels()


@router.put("/alarm-channels/{name}", responses=problems.responses())
def put_channel(
    services: ServicesOf, by: By, name: str, wanted: Annotated[ChannelDocument, Body()]
) -> ChannelDefinition:
    """Write a channel."""
    by.demand(Right.CONFIGURE)
    fields = wanted.model_dump(exclude={"secrets"})
    with auditing.recorded(services, by, "alarm-channel.put", name, {"kind": wanted.kind}):
        services.rules.save_channel(ChannelDefinition(name, **fields))
        for field, secret in wanted.secrets.items():
            services.vault.put(Owner("channel", name, field), secret)
    return next(each for each in services.rules.channels() if each.name == name)


@router.delete("/alarm-channels/{name}", status_code=204, responses=problems.responses(404))
def remove_channel(services: ServicesOf, by: By, name: str) -> None:
    """Remove a channel that no rule names."""
    by.demand(Right.CONFIGURE)
    with auditing.recorded(services, by, "alarm-channel.remove", name):
        services.rules.remove_channel(name)
        services.vault.delete_all("channel", name)


@router.post("/alarm-channels/{name}/test", status_code=201, responses=problems.responses(404))
def test_channel(services: ServicesOf, by: By, name: str) -> dict[str, str]:
    """Send a test message; the answer names the alarm whose deliveries show what became of it."""
    by.demand(Right.CONFIGURE)
    return {"alarm": services.alarms.test(name, by.name)}


@router.get("/freezes", responses=problems.responses())
def list_freezes(
    services: ServicesOf, by: By, all_: Annotated[bool, Query(alias="all")] = False
) -> list[Freeze]:
    """List the chains that retention leaves alone until somebody decides."""
    by.demand(Right.VIEW)
    return list(services.watch.freezes(active=not all_))


@router.post("/freezes/{chain}/decision", responses=problems.responses(404))
def decide(
    services: ServicesOf, by: By, chain: str, said: Annotated[FreezeDecision, Body()]
) -> list[Freeze]:
    """Keep a chain frozen, or let retention go on."""
    by.demand(Right.OPERATE)
    facts = {"decision": said.decision.value}
    with auditing.recorded(services, by, "freeze.decide", chain, facts):
        services.watch.decide(chain, said.decision, by.name, said.note)
    return list(services.watch.freezes(active=False))
