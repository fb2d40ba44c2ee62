"""How far the runs are that are under way, all of them in one answer."""

from fastapi import APIRouter

from ruchu.api import identity, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.control.jobs import runs
from ruchu.control.jobs.runs import RunFilter
from ruchu.control.nodes import progress
from ruchu.control.nodes.progress import RunProgress

router = APIRouter(tags=["runs"])


@router.get("/progress", responses=problems.responses())
def list_progress(services: ServicesOf, by: By) -> list[RunProgress]:
    """Show how far each run is that is under way, the newest first; up to 500 of them."""
    groups = identity.groups_of(by) or ()
    wanted = RunFilter(states=runs.UNDER_WAY, groups=groups)
    rows = services.runs.page(wanted, progress.RUNS_MAX)
    known = progress.of_runs(services.database, [row.id for row in rows])
    return [known.get(row.id, RunProgress(row.id)) for row in rows]
