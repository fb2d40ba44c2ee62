"""Files of definitions: a plan says it all, an apply does exactly that, drift is what hands did."""

import copy

import pytest

from ruchu.control.definitions import plans
from ruchu.control.definitions.diffing import Action
from ruchu.control.definitions.plans import Plans
from ruchu.control.policies import documents
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.control.vault.vault import Owner
from ruchu.errors import Forbidden, NeedsApproval, NotFound, Stale, StorageGone, UsageError
from ruchu.model.ids import new_id
from ruchu.model.principals import LOCAL, Principal, Role, Via

FILE = {
    "ruchu": 1,
    "owner": "team-a",
    "groups": {"team-a": {"title": "Team A", "machines": 5}},
    "platforms": {"kvm": {"uri": "qemu:///system", "group": "team-a"}},
    "storages": {"main": {"location": "/srv/backup", "group": "team-a"}},
    "channels": {"hook": {"kind": "webhook", "settings": {"url": "https://x.example"}}},
    "rules": {"all": {"channels": ["hook"], "group": "team-a"}},
    "policies": {
        "nightly": {
            "selection": {"platform": "kvm", "patterns": ["web-*"]},
            "storage": "main",
            "retention": {"daily": 7},
            "group": "team-a",
        }
    },
}
SECRETS = {
    "storages": {"main": {"passphrase": "sieben Berge 7"}},
    "channels": {"hook": {"key": "geheim"}},
}
KEPT = ("platforms", "storages", "groups", "channels", "rules", "policies")


class Node:
    """Makes storages as a node would; `there` are the locations that hold one."""

    def __init__(self):
        self.there = {"/srv/backup": new_id()}
        self.asked = []

    def __call__(self, name, fields, secrets, *, create):
        self.asked.append((name, dict(secrets), create))
        location = fields["location"]
        if location not in self.there:
            if not create:
                raise StorageGone(location)
            self.there[location] = new_id()
        state = {"id": self.there[location], "name": name, "role": fields["role"],
                 "encrypted": True, "location": f"file://{location}"}  # fmt: skip
        return {"storage": state, "points": []}


@pytest.fixture
def services(database, tmp_path, clock):
    (tmp_path / "server").mkdir()
    return Services(ServerState(tmp_path / "server"), clock, database)


@pytest.fixture
def node():
    return Node()


@pytest.fixture
def files(services, node):
    losing = services.defining.plans._workshop
    return Plans(losing, node, lambda before, after: ())


def changed(**more):
    document = copy.deepcopy(FILE)
    for path, value in more.items():
        kind, name, field = path.split("__")
        document[kind][name][field] = value
    return document


def apply(files, document=None, secrets=None, by=LOCAL):
    document, secrets = document or FILE, SECRETS if secrets is None else secrets
    plan = files.plan(by, document, secrets)
    files.apply(by, document, secrets, plan.digest)
    return plan


def told(changes):
    return [(each.action.value, each.kind, each.name) for each in changes]


def test_everything_is_made_in_the_order_in_which_it_is_needed(files, services, node):
    plan = apply(files)
    assert told(plan.changes) == [
        ("create", "groups", "team-a"), ("create", "platforms", "kvm"),
        ("create", "storages", "main"), ("create", "channels", "hook"),
        ("create", "rules", "all"), ("create", "policies", "nightly"),
    ]  # fmt: skip
    assert node.asked == [("main", {"passphrase": "sieben Berge 7"}, False)]
    assert services.policies.get("nightly").policy.retention.daily == 7
    assert services.storages.get("main").id == node.there["/srv/backup"]
    assert services.secrets_of(["storage:main"]) == {"storage:main": "sieben Berge 7"}
    assert services.vault.get(Owner("channel", "hook", "key")) == "geheim"


def test_a_second_plan_is_empty_although_a_node_completed_the_location(files, services):
    apply(files)
    assert services.storages.get("main").location == "file:///srv/backup"
    plan = files.plan(LOCAL, FILE, SECRETS)
    assert plan.changes == plan.drift == ()
    apply(files)
    plan = files.plan(LOCAL, FILE, SECRETS)
    assert plan.changes == plan.drift == ()


