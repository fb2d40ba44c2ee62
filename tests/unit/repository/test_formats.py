"""What is written is read back; whatever else is refused as Damaged or UnknownFormat."""

import datetime
import itertools
import json
import random
import struct

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from ruchu import errors
from ruchu.chunks.keys import ChainKeys
from ruchu.model.sources import Kind
from ruchu.repository import documents, heads, layout, maps, moves, packs, trash
from ruchu.repository.heads import DiskEntry, Head, Reference

KEYS = ChainKeys.derive(bytes(range(32)))
PACK, CHAIN = bytes(range(16)), bytes(range(16, 32))
REFUSED = (errors.Damaged, errors.UnknownFormat, errors.UnsafeName)
MORE = settings(max_examples=300)
NOW = datetime.datetime(2026, 11, 22, 18, 0, 0, 12, datetime.UTC)


@st.composite
def damage(draw, data):
    """Return the data cut, lengthened, or with some bytes changed; never the same."""
    way = draw(st.sampled_from(["flip", "cut", "append", "overwrite"]))
    found = bytearray(data)
    if way == "cut":
        return bytes(found[: draw(st.integers(0, len(found) - 1))])
    if way == "append":
        return bytes(found) + draw(st.binary(min_size=1, max_size=40))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(found) - 1))
        found[at] = draw(st.integers(0, 255).filter(lambda new, at=at: new != data[at]))
    return bytes(found)


def table_of(count):
    table = maps.PackTable()
    table.numbers([bytes([number]) * 16 for number in range(count)])
    return table


def slots_of(rng, count, packs_named=5):
    slots = np.zeros(count, maps.SLOT)
    for slot in slots:
        if rng.random() < 0.7:
            slot["pack"], slot["offset"] = rng.randrange(packs_named), rng.randrange(1 << 32)
            slot["stored"], slot["prefix"] = rng.randrange(1, 1 << 22), rng.randrange(1 << 64)
    return slots


def branches_of(rng, count, disk_segments=40):
    branches = np.zeros(count, maps.BRANCH)
    branches["segment"] = sorted(rng.sample(range(disk_segments), count))
    for branch in branches:
        branch["pack"], branch["offset"] = rng.randrange(5), rng.randrange(1 << 32)
        branch["stored"], branch["id"] = rng.randrange(1, 1 << 20), rng.randbytes(32)
    return branches


# Maps.


@given(st.integers(0, 1 << 30), st.sampled_from([0, 1, 2, 100, 1024]))
def test_a_segment_comes_back_in_another_process(seed, count):
    slots = slots_of(random.Random(seed), count)
    table = table_of(5)
    chunk = maps.encode_segment(2048, slots, table)
    other = maps.PackTable()
    other.numbers([bytes([number]) * 16 for number in (9, 4, 2, 0, 1, 3)])
    found = maps.decode_segment("x", chunk, 2048, other)
    used = slots["stored"] > 0
    for column in ("offset", "stored", "prefix"):
        assert np.array_equal(found[column], slots[column])
    ids = [other.id(int(number)) for number in found["pack"][used]]
    assert ids == [table.id(int(number)) for number in slots["pack"][used]]
    # Equal maps are equal bytes, whatever the numbers of the packs.
    assert maps.encode_segment(2048, found, other) == chunk


@given(st.integers(0, 1 << 30), st.integers(0, 40))
def test_a_root_comes_back(seed, count):
    branches = branches_of(random.Random(seed), count)
    table = table_of(5)
    size = 40 * 1024 * 4096 - 5
    chunk = maps.encode_root(4096, size, branches, table)
    block_size, found = maps.decode_root("x", chunk, size, table)
    assert block_size == 4096
    assert np.array_equal(found, branches)


