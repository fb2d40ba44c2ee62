import histories
import pytest

from ruchu import errors
from ruchu.repository import documents, keyring, layout, repositories
from ruchu.repository.keyring import Secret

COSTS = histories.COSTS
PASSPHRASE = histories.PASSPHRASE
KEY_FILE = Secret("keyfile", b"\0\1\n" * 50)
STORAGE, KEY = "ab" * 16, bytes(range(32))


def entropy(count):
    return bytes(range(count))


@pytest.mark.parametrize(
    "secret", [PASSPHRASE, KEY_FILE, keyring.NO_SECRET], ids=lambda s: s.method
)
def test_a_slot_opens_with_its_secret_alone(secret):
    slot = keyring.new_slot(STORAGE, "cd" * 16, KEY, secret, entropy, COSTS)
    assert keyring.open_slot("x", slot, secret) == KEY
    if secret.method != "none":
        assert KEY.hex() not in str(slot)
        assert keyring.open_slot("x", slot, Secret(secret.method, b"other")) is None
        assert keyring.open_slot("x", slot, None) is None
        other = KEY_FILE if secret is PASSPHRASE else PASSPHRASE
        assert keyring.open_slot("x", slot, other) is None
        # A slot of another storage does not open, even with the right secret.
        assert keyring.open_slot("x", slot | {"storage": "ef" * 16}, secret) is None
    assert "correct" not in repr(secret)


@pytest.mark.parametrize("changes", [
    {"memory_kib": 7}, {"memory_kib": (4 << 20) + 1}, {"iterations": 0}, {"iterations": 65},
    {"lanes": 0}, {"lanes": 65}, {"lanes": 2}, {"salt": "00"}, {"nonce": "00"}, {"wrapped": ""},
    {"memory_kib": "8"}, {"iterations": True}, {"method": None}, {"storage": "x"}, {"salt": 5},
], ids=str)  # fmt: skip
def test_a_slot_out_of_bounds_is_damaged(changes):
    slot = keyring.new_slot(STORAGE, "cd" * 16, KEY, PASSPHRASE, entropy, COSTS)
    with pytest.raises(errors.Damaged):
        keyring.open_slot("x", slot | changes, PASSPHRASE)


def test_a_method_of_a_later_release_is_passed_over():
    slot = keyring.new_slot(STORAGE, "cd" * 16, KEY, PASSPHRASE, entropy, COSTS)
    assert keyring.open_slot("x", slot | {"method": "tpm"}, PASSPHRASE) is None


def test_a_chain_key_is_bound_to_its_chain():
    nonce = bytes(12)
    fields = {"chain": STORAGE, "nonce": nonce.hex(),
              "wrapped": keyring.wrap_chain_key(KEY, STORAGE, b"k" * 32, nonce).hex()}  # fmt: skip
    assert keyring.unwrap_chain_key("x", KEY, fields) == b"k" * 32
    for wrong in (fields | {"chain": "00" * 16}, fields | {"nonce": "11" * 12}):
        with pytest.raises(errors.WrongKey):
            keyring.unwrap_chain_key("x", KEY, wrong)
    with pytest.raises(errors.WrongKey):
        keyring.unwrap_chain_key("x", b"x" * 32, fields)


def test_a_storage_is_made_opened_and_rotated(storage):
    around = histories.surroundings()
    made = repositories.create(storage, "a", PASSPHRASE, around, costs=COSTS)
    chain = made.create_chain(histories.WHAT, 1 << 20)
    with pytest.raises(errors.AlreadyExists):
        repositories.create(storage, "a", PASSPHRASE, around, costs=COSTS)
    for wrong in (None, KEY_FILE, Secret("passphrase", b"wrong"), keyring.NO_SECRET):
        with pytest.raises(errors.WrongKey):
            repositories.open_repository(storage, wrong, around)
    made.add_secret(KEY_FILE)
    repositories.open_repository(storage, PASSPHRASE, around)
    opened = repositories.open_repository(storage, KEY_FILE, around)
    opened.rotate_secret(Secret("passphrase", b"new"), COSTS)
    for gone in (PASSPHRASE, KEY_FILE):
        with pytest.raises(errors.WrongKey):
            repositories.open_repository(storage, gone, around)
    again = repositories.open_repository(storage, Secret("passphrase", b"new"), around)
    assert again.chain_ids() == [chain.id]
    assert again.open_chain(chain.id).keys == chain.keys
    with pytest.raises(errors.WrongKey):
        again.rotate_secret(keyring.NO_SECRET)
    assert set(repositories.exit_kit()) == set(layout.KIT)


def test_an_unencrypted_slot_in_an_encrypted_storage_is_ignored(storage):
    """Whoever can write to the storage must not choose the key of what comes."""
    around = histories.surroundings()
    made = repositories.create(storage, "a", PASSPHRASE, around, costs=COSTS)
    slot = "00" * 16  # sorts first
    fields = keyring.new_slot(made.facts.id, slot, KEY, keyring.NO_SECRET, entropy, COSTS)
    storage.put(layout.key_slot(slot), documents.sealed(repositories.KEY_FORMAT, fields))
    opened = repositories.open_repository(storage, PASSPHRASE, around)
    assert opened._key == made._key != KEY
    with pytest.raises(errors.WrongKey):
        repositories.open_repository(storage, None, around)


