"""Records of the audit trail: one canonical form, no secrets, no floods."""

import dataclasses
import json

import pytest

from ruchu.control.audit import records
from ruchu.control.audit.records import FACTS_BYTES_MAX, FIRST, REDACTED, Record
from ruchu.model.tasks import Severity

RECORD = Record(1, "2026-11-22T18:00:00.000000Z", "alice", "user.create", "bob", "done", "{}")


def test_the_hash_of_a_record_is_what_the_documentation_says():
    """Computed by another program: SHA-256 over 32 zeros and the canonical JSON."""
    text = (
        '{"action":"user.create","actor":"alice","at":"2026-11-22T18:00:00.000000Z",'
        '"facts":"{}","number":1,"outcome":"done","subject":"bob"}'
    )
    assert records.canonical(dataclasses.asdict(RECORD)) == text
    assert (
        RECORD.digest(FIRST) == "668013eb15bf6d5e1c4d984c3554928decfcb7f89c6d6cbe38e3969e6ac52ff4"
    )


@pytest.mark.parametrize("name", ["at", "actor", "action", "subject", "outcome", "facts"])
def test_every_field_counts(name):
    assert dataclasses.replace(RECORD, **{name: "x"}).digest(FIRST) != RECORD.digest(FIRST)
    assert dataclasses.replace(RECORD, number=2).digest(FIRST) != RECORD.digest(FIRST)
    assert RECORD.digest("1" * 64) != RECORD.digest(FIRST)


def test_fields_do_not_run_into_one_another():
    one = dataclasses.replace(RECORD, actor="ab", action="c")
    assert one.digest(FIRST) != dataclasses.replace(RECORD, actor="a", action="bc").digest(FIRST)


@pytest.mark.parametrize(
    "name",
    [
        "password", "Password", "new_password", "newPassword", "PASSWORD", "passphrase", "secret",
        "client_secret", "clientSecret", "api-key", "apiKey", "key", "access_token", "token",
        "authorization", "Cookie", "set-cookie", "totp", "otp", "recovery_codes", "private_key",
        "credentials", "nonce", "code_verifier", "pin", "db.password", "passwd",
    ],
)  # fmt: skip
def test_a_secret_is_known_by_the_name_of_its_field(name):
    found = json.loads(records.facts({"deep": [{name: {"a": "geheim"}}], name: "geheim"}))
    assert found == {"deep": [{name: REDACTED}], name: REDACTED}


@pytest.mark.parametrize(
    "name", ["name", "token_id", "key_id", "monkey", "keyboard", "secretary", "tokenize", "subject"]
)
def test_what_is_no_secret_stays(name):
    assert json.loads(records.facts({name: "value"})) == {name: "value"}


def test_codes_of_errors_stay_and_codes_of_authenticators_go():
    assert json.loads(records.facts({"code": "not-found"})) == {"code": "not-found"}
    assert json.loads(records.facts({"code": "123456"})) == {"code": REDACTED}
    assert json.loads(records.facts({"code": 123456})) == {"code": REDACTED}


@pytest.mark.parametrize("text", ["postgresql://u:geheim@db/x", "see https://a:geheim@b/c?d"])
def test_passwords_of_addresses_go(text):
    assert "geheim" not in records.facts({"url": text})
    assert "geheim" not in records.text(text)


def test_our_own_tokens_go_wherever_they_stand():
    word = "ruchu_0a1b2c3d_" + "Ab-_" * 10
    assert word[16:] not in records.facts({"note": f"used {word} twice"})
    assert word[16:] not in records.text(word)


def test_odd_values_become_json():
    odd = {
        "set": {"b", "a"}, "tuple": (1, 2), "bytes": b"\x00\xff", "enum": Severity.ERROR,
        "nan": float("nan"), "huge": 1 << 80, "none": None, 7: True, "text": "a\x00\ud800b",
    }  # fmt: skip
    found = json.loads(records.facts(odd))
    assert found["set"] == ["a", "b"]
    assert found["bytes"] == "[2 bytes]"
    assert found["enum"] == "error"
    assert found["nan"] == "nan"
    assert found["7"] is True
    assert records.facts(odd).isascii()


def test_large_facts_are_cut_and_stay_recognisable():
    kept = records.facts({"points": ["x" * 1000] * 90})
    assert len(kept) <= FACTS_BYTES_MAX
    assert json.loads(kept)["cut"] is True
    many = json.loads(records.facts({"many": list(range(500))}))["many"]
    assert many[-1] == "… 500 in all"
    nested: dict = {}
    at = nested
    for _ in range(50):
        at["a"] = {}
        at = at["a"]
    assert len(records.facts(nested)) < 200


def test_names_are_one_line():
    assert records.text("a\nb\x00c\ud800") == "a\ufffdb\ufffdc\ufffd"
    assert len(records.text("x" * 10_000)) == 300