@MORE
@given(st.data())
def test_a_damaged_segment_is_refused_or_at_least_in_bounds(data):
    slots = slots_of(random.Random(3), 30)
    chunk = data.draw(damage(maps.encode_segment(0, slots, table_of(5))))
    try:
        found = maps.decode_segment("x", chunk, 0, table_of(5))
    except REFUSED:
        return
    # A map carries no sum of its own: its chunk id does. What passes must do no harm.
    assert len(found) <= maps.SEGMENT_BLOCKS


@MORE
@given(st.data())
def test_a_damaged_root_is_refused_or_at_least_in_bounds(data):
    size = 40 * 1024 * 4096
    chunk = data.draw(damage(maps.encode_root(4096, size, branches_of(random.Random(3), 9),
                                              table_of(5))))  # fmt: skip
    try:
        block_size, found = maps.decode_root("x", chunk, size, table_of(5))
    except REFUSED:
        return
    assert block_size in maps.BLOCK_SIZES
    assert (np.diff(found["segment"].astype("i8")) > 0).all()
    assert not len(found) or found["segment"][-1] * 1024 * block_size < size


def segment_with(**changes):
    values = {"magic": b"RSEG", "count": 1, "first": 0, "packs": 1, "index": 0, "stored": 9}
    values |= changes
    front = struct.pack("<4sIQII", values["magic"], values["count"], values["first"],
                        values["packs"], 0)  # fmt: skip
    row = struct.pack("<HIIQ", values["index"], 64, values["stored"], 5)
    return front + PACK * values["packs"] + row * min(values["count"], 2000)


@pytest.mark.parametrize(
    "changes",
    [{"magic": b"ROOT"}, {"count": 1025}, {"first": 1024}, {"packs": 0}, {"index": 1}],
)
def test_a_wrong_field_of_a_segment(changes):
    maps.decode_segment("x", segment_with(), 0, table_of(0))
    with pytest.raises(errors.Damaged):
        maps.decode_segment("x", segment_with(**changes), 0, table_of(0))


def test_a_segment_cut_off():
    for length in (0, 23, len(segment_with()) - 1):
        with pytest.raises(errors.Damaged):
            maps.decode_segment("x", segment_with()[:length], 0, table_of(0))
    assert len(maps.decode_segment("x", segment_with(packs=0, stored=0), 0, table_of(0))) == 1


def root_with(**changes):
    values = {"magic": b"ROOT", "block": 4096, "size": 1 << 30, "blocks": 1024, "count": 2,
              "packs": 1, "segments": (0, 5), "index": 0} | changes  # fmt: skip
    front = struct.pack("<4sIQIIII", *(values[k] for k in
                        ("magic", "block", "size", "blocks", "count", "packs")), 0)  # fmt: skip
    columns = struct.pack("<2I", *values["segments"]) + struct.pack("<2I", *[values["index"]] * 2)
    return front + PACK * values["packs"] + columns + bytes(16) + bytes(64)


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"RSEG"}, {"block": 4095}, {"block": 2048}, {"block": 8 << 20}, {"size": 1},
        {"blocks": 1023}, {"count": 3}, {"packs": 2, "count": 1}, {"segments": (5, 5)},
        {"segments": (5, 0)}, {"segments": (0, 256)}, {"index": 1},
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_root(changes):
    maps.decode_root("x", root_with(), 1 << 30, table_of(0))
    with pytest.raises(errors.Damaged):
        maps.decode_root("x", root_with(**changes), 1 << 30, table_of(0))


