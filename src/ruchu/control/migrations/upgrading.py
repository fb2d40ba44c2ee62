"""Brings the database of a server to what this release needs, whole or not at all."""

import contextlib
import sqlite3
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from ruchu.control.database.database import Database
from ruchu.errors import DatabaseUnusable

_HERE = Path(__file__).parent
_FIRST_TABLE = "runs"


def head() -> str:
    """Return the revision that this release needs."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    assert found is not None
    return found


def current(database: Database) -> str | None:
    """Return the revision of a database; None if it is empty."""
    with database.reading() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def bring_up(database: Database) -> str | None:
    """Bring a database up to `head`; return the revision it had before (None: it was empty).

    On SQLite the file is kept as it was, beside it, as `….before-REVISION`.

    Raises:
        DatabaseUnusable: it belongs to a later release, or to something else.
    """
    before = current(database)
    if before == head():
        return before
    if before is None:
        _require_empty(database)
    else:
        _require_known(before)
        _keep(database, before)
    config = _config()
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return before


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE))
    config.set_main_option("path_separator", "os")
    return config


def _require_empty(database: Database) -> None:
    if _FIRST_TABLE in sa.inspect(database.engine).get_table_names():
        hint = "Give --database the address of an empty database, or of one that Ruchu made."
        raise DatabaseUnusable("(it has tables that no release of Ruchu made)", hint=hint)


def _require_known(revision: str) -> None:
    known = {each.revision for each in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision not in known:
        hint = "Start the later release again, or restore the database from before the upgrade."
        raise DatabaseUnusable(f"(it is of a later release: revision {revision})", hint=hint)


def _keep(database: Database, revision: str) -> None:
    """Keep a SQLite database as it was before an upgrade."""
    if not database.is_sqlite:
        return
    path = Path(f"{database.url.database}.before-{revision}")
    if path.exists():
        return
    with (
        contextlib.closing(sqlite3.connect(str(database.url.database))) as source,
        contextlib.closing(sqlite3.connect(path)) as target,
    ):
        source.backup(target)
    path.chmod(0o600)
