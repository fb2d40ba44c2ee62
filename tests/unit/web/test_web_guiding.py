"""The first-run guide goes on where one left, by what there is."""

import pytest

from ruchu.web import guiding
from ruchu.web.guiding import Standing

THING = {"name": "x"}
POLICY = {"name": "nightly", "storage": "main", "last": None, "next": None}
GOOD = {"id": "r", "state": "succeeded", "ended": "2026"}
BAD = {"id": "r", "state": "failed", "ended": "2026"}
RUNNING = {"id": "r", "state": "running", "ended": None}


@pytest.mark.parametrize(
    ("standing", "step"),
    [
        (Standing(), "storage"),
        (Standing(platform=THING), "storage"),
        (Standing(storage=THING), "platform"),
        (Standing(storage=THING, platform=THING), "policy"),
        (Standing(policy=POLICY), "backup"),
        (Standing(policy=POLICY, backup=RUNNING), "backup"),
        (Standing(policy=POLICY, backup=GOOD), "backup"),
        (Standing(policy=POLICY, backup=GOOD, check=GOOD, clean=False), "backup"),
        (Standing(policy=POLICY, backup=BAD, check=GOOD, clean=True), "backup"),
        (Standing(policy=POLICY, backup=GOOD, check=GOOD, clean=True), "done"),
        # A server that has long been in use, and backs up just now.
        (Standing(policy=POLICY, backup=RUNNING, proven=True), "done"),
        (Standing(policy=POLICY, backup=GOOD, check=GOOD, clean=False, proven=True), "backup"),
    ],
)
def test_the_next_step_is_that_of_what_is_missing(standing, step):
    assert standing.step == step


def test_a_verification_starts_once_something_was_saved_and_none_ever_ran():
    assert Standing(policy=POLICY, backup=GOOD).wants_check
    assert not Standing(policy=POLICY, backup=RUNNING).wants_check
    assert not Standing(policy=POLICY, backup=BAD).wants_check
    assert not Standing(policy=POLICY, backup=GOOD, check=RUNNING).wants_check
    assert not Standing(policy=POLICY, backup=GOOD, proven=True).wants_check
    assert Standing(policy=POLICY, backup=BAD).failed
    assert not Standing(policy=POLICY, backup=RUNNING).failed


def test_an_earlier_verification_tells_nothing_of_a_backup():
    before, after = ({"name": "main", "created": day} for day in ("2026-01-01", "2026-01-03"))
    other = {"name": "offsite", "created": "2026-01-04"}
    backup = {"ended": "2026-01-02"}
    assert guiding.the_check([before], POLICY, backup) is None
    assert guiding.the_check([other, after, before], POLICY, backup) is after
    assert guiding.the_check([other], POLICY, backup) is None
    assert guiding.the_check([after], POLICY, {"ended": None}) is None
    assert guiding.the_check([after], POLICY, None) is None


def test_only_points_that_were_looked_at_are_sound():
    sound = {"verified": "2026", "verdict": "sound"}
    damaged = {"verified": "2026", "verdict": "damaged"}
    unseen = {"verified": None, "verdict": ""}
    assert guiding.sound([damaged, unseen, sound]) == [sound]


def test_the_policy_that_ran_last_is_followed():
    older = {**POLICY, "last": {"created": "2026-01"}}
    newer = {**POLICY, "last": {"created": "2026-02"}}
    assert guiding.the_policy([POLICY, older, newer]) is newer
    assert guiding.the_policy([POLICY]) is POLICY
    assert guiding.the_policy([]) is None


def test_a_copy_is_no_place_for_a_first_backup():
    assert guiding.the_storage([{"role": "copy"}]) is None


def test_a_platform_counts_once_its_machines_were_listed():
    assert guiding.the_platform([{"seen": None}]) is None
    assert guiding.the_platform([{"seen": None}, {"seen": "x"}]) == {"seen": "x"}


def test_a_verification_is_clean_when_all_of_it_is():
    assert guiding.clean([]) is None
    assert guiding.clean([{"result": None}]) is None
    assert guiding.clean([{"result": {"clean": True}}, {"result": None}]) is None
    assert guiding.clean([{"result": {"clean": True}}]) is True
    assert guiding.clean([{"result": {"clean": True}}, {"result": {"clean": False}}]) is False


def test_libvirt_is_found_by_what_the_host_has():
    checks = [{"name": "libvirtd", "state": "ok"}, {"name": "libvirt-python", "state": "ok"}]
    assert guiding.libvirt_here(checks)
    assert not guiding.libvirt_here(checks[:1])