@given(st.integers(0, 1 << 44), st.sampled_from(maps.BLOCK_SIZES), st.integers(0, 50))
def test_the_segments_of_a_disk_hold_all_its_blocks(size, block, segment):
    blocks = -(-size // block)
    length = maps.segment_length(size, block, segment)
    assert length == len(range(segment * 1024, min(blocks, segment * 1024 + 1024)))


def test_slots_are_resized():
    slots = slots_of(random.Random(1), 10)
    assert np.array_equal(maps.resized(slots, 4), slots[:4])
    longer = maps.resized(slots, 12)
    assert np.array_equal(longer[:10], slots)
    assert not longer[10:]["stored"].any()


# Packs.


def entries_of(rng, count):
    entries = np.zeros(count, packs.ENTRY)
    at = packs.HEADER_BYTES
    for entry in entries:
        stored = rng.randrange(1, 5000)
        entry["id"], entry["offset"], entry["stored"] = rng.randbytes(32), at, stored
        entry["plain"], entry["kind"], entry["codec"] = rng.randrange(1, 9999), 1, 1
        at += packs.RECORD_BYTES + stored
    return entries


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_a_footer_comes_back(encrypted, count):
    cipher = KEYS.pack_cipher(PACK) if encrypted else None
    header = packs.pack_header(PACK, CHAIN, encrypted=encrypted)
    assert packs.check_pack_header("x", header, PACK, CHAIN) is encrypted
    entries = entries_of(random.Random(1), count)
    stored, trailer = packs.footer(entries, PACK, header, cipher)
    size = 1 << 20
    assert packs.parse_trailer("x", trailer, PACK, size) == (count, len(stored))
    assert np.array_equal(packs.open_footer("x", header, stored, trailer, cipher), entries)


@MORE
@given(st.data(), st.booleans())
def test_a_damaged_footer_is_refused(data, encrypted):
    cipher = KEYS.pack_cipher(PACK) if encrypted else None
    header = packs.pack_header(PACK, CHAIN, encrypted=encrypted)
    stored, trailer = packs.footer(entries_of(random.Random(1), 3), PACK, header, cipher)
    which = data.draw(st.sampled_from(["header", "stored", "trailer"]))
    if which == "header":
        header = flipped(data, header)
    elif which == "stored":
        stored = data.draw(damage(stored))
    else:
        trailer = flipped(data, trailer)

    def read():
        packs.check_pack_header("x", header, PACK, CHAIN)
        packs.parse_trailer("x", trailer, PACK, 1 << 20)
        packs.open_footer("x", header, stored, trailer, cipher)

    with pytest.raises(REFUSED):
        read()


def flipped(data, content):
    """Return content of the same length with one bit changed."""
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    found = bytearray(content)
    found[bit // 8] ^= 1 << bit % 8
    return bytes(found)


def resealed_header(**changes):
    values = {"magic": b"RUCHUPK1", "version": 1, "flags": 0, "pack": PACK, "chain": CHAIN}
    front = struct.pack("<8sII16s16s", *(values | changes).values())
    return front + blake3(front).digest()[:16]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"magic": b"RUCHUPK2"}, errors.Damaged),
        ({"version": 2}, errors.UnknownFormat),
        ({"flags": 2}, errors.UnknownFormat),
        ({"pack": CHAIN}, errors.Damaged),
        ({"chain": PACK}, errors.Damaged),
    ],
)
def test_a_wrong_field_of_a_pack_header(changes, error):
    with pytest.raises(error):
        packs.check_pack_header("x", resealed_header(**changes), PACK, CHAIN)


def footer_of(entries, cipher=None, count=None):
    """Return header, footer and trailer, sealed, whatever they say."""
    header = packs.pack_header(PACK, CHAIN, encrypted=cipher is not None)
    plain = entries.tobytes()
    front = struct.pack("<8sII16s", b"RUCHUFT1", len(entries) if count is None else count,
                        len(plain) + (16 if cipher else 0), PACK)  # fmt: skip
    stored = cipher.encrypt(b"\xff" * 12, plain, front) if cipher else plain
    return header, stored, front + blake3(header + stored + front).digest()


