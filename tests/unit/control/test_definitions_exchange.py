"""All definitions of a server, exported and imported into a fresh one: whole, or not at all."""

import json
import shutil

import pytest
import sqlalchemy as sa

from ruchu.control.accounts.tables import USERS
from ruchu.control.alarms.records import ChannelDefinition, QuietHours, Rule, Step
from ruchu.control.database.database import Database, sqlite_url
from ruchu.control.definitions import sealing
from ruchu.control.definitions.bench import Workshop
from ruchu.control.definitions.exchange import Exchange, ExportOrder, ImportOrder
from ruchu.control.policies import documents
from ruchu.control.server.services import Services
from ruchu.control.server.state import ServerState
from ruchu.control.settings.settings import ServerSettings
from ruchu.control.vault.vault import Owner
from ruchu.errors import (
    Forbidden,
    InvalidName,
    LaterFormat,
    NeedsApproval,
    SealedFileClosed,
    UsageError,
)
from ruchu.model.ids import new_id
from ruchu.model.principals import LOCAL, Limits, Principal, Right, Role, Via
from ruchu.model.tasks import Severity

STORAGE = new_id()
PASSWORD_HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$aGFzaA"
POLICY = {
    "name": "nightly", "selection": {"platform": "kvm", "patterns": ["web-*"]}, "storage": "main",
    "schedules": [{"kind": "incremental", "daily": {"times": ["02:00"]}}],
    "retention": {"daily": 7}, "nodes": ["node-2"], "group": "team-a",
}  # fmt: skip


def services_over(database, directory, clock):
    directory.mkdir(exist_ok=True)
    return Services(ServerState(directory), clock, database)


@pytest.fixture
def full(database, tmp_path, clock):
    """Return the services of a server where everything is defined."""
    found = services_over(database, tmp_path / "full", clock)
    found.accounts.groups.create(LOCAL, group("team-a"))
    found.nodes.expect("node-2", 4)
    node = found.nodes.get("node-2").id
    found.inventory.add("kvm", "qemu:///system", scratch="/scratch", nodes=[node], parallel=7)
    made = {"id": STORAGE, "name": "main", "role": "backup", "encrypted": True,
            "probe": {"conditions": True}, "writer": "w", "credentials": True}  # fmt: skip
    found.storages.add(made, "/srv/backup", {"warn_percent": 70, "nodes": [node]})
    found.vault.put(Owner("storage", STORAGE, "passphrase"), "sieben Berge 7")
    found.vault.put(Owner("storage", STORAGE, "credentials"), "user = backup")
    found.rules.save_channel(ChannelDefinition("hook", "webhook", {"url": "https://x.example"}))
    found.vault.put(Owner("channel", "hook", "key"), "geheim")
    quiet = QuietHours("Asia/Shanghai", "22:00", "07:00")
    steps = (Step(30, ("hook",), Severity.CRITICAL),)
    found.rules.save_rule(Rule("all", ("hook",), group="team-a", quiet=quiet, steps=steps))
    found.policies.add(documents.from_document(POLICY))
    found.settings.put(ServerSettings(server_name="Alpha", heartbeat_minutes=5), 0)
    found.vault.put(Owner("server", "heartbeat", "url"), "https://beat.example/x")
    add_user(found, "li.na", {"*": frozenset({Role.ADMINISTRATOR})})
    return found


def group(name):
    from ruchu.control.accounts.groups import Group, Quota  # noqa: PLC0415

    return Group(name, "Team A", Quota(machines=3))


def add_user(services, name, grants):
    from ruchu.control.accounts.users import Profile  # noqa: PLC0415

    user, _ = services.accounts.users.create(LOCAL, name, Profile("Li Na"), grants)
    with services.database.writing() as connection:
        values = {"password": PASSWORD_HASH, "totp_since": "2026-01-01T00:00:00.000000Z"}
        connection.execute(USERS.update().where(USERS.c.id == user).values(values))
    services.vault.put(Owner("user", user, "totp"), "JBSWY3DPEHPK3PXP")


@pytest.fixture
def fresh(tmp_path, clock, sqlite_template):
    """Return the services of a server that knows nothing."""
    path = tmp_path / "fresh.db"
    shutil.copyfile(sqlite_template, path)
    with Database(sqlite_url(path)) as database:
        yield services_over(database, tmp_path / "fresh", clock)


