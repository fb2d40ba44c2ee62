"""Secrets at rest: bound to their owner, sealed under the right key, in no text."""

import logging
import os
import stat
import threading

import pytest
import sqlalchemy as sa

from ruchu.control.vault import keys
from ruchu.control.vault.keys import KeySource
from ruchu.control.vault.tables import VAULT_KEYS, VAULT_SECRETS
from ruchu.control.vault.vault import VALUE_BYTES_MAX, Owner, Vault
from ruchu.errors import NotFound, SecretDamaged, UsageError, WrongServerKey

ONE, OTHER = Owner("storage", "s1", "passphrase"), Owner("storage", "s2", "passphrase")
SECRET = "geheim-秘密-0123456789"


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "state"
    path.mkdir()
    return path


@pytest.fixture
def vault(database, state, clock):
    return Vault(database, keys.source(state, {}), clock)


def again(database, state, clock, environment=None):
    return Vault(database, keys.source(state, environment or {}), clock)


def rows(database):
    with database.reading() as connection:
        return connection.execute(sa.select(VAULT_SECRETS).order_by(VAULT_SECRETS.c.owner)).all()


def test_what_goes_in_comes_out(vault, database):
    vault.put(ONE, "first")
    vault.put(ONE, SECRET)
    vault.put(Owner("storage", "s1", "password"), "")
    assert vault.get(ONE) == SECRET
    assert vault.get_all("storage", "s1") == {"passphrase": SECRET, "password": ""}
    assert all(SECRET.encode() not in bytes(row.sealed) for row in rows(database))
    assert vault.delete(ONE)
    assert not vault.delete(ONE)
    with pytest.raises(NotFound):
        vault.get(ONE)
    assert vault.delete_all("storage", "s1")
    assert not rows(database)


def test_a_secret_changes_with_its_row_or_not_at_all(vault, database):
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        vault.put(ONE, SECRET, connection)
        assert vault.get(ONE, connection) == SECRET
        raise ZeroDivisionError
    with pytest.raises(NotFound):
        vault.get(ONE)


@pytest.mark.parametrize("field", ["kind", "owner", "field"])
def test_a_row_that_was_moved_does_not_open(vault, database, field):
    vault.put(ONE, SECRET)
    with database.writing() as connection:
        connection.execute(VAULT_SECRETS.update().values({field: "elsewhere"}))
    moved = {"kind": "storage", "owner": "s1", "field": "passphrase", field: "elsewhere"}
    with pytest.raises(SecretDamaged):
        vault.get(Owner(moved["kind"], moved["owner"], moved["field"]))


def test_rows_swapped_between_owners_do_not_open(vault, database):
    vault.put(ONE, "one")
    vault.put(OTHER, "other")
    first, second = rows(database)
    with database.writing() as connection:
        for to, source in ((ONE, second), (OTHER, first)):
            values = {"nonce": source.nonce, "sealed": source.sealed}
            connection.execute(VAULT_SECRETS.update().where(to.condition()).values(values))
    for owner in (ONE, OTHER):
        with pytest.raises(SecretDamaged):
            vault.get(owner)


def test_a_single_changed_bit_is_found(vault, database, rng):
    vault.put(ONE, SECRET)
    sealed = bytearray(rows(database)[0].sealed)
    sealed[rng.randrange(len(sealed))] ^= 1 << rng.randrange(8)
    with database.writing() as connection:
        connection.execute(VAULT_SECRETS.update().values(sealed=bytes(sealed)))
    with pytest.raises(SecretDamaged):
        vault.get(ONE)


def test_two_equal_secrets_look_different(vault, database):
    vault.put(ONE, SECRET)
    vault.put(OTHER, SECRET)
    first, second = rows(database)
    assert first.nonce != second.nonce
    assert first.sealed != second.sealed


def test_nothing_shows_in_texts_and_logs(vault, state, caplog):
    with caplog.at_level(logging.DEBUG):
        vault.put(ONE, SECRET)
        vault.get(ONE)
        source = keys.source(state, {keys.KEY_VARIABLE: keys.as_text(keys.new_key())})
        ring = source.load()
    shown = f"{vault!r} {ring!r} {source!r} {ring.current!r} {caplog.text}"
    assert SECRET not in shown
    assert repr(ring.current.value) not in shown
    assert keys.as_text(ring.current).split()[2] not in shown


def test_a_secret_that_is_too_large(vault):
    vault.put(ONE, "x" * VALUE_BYTES_MAX)
    with pytest.raises(UsageError):
        vault.put(ONE, "x" * (VALUE_BYTES_MAX + 1))


# ------------------------------------------------------------------------------------- the key


def test_the_key_is_made_once_and_for_us_alone(vault, database, state, clock):
    path = state / keys.FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    vault.put(ONE, SECRET)
    assert again(database, state, clock).get(ONE) == SECRET
    assert path.read_bytes() == content
    assert os.listdir(state) == [keys.FILE_NAME]


