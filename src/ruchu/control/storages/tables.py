"""Tables of storages and of points."""

import sqlalchemy as sa

from ruchu.control.database.schema import METADATA

STORAGES = sa.Table(
    "storages",
    METADATA,
    # The identity that the storage itself holds.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("encrypted", sa.Boolean, nullable=False),
    sa.Column("resource_group", sa.Text, nullable=False, default="default"),
    # Ids of the nodes that reach it; empty means all.
    sa.Column("nodes", sa.JSON, nullable=False),
    sa.Column("writers", sa.Integer, nullable=False, default=4),
    sa.Column("readers", sa.Integer, nullable=False, default=2),
    sa.Column("warn_percent", sa.Integer, nullable=False, default=80),
    sa.Column("stop_percent", sa.Integer, nullable=False, default=95),
    sa.Column("free", sa.BigInteger),
    sa.Column("size", sa.BigInteger),
    sa.Column("seen", sa.Text),
    sa.Column("problem", sa.Text, nullable=False, default=""),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, default=1),
)

POINTS = sa.Table(
    "points",
    METADATA,
    sa.Column("storage", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("chain", sa.Text, nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("platform", sa.Text, nullable=False, default=""),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("bytes_stored", sa.BigInteger),
    sa.Column("bytes_read", sa.BigInteger),
    sa.Column("starred", sa.Boolean, nullable=False, default=False),
    sa.Column("locked_until", sa.Text),
    sa.Column("disks", sa.JSON, nullable=False),
    sa.Column("policy", sa.Text),
    sa.Column("run", sa.Text),
    sa.Column("verified", sa.Text),
    sa.Column("verdict", sa.Text, nullable=False, default=""),
)
sa.Index("ix_points_name_time", POINTS.c.name, POINTS.c.time)
# The newest point of each of thousands of machines is found in this index alone.
sa.Index("ix_points_platform_name_time", POINTS.c.platform, POINTS.c.name, POINTS.c.time)
sa.Index("ix_points_chain", POINTS.c.chain)
sa.Index("ix_points_time", POINTS.c.time)

STORAGE_USE = sa.Table(
    "storage_use",
    METADATA,
    sa.Column("storage", sa.Text, primary_key=True),
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("free", sa.BigInteger, nullable=False),
    sa.Column("stored", sa.BigInteger, nullable=False),
)