@pytest.mark.parametrize("change", ["gap", "overlap", "first", "zero", "count", "cipher"])
def test_footer_entries_that_cannot_be(change):
    entries = entries_of(random.Random(1), 3)
    count, cipher = None, None
    if change == "gap":
        entries["offset"][1] += 1
    elif change == "overlap":
        entries["offset"][2] -= 1
    elif change == "first":
        entries["offset"] += 1
    elif change == "zero":
        entries["zero"][1] = 1
    elif change == "count":
        count = 2
    else:
        cipher = KEYS.pack_cipher(CHAIN)
    header, stored, trailer = footer_of(entries, cipher, count)
    with pytest.raises(errors.Damaged):
        packs.open_footer("x", header, stored, trailer,
                          KEYS.pack_cipher(PACK) if cipher else None)  # fmt: skip


def test_a_trailer_that_asks_for_too_much():
    _, _, trailer = footer_of(entries_of(random.Random(1), 3))
    with pytest.raises(errors.Damaged, match="asks for"):
        packs.parse_trailer("x", trailer, PACK, 200)
    with pytest.raises(errors.Damaged):
        packs.parse_trailer("x", trailer, CHAIN, 1 << 20)


def test_a_record_comes_back():
    record = packs.Record(2, 1, 7, 100, 60, bytes(range(32)))
    assert packs.parse_record("x", b"..." + record.packed(), 3) == record
    for at in (0, 6, 7):
        damaged = bytearray(record.packed())
        damaged[at] ^= 1
        with pytest.raises(errors.Damaged):
            packs.parse_record("x", bytes(damaged))
    too_large = packs.Record(2, 1, 7, (64 << 20) + 1, 60, bytes(32))
    with pytest.raises(errors.Damaged):
        packs.parse_record("x", too_large.packed())


def test_nonces_differ():
    assert len({packs.nonce(number) for number in range(1000)}) == 1000
    assert packs.nonce(258) == bytes([2, 1]) + bytes(10)
    assert b"\xff" * 12 not in {packs.nonce(number) for number in (0, packs.RECORDS_MAX)}


# Tables of moved packs.


def moves_of(rng, rows, targets=3):
    old = np.array(sorted(rng.sample(range(1 << 20), rows)), "<u4")
    to = np.array([rng.randrange(targets) for _ in range(rows)], "<u4")
    new = np.array([rng.randrange(1 << 30) for _ in range(rows)], "<u4")
    return moves.Moves(tuple(rng.randbytes(16) for _ in range(targets)), old, to, new)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 500])
def test_a_table_of_moves_comes_back(encrypted, rows):
    rng = random.Random(2)
    cipher = KEYS.pack_cipher(PACK) if encrypted else None
    table = moves_of(rng, rows)
    data = table.packed(PACK, CHAIN, bytes(12), cipher)
    found = moves.parse("x", data, PACK, CHAIN, cipher)
    assert found.targets == table.targets
    where = dict(zip(table.old.tolist(), zip(table.to.tolist(), table.new.tolist(), strict=True),
                     strict=True))  # fmt: skip
    for offset in {0, (1 << 32) - 1, *where}:
        place = where.get(offset)
        assert found.find(offset) == (place and (table.targets[place[0]], place[1]))


@MORE
@given(st.data(), st.booleans())
def test_a_damaged_table_of_moves_is_refused(data, encrypted):
    cipher = KEYS.pack_cipher(PACK) if encrypted else None
    good = moves_of(random.Random(2), 4).packed(PACK, CHAIN, bytes(12), cipher)
    with pytest.raises(REFUSED):
        moves.parse("x", data.draw(damage(good)), PACK, CHAIN, cipher)


@MORE
@given(st.data(), st.booleans())
def test_a_tampered_table_of_moves_raises_nothing_else(data, encrypted):
    """Its sum is not keyed: whoever changes it can make it right."""
    cipher = KEYS.pack_cipher(PACK) if encrypted else None
    good = moves_of(random.Random(2), 4).packed(PACK, CHAIN, bytes(12), cipher)
    body = data.draw(damage(good[:-32]))
    try:
        moves.parse("x", body + blake3(body).digest(), PACK, CHAIN, cipher)
    except REFUSED:
        return
    assert not encrypted