def test_two_servers_that_start_at_once_take_one_key(tmp_path):
    source = keys.source(tmp_path, {})
    found = []
    threads = [threading.Thread(target=lambda: found.append(source.make())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({ring.current.id for ring in found}) == 1


def test_another_key_is_refused_at_the_start(vault, database, state, clock):
    vault.put(ONE, SECRET)
    (state / keys.FILE_NAME).unlink()
    with pytest.raises(WrongServerKey) as caught:
        again(database, state, clock)
    assert "not there" in str(caught.value)
    assert not (state / keys.FILE_NAME).exists()
    keys.source(state, {}).make()
    with pytest.raises(WrongServerKey) as caught:
        again(database, state, clock)
    assert "lacking" in str(caught.value)
    assert "Put the right key back" in caught.value.advice


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "ruchu-server-key-1 0123456789abcdef !!!!", "ruchu-server-key-1 0123 QUJD"],
)
def test_a_file_that_holds_no_key(tmp_path, text):
    path = tmp_path / keys.FILE_NAME
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(WrongServerKey):
        keys.source(tmp_path, {}).load()


def test_a_damaged_key_is_told_apart_by_its_id(tmp_path):
    key = keys.new_key()
    path = tmp_path / keys.FILE_NAME
    path.write_text(keys.as_text(key).replace(key.id, "0" * 16))
    path.chmod(0o600)
    with pytest.raises(WrongServerKey) as caught:
        keys.source(tmp_path, {}).load()
    assert "damaged" in str(caught.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(tmp_path, mode):
    source = keys.source(tmp_path, {})
    source.make()
    source.path.chmod(mode)
    with pytest.raises(WrongServerKey) as caught:
        source.load()
    assert "chmod 600" in caught.value.advice


def test_a_pipe_in_the_place_of_the_key_blocks_nobody(tmp_path):
    os.mkfifo(tmp_path / keys.FILE_NAME, 0o600)
    with pytest.raises(WrongServerKey):
        keys.source(tmp_path, {}).load()


def test_a_key_from_elsewhere(database, state, clock, tmp_path):
    key = keys.new_key()
    environment = {keys.KEY_VARIABLE: keys.as_text(key)}
    vault = again(database, state, clock, environment)
    vault.put(ONE, SECRET)
    assert not (state / keys.FILE_NAME).exists()
    path = tmp_path / "unwrapped"
    path.write_text(keys.as_text(key))
    path.chmod(0o600)
    by_file = {keys.FILE_VARIABLE: str(path)}
    assert again(database, state, clock, by_file).get(ONE) == SECRET
    with pytest.raises(WrongServerKey):
        vault.rotate()
    with pytest.raises(WrongServerKey):
        again(database, state, clock, {keys.FILE_VARIABLE: str(tmp_path / "gone")})
    # A new key in front of the old one: that is how a key from elsewhere is rotated.
    both = f"{keys.as_text(keys.new_key())},{keys.as_text(key)}"
    vault = again(database, state, clock, {keys.KEY_VARIABLE: both})
    assert vault.reseal() == 1
    assert vault.get(ONE) == SECRET


# ------------------------------------------------------------------------------------- rotation


@pytest.mark.slow
def test_rotation_seals_everything_anew(vault, database, state, clock):
    for number in range(120):
        vault.put(Owner("storage", f"s{number:03}", "passphrase"), f"{SECRET} {number}")
    before = {row.key_id for row in rows(database)}
    fresh = vault.rotate()
    assert {row.key_id for row in rows(database)} == {fresh} != before
    assert len(keys.source(state, {}).load().keys) == 1
    opened = again(database, state, clock)
    for number in range(0, 120, 50):
        owner = Owner("storage", f"s{number:03}", "passphrase")
        assert opened.get(owner) == vault.get(owner) == f"{SECRET} {number}"


class Killed(BaseException):
    """The power goes."""


@pytest.mark.parametrize("at", ["save", "remember", "reseal", "forget", "save-again"])
def test_a_rotation_that_is_interrupted_loses_nothing(
    vault, database, state, clock, at, monkeypatch
):
    vault.put(ONE, SECRET)
    saved = []

    def kill(*arguments, **named):
        raise Killed

    def save(self, keyring):
        saved.append(keyring)
        if at == "save" or (at == "save-again" and len(saved) == 2):
            raise Killed
        return original(self, keyring)

    original = KeySource.save
    monkeypatch.setattr(KeySource, "save", save)
    method = {"remember": "_remember", "reseal": "_reseal_one", "forget": "_forget_others"}
    if at in method:
        monkeypatch.setattr(Vault, method[at], kill)
    with pytest.raises(Killed):
        vault.rotate()
    monkeypatch.undo()
    opened = again(database, state, clock)
    assert opened.get(ONE) == SECRET
    opened.rotate()
    assert again(database, state, clock).get(ONE) == SECRET
    with database.reading() as connection:
        assert len(connection.execute(sa.select(VAULT_KEYS)).all()) == 1


@pytest.mark.slow
def test_secrets_that_are_put_while_the_key_is_rotated_stay(vault, database, state, clock):
    failures = []

    def put(number):
        try:
            for turn in range(20):
                vault.put(Owner("storage", f"t{number}", f"f{turn}"), f"{number} {turn}")
        except Exception as error:  # noqa: BLE001 - told by the test
            failures.append(error)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        vault.rotate()
    for thread in threads:
        thread.join()
    assert not failures
    vault.rotate()
    opened = again(database, state, clock)
    for number in range(3):
        assert opened.get_all("storage", f"t{number}") == {
            f"f{turn}": f"{number} {turn}" for turn in range(20)
        }