def test_a_change_is_shown_field_by_field_and_nothing_else_is_touched(files, services):
    apply(files)
    before = services.inventory.platform("kvm")
    document = changed(policies__nightly__retention={"daily": 9, "weekly": 4})
    (change,) = apply(files, document).changes
    assert [(each.field, each.before, each.after) for each in change.fields] == [
        ("retention.daily", 7, 9), ("retention.weekly", 0, 4),
    ]  # fmt: skip
    assert services.inventory.platform("kvm") == before


def test_no_secret_is_shown_anywhere(files):
    plan = files.plan(LOCAL, FILE, SECRETS)
    assert "geheim" not in repr(plan)
    assert "Berge" not in repr(plan)
    apply(files)
    plan = files.plan(LOCAL, FILE, {"channels": {"hook": {"key": "neu"}}})
    (change,) = plan.changes
    assert [each.field for each in change.fields] == ["secret key"]
    assert "neu" not in repr(plan)


def test_only_what_the_file_made_is_removed(files, services):
    services.inventory.add("other", "qemu:///session")
    policy = {"name": "by-hand", "selection": {"platform": "other"}, "storage": "main"}
    services.policies.add(documents.from_document(policy))
    # What lies on a storage outlives the file, and so does the group that it is in.
    apply(files, changed(storages__main__group="default"))
    rest = {"ruchu": 1, "owner": "team-a"}
    plan = apply(files, rest, {})
    assert told(plan.changes) == [
        ("remove", "policies", "nightly"), ("remove", "rules", "all"),
        ("remove", "channels", "hook"), ("release", "storages", "main"),
        ("remove", "platforms", "kvm"), ("remove", "groups", "team-a"),
    ]  # fmt: skip
    assert [row.policy.name for row in services.policies.all()] == ["by-hand"]
    assert [row.name for row in services.inventory.platforms()] == ["other"]
    assert services.storages.get("main")
    assert services.vault.get_all("channel", "hook") == {}
    assert files.plan(LOCAL, rest, {}).changes == ()


def test_a_group_that_still_holds_something_is_not_removed_and_nothing_else_either(files, services):
    apply(files)
    services.inventory.add("mine", "qemu:///session", resource_group="team-a")
    rest = {"ruchu": 1, "owner": "team-a"}
    plan = files.plan(LOCAL, rest, {})
    with pytest.raises(UsageError, match="team-a"):
        files.apply(LOCAL, rest, {}, plan.digest)
    assert services.policies.get("nightly")
    assert files.plan(LOCAL, FILE, SECRETS).changes == ()


@pytest.mark.parametrize("what", ["server", "file", "secret"])
def test_a_plan_that_is_not_what_was_shown_is_refused(files, services, node, what):
    apply(files)
    document = changed(policies__nightly__retention={"daily": 9})
    plan = files.plan(LOCAL, document, SECRETS)
    secrets = SECRETS
    if what == "server":
        row = services.inventory.platform("kvm")
        services.inventory.change(row.id, row.version, {"parallel": 9})
    elif what == "file":
        document["policies"]["nightly"]["retention"]["daily"] = 1
    else:
        secrets = {"channels": {"hook": {"key": "anders"}}}
    with pytest.raises(Stale):
        files.apply(LOCAL, document, secrets, plan.digest)
    assert services.policies.get("nightly").policy.retention.daily == 7


def test_drift_is_what_was_changed_by_hand(files, services):
    apply(files)
    row = services.policies.get("nightly")
    policy = documents.from_document(
        {**FILE["policies"]["nightly"], "name": "nightly", "priority": 1, "retention": {"daily": 7}}
    )
    services.policies.change(row.id, policy, row.version)
    services.rules.remove_rule("all")
    services.vault.put(Owner("channel", "hook", "key"), "von Hand")
    # What the file itself changes is no drift.
    plan = files.plan(LOCAL, changed(platforms__kvm__parallel=8), SECRETS)
    assert told(plan.drift) == [
        ("change", "channels", "hook"), ("change", "policies", "nightly"),
        ("remove", "rules", "all"),
    ]  # fmt: skip
    assert [each.field for each in plan.drift[0].fields] == ["secret key"]
    assert [(f.field, f.before, f.after) for f in plan.drift[1].fields] == [("priority", 5, 1)]
    apply(files)
    assert files.plan(LOCAL, FILE, SECRETS).drift == ()


def test_what_exists_already_is_taken_over_and_said_so(files, services):
    services.inventory.add("kvm", "qemu:///system")
    plan = apply(files)
    change = next(each for each in plan.changes if each.kind == "platforms")
    assert change.action is Action.CHANGE
    assert ("owner", None, "team-a") in [(f.field, f.before, f.after) for f in change.fields]


