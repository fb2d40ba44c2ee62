"""Reports of verifications: watched while they are made, printed, and turned into a status."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from ruchu.cli import output
from ruchu.cli.session import Session
from ruchu.cli.watching import Watcher
from ruchu.errors import Damaged
from ruchu.units import format_size

if TYPE_CHECKING:
    from ruchu.repository.verifying_findings import Report, Watch


@contextlib.contextmanager
def verifying(here: Session) -> Iterator["Watch"]:
    """Show how far a verification is, and end it when somebody wants it to end."""
    from ruchu.blocks.copying import Progress
    from ruchu.repository.verifying_findings import Watch

    progress = Progress()

    def advance(done: int, total: int) -> None:
        progress.data, progress.total = done, total

    with here.cancellation.polled(), Watcher() as watcher:
        watcher.watch("verify", progress)
        yield Watch(advance, here.cancellation)


def tell(report: "Report", *, json: bool) -> None:
    """Print a report; damage becomes the exit status."""
    from ruchu.operations import verification

    if json:
        output.document(verification.fields(report))
    else:
        counts = report.counts
        output.line(
            f"{report.depth.value}: {counts.points} points, {counts.packs} packs, "
            f"{counts.chunks} chunks, {format_size(counts.bytes)} read"
        )
        for sample in report.samples:
            output.line(str(sample))
        for found in report.findings:
            output.line(f"{found.severity.value}: {found.code}: {found.object}: {found.text}")
            for point in found.points:
                output.line(f"  affects point {point[:8]}")
        output.line("no damage" if report.clean else "DAMAGED")
    if not report.clean:
        raise typer.Exit(Damaged.exit_status)
