"""A transaction that is tried again when another one came between."""

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from ruchu.control.database.database import Database
from ruchu.errors import DatabaseUnusable

T = TypeVar("T")

# PostgreSQL refuses a transaction that met another: the other one is through by then, so that each
# attempt meets a new one only. As many writers at a time as there are connections.
ATTEMPTS_MAX = 40
# "Serialization failure" and "deadlock detected" of the SQL standard.
_MET_ANOTHER = {"40001", "40P01"}


def retried(database: Database, work: Callable[[sa.Connection], T]) -> T:
    """Return what the work returns, carried out in one transaction; it may be carried out again.

    Raises:
        DatabaseUnusable: others came between every time.
    """
    last: sa.exc.DBAPIError | None = None
    for _ in range(ATTEMPTS_MAX):
        try:
            with database.writing() as connection:
                return work(connection)
        except sa.exc.DBAPIError as error:
            if not _met_another(error):
                raise
            last = error
    raise DatabaseUnusable(f"({ATTEMPTS_MAX} attempts met other writers)") from last


def _met_another(error: sa.exc.DBAPIError) -> bool:
    if isinstance(error, sa.exc.IntegrityError):
        return True  # somebody else opened the same alarm a moment ago
    return getattr(error.orig, "sqlstate", None) in _MET_ANOTHER