def sealed_moves(plain, **changes):
    values = {"magic": b"RUCHUMV1", "version": 1, "flags": 0, "pack": PACK, "chain": CHAIN,
              "nonce": bytes(12), "zero": 0} | changes  # fmt: skip
    data = struct.pack("<8sII16s16s12sI", *values.values()) + plain
    return data + blake3(data).digest()


BODY = struct.pack("<II", 1, 2) + PACK + struct.pack("<6I", 64, 200, 0, 0, 64, 300)


@pytest.mark.parametrize(
    ("plain", "changes", "error"),
    [
        (BODY, {"magic": b"RUCHUMV2"}, errors.UnknownFormat),
        (BODY, {"version": 2}, errors.UnknownFormat),
        (BODY, {"flags": 2}, errors.UnknownFormat),
        (BODY, {"zero": 1}, errors.UnknownFormat),
        (BODY, {"flags": 1}, errors.Damaged),
        (BODY, {"pack": CHAIN}, errors.Damaged),
        (BODY, {"chain": PACK}, errors.Damaged),
        (b"", {}, errors.Damaged),
        (BODY[:7], {}, errors.Damaged),
        (BODY[:-1], {}, errors.Damaged),
        (BODY[:24] + struct.pack("<6I", 200, 64, 0, 0, 64, 300), {}, errors.Damaged),
        (BODY[:24] + struct.pack("<6I", 64, 200, 0, 1, 64, 300), {}, errors.Damaged),
    ],
    ids=itertools.count(),
)
def test_a_wrong_field_of_a_table_of_moves(plain, changes, error):
    moves.parse("x", sealed_moves(BODY), PACK, CHAIN, None)
    with pytest.raises(error):
        moves.parse("x", sealed_moves(plain, **changes), PACK, CHAIN, None)


# Documents and heads.

REFERENCE = Reference(PACK.hex(), 64, 100, bytes(range(32)).hex())


def head_of(**changes):
    values = {
        "chain": CHAIN.hex(), "point": PACK.hex(), "sequence": 7, "kind": Kind.INCREMENTAL,
        "parent": CHAIN.hex(), "time": NOW, "finished": NOW,
        "disks": (DiskEntry(0, "vda", 5000, REFERENCE, {"why": "ä"}),
                  DiskEntry(1, "vdb", 0, REFERENCE)),
        "attachments": {"native": REFERENCE}, "facts": {"bytes": 5},
    }  # fmt: skip
    return Head(**(values | changes))


def decode(data, keys=KEYS):
    return heads.decode("x", data, CHAIN.hex(), head_of().stem, keys)


def test_a_head_comes_back():
    head = head_of()
    data = heads.encode(head, KEYS)
    assert decode(data) == head
    assert decode(data, None) == head
    assert head.disk("vdb") is head.disk("1") is head.disks[1]
    assert head.disk("2") is None
    full = head_of(kind=Kind.FULL, parent=None)
    assert decode(heads.encode(full, KEYS)) == full


@MORE
@given(st.data())
def test_a_damaged_head_is_refused(data):
    with pytest.raises(REFUSED):
        decode(data.draw(damage(heads.encode(head_of(), KEYS))))


def test_a_head_under_another_key_is_refused():
    with pytest.raises(errors.Damaged, match="check"):
        decode(heads.encode(head_of(), KEYS), ChainKeys.derive(bytes(32)))


def disk_with(**changes):
    return [{"number": 0, "name": "vda", "size": 5, "root": REFERENCE.fields()} | changes]