def test_what_a_storage_says_of_itself_is_checked(storage):
    with pytest.raises(errors.StorageGone):
        repositories.read_facts(storage)
    fields = {"storage": "x", "name": "a", "role": "backup", "created": "", "encryption": "none",
              "kit": {}}  # fmt: skip
    storage.put(layout.STORAGE, documents.sealed(repositories.FORMAT, fields))
    with pytest.raises(errors.Damaged):
        repositories.read_facts(storage)


def test_a_foreign_directory_is_not_taken(storage):
    storage.put("photos/cat.jpg", b"x")
    with pytest.raises(errors.ForeignDirectory):
        repositories.create(storage, "a", keyring.NO_SECRET, histories.surroundings())


def test_a_slot_of_another_storage_is_damage(storage):
    around = histories.surroundings()
    repositories.create(storage, "a", keyring.NO_SECRET, around)
    for info in list(storage.list(layout.KEYS)):
        storage.delete(info.name)
    slot = "01" * 16
    fields = keyring.new_slot(STORAGE, slot, KEY, keyring.NO_SECRET, entropy, COSTS)
    storage.put(layout.key_slot(slot), documents.sealed(repositories.KEY_FORMAT, fields))
    with pytest.raises(errors.Damaged, match="another storage"):
        repositories.open_repository(storage, None, around)


def test_chains_are_found_by_what_they_protect(storage):
    made = repositories.create(storage, "a", keyring.NO_SECRET, histories.surroundings())
    what = histories.chains.ProtectedObject
    by_id = made.create_chain(what("vm", "web", "libvirt", "1"), 5 << 40)
    by_name = made.create_chain(what("image", "disk"), 1 << 20)
    assert by_id.block_size == 256 << 10
    assert by_name.block_size == 64 << 10
    assert made.find_chain(what("vm", "renamed", "libvirt", "1")).id == by_id.id
    assert made.find_chain(what("vm", "web", "libvirt", "2")) is None
    assert made.find_chain(what("vm", "web", "libvirt")).id == by_id.id
    assert made.find_chain(what("vm", "web", "other", "1")) is None
    assert made.find_chain(what("image", "disk")).id == by_name.id
    assert made.find_chain(what("vm", "disk")) is None
    # What a crash leaves of a chain that was never made.
    storage.put(f"chains/{STORAGE}/packs/00/x.pack", b"")
    storage.put("chains/foreign/x", b"")
    assert made.chain_ids() == sorted([by_id.id, by_name.id])


def test_points_are_found_by_the_beginning_of_their_id(plain):
    heads = [plain.backup(histories.noisy(n)) for n in range(3)]
    chain = plain.chain
    assert chain.find(heads[1].point[:8]) == heads[1]
    assert chain.points() == heads
    assert chain.latest() == heads[-1]
    for prefix in ("", heads[0].point[:3], "0" * 32):
        with pytest.raises(errors.NotFound):
            chain.find(prefix)
    with pytest.raises(errors.NotFound):
        chain.attachment(heads[0], "nvram")
    document = layout.chain_document(chain.id)
    content = plain.storage.get(document, 1 << 20)
    plain.storage.delete(document)
    plain.storage.put(document, content.replace(b"4096", b"4095"))
    with pytest.raises(errors.Damaged):
        plain.reopen()


def rewritten(root, name, kind, **changes):
    """Change a sealed document as somebody with access to the storage could."""
    path = root / name
    fields = documents.opened(name, path.read_bytes(), kind)
    del fields["format"], fields["version"]
    path.write_bytes(documents.sealed(kind, fields | changes))


def test_encryption_cannot_be_denied_by_changing_documents(tmp_path):
    from ruchu.repository.chains import ProtectedObject  # noqa: PLC0415
    from ruchu.repository.surroundings import Surroundings  # noqa: PLC0415
    from ruchu.storage.directory import DirectoryStorage  # noqa: PLC0415

    storage, around = DirectoryStorage(tmp_path), Surroundings()
    made = repositories.create(storage, "s", PASSPHRASE, around, costs=COSTS)
    chain = made.create_chain(ProtectedObject("image", "x"), 1).id
    rewritten(tmp_path, layout.chain_document(chain), "ruchu-chain", encryption="none")
    with pytest.raises(errors.Damaged, match="differs from the storage"):
        made.open_chain(chain)
    rewritten(tmp_path, layout.STORAGE, "ruchu-storage", encryption="none")
    with pytest.raises(errors.Damaged, match="denies the encryption"):
        repositories.open_repository(DirectoryStorage(tmp_path), PASSPHRASE, around)


def test_an_interrupted_making_of_a_storage_is_begun_anew(tmp_path):
    from ruchu.repository.surroundings import Surroundings  # noqa: PLC0415
    from ruchu.storage.directory import DirectoryStorage  # noqa: PLC0415

    repositories.create(DirectoryStorage(tmp_path), "s", PASSPHRASE, Surroundings(), costs=COSTS)
    (tmp_path / layout.STORAGE).unlink()
    made = repositories.create(
        DirectoryStorage(tmp_path), "s", KEY_FILE, Surroundings(), costs=COSTS
    )
    assert len(list((tmp_path / layout.KEYS).iterdir())) == 1
    assert made.chain_ids() == []
    (tmp_path / layout.STORAGE).unlink()
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(errors.ForeignDirectory):
        repositories.create(DirectoryStorage(tmp_path), "s", KEY_FILE, Surroundings(), costs=COSTS)
    assert (tmp_path / "letter.txt").exists()
