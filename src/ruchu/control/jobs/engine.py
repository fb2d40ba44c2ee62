"""The engine of durable workflows, behind an interface of ours.

A workflow is one attempt at a run. What it waits for is in our own tables, so the engine only has
to bring an attempt that was under way back after a crash, at the step where it was.
"""

import logging
from typing import Protocol

import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, SetWorkflowID

from ruchu.control.jobs.attempts import Attempts

# Attempts that are under way at the same time; each waits in a thread of its own.
ATTEMPTS_MAX = 64
# Our own constant: with a version made from the code, an update would leave attempts behind.
WORKFLOW_VERSION = "1"
# One server has one name, so that what it left is its own after a restart.
_EXECUTOR = "server"


class JobEngine(Protocol):
    """Carries out attempts, also over a crash of the server."""

    def begin(self) -> None:
        """Go on with what was under way when the server ended."""

    def submit(self, run: str, attempt: int) -> None:
        """Carry out an attempt; one that was submitted before is carried out once."""

    def close(self) -> None:
        """Take on no more; what is under way goes on after the next `begin`."""


class _Current:
    """The attempts of this process; workflows are functions and have no other way to them."""

    attempts: Attempts | None = None


def _attempts() -> Attempts:
    assert _Current.attempts is not None, "the engine was not begun"
    return _Current.attempts


@DBOS.step(name="ruchu.plan")
def _plan(run: str, attempt: int) -> None:
    _attempts().plan(run, attempt)


@DBOS.step(name="ruchu.watch")
def _watch(run: str) -> None:
    _attempts().watch(run)


@DBOS.step(name="ruchu.settle")
def _settle(run: str, attempt: int) -> str:
    return _attempts().settle(run, attempt)


@DBOS.workflow(name="ruchu.attempt")
def _attempt(run: str, attempt: int) -> str:
    _plan(run, attempt)
    _watch(run)
    return _settle(run, attempt)


class DbosEngine:
    """A `JobEngine` on DBOS. One in a process."""

    def __init__(self, url: str, attempts: Attempts) -> None:
        _Current.attempts = attempts
        self._url = url
        self._launched = False

    def begin(self) -> None:
        """Go on with what was under way when the server ended."""
        if self._url.startswith("sqlite"):
            _use_wal(self._url)
        for name in ("dbos", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        config: DBOSConfig = {
            "name": "ruchu",
            "system_database_url": self._url,
            "executor_id": _EXECUTOR,
            "application_version": WORKFLOW_VERSION,
            "log_level": "WARNING",
            "max_executor_threads": ATTEMPTS_MAX * 2,
        }
        DBOS(config=config)
        DBOS.launch()
        self._launched = True

    def submit(self, run: str, attempt: int) -> None:
        """Carry out an attempt."""
        with SetWorkflowID(f"{run}.{attempt}"):
            DBOS.start_workflow(_attempt, run, attempt)

    def close(self) -> None:
        """Take on no more."""
        if self._launched:
            self._launched = False
            DBOS.destroy(workflow_completion_timeout_sec=0)


def _use_wal(url: str) -> None:
    """Let readers and a writer work at the same time; DBOS leaves the journal as it is."""
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    finally:
        engine.dispose()
