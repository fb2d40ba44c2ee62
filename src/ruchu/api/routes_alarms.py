"""Alarms, the rules and channels they go by, and chains whose retention is frozen."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, Field

from ruchu.api import auditing, identity, paging, problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, Limit, Page
from ruchu.control.alarms.records import (
    Alarm,
    ChannelDefinition,
    Delivery,
    HistoryEntry,
    QuietHours,
    Rule,
    Step,
)
from ruchu.control.anomalies.watch import Decision, Freeze
from ruchu.control.vault.vault import Owner
from ruchu.model.principals import Right
from ruchu.model.tasks import Severity

router = APIRouter(tags=["alarms"])


class Acknowledged(BaseModel):
    """Who looks after an alarm says so."""

    remark: str = Field(default="", max_length=500)


class AlarmCount(BaseModel):
    """How many alarms there are."""

    open: int


class ChannelDocument(BaseModel):
    """A way to reach people."""

    kind: str = Field(max_length=32, examples=["mail"])
    settings: dict[str, Any] = Field(
        examples=[{"host": "mail.example.com", "port": 587, "recipients": ["ops@example.com"]}]
    )
    language: str = Field(default="en", max_length=10)
    hourly_max: int = Field(default=60, ge=1, le=10_000)
    enabled: bool = True
    secrets: dict[
        Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=10_000)]
    ] = Field(default={}, max_length=20, description="written, never read; what is left out stays")


Name = Annotated[str, Field(max_length=64)]
Pattern = Annotated[str, Field(max_length=300)]


class RuleDocument(BaseModel):
    """Which alarms go to which channels; the name of the rule is in the address."""

    channels: tuple[Name, ...] = Field(default=(), max_length=200, examples=[["ops"]])
    codes: tuple[Pattern, ...] = Field(
        default=("*",), max_length=200, examples=[["backup-*"]], description="shell patterns"
    )
    severity: Severity = Field(default=Severity.WARNING, description="the least")
    group: str | None = Field(default=None, max_length=100, description="null: all groups")
    subject: str = Field(default="*", max_length=300, description="a shell pattern")
    quiet: QuietHours | None = Field(default=None, description="when it keeps still")
    steps: tuple[Step, ...] = Field(default=(), max_length=10, description="of escalation")
    repeat_min: int | None = Field(
        default=None, ge=1, le=10_080,
        description="tells again after so many minutes while nobody acknowledged",
    )  # fmt: skip
    tells_cleared: bool = Field(default=True, description="tells when the alarm is over, too")
    enabled: bool = True


class Tested(BaseModel):
    """A test message that is on its way."""

    alarm: str = Field(description="whose deliveries show what became of it")


class FreezeDecision(BaseModel):
    """What a person says to a freeze."""

    decision: Decision
    note: str = Field(default="", max_length=1000)


@router.get("/alarms", responses=problems.responses())
def list_alarms(services: ServicesOf, by: By) -> list[Alarm]:
    """List the open alarms, the worst and latest first."""
    seen = identity.groups_of(by)
    found = services.alarms.open_alarms()
    return [alarm for alarm in found if seen is None or alarm.group in seen]


@router.get("/alarms/count", responses=problems.responses())
def count_alarms(services: ServicesOf, by: By) -> AlarmCount:
    """Count the open alarms, without listing them."""
    return AlarmCount(open=services.alarms.open_count(identity.groups_of(by)))


@router.get("/alarms/past", responses=problems.responses())
def past_alarms(services: ServicesOf, by: By, after: After = "", limit: Limit = 100) -> Page[Alarm]:
    """List the alarms that were cleared, those that began last first."""
    rows = services.alarms.past(after, limit + 1, identity.groups_of(by))
    return paging.page(rows, limit, lambda alarm: f"{alarm.first_at}/{alarm.id}")


@router.get("/alarms/{alarm}", responses=problems.responses(404))
def show_alarm(services: ServicesOf, by: By, alarm: str) -> Alarm:
    """Show an alarm."""
    return reach.alarm(services, by, alarm)


@router.get("/alarms/{alarm}/history", responses=problems.responses(404))
def alarm_history(services: ServicesOf, by: By, alarm: str) -> list[HistoryEntry]:
    """Show what happened to an alarm."""
    reach.alarm(services, by, alarm)
    return list(services.alarms.history(alarm))


@router.get("/alarms/{alarm}/deliveries", responses=problems.responses(404))
def alarm_deliveries(services: ServicesOf, by: By, alarm: str) -> list[Delivery]:
    """Show who was told of an alarm, and what did not arrive."""
    reach.alarm(services, by, alarm)
    return list(services.alarms.deliveries(alarm))


@router.post("/alarms/{alarm}/acknowledge", responses=problems.responses(404))
def acknowledge(
    services: ServicesOf, by: By, alarm: str, said: Annotated[Acknowledged, Body()]
) -> Alarm:
    """Say that one looks after an alarm; it does not escalate any more."""
    found = reach.alarm(services, by, alarm, Right.OPERATE)
    with auditing.recorded(services, by, "alarm.acknowledge", found.subject, {"code": found.code}):
        services.alarms.acknowledge(alarm, by.name, said.remark)
    return services.alarms.get(alarm)


@router.get("/alarm-rules", responses=problems.responses())
def list_rules(services: ServicesOf, by: By) -> list[Rule]:
    """List the rules that say which alarms go to which channels."""
    by.demand(Right.VIEW)
    return services.rules.rules()


@router.put("/alarm-rules/{name}", responses=problems.responses())
def put_rule(
    services: ServicesOf, by: By, name: str, wanted: Annotated[RuleDocument, Body()]
) -> Rule:
    """Write a rule."""
    by.demand(Right.CONFIGURE)
    rule = Rule(name=name, **{key: getattr(wanted, key) for key in RuleDocument.model_fields})
    with auditing.recorded(services, by, "alarm-rule.put", name, {"rule": asdict(rule)}):
        services.rules.save_rule(rule)
    return next(each for each in services.rules.rules() if each.name == name)


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
def test_channel(services: ServicesOf, by: By, name: str) -> Tested:
    """Send a test message; the answer names the alarm whose deliveries show what became of it."""
    by.demand(Right.CONFIGURE)
    with auditing.recorded(services, by, "alarm-channel.test", name):
        return Tested(alarm=services.alarms.test(name, by.name))


@router.get("/freezes", responses=problems.responses())
def list_freezes(
    services: ServicesOf, by: By,
    released: Annotated[bool, Query(description="those that were released instead")] = False,
) -> list[Freeze]:  # fmt: skip
    """List the chains that retention leaves alone until somebody decides."""
    by.demand(Right.VIEW)
    return list(services.watch.freezes(active=not released))


@router.post("/freezes/{chain}/decision", responses=problems.responses(404, 409))
def decide(
    services: ServicesOf, by: By, chain: str, said: Annotated[FreezeDecision, Body()]
) -> list[Freeze]:
    """Keep a chain frozen; or let retention go on, which takes four eyes if they are on."""
    by.demand(Right.OPERATE)
    if said.decision is Decision.RELEASE:
        services.acts.release_freeze(by, chain, said.note)
        return list(services.watch.freezes(active=False))
    facts = {"decision": said.decision.value}
    with auditing.recorded(services, by, "freeze.decide", chain, facts):
        services.watch.decide(chain, said.decision, by.name, said.note)
    return list(services.watch.freezes())
