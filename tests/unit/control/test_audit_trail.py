"""The chain: whole when nobody touched it, and broken where somebody did."""

import datetime
import multiprocessing
import threading

import pytest
import sqlalchemy as sa

from ruchu import clock as clocks
from ruchu.control.audit import records, trail, verifying
from ruchu.control.audit.anchors import FILE_NAME, Anchor, AnchorFile
from ruchu.control.audit.records import Record
from ruchu.control.audit.tables import AUDIT_RECORDS
from ruchu.control.audit.trail import ANCHOR_EVERY, Search, Trail
from ruchu.control.database.database import Database
from ruchu.errors import AuditBroken, ControlError

TABLE = AUDIT_RECORDS.c


@pytest.fixture
def anchors(tmp_path):
    file = AnchorFile(tmp_path / FILE_NAME)
    yield file
    if file.path.exists():
        release(file.path)


@pytest.fixture
def written(database, clock, anchors):
    """Return a trail of 200 records."""
    made = Trail(database, clock, anchors)
    with made.writing() as recording:
        for number in range(1, 201):
            facts = {"n": number}
            recording.record(f"user{number % 3}", "policy.change", f"p{number}", facts=facts)
    return made


def release(path):
    """Take the append-only flag off, as an attacker with root would."""
    from ruchu.control.audit import anchors as module  # noqa: PLC0415

    with path.open("rb") as file:
        module._clear_append_only(file.fileno())


def change(database, statement):
    with database.writing() as connection:
        connection.execute(statement)


def rehash(database, start):
    """Write the chain anew from a record on, as somebody who knows how would."""
    with database.writing() as connection:
        rows = connection.execute(sa.select(AUDIT_RECORDS).order_by(TABLE.number)).all()
        previous = records.FIRST
        for row in rows:
            record = Record(*row[:7])
            digest = record.digest(previous)
            if row.number >= start:
                values = {"previous": previous, "hash": digest}
                connection.execute(
                    AUDIT_RECORDS.update().where(TABLE.number == row.number).values(values)
                )
            previous = digest


def test_records_are_numbered_and_whole(written, database, anchors):
    verdict = verifying.verify(database, anchors)
    assert verdict.whole
    assert (verdict.records, verdict.number, verdict.broken) == (200, 200, 0)
    assert [anchor.number for anchor in anchors.read()] == [1, 64, 128, 192]
    head = written.anchors()
    assert (head.number, head.hash) == (200, verdict.hash)
    assert anchors.read()[-1] == head
    written.anchors()
    assert len(anchors.read()) == 5


def test_an_empty_chain_is_whole(database, anchors):
    assert verifying.verify(database, anchors).whole
    assert verifying.verify(database).document()["whole"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "somebody"), ("action", "x"), ("subject", "x"), ("outcome", "refused"),
        ("facts", '{"n":1}'), ("at", "2020-01-01T00:00:00.000000Z"), ("hash", "0" * 64),
        ("previous", "0" * 64),
    ],
)  # fmt: skip
def test_a_record_that_was_changed(written, database, anchors, column, value):
    change(database, AUDIT_RECORDS.update().where(TABLE.number == 77).values({column: value}))
    verdict = verifying.verify(database, anchors)
    assert verdict.broken == 77
    assert "77" in verdict.reason


def test_a_record_that_was_changed_with_its_hash(written, database, anchors):
    change(database, AUDIT_RECORDS.update().where(TABLE.number == 77).values(actor="nobody"))
    with database.writing() as connection:
        row = connection.execute(sa.select(AUDIT_RECORDS).where(TABLE.number == 77)).one()
        digest = Record(*row[:7]).digest(row.previous)
        connection.execute(AUDIT_RECORDS.update().where(TABLE.number == 77).values(hash=digest))
    assert verifying.verify(database, anchors).broken == 78


def test_records_that_were_deleted(written, database, anchors):
    change(database, AUDIT_RECORDS.delete().where(TABLE.number.between(50, 52)))
    verdict = verifying.verify(database, anchors)
    assert verdict.broken == 50
    assert "missing, up to record 52" in verdict.reason


def test_the_first_record_that_was_deleted(written, database, anchors):
    change(database, AUDIT_RECORDS.delete().where(TABLE.number == 1))
    assert verifying.verify(database, anchors).broken == 1