def test_two_files_do_not_share_anything(files):
    apply(files)
    other = {**FILE, "owner": "team-b"}
    with pytest.raises(UsageError, match="belongs to another file"):
        files.plan(LOCAL, other, SECRETS)


def test_a_storage_is_made_only_if_the_file_says_so(files, services, node):
    document = copy.deepcopy(FILE)
    document["storages"]["main"]["location"] = "/srv/unmounted"
    plan = files.plan(LOCAL, document, SECRETS)
    with pytest.raises(StorageGone):
        files.apply(LOCAL, document, SECRETS, plan.digest)
    assert services.policies.all() == []
    document["storages"]["main"]["create"] = True
    apply(files, document)
    assert services.storages.get("main").location == "file:///srv/unmounted"
    assert files.plan(LOCAL, document, SECRETS).changes == ()


def test_who_may_not_define_something_sees_no_plan_of_it(files):
    apply(files)
    operator = frozenset({Role.OPERATOR})
    elsewhere = Principal("u", "u", {"team-b": operator}, Via.SESSION)
    policies = {key: FILE[key] for key in ("ruchu", "policies")} | {"owner": "team-c"}
    with pytest.raises(Forbidden):
        files.plan(elsewhere, policies, {})
    with pytest.raises(Forbidden):
        files.plan(Principal("u", "u", {"*": operator}, Via.SESSION), FILE, SECRETS)
    rest = {"ruchu": 1, "owner": "team-a"}
    with pytest.raises(Forbidden):
        files.plan(elsewhere, rest, {})


def test_an_operator_of_a_group_keeps_a_file_of_policies(files, services):
    apply(files)
    by = Principal("u", "u", {"team-a": frozenset({Role.OPERATOR})}, Via.SESSION)
    fields = {**FILE["policies"]["nightly"], "selection": {"platform": "kvm", "tags": ["x"]}}
    document = {"ruchu": 1, "owner": "operators", "policies": {"second": fields}}
    apply(files, document, {}, by)
    assert services.policies.get("second")


def test_a_policy_that_takes_four_eyes_is_not_part_of_an_apply(services, node):
    workshop = services.defining.plans._workshop
    files = Plans(workshop, node, lambda before, after: ["Points."])
    plan = files.plan(LOCAL, FILE, SECRETS)
    with pytest.raises(NeedsApproval, match="nightly"):
        files.apply(LOCAL, FILE, SECRETS, plan.digest)
    assert services.policies.all() == []


def test_a_policy_names_what_is_there(files):
    document = {"ruchu": 1, "owner": "x", "policies": FILE["policies"]}
    with pytest.raises(NotFound):
        files.plan(LOCAL, document, {})


@pytest.mark.parametrize(
    "document",
    [
        {}, {"ruchu": 2, "owner": "a"}, {"ruchu": 1}, {"ruchu": 1, "owner": "a b"},
        {"ruchu": 1, "owner": "a", "users": {}}, {"ruchu": 1, "owner": "a", "policies": []},
        {"ruchu": 1, "owner": "a", "policies": {"x": {"selection": {}}}},
        {"ruchu": 1, "owner": "a", "platforms": {"x": {}}},
        {"ruchu": 1, "owner": "a", "platforms": {"x": {"uri": "qemu:///s", "colour": "red"}}},
        {"ruchu": 1, "owner": "a", "platforms": {"x": {"uri": "qemu:///s", "parallel": "4"}}},
        {"ruchu": 1, "owner": "a", "rules": {"x": {"channels": "all", "severity": "loud"}}},
        {"ruchu": 1, "owner": "a", "channels": {"x": {"kind": "pigeon"}}},
        {"ruchu": 1, "owner": "a", "storages": {"x": {"location": "/s", "role": "spare"}}},
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_is_refused(files, document):
    with pytest.raises(UsageError):
        files.plan(LOCAL, document, {})


def test_a_secret_of_nothing_is_refused(files):
    with pytest.raises(UsageError, match="does not define"):
        files.plan(LOCAL, FILE, {"channels": {"other": {"key": "x"}}})


def test_the_digest_cannot_be_tried_out(files, services):
    plan = files.plan(LOCAL, FILE, SECRETS)
    services.vault.delete(plans._KEY)
    assert files.plan(LOCAL, FILE, SECRETS).digest != plan.digest
