"""Each step of the write cache that safety rests on, taken away: the machine must notice."""

import contextlib
import importlib.util
from pathlib import Path

import hypothesis
import pytest
from hypothesis import stateful

from ruchu.blocks import overlay, overlay_file
from ruchu.blocks.overlay import Overlay
from ruchu.testing.simulated_file import SimulatedFile

_PLACE = Path(__file__).parents[1] / "property" / "test_overlay_machine.py"
# Enough to find each of the faults below with a hundred different seeds.
_SEARCH = hypothesis.settings(
    max_examples=400,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(hypothesis.Phase.generate,),
    report_multiple_bugs=False,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def machine():
    spec = importlib.util.spec_from_file_location("overlay_machine", _PLACE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OverlayMachine


def search(machine_class):
    stateful.run_state_machine_as_test(machine_class, settings=_SEARCH)


def noticed(machine_class):
    with pytest.raises(AssertionError), contextlib.redirect_stdout(None):
        search(machine_class)


@pytest.mark.slow
def test_the_machine_is_content_with_what_is_right():
    search(machine())


def test_the_sync_of_data_before_the_bitmap_matters(monkeypatch):
    monkeypatch.setattr(Overlay, "_sync_data", lambda self: None)
    noticed(machine())


def test_the_sync_of_the_bitmap_matters(monkeypatch):
    real = SimulatedFile.sync
    monkeypatch.setattr(Overlay, "_store_bitmap", unsynced(Overlay._store_bitmap))
    noticed(machine())
    assert SimulatedFile.sync is real


def unsynced(store):
    def store_bitmap(self, saved):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Overlay, "_sync", lambda self: None)
            store(self, saved)

    return store_bitmap


def test_storing_the_bitmap_matters(monkeypatch):
    monkeypatch.setattr(Overlay, "_store_bitmap", lambda self, saved: None)
    noticed(machine())


def test_filling_blocks_from_the_base_matters(monkeypatch):
    monkeypatch.setattr(Overlay, "_fill", lambda self, start, end: bytearray(end - start))
    noticed(machine())


def test_punching_matters(monkeypatch):
    monkeypatch.setattr(SimulatedFile, "punch", lambda self, start, length: self._call())
    noticed(machine())


def test_the_bitmap_of_this_session_matters(monkeypatch):
    """Without it, a kill takes back what nobody flushed."""
    real = Overlay._load

    def load(self, offset):
        if offset == overlay_file.BITMAP_OFFSET:
            real(self, offset)

    monkeypatch.setattr(Overlay, "_load", load)
    noticed(machine())


def test_telling_sessions_apart_matters(monkeypatch):
    """After a power failure the bits of the session before are no proof of anything."""
    real = overlay_file.session_page
    monkeypatch.setattr(overlay_file, "session_page", lambda session: real(b"always"))
    noticed(machine())


def test_emptying_the_bitmap_of_an_old_session_matters(monkeypatch):
    real = Overlay._begin_session

    def begin(self, session):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(SimulatedFile, "punch", lambda file, start, length: None)
            real(self, session)

    monkeypatch.setattr(Overlay, "_begin_session", begin)
    noticed(machine())


def test_forgetting_a_round_only_when_it_is_acknowledged_matters(monkeypatch):
    real = Overlay.begin_round

    def begin_round(self):
        found = real(self)
        self._handed = overlay.BlockSet()
        return found

    monkeypatch.setattr(Overlay, "begin_round", begin_round)
    noticed(machine())