def test_a_record_that_was_deleted_and_the_rest_moved_up(written, database, anchors):
    change(database, AUDIT_RECORDS.delete().where(TABLE.number == 50))
    with database.writing() as connection:
        for number in range(51, 201):
            connection.execute(
                AUDIT_RECORDS.update().where(TABLE.number == number).values(number=number - 1)
            )
    assert verifying.verify(database, anchors).broken == 50


@pytest.mark.parametrize("number", [0, -5, 201])
def test_a_record_that_was_put_in(written, database, anchors, number):
    row = {
        "number": number, "at": "2026-11-22T18:00:00.000000Z", "actor": "x", "action": "x",
        "subject": "x", "outcome": "done", "facts": "{}", "previous": records.FIRST,
        "hash": "0" * 64,
    }  # fmt: skip
    change(database, AUDIT_RECORDS.insert().values(row))
    assert not verifying.verify(database, anchors).whole


def test_records_that_were_reordered(written, database, anchors):
    swap = sa.case((TABLE.number == 20, -21), (TABLE.number == 21, -20))
    change(database, AUDIT_RECORDS.update().where(TABLE.number.in_([20, 21])).values(number=swap))
    change(database, AUDIT_RECORDS.update().where(TABLE.number < 0).values(number=-TABLE.number))
    assert verifying.verify(database, anchors).broken == 20


def test_a_tail_that_was_cut_off_is_found_by_the_anchors(written, database, anchors):
    change(database, AUDIT_RECORDS.delete().where(TABLE.number > 150))
    assert verifying.verify(database).whole
    verdict = verifying.verify(database, anchors)
    assert verdict.broken == 151
    assert "ends with record 150" in verdict.reason


def test_a_chain_that_was_written_anew_is_found_by_the_anchors(written, database, anchors):
    change(database, AUDIT_RECORDS.update().where(TABLE.number == 100).values(actor="nobody"))
    rehash(database, 100)
    assert verifying.verify(database).whole
    assert verifying.verify(database, anchors).broken == 128


def test_a_chain_that_was_emptied(written, database, anchors):
    change(database, AUDIT_RECORDS.delete())
    assert verifying.verify(database, anchors).broken == 1


def test_anchors_that_were_taken_away(written, database, anchors, clock, tmp_path):
    with written.writing() as recording:
        for number in range(100):
            recording.record("alice", "x", str(number))
    release(anchors.path)
    anchors.path.unlink()
    assert not verifying.verify(database, anchors).whole
    other = AnchorFile(tmp_path / "other")
    other.append(written.anchors())
    assert "are missing" in verifying.verify(database, other).reason
    release(other.path)


def test_anchors_that_were_changed(written, database, anchors):
    release(anchors.path)
    lines = anchors.path.read_text().splitlines(keepends=True)
    for damaged in (["nonsense\n", *lines], [lines[1], lines[0]], [*lines, lines[0]]):
        anchors.path.write_text("".join(damaged))
        assert not verifying.verify(database, anchors).whole
    number, _, at = lines[1].split()
    anchors.path.write_text(f"{lines[0]}{number} {'a' * 64} {at}\n")
    assert verifying.verify(database, anchors).broken == 64


# -------------------------------------------------------------------------------------- anchors


def test_an_anchor_that_the_power_cut_is_written_again(anchors):
    anchors.append(Anchor(1, "1" * 64, "2026"))
    anchors.append(Anchor(2, "2" * 64, "2026"))
    release(anchors.path)
    with anchors.path.open("ab") as file:
        file.write(b"3 3333")
    assert [anchor.number for anchor in anchors.read()] == [1, 2]
    assert anchors.append(Anchor(4, "4" * 64, "2026"))
    assert [anchor.number for anchor in anchors.read()] == [1, 2, 4]


def test_anchors_only_grow(anchors):
    assert anchors.append(Anchor(5, "5" * 64, "2026"))
    assert not anchors.append(Anchor(5, "5" * 64, "2026"))
    assert not anchors.append(Anchor(4, "4" * 64, "2026"))
    assert len(anchors.read()) == 1


@pytest.mark.system
def test_the_kernel_refuses_to_shorten_the_file_where_it_can(anchors):
    anchors.append(Anchor(1, "1" * 64, "2026"))
    if anchors.is_append_only():
        with pytest.raises(PermissionError):
            anchors.path.write_bytes(b"")
        with pytest.raises(PermissionError):
            anchors.path.unlink()
    else:  # this file system has no such flag, and says so
        assert anchors.path.stat().st_size > 0
    assert anchors.append(Anchor(2, "2" * 64, "2026"))


