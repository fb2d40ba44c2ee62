"""Tables of nodes, of the tokens they enrol with, and of their tasks."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

NODES = sa.Table(
    "nodes",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("embedded", sa.Boolean, nullable=False, default=False),
    sa.Column("revoked", sa.Boolean, nullable=False, default=False),
    # The certificates that were given out last, the newest first: until a node has shown the
    # newest, the answer that held it may have been lost.
    sa.Column("serials", sa.JSON, nullable=False),
    sa.Column("enrolled", sa.Text, nullable=False),
    # Gets no new tasks; what it does goes on.
    sa.Column("maintenance", sa.Boolean, nullable=False, default=False, server_default=sa.false()),
    sa.Column("parallel", sa.Integer, nullable=False, default=2),
    sa.Column("last_seen", sa.Text),
    sa.Column("release", sa.Text, nullable=False, default=""),
    sa.Column("problem", sa.Text, nullable=False, default=""),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("load", sa.JSON, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, default=1),
)

NODE_TOKENS = sa.Table(
    "node_tokens",
    METADATA,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires", sa.Text, nullable=False),
    sa.Column("embedded", sa.Boolean, nullable=False, default=False),
    sa.Column("used", sa.Text),
    # Who used it: the digest of the certificate request, and the node that it became.
    sa.Column("request", sa.Text),
    sa.Column("node", sa.Text),
)

TASKS = sa.Table(
    "tasks",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("run", sa.Text, nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("label", sa.Text, nullable=False, default=""),
    sa.Column("attempt", sa.Integer, nullable=False, default=1),
    sa.Column("priority", sa.Integer, nullable=False, default=5),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("node", sa.Text),
    sa.Column("body", sa.JSON, nullable=False),
    # Names of secrets; they are looked up when the order is sent.
    sa.Column("secrets", sa.JSON, nullable=False),
    # Names of the nodes that may do it; empty means any.
    sa.Column("nodes", sa.JSON, nullable=False),
    # Key (such as `storage:main`) to how many tasks of that key run at the same time.
    sa.Column("limits", sa.JSON, nullable=False),
    sa.Column("move", sa.Boolean, nullable=False, default=False),
    sa.Column("stop", sa.Boolean, nullable=False, default=False),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("sent", sa.Text),
    sa.Column("ended", sa.Text),
    sa.Column("number", sa.Integer, nullable=False, default=0),
    sa.Column("phase", sa.Text, nullable=False, default=""),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("result", sa.JSON),
    sa.Column("error", sa.JSON),
)

sa.Index("ix_tasks_state_priority_created", TASKS.c.state, TASKS.c.priority, TASKS.c.created)
