"""Databases of earlier revisions come forward, with what is in them; later ones are refused."""

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.events.stream import Events
from ruchu.control.jobs.runs import NewRun, Runs
from ruchu.control.migrations import upgrading
from ruchu.control.migrations.every_table import METADATA
from ruchu.control.policies.policies import Policies
from ruchu.errors import DatabaseUnusable
from ruchu.model.policies import Policy, Selection
from ruchu.testing import databases


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.system)])
def empty(request, tmp_path):
    """Yield a database without any table."""
    if request.param == "sqlite":
        with Database(sqlite_url(tmp_path / "ruchu.db")) as database:
            yield database
        return
    server = request.getfixturevalue("postgresql_server")
    with databases.fresh(server) as url, Database(url) as database:
        yield database


def at(database, revision):
    """Bring an empty database to an earlier revision."""
    config = upgrading._config()
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def differences(database):
    with database.engine.connect() as connection:
        return compare_metadata(MigrationContext.configure(connection), METADATA)


def test_the_revisions_make_the_tables_of_today(empty):
    assert upgrading.bring_up(empty) is None
    assert upgrading.current(empty) == upgrading.head()
    assert differences(empty) == []
    assert upgrading.bring_up(empty) == upgrading.head()


def test_a_database_of_before_comes_forward_with_what_is_in_it(empty, clock, tmp_path):
    at(empty, "0001")
    events = Events(empty, clock)
    kept = Policies(empty, clock, events).add(Policy("夜间", Selection("kvm", ("a",)), "main"))
    run = Runs(empty, clock, events).create(NewRun("backup", "夜间", {"a": 1}, kept.id))
    assert upgrading.bring_up(empty) == "0001"
    assert differences(empty) == []
    assert Policies(empty, clock, Events(empty, clock)).get("夜间").policy == kept.policy
    assert Runs(empty, clock, Events(empty, clock)).get(run.id) == run
    if empty.is_sqlite:
        with Database(sqlite_url(tmp_path / "ruchu.db.before-0001")) as before:
            assert upgrading.current(before) == "0001"


def test_a_database_of_a_later_release_is_left_alone(empty):
    upgrading.bring_up(empty)
    with empty.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseUnusable, match="9999"):
        upgrading.bring_up(empty)
    assert upgrading.current(empty) == "9999"


def test_tables_of_somebody_else_are_left_alone(empty):
    with empty.writing() as connection:
        connection.execute(sa.text("CREATE TABLE runs (x INTEGER)"))
    with pytest.raises(DatabaseUnusable):
        upgrading.bring_up(empty)
