"""Transactions: all or nothing, one moment, and an address that is understood."""

import threading

import pytest
import sqlalchemy as sa

from ruchu.control.database.database import Database
from ruchu.control.events.stream import Events
from ruchu.control.events.tables import EVENTS
from ruchu.errors import DatabaseUnusable, UsageError


def count(database):
    with database.reading() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(EVENTS)).scalar()


def row(name):
    return {"at": "2026", "name": name, "subject": "s", "body": {"a": [1, "二"]}}


def test_what_fails_leaves_nothing(database):
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        connection.execute(EVENTS.insert().values(row("a")))
        raise ZeroDivisionError
    assert count(database) == 0


def test_a_reader_sees_one_moment(database):
    with database.reading() as connection:
        query = sa.select(sa.func.count()).select_from(EVENTS)
        assert connection.execute(query).scalar() == 0
        with database.writing() as other:
            other.execute(EVENTS.insert().values(row("a")))
        assert connection.execute(query).scalar() == 0
    assert count(database) == 1


def test_writers_of_many_threads_all_succeed(database):
    def write():
        for _ in range(20):
            with database.writing() as connection:
                connection.execute(EVENTS.insert().values(row("a")))

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(database) == 120


@pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "sqlite://"])
def test_an_address_that_is_not_understood(url):
    with pytest.raises(UsageError):
        Database(url)


def test_a_server_that_does_not_answer_and_its_password(tmp_path):
    with pytest.raises(DatabaseUnusable) as caught:
        Database(f"postgresql://u:geheim@/x?host={tmp_path}")
    assert "geheim" not in str(caught.value)


def test_events_are_followed_by_number(database, clock):
    events = Events(database, clock)
    first = events.publish("run.ended", "r1", {"state": "succeeded"})
    assert events.wait(0, 0.0)
    second = events.publish("run.ended", "r2")
    assert [each.number for each in events.after(0)] == [first, second]
    assert events.after(first)[0].subject == "r2"
    assert not events.wait(second, 0.0)
    assert Events(database, clock).last == second