@pytest.mark.parametrize(
    "changes",
    [
        {"chain": PACK.hex()}, {"point": CHAIN.hex()}, {"sequence": 8}, {"sequence": "7"},
        {"parent": "x"}, {"parent": 5}, {"kind": "odd"}, {"kind": None}, {"time": "yesterday"},
        {"finished": None}, {"disks": {}}, {"disks": ["x"]}, {"disks": None}, {"facts": []},
        {"attachments": []}, {"attachments": {"native": None}},
        {"disks": disk_with(number=1)}, {"disks": disk_with(size=-1)},
        {"disks": disk_with(size="5")}, {"disks": disk_with(name=5)},
        {"disks": disk_with(root=None)}, {"kind": []}, {"kind": {}},
        *({"attachments": {"native": REFERENCE.fields() | wrong}} for wrong in (
            {"pack": "x"}, {"pack": PACK.hex()[:-2]}, {"pack": 5}, {"id": PACK.hex()},
            {"offset": -1}, {"offset": 1 << 32}, {"stored": -1}, {"stored": 1 << 32},
            {"offset": "5"}, {"stored": 1.5},
        )),
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_head(changes):
    fields = json.loads(heads.encode(head_of(), KEYS))
    del fields["check"]
    data = documents.sealed_with(heads.FORMAT, fields | changes, KEYS)
    with pytest.raises(REFUSED):
        decode(data)


def test_a_truth_is_no_number():
    """JSON true is a bool of Python, which is an int: not here."""
    fields = json.loads(heads.encode(head_of(), KEYS))
    del fields["check"]
    fields["disks"][0]["size"] = True
    with pytest.raises(errors.Damaged):
        decode(documents.sealed_with(heads.FORMAT, fields, KEYS))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@MORE
@given(st.data(), json_values)
def test_any_value_in_any_field_of_a_head_raises_nothing_else(data, value):
    fields = json.loads(heads.encode(head_of(), KEYS))
    del fields["check"]
    key = data.draw(st.sampled_from(sorted(fields)))
    where = fields
    if key == "disks" and data.draw(st.booleans()):
        where = fields["disks"][0]
        key = data.draw(st.sampled_from(sorted(where)))
    if key == "root" and data.draw(st.booleans()):
        where = where["root"]
        key = data.draw(st.sampled_from(sorted(where)))
    where[key] = value
    try:
        text = documents.sealed_with(heads.FORMAT, fields, KEYS)
    except (UnicodeEncodeError, ValueError):
        return
    try:
        decode(text)
    except REFUSED:
        return


@pytest.mark.parametrize(
    "surrogate", ['{"a": "\\ud800"}', '{"format": "k", "version": 1, "a": "\\udfff"}']
)
def test_text_that_is_no_utf8_is_refused(surrogate):
    with pytest.raises(errors.Damaged):
        documents.opened("x", surrogate.encode(), "k")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", errors.Damaged),
        (b"\xff\xfe", errors.Damaged),
        (b"[]", errors.Damaged),
        (b"5", errors.Damaged),
        (b"[" * 100_000, errors.Damaged),
        (b'{"format": "other", "version": 1}', errors.Damaged),
        (b'{"format": "k"}', errors.UnknownFormat),
        (b'{"format": "k", "version": 2}', errors.UnknownFormat),
        (b'{"format": "k", "version": 1}', errors.Damaged),
        (documents.canonical({"format": "k", "version": 1}), errors.Damaged),
        (documents.canonical({"format": "k", "version": 1, "sum": 5}), errors.Damaged),
        (b'{"format": "k", "version": 1, "n": ' + b"9" * 5000 + b"}", errors.Damaged),
        (b'{"format": "k", "version": 1, "n": NaN}', errors.Damaged),
        (b'{"format": "k", "version": 1, "n": ' + b"[" * 700 + b"]" * 700 + b"}", errors.Damaged),
    ],
)
def test_what_is_no_document(data, error):
    with pytest.raises(error):
        documents.opened("x", data, "k")


def test_a_version_that_is_true_is_not_one():
    body = {"format": "k", "version": True}
    data = documents.canonical({**body, "sum": blake3(documents.canonical(body)).hexdigest()})
    with pytest.raises(errors.UnknownFormat):
        documents.opened("x", data, "k")


