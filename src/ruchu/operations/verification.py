"""Verification of storages and points, and what it found."""

import random
from dataclasses import asdict, dataclass
from typing import Any

from ruchu.operations import points
from ruchu.operations.storages import Storages
from ruchu.repository import verifying
from ruchu.repository.verifying_findings import Depth, Report, Watch


@dataclass(frozen=True, slots=True)
class Request:
    """How deep to look; `records` are drawn of each chain if it is sampled."""

    depth: Depth = Depth.STRUCTURAL
    records: int = verifying.SAMPLE_RECORDS


def request_of(sampled: int | None, *, full: bool) -> Request:
    """Return the request that the options of a command mean: structural, unless they say more."""
    if full:
        return Request(Depth.FULL)
    return Request(Depth.SAMPLED, sampled) if sampled is not None else Request()


def verify_storage(storages: Storages, name: str, request: Request, watch: Watch) -> Report:
    """Verify a whole storage."""
    return verifying.verify_storage(
        storages.open(name), request.depth,
        rng=random.SystemRandom(), sample_records=request.records, watch=watch,
    )  # fmt: skip


def verify_point(storages: Storages, prefix: str, request: Request, watch: Watch) -> Report:
    """Verify one point, and what it needs."""
    found = points.find(storages, prefix)
    return verifying.verify_point(
        found.chain, found.head, request.depth,
        rng=random.SystemRandom(), sample_records=request.records, watch=watch,
    )  # fmt: skip


def fields(report: Report) -> dict[str, Any]:
    """Return a report as a document."""
    return {
        "clean": report.clean,
        "depth": report.depth.value,
        "counts": asdict(report.counts),
        "findings": [
            {
                "code": found.code,
                "severity": found.severity.value,
                "object": found.object,
                "text": found.text,
                "points": list(found.points),
            }
            for found in report.findings
        ],
        "affected_points": list(report.affected_points),
        "covered": [list(each) for each in report.covered],
        "samples": [
            {"records": each.records, "total": each.total, "missed_1_percent": each.missed(0.01)}
            for each in report.samples
        ],
    }
