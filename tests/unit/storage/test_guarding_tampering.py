import dataclasses

from ruchu.model.tasks import Severity
from ruchu.storage.guarding import tampering
from ruchu.storage.guarding.tampering import Comparison
from ruchu.storage.guarding.trees import Seen

SEEN = Seen(10, 1, 100, sealed=True, locked=False)


def test_each_change_has_its_kind():
    recorded = dict.fromkeys("abcdefg", SEEN)
    found = {
        "a": SEEN,
        "b": dataclasses.replace(SEEN, size=11),
        "c": dataclasses.replace(SEEN, mtime_ns=2),
        "d": dataclasses.replace(SEEN, inode=101),
        "e": dataclasses.replace(SEEN, sealed=False),
        "f": dataclasses.replace(SEEN, sealed=False, locked=True),
        "h": SEEN,
    }
    comparison = tampering.compare(recorded, found)
    assert comparison == Comparison(("b", "c", "d"), ("g",), ("h",), ("e",))
    assert not comparison.is_clean
    assert tampering.compare(recorded, recorded).is_clean


def test_what_carried_no_flag_may_carry_none():
    bare = dataclasses.replace(SEEN, sealed=False)
    assert tampering.compare({"a": bare}, {"a": bare}).is_clean
    assert tampering.compare({"a": bare}, {"a": SEEN}).is_clean


def test_a_change_is_worse_than_a_removal_than_an_addition():
    names = tuple(str(number) for number in range(tampering.NAMED_MAX + 5))
    reports = tampering.reports("/s", Comparison(names, ("r",), ("n",), ("u",)))
    assert [(each.code, each.severity) for each in reports] == [
        ("tamper-changed", Severity.CRITICAL),
        ("tamper-removed", Severity.WARNING),
        ("tamper-unsealed", Severity.WARNING),
        ("tamper-added", Severity.INFO),
    ]
    assert reports[0].facts["count"] == tampering.NAMED_MAX + 5
    assert len(reports[0].facts["objects"]) == tampering.NAMED_MAX
    assert tampering.reports("/s", Comparison()) == []
