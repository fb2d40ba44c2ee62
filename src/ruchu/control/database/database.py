"""A connection to the database, read or changed within short transactions."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import event

from ruchu.errors import DatabaseUnusable, UsageError

# A transaction of another thread or process takes milliseconds; this is far beyond that.
BUSY_LIMIT_S = 30
# Requests, runs and nodes that are served at the same time; more wait for their turn.
_CONNECTIONS, _CONNECTIONS_MORE = 8, 24
# SQLite's connections are files: opening one costs more than most queries, so all are kept.
_SQLITE_CONNECTIONS = 32
# SQLite's cache of pages for a connection, in KiB; the kernel caches the file for all of them.
_SQLITE_CACHE_KIB = 2048


class Database:
    """The database of a server. A context manager. Safe in several threads.

    SQLite takes one writer at a time: writers of this process queue on a lock of ours, which is
    fair enough and costs nothing, where its own busy loop would poll.
    """

    def __init__(self, url: str) -> None:
        """Open it; nothing is created but an empty SQLite file.

        Raises:
            UsageError: the address is none that is understood.
            DatabaseUnusable: it does not answer.
        """
        self.url = _parsed(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = _engine(self.url, sqlite=self.is_sqlite)
        self._writing = threading.Lock() if self.is_sqlite else contextlib.nullcontext()
        try:
            with self._engine.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        except sa.exc.SQLAlchemyError as error:
            self._engine.dispose()
            hint = "Is it running, and may this user use it?"
            raise DatabaseUnusable(f"({_shown(self.url)}: {_why(error)})", hint=hint) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of its connections."""
        self._engine.dispose()

    @property
    def engine(self) -> sa.Engine:
        """The engine; for migrations."""
        return self._engine

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection that sees one moment of the database."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Yield a connection whose changes take effect together on leaving, or not at all."""
        with self._writing, self._engine.connect() as connection:
            if self.is_sqlite:
                connection.execution_options(ruchu_writes=True)
            with connection.begin():
                yield connection


def sqlite_url(path: Path) -> str:
    """Return the address of a database in a file."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def _parsed(text: str) -> sa.URL:
    hint = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME"
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError:
        raise UsageError("(the address of the database)", hint=hint) from None
    if url.get_backend_name() == "sqlite" and url.database:
        return url
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    raise UsageError(f"(the database {_shown(url)})", hint=hint)


def _engine(url: sa.URL, *, sqlite: bool) -> sa.Engine:
    if not sqlite:
        options: dict[str, Any] = {"pool_size": _CONNECTIONS, "max_overflow": _CONNECTIONS_MORE}
        # A connection that a firewall has dropped is found before it is used.
        engine = sa.create_engine(url, pool_pre_ping=True, **options)
        return engine.execution_options(isolation_level="REPEATABLE READ")
    options = {"pool_size": _SQLITE_CONNECTIONS, "max_overflow": 0, "pool_use_lifo": True}
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_LIMIT_S}, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    del record
    # The driver would begin transactions on its own, and too late; `_begin_sqlite` does.
    connection.isolation_level = None
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"cache_size = -{_SQLITE_CACHE_KIB}",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("ruchu_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _shown(url: sa.URL) -> str:
    return url.render_as_string(hide_password=True)


def _why(error: sa.exc.SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    return str(original if original is not None else error).strip().splitlines()[0]
