"""Questions about the host of a node."""

from dataclasses import asdict

from ruchu.nodes.work_contract import Result, Work
from ruchu.operations import host_checks


def doctor(work: Work) -> Result:
    """Return what this host has and lacks."""
    return {"checks": [asdict(each) for each in host_checks.all_checks(work.state)]}
