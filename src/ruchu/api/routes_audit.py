"""The audit trail, and what waits for a second person."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import AwareDatetime, BaseModel, Field

from ruchu.api import identity, paging, problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, Limit, Page
from ruchu.control.approvals.approvals import Request, State
from ruchu.control.audit import verifying
from ruchu.control.audit.trail import Search
from ruchu.model.principals import Right

router = APIRouter(tags=["audit"])
# Each holds up to a thousand lines of what will be lost.
APPROVALS_MAX = 100


class Recorded(BaseModel):
    """A record of the audit trail."""

    number: int
    at: str
    actor: str
    action: str
    subject: str
    outcome: str
    facts: dict[str, Any]


class Verified(BaseModel):
    """What the hash chain of the audit trail says."""

    whole: bool
    records: int = Field(description="that were read")
    number: int = Field(description="of the newest record")
    hash: str = Field(description="of the newest record")
    anchors: int = Field(description="that were compared")
    broken: int = Field(description="number of the first record that is wrong; 0 if none is")
    reason: str


class Decision(BaseModel):
    """What a second person says."""

    digest: str = Field(max_length=100, description="of exactly what is agreed to")
    remark: str = Field(default="", max_length=500)


class Refusal(BaseModel):
    """Why not."""

    remark: str = Field(default="", max_length=500)


class FourEyes(BaseModel):
    """Whether acts that destroy wait for a second person."""

    on: bool


class Asked(BaseModel):
    """A request."""

    id: str
    kind: str
    subject: str
    arguments: dict[str, Any]
    losses: list[str]
    group: str
    digest: str
    requester_name: str
    requested: str
    expires: str
    state: str
    decider_name: str
    decided: str | None
    remark: str
    result: dict[str, Any] | None


def _asked(request: Request) -> Asked:
    act = request.act
    return Asked(
        id=request.id, kind=act.kind.value, subject=act.subject, arguments=dict(act.arguments),
        losses=list(act.losses), group=act.group, digest=request.digest,
        requester_name=request.requester_name, requested=request.requested,
        expires=request.expires, state=request.state.value, decider_name=request.decider_name,
        decided=request.decided, remark=request.remark,
        result=dict(request.result) if request.result is not None else None,
    )  # fmt: skip


@router.get("/audit", responses=problems.responses())
def search_audit(
    services: ServicesOf,
    by: By,
    actor: Annotated[str, Query(max_length=200)] = "",
    action: Annotated[str, Query(max_length=100)] = "",
    subject: Annotated[str, Query(max_length=200)] = "",
    outcome: Annotated[str, Query(max_length=20)] = "",
    text: Annotated[str, Query(max_length=200, description="in actor, action, subject")] = "",
    since: Annotated[AwareDatetime | None, Query(description="then or later")] = None,
    until: Annotated[AwareDatetime | None, Query(description="before")] = None,
    after: Annotated[
        str, Query(pattern="^([0-9]{1,18})?$", description="`next` of the page before")
    ] = "",
    limit: Limit = 100,
) -> Page[Recorded]:
    """Search the audit trail, the newest record first."""
    by.demand(Right.AUDIT)
    wanted = Search(actor, action, subject, outcome, since, until, int(after or 0), text)
    rows = [Recorded(**row.document()) for row in services.trail.search(wanted, limit + 1)]
    return paging.page(rows, limit, lambda row: str(row.number))


@router.get("/audit/verification", responses=problems.responses())
def verify_audit(services: ServicesOf, by: By) -> Verified:
    """Follow the hash chain of the audit trail from its first record to its last."""
    by.demand(Right.AUDIT)
    return Verified(**verifying.verify(services.database, services.anchors).document())


@router.get("/approvals", responses=problems.responses())
def list_approvals(
    services: ServicesOf,
    by: By,
    state: Annotated[State | None, Query()] = None,
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=APPROVALS_MAX)] = 50,
) -> Page[Asked]:
    """List requests that wait for a second person, and those that were decided, newest first."""
    rows = services.approvals.list(state, after, limit + 1, identity.groups_of(by))
    found = [_asked(request) for request in rows]
    return paging.page(found, limit, lambda each: f"{each.requested}/{each.id}")


@router.get("/approvals/{request}", responses=problems.responses(404))
def show_approval(services: ServicesOf, by: By, request: str) -> Asked:
    """Show a request."""
    return _asked(reach.approval(services, by, request))


@router.post("/approvals/{request}/approve", responses=problems.responses(404, 409, 412, 502))
def approve(
    services: ServicesOf, by: By, request: str, decision: Annotated[Decision, Body()]
) -> Asked:
    """Agree to a request; it is carried out at once."""
    reach.approval(services, by, request, Right.APPROVE)
    return _asked(services.approvals.approve(request, decision.digest, by, decision.remark))


@router.post("/approvals/{request}/refuse", responses=problems.responses(404, 409, 412))
def refuse(
    services: ServicesOf, by: By, request: str, refusal: Annotated[Refusal, Body()]
) -> Asked:
    """Refuse a request, or withdraw one's own."""
    reach.approval(services, by, request)
    services.approvals.refuse(request, by, refusal.remark)
    return _asked(services.approvals.get(request))


@router.get("/four-eyes", responses=problems.responses())
def four_eyes(services: ServicesOf, by: By) -> FourEyes:
    """Tell whether acts that destroy wait for a second person."""
    del by
    return FourEyes(on=services.approvals.four_eyes())


@router.put("/four-eyes", responses=problems.responses(409))
def set_four_eyes(services: ServicesOf, by: By, wanted: Annotated[FourEyes, Body()]) -> FourEyes:
    """Let acts that destroy wait for a second person; turning that off takes two people."""
    if wanted.on:
        services.approvals.turn_on(by)
    else:
        services.approvals.turn_off(by)
    return FourEyes(on=services.approvals.four_eyes())