def test_a_file_that_cannot_be_written_is_told_and_the_record_stands(database, clock, tmp_path):
    made = Trail(database, clock, AnchorFile(tmp_path / "gone" / FILE_NAME))
    with pytest.raises(ControlError) as caught:
        made.record("alice", "x", "y")
    assert "done" in caught.value.advice
    assert len(made.search(Search())) == 1


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path):
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ControlError):
        AnchorFile(tmp_path / FILE_NAME).append(Anchor(1, "1" * 64, "2026"))
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_last_line_is_an_error(anchors):
    anchors.append(Anchor(1, "1" * 64, "2026"))
    release(anchors.path)
    anchors.path.write_text("nonsense\n")
    with pytest.raises(AuditBroken):
        anchors.append(Anchor(2, "2" * 64, "2026"))


# -------------------------------------------------------------------------------------- writers


def test_writers_of_many_threads_leave_no_gap(database, clock, anchors):
    made = Trail(database, clock, anchors)
    failures = []

    def write(name):
        try:
            for number in range(10):
                made.record(name, "x", str(number))
        except Exception as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=write, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    verdict = verifying.verify(database, anchors)
    assert verdict.whole
    assert verdict.number == 60


def _write(url, path, name):
    with Database(url) as database:
        made = Trail(database, clocks.SYSTEM, AnchorFile(path))
        for number in range(10):
            made.record(name, "x", str(number))


@pytest.mark.slow
def test_writers_of_several_processes_leave_no_gap(database, anchors):
    context = multiprocessing.get_context("spawn")
    url = database.url.render_as_string(hide_password=False).replace("+psycopg", "")
    arguments = [(url, anchors.path, f"w{number}") for number in range(3)]
    processes = [context.Process(target=_write, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    verdict = verifying.verify(database, anchors)
    assert verdict.whole
    assert verdict.number == 30


def test_what_is_given_up_leaves_no_record(written, database, anchors):
    with pytest.raises(ZeroDivisionError), written.writing() as recording:
        recording.record("alice", "x", "y")
        raise ZeroDivisionError
    assert written.record("alice", "x", "y") == 201
    assert verifying.verify(database, anchors).whole


def test_several_records_of_one_transaction(database, clock, anchors):
    made = Trail(database, clock, anchors)
    with made.writing() as recording:
        numbers = [recording.record("a", "b", "c") for _ in range(ANCHOR_EVERY + 1)]
    assert numbers == list(range(1, ANCHOR_EVERY + 2))
    assert verifying.verify(database, anchors).whole
    assert [anchor.number for anchor in anchors.read()] == [1, ANCHOR_EVERY]


def test_records_of_a_clock_that_went_back_are_whole(database, clock, anchors):
    made = Trail(database, clock, anchors)
    made.record("a", "b", "c")
    clock.move(datetime.timedelta(days=-3))
    made.record("a", "b", "c")
    assert verifying.verify(database, anchors).whole


# --------------------------------------------------------------------------------------- search


def test_search_by_page(written):
    page = written.search(Search(), 60)
    assert [record.number for record in page] == list(range(200, 140, -1))
    page = written.search(Search(before=page[-1].number), 60)
    assert [record.number for record in page] == list(range(140, 80, -1))
    assert len(written.search(Search(), 10_000)) == 200
    assert len(written.search(Search(), -1)) == 1


def test_search_by_what_happened(written, clock):
    clock.move(datetime.timedelta(hours=1))
    moment = clock.now()
    written.record("bob", "policy%x", "p1", trail.FAILED)
    assert [r.subject for r in written.search(Search(actor="bob"))] == ["p1"]
    assert len(written.search(Search(action="policy."), 500)) == 200
    assert len(written.search(Search(action="policy%"))) == 1
    assert len(written.search(Search(subject="p1"))) == 2
    assert len(written.search(Search(outcome="failed"))) == 1
    assert len(written.search(Search(since=moment))) == 1
    assert len(written.search(Search(until=moment), 500)) == 200
    assert written.search(Search(subject="p7"))[0].document()["facts"] == {"n": 7}
    assert not written.search(Search(actor="' OR 1=1 --"))
