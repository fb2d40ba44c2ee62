"""Tables of platforms and machines."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

PLATFORMS = sa.Table(
    "platforms",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("uri", sa.Text, nullable=False),
    sa.Column("scratch", sa.Text, nullable=False, default=""),
    # Ids of the nodes that reach it; empty means all.
    sa.Column("nodes", sa.JSON, nullable=False),
    sa.Column("parallel", sa.Integer, nullable=False, default=4),
    sa.Column("host_parallel", sa.Integer, nullable=False, default=2),
    sa.Column("resource_group", sa.Text, nullable=False, default="default"),
    sa.Column("seen", sa.Text),
    sa.Column("problem", sa.Text, nullable=False, default=""),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, default=1),
)

MACHINES = sa.Table(
    "machines",
    METADATA,
    sa.Column("platform", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False, default=""),
    sa.Column("folder", sa.Text, nullable=False, default=""),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("vcpus", sa.Integer, nullable=False),
    sa.Column("memory", sa.BigInteger, nullable=False),
    sa.Column("disk_size", sa.BigInteger, nullable=False),
    sa.Column("seen", sa.Text, nullable=False),
)
sa.Index("ix_machines_name", MACHINES.c.name)
