"""Pages and versions: what all resources have in common over HTTP."""

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Header, Query, Response
from pydantic import BaseModel, Field

from ruchu.errors import UsageError, VersionMissing

T = TypeVar("T")
# One less than what any service returns at once: the row behind a page says whether there is more.
LIMIT_MAX = 499
# What both databases keep as a number.
NUMBER_MAX = (1 << 63) - 1

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="items of a page")]
After = Annotated[
    str, Query(max_length=1000, description="`next` of the page before; empty is the first page")
]
AfterNumber = Annotated[
    int, Query(ge=0, le=NUMBER_MAX, description="a number; what follows it is shown")
]
IfMatch = Annotated[
    str | None,
    Header(max_length=100, description="the ETag of what was read; required for a change",
           examples=['"3"']),
]  # fmt: skip


class Page(BaseModel, Generic[T]):
    """A part of a list."""

    items: list[T]
    next: str | None = Field(
        default=None, description="`after` of the following page; null on the last one"
    )


def page(rows: Sequence[T], limit: int, key: Callable[[T], str]) -> Page[T]:
    """Return a page of rows, one more of which was asked for than it shows."""
    shown = list(rows[:limit])
    more = len(rows) > limit
    return Page(items=shown, next=key(shown[-1]) if more and shown else None)


def tag(response: Response, version: int) -> None:
    """Tell the version of what is answered."""
    response.headers["ETag"] = f'"{version}"'


def version_of(if_match: str | None) -> int:
    """Return the version that a change is meant for.

    Raises:
        VersionMissing: none was given.
        UsageError: it is none.
    """
    if not if_match:
        raise VersionMissing
    text = if_match.strip().removeprefix("W/").strip('"')
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise UsageError("(the header If-Match is no ETag of ours)")
    return int(text)
