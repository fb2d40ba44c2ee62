"""Databases for tests: SQLite in a file, and a PostgreSQL server of one's own on a unix socket."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg

from ruchu import commands
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.migrations import every_table
from ruchu.errors import NotFound

_START_LIMIT_S = 60.0


@contextlib.contextmanager
def sqlite(path: Path) -> Iterator[Database]:
    """Yield a fresh database with all tables in a file."""
    with Database(sqlite_url(path)) as database:
        every_table.METADATA.create_all(database.engine)
        yield database


def programs() -> Path:
    """Return the folder of PostgreSQL's programs, the newest that is installed.

    Raises:
        NotFound: it is not installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    if not found:
        raise NotFound("(PostgreSQL is not installed)")
    return found[-1].parent


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in path.parts[-3].split(".") if part.isdigit())


@contextlib.contextmanager
def postgresql_server(directory: Path) -> Iterator[str]:
    """Yield the address (without a database name) of a server that runs below a short directory.

    It listens on a unix socket in that directory only. As root it runs as the user `postgres`.
    """
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    data, where = directory / "data", programs()
    prefix = ["runuser", "-u", "postgres", "--"]
    commands.run(["chown", "postgres", str(directory)], timeout_s=_START_LIMIT_S)
    make = [str(where / "initdb"), "-D", str(data), "-A", "trust", "-U", "ruchu", "-N"]
    commands.run([*prefix, *make, "-E", "UTF8"], timeout_s=_START_LIMIT_S)
    control = [*prefix, str(where / "pg_ctl"), "-D", str(data), "-w"]
    options = f"-k {directory} -c listen_addresses='' -c fsync=off -c max_connections=120"
    log = ["-l", str(directory / "log")]
    commands.run([*control, *log, "-o", options, "start"], timeout_s=_START_LIMIT_S)
    try:
        yield f"postgresql://ruchu@/{{name}}?host={directory}"
    finally:
        commands.run([*control, "-m", "immediate", "stop"], timeout_s=_START_LIMIT_S)


def empty(database: Database) -> None:
    """Remove every row, which costs far less than making the tables anew."""
    with database.writing() as connection:
        for table in reversed(every_table.METADATA.sorted_tables):
            connection.execute(table.delete())


@contextlib.contextmanager
def postgresql(server: str) -> Iterator[Database]:
    """Yield a fresh database with all tables on a server that `postgresql_server` started."""
    with fresh(server) as url, Database(url) as database:
        every_table.METADATA.create_all(database.engine)
        yield database


@contextlib.contextmanager
def fresh(server: str) -> Iterator[str]:
    """Yield the address of a fresh, empty database; it is dropped on leaving."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server.format(name="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield server.format(name=name)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
