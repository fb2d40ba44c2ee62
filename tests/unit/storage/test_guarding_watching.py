"""Notices, questions and admissions of the real kernel, in directories of this test alone."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ruchu.clock import SYSTEM
from ruchu.storage.guarding import admission, admitting, fanotify, guard, processes, trees
from ruchu.storage.guarding.admitting import Admitted, Reception
from ruchu.storage.guarding.deciding import Decider
from ruchu.storage.guarding.verdicts import Rules, Verdict

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture
def watched(real, root, tmp_path, monkeypatch):
    """A guard within this process, and what it told."""
    monkeypatch.setattr(admission, "FOLDER", tmp_path / "sockets")
    admission.socket_path.cache_clear()
    real.put("chains/c/packs/00/a.pack", b"one")
    told = []
    settings = guard.Settings(str(root), tmp_path / "journal", kernel=False)
    watching = guard.Guard(settings, told.append, lambda: None, SYSTEM)
    watching.open()
    yield watching, told
    watching.close()
    trees.unseal_all(str(root))
    admission.socket_path.cache_clear()


def until(watching, condition):
    for _ in range(300):
        watching.tick()
        if condition():
            return
    raise AssertionError("it was never told")


def foreign(code, *arguments):
    """Run Python as a foreign program."""
    command = [sys.executable, "-c", f"import os, sys; path = sys.argv[1]; {code}", *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_queue_that_overflows_is_told_and_everything_is_compared(watched, root):
    watching, told = watched
    limit = int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text())
    code = f"[os.mkdir(f'{{path}}/d{{n}}') for n in range({limit} + 100)]"
    assert foreign(code, str(root / "chains/c/packs/00"))
    until(watching, lambda: "guard-overflow" in {report.code for report in told})
    watching.tick()
    # What appeared is watched from now on.
    assert not foreign("open(path, 'w')", str(root / f"chains/c/packs/00/d{limit + 99}/new"))
    until(watching, lambda: "guard-refused" in {report.code for report in told})


def test_a_directory_that_is_made_while_its_parent_is_taken_in_is_watched(
    watched, root, monkeypatch
):
    watching, told = watched
    new, late = root / "chains/c/packs/01", root / "chains/c/packs/01/late"
    mark = watching._mark

    def made_meanwhile(directory):
        if directory == "chains/c/packs/01" and not late.exists():
            late.mkdir()
        mark(directory)

    monkeypatch.setattr(watching, "_mark", made_meanwhile)
    new.mkdir()
    until(watching, late.exists)
    watching.tick()
    assert not foreign("open(path, 'w')", str(late / "intruder"))
    until(watching, lambda: "guard-refused" in {report.code for report in told})


def test_what_a_dead_process_left_bare_is_sealed(watched, root, real, monkeypatch):
    watching, told = watched
    monkeypatch.setattr("ruchu.storage.guarding.watching.SETTLE_S", 0.1)
    real.put("chains/c/packs/00/b.pack", b"two")
    trees.unseal(str(root), "chains/c/packs/00/b.pack")
    until(watching, lambda: trees.look(str(root), "chains/c/packs/00/b.pack").sealed)
    assert {report.code for report in told} <= {"guard-admitted", "guard-flags-lifted"}


def test_a_journal_that_was_forged_is_told(real, root, tmp_path, monkeypatch):
    monkeypatch.setattr(admission, "FOLDER", tmp_path / "sockets")
    admission.socket_path.cache_clear()
    settings = guard.Settings(str(root), tmp_path / "journal", kernel=False, seals=False)
    told = []
    for forge in (False, True):
        if forge:
            (tmp_path / "journal" / "journal").write_bytes(b"")
        watching = guard.Guard(settings, told.append, lambda: None, SYSTEM)
        watching.open()
        watching.close()
    assert [report.code for report in told] == ["guard-journal-damaged"]
    assert (tmp_path / "journal" / "journal.damaged").exists()
    admission.socket_path.cache_clear()


def test_the_flags_of_an_open_are_seen(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    decider = Decider(Rules(), Admitted(), lambda: None)
    decider.open()
    try:
        decider.mark(str(tmp_path))
        path = str(tmp_path / "file")
        assert foreign("open(path).read()", path)
        assert foreign("os.open(path, os.O_RDONLY | os.O_NONBLOCK)", path)
        assert not foreign("os.open(path, os.O_WRONLY)", path)
        assert not foreign("os.open(path, os.O_RDONLY | os.O_TRUNC)", path)
        assert not foreign(
            "import threading; failed = [];\n"
            "def opening():\n"
            "    try: os.open(path, os.O_RDWR)\n"
            "    except OSError: failed.append(1)\n"
            "thread = threading.Thread(target=opening); thread.start(); thread.join()\n"
            "sys.exit(len(failed))",
            path,
        )
        refused = decider.refused()
    finally:
        decider.close()
    assert [each.verdict for each in refused] == [Verdict.REFUSED_WRITING] * 3
    assert {each.path for each in refused} == {path}
    assert all(each.program.exe == os.path.realpath(sys.executable) for each in refused)
    assert decider.who_was(refused[0].program.pid) == refused[0].program
    assert foreign("os.open(path, os.O_WRONLY)", path)  # closed: nobody is refused any more


@pytest.fixture
def reception(tmp_path, monkeypatch):
    monkeypatch.setattr(admission, "FOLDER", tmp_path / "sockets")
    admission.socket_path.cache_clear()
    found = tmp_path.stat()
    identity = found.st_dev, found.st_ino
    admitted, told = Admitted(), []
    listening = Reception(
        admission.socket_path(identity), admitted, lambda *what: told.append(what),
        lambda *_: None, lambda *_: None,
    )  # fmt: skip
    listening.open()
    yield identity, admitted, told
    listening.close()
    admission.socket_path.cache_clear()
    assert not admission.is_guarded(identity)


def test_a_process_makes_itself_known_once_for_each_life_of_the_guard(reception):
    identity, admitted, told = reception
    assert admission.is_guarded(identity)
    for _ in range(3):
        admission.announce(identity)
    assert admitted.has(os.getpid())
    assert [(program.pid, was) for program, was in told] == [(os.getpid(), True)]
    assert admission.FOLDER.stat().st_mode & 0o777 == 0o700


def test_a_process_that_ended_is_known_for_its_last_deeds_only(reception, tmp_path):
    identity, admitted, told = reception
    code = (
        "from pathlib import Path; from ruchu.storage.guarding import admission;"
        f"admission.FOLDER = Path({str(admission.FOLDER)!r}); admission.announce({identity!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        pass
    assert told[0][0].pid == process.pid
    for _ in range(1000):
        if process.pid in admitted._ended:
            break
        os.sched_yield()
    assert not admitted.has(process.pid)
    assert admitted.had(process.pid)


def test_another_program_is_not_admitted(reception, monkeypatch):
    identity, admitted, told = reception
    monkeypatch.setattr(processes, "runs_same_file", lambda _pid: False)
    admission._KNOWN.clear()
    admission.announce(identity)
    assert not admitted.has(os.getpid())
    assert told[0][1] is False


def test_there_is_an_end_to_how_many_are_admitted(monkeypatch):
    monkeypatch.setattr(admitting, "ADMITTED_MAX", 2)
    admitted = Admitted()
    assert admitted.add(1, 1)
    assert admitted.add(2, 1)
    assert not admitted.add(3, 1)
    assert not admitted.has(1)  # another process has this number by now
    admitted.end(1)
    assert admitted.add(3, 1)


def test_a_question_of_a_process_that_was_killed_is_answered_all_the_same(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    questions = fanotify.Questions()
    try:
        questions.mark(str(tmp_path))
        process = subprocess.Popen(["cat", tmp_path / "file"])
        found = []
        while not found:
            found = questions.read()
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            questions.answer(found[0], allow=True)
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(found[0].file)
    finally:
        questions.close()
