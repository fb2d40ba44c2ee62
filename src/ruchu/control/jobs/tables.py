"""Tables of runs and of their history."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

RUNS = sa.Table(
    "runs",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("policy", sa.Text),
    sa.Column("started_by", sa.Text, nullable=False),
    sa.Column("due", sa.Text),
    sa.Column("priority", sa.Integer, nullable=False, default=5),
    sa.Column("resource_group", sa.Text, nullable=False, default="default"),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("stop", sa.Boolean, nullable=False, default=False),
    sa.Column("pause", sa.Boolean, nullable=False, default=False),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("started", sa.Text),
    sa.Column("ended", sa.Text),
    sa.Column("next_attempt", sa.Text),
    sa.Column("summary", sa.JSON, nullable=False),
)
sa.Index("ix_runs_state", RUNS.c.state)
# How runs of the last days ended is counted in this index alone.
sa.Index(
    "ix_runs_ended", RUNS.c.ended, RUNS.c.kind, RUNS.c.state, RUNS.c.resource_group, RUNS.c.policy
)
# The newest run of each of hundreds of policies is found without reading the others.
sa.Index("ix_runs_policy_created", RUNS.c.policy, RUNS.c.created)
# Everything that a list is filtered by, so that a search reads this and not the runs themselves.
sa.Index(
    "ix_runs_search", RUNS.c.created, RUNS.c.id, RUNS.c.name, RUNS.c.kind, RUNS.c.state,
    RUNS.c.policy, RUNS.c.resource_group,
)  # fmt: skip

RUN_EVENTS = sa.Table(
    "run_events",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("task", sa.Text),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)
sa.Index("ix_run_events_run_number", RUN_EVENTS.c.run, RUN_EVENTS.c.number)