def exported(services, **more):
    return services.defining.export(LOCAL, ExportOrder(**more))


def imported(services, document, **more):
    return services.defining.exchange.import_(LOCAL, document, ImportOrder(**more))


def actions(changes):
    return {(each.kind, each.name): each.action.value for each in changes}


def test_a_fresh_server_knows_everything_afterwards(full, fresh):
    document = json.loads(json.dumps(exported(full, passwords=True)))
    done = actions(imported(fresh, document))
    # The group that always exists is there already; all else is made.
    assert done.pop(("groups", "default")) == "same"
    assert set(done.values()) == {"create"}
    assert len(done) == 9
    again = exported(fresh, passwords=True)
    assert again["definitions"] == document["definitions"]
    assert again["secrets"] == document["secrets"]
    assert fresh.secrets_of(["storage:main"]) == {"storage:main": "sieben Berge 7"}
    assert fresh.storages.get("main").secret_names() == ["storage:main", "credentials:main"]
    assert fresh.inventory.platform("kvm").nodes == [fresh.nodes.get("node-2").id]


def test_a_second_import_does_nothing(full, fresh):
    document = exported(full, passwords=True)
    imported(fresh, document)
    assert set(actions(imported(fresh, document)).values()) == {"same"}
    assert set(actions(imported(fresh, document, replace=True)).values()) == {"same"}


def test_what_differs_is_told_field_by_field_and_stays_unless_it_shall_be_replaced(full, fresh):
    document = exported(full)
    imported(fresh, document)
    row = fresh.policies.get("nightly")
    changed = documents.from_document({**POLICY, "retention": {"daily": 9}, "group": "default"})
    fresh.policies.change(row.id, changed, row.version)
    fresh.vault.put(Owner("channel", "hook", "key"), "anders")
    done = {(e.kind, e.name): e for e in imported(fresh, document) if e.action == "keep"}
    policy, channel = done.pop(("policies", "nightly")), done.pop(("channels", "hook"))
    assert not done
    fields = {each.field: (each.before, each.after) for each in policy.fields}
    assert fields == {"group": ("default", "team-a"), "retention.daily": (9, 7)}
    assert [(each.field, each.after) for each in channel.fields] == [
        ("secret key", "(another one)")
    ]
    assert fresh.policies.get("nightly").policy.retention.daily == 9
    done = actions(imported(fresh, document, replace=True))
    assert done["policies", "nightly"] == done["channels", "hook"] == "change"
    assert fresh.policies.get("nightly").policy.retention.daily == 7
    assert fresh.vault.get(Owner("channel", "hook", "key")) == "geheim"


def test_a_dry_run_says_the_same_and_changes_nothing(full, fresh):
    document = exported(full)
    before = exported(fresh)["definitions"]
    said = actions(imported(fresh, document, dry_run=True))
    assert exported(fresh)["definitions"] == before
    assert said == actions(imported(fresh, document))


def test_one_bad_definition_and_nothing_is_imported(full, fresh):
    document = exported(full)
    document["definitions"]["rules"]["bad"] = {"channels": ["nobody"]}
    before = exported(fresh)
    with pytest.raises(InvalidName, match="nobody"):
        imported(fresh, document)
    assert exported(fresh)["definitions"] == before["definitions"]
    with fresh.database.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM vault_secrets")).scalar() == 2


def test_another_storage_of_that_name_is_refused_even_with_replace(full, fresh):
    made = {"id": new_id(), "name": "main", "role": "backup", "encrypted": False}
    fresh.storages.add(made, "/elsewhere", {})
    with pytest.raises(UsageError, match="another one"):
        imported(fresh, exported(full), replace=True)


def test_a_storage_that_lies_elsewhere_now(full, fresh):
    imported(fresh, exported(full), locations={"main": "/mnt/rescued"})
    assert fresh.storages.get("main").location == "/mnt/rescued"
    with pytest.raises(UsageError, match="nowhere"):
        imported(fresh, exported(full), locations={"nowhere": "/mnt"})