def test_a_document_comes_back_with_further_fields():
    fields = {"name": "tést \u2028", "list": [1, {"a": None}], "big": 1 << 62}
    found = documents.opened("x", documents.sealed("k", fields), "k")
    assert found == {"format": "k", "version": 1, **fields}


@given(st.data())
def test_a_damaged_document_is_refused(data):
    good = documents.sealed("k", {"name": "x", "number": 5})
    with pytest.raises(REFUSED):
        documents.opened("x", data.draw(damage(good)), "k")


def test_hex_fields():
    assert documents.hex_field("x", {"a": "00ff"}, "a", 2) == b"\0\xff"
    for wrong in ("", "0", "00f", "zz00", "00ff00", 5, None):
        with pytest.raises(errors.Damaged):
            documents.hex_field("x", {"a": wrong}, "a", 2)


# Names.


@pytest.mark.parametrize(
    "make",
    [
        layout.key_slot, layout.chain, layout.chain_document, layout.points,
        lambda bad: layout.pack(CHAIN.hex(), bad), lambda bad: layout.moved(CHAIN.hex(), bad),
        lambda bad: layout.star(CHAIN.hex(), bad), lambda bad: layout.trash_record(CHAIN.hex(), bad),
        lambda bad: layout.lock_until(CHAIN.hex(), bad, "x"), lambda bad: layout.point_stem(1, bad),
        lambda bad: layout.head(CHAIN.hex(), bad), lambda bad: layout.lease(CHAIN.hex(), bad, bad),
    ],
    ids=itertools.count(),
)  # fmt: skip
@pytest.mark.parametrize("bad", ["", "../x", "A" * 32, "a" * 31, "a" * 33, "a" * 32 + "\n"])
def test_what_is_no_id_never_becomes_a_name(make, bad):
    with pytest.raises(errors.UnsafeName):
        make(bad)


@pytest.mark.parametrize(
    "bad", ["\N{ARABIC-INDIC DIGIT ZERO}" * 10, "1" * 9, "1" * 11, "-111111111"]
)
def test_a_sequence_has_ten_plain_digits(bad):
    with pytest.raises(errors.UnsafeName):
        layout.parse_point_stem(f"{bad}-{PACK.hex()}")


def test_names():
    chain, point = CHAIN.hex(), PACK.hex()
    stem = layout.point_stem(12, point)
    assert layout.parse_point_stem(stem) == (12, point)
    assert layout.head(chain, stem) == f"chains/{chain}/points/0000000012-{point}.json"
    assert layout.stem_of(layout.head(chain, stem)) == stem
    assert layout.pack(chain, point) == f"chains/{chain}/packs/00/{point}.pack"
    assert layout.lease(chain, point, point) == f"{layout.leases(chain)}/{point}.{point}.json"


# Trash records.


@pytest.mark.parametrize(
    "changes",
    [
        {"chain": PACK.hex()}, {"points": None}, {"points": ["x"]}, {"points": [5]},
        {"packs": ["x"]}, {"packs": [5]}, {"packs": {}}, {"moved": [None]}, {"purge_after": "x"},
        {"purge_after": None}, {"reason": 5}, {"packs": [[]]}, {"points": [[]]},
    ],
)  # fmt: skip
def test_a_wrong_field_of_a_trash_record(changes):
    fields = {
        "chain": CHAIN.hex(),
        "created": "",
        "purge_after": "2026-11-22T18:00:00.000000Z",
        "points": [head_of().stem],
        "packs": [PACK.hex()],
        "moved": [],
        "reason": "r",
    }
    trash.parse("x", documents.sealed(trash.FORMAT, fields), CHAIN.hex(), PACK.hex())
    data = documents.sealed(trash.FORMAT, fields | changes)
    with pytest.raises(REFUSED):
        trash.parse("x", data, CHAIN.hex(), PACK.hex())
