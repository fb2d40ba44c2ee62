"""What differs between a file and a server: an obvious model decides, Hypothesis draws worlds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.control.definitions import diffing
from ruchu.control.definitions.diffing import Action, Change, Compared, FieldChange
from ruchu.errors import UsageError

KINDS = ("groups", "platforms", "storages")
LASTING = ("storages",)
FIELDS = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.one_of(st.integers(0, 2), st.dictionaries(st.sampled_from("xy"), st.integers(0, 1))),
)
WORLDS = st.dictionaries(
    st.sampled_from(KINDS), st.dictionaries(st.sampled_from(["one", "two", "three"]), FIELDS)
)


def applied(world, changes, wanted):
    """Return a world after changes, each done in the most obvious way."""
    result = {kind: dict(names) for kind, names in world.items()}
    for change in changes:
        names = result.setdefault(change.kind, {})
        if change.action in {Action.CREATE, Action.CHANGE}:
            names[change.name] = wanted[change.kind][change.name]
        elif change.action is Action.REMOVE:
            del names[change.name]
    return result


def whole(world):
    """Return a world without what makes no difference: empty mappings."""
    return {
        (kind, name): dict(
            pair for pair in diffing.flattened(fields) if pair[1] != {}
        )
        for kind, names in world.items()
        for name, fields in names.items()
    }  # fmt: skip


@given(wanted=WORLDS, current=WORLDS, mine=st.sets(st.sampled_from(["one", "two"])))
def test_an_applied_plan_leaves_nothing_to_do_and_others_untouched(wanted, current, mine):
    owners = {(kind, name): "me" for kind, names in current.items() for name in names.keys() & mine}
    changes = diffing.plan("me", Compared(wanted, current, {}, owners), KINDS, LASTING)
    after = applied(current, changes, wanted)
    owners = {(kind, name): "me" for kind, names in wanted.items() for name in names}
    assert diffing.plan("me", Compared(wanted, after, {}, owners), KINDS, LASTING) == []
    for kind, names in current.items():
        for name, fields in names.items():
            listed = name in wanted.get(kind, {})
            if not listed and (name not in mine or kind in LASTING):
                assert after[kind][name] == fields, "it is not of this file"
            if not listed and name in mine and kind not in LASTING:
                assert name not in after[kind]
    for place, fields in whole(wanted).items():
        assert whole(after)[place] == fields


@given(before=FIELDS, after=FIELDS)
def test_fields_that_differ_are_named_with_both_values(before, after):
    found = diffing.differences(before, after)
    old, new = dict(diffing.flattened(before)), dict(diffing.flattened(after))
    for change in found:
        assert (old.get(change.field), new.get(change.field)) == (change.before, change.after)
        assert change.before != change.after
    same = {
        key: value for key, value in old.items() if key not in {each.field for each in found}
    }  # fmt: skip
    assert all(new.get(key, {}) == value for key, value in same.items())


def test_what_is_made_first_is_removed_last():
    world = {kind: {"one": {}} for kind in KINDS}
    made = diffing.plan("me", Compared(world, {}, {}, {}), KINDS, LASTING)
    assert [(each.kind, each.action) for each in made] == [(kind, "create") for kind in KINDS]
    owners = {(kind, "one"): "me" for kind in KINDS}
    gone = diffing.plan("me", Compared({}, world, {}, owners), KINDS, LASTING)
    assert [(each.kind, each.action) for each in gone] == [
        ("storages", "release"), ("platforms", "remove"), ("groups", "remove"),
    ]  # fmt: skip


def test_what_nobody_owns_is_taken_over_and_said_so():
    world = {"groups": {"one": {"a": 1}}}
    changes = diffing.plan("me", Compared(world, world, {}, {}), KINDS, LASTING)
    fields = (FieldChange("owner", None, "me"),)
    assert changes == [Change("groups", "one", Action.CHANGE, fields)]


def test_what_another_file_owns_is_refused():
    world = {"groups": {"one": {"a": 1}}}
    compared = Compared(world, world, {}, {("groups", "one"): "them"})
    with pytest.raises(UsageError, match="belongs to another file"):
        diffing.plan("me", compared, KINDS, LASTING)


def test_a_secret_is_never_shown():
    changes = diffing.secret_changes({"key": "old", "user": "u"}, {"key": "new", "token": "t"})
    assert changes == (
        FieldChange("secret key", "(given)", "(another one)"),
        FieldChange("secret token", None, "(another one)"),
    )
    assert diffing.secret_changes({"key": "same"}, {"key": "same"}) == ()
    compared = Compared({"groups": {"one": {}}}, {}, {("groups", "one"): changes}, {})
    (made,) = diffing.plan("me", compared, KINDS, LASTING)
    assert {each.after for each in made.fields} == {"(given)"}


def test_drift_names_what_was_changed_and_what_is_gone():
    applied_world = {"groups": {"one": {"a": 1, "b": {"x": 1}}, "two": {}}}
    current = {"groups": {"one": {"a": 1, "b": {"x": 2}}, "other": {}}}
    assert diffing.drifted(applied_world, current) == [
        Change("groups", "one", Action.CHANGE, (FieldChange("b.x", 1, 2),)),
        Change("groups", "two", Action.REMOVE),
    ]
