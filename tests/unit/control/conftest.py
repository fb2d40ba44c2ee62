"""A fresh database for each test, on both that the server runs on."""

import tempfile
from pathlib import Path

import pytest

from ruchu.testing import databases
from ruchu.testing.clocks import ManualClock


@pytest.fixture(scope="session")
def postgresql_server():
    """Yield the address of a PostgreSQL server that lives as long as this run."""
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        with databases.postgresql_server(Path(directory) / "pg") as server:
            yield server


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.system)],
)
def database(request, tmp_path):
    """Yield a fresh database with all tables."""
    if request.param == "sqlite":
        with databases.sqlite(tmp_path / "ruchu.db") as database:
            yield database
        return
    with databases.postgresql(request.getfixturevalue("postgresql_server")) as database:
        yield database


@pytest.fixture
def clock():
    """Return a clock that the test moves."""
    return ManualClock()