def test_a_later_format_is_refused_with_the_release_that_wrote_it(full, fresh):
    document = {**exported(full), "version": 2, "release": "9.1"}
    with pytest.raises(LaterFormat, match=r"version 2 of release 9\.1"):
        imported(fresh, document)
    for bad in ({"format": "else"}, {"version": 0}, {"version": True}, {"definitions": []},
                {"definitions": {"spells": {}}}, {"definitions": {"policies": {"x": 1}}}):  # fmt: skip
        with pytest.raises(UsageError):
            imported(fresh, {**document, "version": 1, **bad})


def test_a_document_without_secrets_holds_none(full, fresh):
    text = json.dumps(exported(full, secrets=False))
    for secret in ("sieben Berge", "geheim", "argon2", "JBSWY3DP", "beat.example"):
        assert secret not in text
    imported(fresh, json.loads(text))
    users = fresh.accounts.users.list()
    assert [(user.name, user.has_password) for user in users] == [("li.na", False)]


def test_passwords_leave_only_if_they_are_asked_for(full):
    assert "users" not in exported(full)["secrets"]
    assert set(exported(full, passwords=True)["secrets"]["users"]["li.na"]) == {"password", "totp"}


def test_the_audit_trail_is_whole_after_an_import(full, fresh):
    from ruchu.control.audit import verifying  # noqa: PLC0415

    imported(fresh, exported(full))
    verdict = verifying.verify(fresh.database, fresh.anchors)
    assert verdict.whole, verdict.reason


@pytest.mark.parametrize("right", [Right.CONFIGURE, Right.OPERATE, Right.ACCOUNTS])
def test_whoever_may_not_do_everything_exports_and_imports_nothing(full, fresh, right):
    limits = Limits(frozenset(Right) - {right}, frozenset({"*"}))
    grants = {"*": frozenset({Role.ADMINISTRATOR})}
    by = Principal("u", "u", grants, Via.TOKEN, "t", limits)
    document = exported(full)
    with pytest.raises(Forbidden):
        full.defining.export(by, ExportOrder())
    with pytest.raises(Forbidden):
        fresh.defining.exchange.import_(by, document, ImportOrder())


def test_a_policy_that_takes_four_eyes_is_not_shortened_by_an_import(full, fresh):
    workshop = Workshop(fresh.database, fresh.clock, fresh.vault, fresh.trail)
    imported(fresh, exported(full))
    document = exported(full)
    document["definitions"]["policies"]["nightly"]["retention"]["daily"] = 1

    def guard(before, after):
        return ["Points."] if before and after.retention.daily < before.retention.daily else []

    with pytest.raises(NeedsApproval, match="nightly"):
        Exchange(workshop, guard).import_(LOCAL, document, ImportOrder(replace=True))
    assert fresh.policies.get("nightly").policy.retention.daily == 7


def test_a_node_that_was_imported_enrols_under_its_name_and_keeps_its_limits(full, fresh):
    imported(fresh, exported(full))
    expected = fresh.nodes.get("node-2")
    assert fresh.hub.state(expected).value == "expected"
    token = fresh.nodes.new_token("node-2", "admin")
    row = fresh.nodes.admit(token, "request", {})
    assert (row.id, row.parallel) == (expected.id, 4)
    fresh.nodes.certified(row.id, "aa")
    assert fresh.hub.state(fresh.nodes.get("node-2")).value == "enrolled"
    assert fresh.nodes.admit(token, "request", {}).id == row.id


# ------------------------------------------------------------------------------ sealed files


@pytest.mark.slow
def test_a_sealed_file_opens_with_its_passphrase_only():
    text = sealing.seal({"a": "ü"}, "seven mountains and a river")
    assert text.startswith(sealing.BEGIN)
    assert sealing.unseal(text, "seven mountains and a river") == {"a": "ü"}
    for passphrase in ("", "seven mountains and a brook"):
        with pytest.raises(SealedFileClosed):
            sealing.unseal(text, passphrase)
    with pytest.raises(SealedFileClosed):
        sealing.unseal(text.replace("\n", "\nA", 2), "seven mountains and a river")
    with pytest.raises(UsageError, match="too short"):
        sealing.seal({}, "short")


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "null"])
def test_what_is_no_file_of_ours_is_refused(text):
    with pytest.raises(UsageError):
        sealing.unseal(text, "")
