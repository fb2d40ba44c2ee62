"""A fresh database for each test, on both that the server runs on."""

import shutil
import tempfile
from pathlib import Path

import pytest
from accounts_world import CHEAP

from ruchu.control.accounts.accounts import Accounts
from ruchu.control.accounts.passwords import Hasher
from ruchu.control.audit.trail import Trail
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.vault import keys
from ruchu.control.vault.vault import Vault
from ruchu.testing import databases
from ruchu.testing.clocks import ManualClock


@pytest.fixture(scope="session")
def postgresql_server():
    """Yield the address of a PostgreSQL server that lives as long as this run."""
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        with databases.postgresql_server(Path(directory) / "pg") as server:
            yield server


@pytest.fixture(scope="session")
def postgresql_database(postgresql_server):
    """Yield one database with all tables for the whole run."""
    with databases.postgresql(postgresql_server) as database:
        yield database


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory):
    """Return the file of an empty database with all tables."""
    path = tmp_path_factory.mktemp("template") / "ruchu.db"
    with databases.sqlite(path):
        pass
    return path


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.system)],
)
def database(request, tmp_path):
    """Yield a database with all tables and no row."""
    if request.param == "sqlite":
        path = tmp_path / "ruchu.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        with Database(sqlite_url(path)) as database:
            yield database
        return
    database = request.getfixturevalue("postgresql_database")
    yield database
    databases.empty(database)


@pytest.fixture
def clock():
    """Return a clock that the test moves."""
    return ManualClock()


@pytest.fixture
def trail(database, clock):
    """Return an audit trail without a file of anchors."""
    return Trail(database, clock)


@pytest.fixture
def vault(database, clock, tmp_path):
    """Return a vault with a key of its own."""
    return Vault(database, keys.source(tmp_path, {}), clock)


@pytest.fixture
def accounts(database, clock, trail, vault):
    """Return the accounts, with passwords that cost little."""
    return Accounts(database, clock, trail, vault, Hasher(CHEAP))
