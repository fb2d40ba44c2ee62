"""`ruchu audit verify`: the exit status tells."""

import json
import os

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from ruchu.cli import main
from ruchu.control.audit.anchors import FILE_NAME, AnchorFile
from ruchu.control.audit.tables import AUDIT_RECORDS
from ruchu.control.audit.trail import Trail
from ruchu.control.database.database import Database, sqlite_url
from ruchu.errors import DatabaseUnusable, NotFound
from ruchu.testing import databases


@pytest.fixture
def state(tmp_path, clock):
    """Return the state of a server with some records; there are no anchors beside the first."""
    with databases.sqlite(tmp_path / "ruchu.db") as database:
        trail = Trail(database, clock, AnchorFile(tmp_path / FILE_NAME))
        for number in range(10):
            trail.record("alice", "x", str(number))
    yield tmp_path
    os.system(f"chattr -a {tmp_path / FILE_NAME} 2>/dev/null")


def run(*arguments):
    return CliRunner().invoke(main.app, ["audit", "verify", *map(str, arguments)])


def test_a_whole_trail(state):
    done = run("--state", state)
    assert done.exit_code == 0
    assert "10 records are whole" in done.output
    found = json.loads(run("--state", state, "--json").stdout)
    assert found["whole"] is True
    assert found["number"] == 10
    url = sqlite_url(state / "ruchu.db")
    assert run("--state", state, "--database", url).exit_code == 0


def test_a_broken_trail(state):
    with Database(sqlite_url(state / "ruchu.db")) as database, database.writing() as connection:
        connection.execute(
            AUDIT_RECORDS.update().where(AUDIT_RECORDS.c.number == 4).values(actor="x")
        )
    done = run("--state", state)
    assert done.exit_code == 14
    assert "record 4 was changed" in done.output
    done = run("--state", state, "--json")
    assert done.exit_code == 14
    found = json.loads(done.stdout)
    assert (found["whole"], found["broken"]) == (False, 4)


def test_a_state_without_a_server(tmp_path):
    assert isinstance(run("--state", tmp_path).exception, NotFound)
    assert not (tmp_path / "ruchu.db").exists()
    with Database(sqlite_url(tmp_path / "ruchu.db")) as database, database.writing() as connection:
        connection.execute(sa.text("CREATE TABLE other (a int)"))
    assert isinstance(run("--state", tmp_path).exception, DatabaseUnusable)
