"""Replaying a log of XFS: records written by hand into the log of what mkfs.xfs makes."""

import struct
import subprocess

import pytest

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged
from ruchu.guests import xfs
from ruchu.guests.contract import NodeKind
from ruchu.guests.xfs import log_replay, log_ring, log_transactions, logged_inodes, overlay

SIZE = 48 << 20
START, COMMIT, CONTINUED, CONTINUES, ENDS, UNMOUNT = 1, 2, 4, 8, 16, 32
CORE, DATA, EXTENTS, ROOT, DEVICE, ATTRIBUTES = 1, 2, 4, 8, 16, 0x40
FILE_MODE = 0x81A4
REPLAYED = ("it was not unmounted cleanly: it is shown as after its log was replayed",)
# After the record that mkfs.xfs wrote.
FIRST = 2


class Memory:
    """A BlockReader of bytes."""

    preferred_io = 1 << 20

    def __init__(self, content):
        self.content = bytearray(content)

    @property
    def size(self):
        return len(self.content)

    def read_into(self, start, buffer):
        assert 0 <= start <= start + len(buffer) <= self.size
        buffer[:] = self.content[start : start + len(buffer)]

    def extents(self):
        return iter(())


class Log:
    """Writes records into the log of an image, one after the other."""

    def __init__(self, content):
        self.device = Memory(content)
        number, self.root = struct.unpack_from(">QQ", content, 48)
        groups, bits = struct.unpack_from(">I", content, 84)[0], content[124]
        self.start = ((number >> bits) * groups + (number & ((1 << bits) - 1))) * 4096
        self.uuid = bytes(content[32:48])
        self.sector = FIRST
        self.tail = FIRST

    @property
    def lsn(self):
        return 1 << 32 | self.sector

    def record(self, operations, *, form=1, damaged=False, summed=True):
        body = b"".join(
            struct.pack(">IIBBH", number, len(region), 0x69, flags, 0) + region
            for number, flags, region in operations
        )
        length = -(-len(body) // 512) * 512
        body = bytearray(body.ljust(length, b"\0"))
        firsts = b"".join(bytes(body[at : at + 4]) for at in range(0, length, 512))
        for at in range(0, length, 512):
            body[at : at + 4] = struct.pack(">I", 1)
        head = bytearray(512)
        struct.pack_into(
            ">IIIIQQIII", head, 0, 0xFEEDBABE, 1, 2, length, self.lsn, 1 << 32 | self.tail,
            0, 0, len(operations),
        )  # fmt: skip
        head[44 : 44 + len(firsts)] = firsts
        struct.pack_into(">I16sI", head, 300, form, self.uuid, 32 << 10)
        if summed:
            crc = crc32c.checksum(bytes(head[:328] + body))
            head[32:36] = struct.pack("<I", crc)
        if damaged:
            body[-1] ^= 1
        at = self.start + self.sector * 512
        self.device.content[at : at + 512 + length] = head + body
        self.sector += 1 + length // 512

    def commit(self, *items, number=7):
        self.record(transaction(*items, number=number))

    def inode_at(self, number):
        return number * 512

    def core_of(self, number, **changes):
        """Return the core of an inode as a little-endian machine logs it."""
        raw = self.device.content[self.inode_at(number) :][:176]
        return logged(raw, **changes)

    def opened(self):
        return xfs.open_file_system(self.device)


CORE_LAYOUT = "HHBBHIIIHHQ8s8s8sQQIIHBBIHHI"
MORE_LAYOUT = "QQQI12s8sQ16s"
NAMES = (
    "magic", "mode", "version", "form", "old_links", "owner", "group", "links", "low", "high",
    "big", "accessed", "modified", "changed", "size", "blocks", "extsize", "extents",
    "attribute_extents", "fork_at", "attribute_form", "mask", "state", "flags", "generation",
)  # fmt: skip


def logged(raw, **changes):
    core = dict(zip(NAMES, struct.unpack_from(">" + CORE_LAYOUT, raw), strict=True)) | changes
    more = struct.unpack_from(">" + MORE_LAYOUT, raw, 104)
    for name in ("accessed", "modified", "changed"):
        core[name] = core[name][::-1]
    more = (*more[:5], more[5][::-1], *more[6:])
    whole = struct.pack("<" + CORE_LAYOUT, *core.values()) + bytes(8)
    return whole + struct.pack("<" + MORE_LAYOUT, *more)


def header(count):
    return struct.pack("<4sIiI", b"NART", 40, 0, count)


def transaction(*items, number=7):
    regions = [header(len(items)), *(region for item in items for region in item)]
    return [
        (number, START, b""),
        *((number, 0, region) for region in regions),
        (number, COMMIT, b""),
    ]


def inode_item(number, core, *forks, fields=CORE, device=0, address=None):
    address = number * 512 if address is None else address
    sizes = [0, 0]
    if fields & (DATA | EXTENTS | ROOT):
        sizes[1] = len(forks[0])
    if fields & ATTRIBUTES:
        sizes[0] = len(forks[-1])
    described = struct.pack(
        "<HHIHH4xQI12xqii", 0x123B, 2 + len(forks), fields, *sizes, number, device,
        address // 4096 * 8, 8, address % 4096,
    )  # fmt: skip
    return (described, core, *forks)


def buffer_item(start, chunks, length=512, flags=0):
    """Return an item of a buffer: number of a chunk to its 128 bytes."""
    bits = sum(1 << chunk for chunk in chunks)
    words = max(1, length // 128 // 32)
    described = struct.pack(
        "<HHHHqI", 0x123C, 1 + len(chunks), flags, length // 512, start // 512, words
    )
    return (described + bits.to_bytes(4 * words, "little"), *chunks.values())


def created_item(block, count=8, size=512):
    length = count * size // 4096
    described = struct.pack("<HH", 0x123F, 1)
    return (described + struct.pack(">6I", 0, block, count, size, length, 99),)


def intent_item(kind, number):
    return (struct.pack("<HHIQ", kind, 1, 1, number),)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("xfs") / "xfs.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    options = ["-q", "--unsupported", "-d", "agcount=2", "-l", "size=10m", "-L", "before"]
    subprocess.run(["mkfs.xfs", *options, path], check=True, capture_output=True, timeout=60)
    return path.read_bytes()


@pytest.fixture
def log(made):
    return Log(made)


# A block of the first group in which nothing is.
EMPTY = 4000


def new_file(log, **changes):
    """Return the items that make a file of 8 KiB, and its number."""
    number = EMPTY * 8 + 3
    blank = logged_inodes.blank(number, 99, log.uuid, 512)
    core = logged(blank, mode=FILE_MODE, form=2, links=1, size=8192, blocks=2, extents=1, **changes)
    extent = (2 << 0 | (EMPTY + 8) << 21).to_bytes(16, "big")
    root = log.core_of(log.root, size=6 + 12, links=2)
    names = bytes([1, 0]) + struct.pack(">I", log.root)
    names += bytes([4]) + b"\0\x60" + b"file" + b"\x01" + struct.pack(">I", number)
    return number, [
        inode_item(number, core, extent, fields=CORE | EXTENTS),
        inode_item(log.root, root, names.ljust(20, b"\0"), fields=CORE | DATA),
        created_item(EMPTY),
    ]


def only_entry(system):
    (entry,) = system.entries(system.root)
    return entry


def test_a_file_that_is_only_in_the_log_is_shown(log):
    number, items = new_file(log)
    log.commit(*items)
    place = (EMPTY + 8) * 4096
    log.device.content[place : place + 8192] = b"content!" * 1024
    system = log.opened()
    assert system.facts.notes == REPLAYED
    entry = only_entry(system)
    assert (entry.name, entry.node, entry.kind) == (b"file", number, NodeKind.FILE)
    stat = system.stat(number)
    assert (stat.size, stat.mode, stat.links, stat.allocated) == (8192, 0o644, 1, 8192)
    content = bytearray(8192)
    system.read_into(number, 0, memoryview(content))
    assert content == b"content!" * 1024
    assert "not in place" in xfs.allocation(log.device, frozen=False).doubt


def test_nothing_is_replayed_before_it_was_committed(log):
    _, items = new_file(log)
    log.record(transaction(*items)[:-1])
    system = log.opened()
    assert list(system.entries(system.root)) == []
    assert system.facts.notes == REPLAYED


def test_operations_of_several_transactions_stand_among_one_another(log):
    _, items = new_file(log)
    first, second = transaction(*items, number=1), transaction(number=2)
    log.record(first[:3] + second[:1])
    # A region that goes on in the next record, and what began before the tail.
    number, _, region = first[3]
    log.record([(number, CONTINUED, region[:5]), (9, 0, b"of an older one"), (9, COMMIT, b"")])
    log.record([(number, CONTINUES | CONTINUED, region[5:30])])
    log.record([(number, CONTINUES | ENDS, region[30:]), *second[1:], *first[4:]])
    assert only_entry(log.opened()).name == b"file"


def test_what_is_newer_in_its_place_is_left_alone(log):
    at = log.inode_at(log.root) + 112
    for age, mode in ((log.lsn, 0o700), (log.lsn + 1, 0o755), (0, 0o700), ((1 << 64) - 1, 0o700)):
        log.sector = FIRST
        log.device.content[at : at + 8] = struct.pack(">Q", age)
        log.commit(inode_item(log.root, log.core_of(log.root, mode=0x41C0)))
        system = log.opened()
        assert system.facts.notes == REPLAYED
        assert system.stat(system.root).mode == mode, age


def test_a_buffer_is_replayed_unless_it_is_newer_in_its_place(log):
    label = bytearray(log.device.content[:128])
    label[108:120] = b"after\0\0\0\0\0\0\0"
    log.commit(buffer_item(0, {0: bytes(label)}))
    facts = log.opened().facts
    # Its checksum is right again: else a note would say that it is not.
    assert (facts.label, facts.notes) == ("after", REPLAYED)
    log.device.content[240:248] = struct.pack(">Q", 1 << 32 | FIRST)
    assert log.opened().facts.label == "before"
    # What another file system left there is older, whatever it says.
    log.device.content[32:48] = bytes(16)
    assert log.opened().facts.notes != ()


def test_chunks_side_by_side_may_come_in_several_regions(log):
    start = (EMPTY + 20) * 4096
    chunks = {0: b"a" * 128, 1: b"b" * 128, 2: b"c" * 128, 9: b"d" * 128}
    described, *_ = buffer_item(start, chunks, length=4096)
    described = described[:2] + struct.pack("<H", 4) + described[4:]
    log.commit((described, b"a" * 128, b"b" * 128 + b"c" * 128, b"d" * 128))
    _, items = new_file(log)
    items[0] = inode_item(
        EMPTY * 8 + 3,
        items[0][1],
        (2 | (EMPTY + 20) << 21).to_bytes(16, "big"),
        fields=CORE | EXTENTS,
    )
    log.commit(*items)
    system = log.opened()
    content = bytearray(4096)
    system.read_into(only_entry(system).node, 0, memoryview(content))
    assert content == b"a" * 128 + b"b" * 128 + b"c" * 128 + bytes(768) + b"d" * 128 + bytes(2816)
    part = bytearray(200)
    system.read_into(only_entry(system).node, 100, memoryview(part))
    assert part == content[100:300]


def test_what_was_given_up_is_not_replayed(log):
    start = (EMPTY + 20) * 4096
    length = 4096
    chunk = {0: b"metadata".ljust(128, b"!")}
    cancelled = (buffer_item(start, {}, length, flags=2)[0],)
    _, items = new_file(log)
    content = (2 | (EMPTY + 20) << 21).to_bytes(16, "big")
    items[0] = inode_item(EMPTY * 8 + 3, items[0][1], content, fields=CORE | EXTENTS)
    log.device.content[start : start + 4] = b"data"
    log.commit(buffer_item(start, chunk, length))
    log.commit(cancelled, *items)

    def shown():
        system = log.opened()
        assert system.facts.notes == REPLAYED
        content = bytearray(4)
        system.read_into(only_entry(system).node, 0, memoryview(content))
        return bytes(content)

    assert shown() == b"data"
    # What is written after that counts.
    log.commit(buffer_item(start, chunk, length))
    assert shown() == b"meta"


def test_new_inodes_that_were_given_up_are_not_made(log):
    start = EMPTY * 4096
    log.device.content[start : start + 4] = b"data"
    log.commit(created_item(EMPTY))
    log.commit((buffer_item(start, {}, 4096, flags=2)[0],))
    system = log.opened()
    assert system.facts.notes == REPLAYED
    with pytest.raises(GuestDamaged):
        system.stat(EMPTY * 8)
    log.commit(created_item(EMPTY))
    assert log.opened().facts.notes == REPLAYED


def test_a_device_and_small_times(log):
    number, items = new_file(log)
    made_core = bytearray(items[0][1])
    moment = struct.pack("<iI", -5, 7)
    struct.pack_into("<H", made_core, 2, 0x21A4)
    made_core[5] = 0
    made_core[40:48] = moment
    struct.pack_into("<Q", made_core, 120, 0)
    device = 259 << 18 | 70000
    items[0] = inode_item(number, bytes(made_core), fields=CORE | DEVICE, device=device)
    log.commit(*items)
    stat = log.opened().stat(number)
    assert (stat.kind, stat.device) == (NodeKind.CHARACTER_DEVICE, (259, 70000))
    assert stat.modified == -5 * 10**9 + 7


def test_attributes_lie_behind_the_content(log):
    number, items = new_file(log, fork_at=20, attribute_form=1)
    attribute = bytes([0, 17, 1, 0, 4, 5, 0]) + b"noteabcde"
    extent = items[0][2]
    items[0] = inode_item(
        number, items[0][1], extent, attribute, fields=CORE | EXTENTS | ATTRIBUTES
    )
    log.commit(*items)
    assert log.opened().xattrs(number) == {"user.note": b"abcde"}


def test_the_root_of_a_btree_is_packed_as_on_disk():
    keys, pointers = struct.pack(">3Q", 0, 100, 200), struct.pack(">3Q", 11, 12, 13)
    memory = b"BMA3" + struct.pack(">HH", 1, 3) + bytes(64)
    memory += keys + bytes(16) + pointers + bytes(16)
    core = bytearray(logged(logged_inodes.blank(5, 1, bytes(16), 512), mode=FILE_MODE, form=3))
    item = log_transactions.Item(0x123B, inode_item(5, bytes(core), memory, fields=CORE | ROOT))
    found = logged_inodes.parsed(item)
    changed = logged_inodes.applied(found, logged_inodes.blank(5, 1, bytes(16), 512), 9)
    fitting = (512 - 176 - 4) // 16
    fork = changed[176:]
    assert fork[:4] == struct.pack(">HH", 1, 3)
    assert fork[4:28] == keys
    assert fork[4 + 8 * fitting :][:24] == pointers


def test_intents_that_were_not_finished_are_told_if_they_would_be_seen(log):
    log.commit(intent_item(0x1236, 5), intent_item(0x1240, 6), intent_item(0x1244, 7))
    assert "1 operations" in log.opened().facts.notes[0]
    log.commit(intent_item(0x1245, 7))
    assert log.opened().facts.notes == REPLAYED


def test_quotas_and_lists_of_what_was_removed_are_of_no_account(log):
    log.commit(
        (struct.pack("<HH", 0x123D, 1),),
        buffer_item(EMPTY * 4096, {0: b"q" * 128}, flags=4),
        buffer_item(EMPTY * 4096, {0: b"i" * 128}, flags=1),
    )
    assert log.opened().facts.notes == REPLAYED


# An item of one chunk, with regions for two.
TOO_MUCH = (struct.pack("<HHHHqII", 0x123C, 3, 0, 1, 0, 1, 1), b"x" * 128, b"x" * 128)


def refused(log, *words):
    system = log.opened()
    (note,) = system.facts.notes
    assert "missing" in note
    assert all(word in note for word in words), note
    assert list(system.entries(system.root)) == []


def test_a_torn_record_and_what_follows_is_left_out(log):
    _, items = new_file(log)
    log.commit(inode_item(log.root, log.core_of(log.root, mode=0x41C0)))
    log.record(transaction(*items), damaged=True)
    log.commit(inode_item(log.root, log.core_of(log.root, mode=0x41C9)))
    system = log.opened()
    assert system.facts.notes == REPLAYED
    assert system.stat(system.root).mode == 0o700
    assert list(system.entries(system.root)) == []


def test_the_first_record_must_be_whole(log):
    _, items = new_file(log)
    log.tail = FIRST
    log.record(transaction(*items), damaged=True)
    for _ in range(9):
        log.commit()
    refused(log, "checksum")


@pytest.mark.parametrize(
    ("item", "word"),
    [
        ((struct.pack("<HH", 0x1238, 1),), "0x1238"),
        ((struct.pack("<HH", 0x123C, 1),), "buffer"),
        ((struct.pack("<HH", 0x123C, 9),), "not whole"),
        ((b"<",), "too short"),
        ((struct.pack("<HH", 0x1236, 1),), "intent"),
        ((struct.pack("<HH", 0x123F, 1),), "new inodes"),
        (created_item(EMPTY, size=1024), "1024"),
        (created_item(0), "new inodes"),
        (created_item(1 << 20), "new inodes"),
        (created_item(EMPTY, count=512), "512"),
        (buffer_item(SIZE, {0: b"x" * 128}), "buffer"),
        (buffer_item(-512, {0: b"x" * 128}), "buffer"),
        (buffer_item(0, {0: b"x" * 100}), "not whole"),
        (buffer_item(0, {31: b"x" * 128}), "behind"),
        (buffer_item(0, {0: b"x" * 128, 2: b"x"}), "not whole"),
        (TOO_MUCH, "more than it tells"),
        (buffer_item(0, {0: b""}), "not whole"),
        ((struct.pack("<HH", 0x123B, 1),), "form"),
        (inode_item(3, b"core"), "core"),
        (inode_item(3, bytes(176)), "no XFS inode"),
        (inode_item(EMPTY * 8, bytes(176)), "no XFS inode"),
        (inode_item(3, bytes(176), address=512 * 4), "wrong place"),
        (inode_item(1 << 60, bytes(176), address=512 * 4), "group"),
        (inode_item(3, bytes(176), fields=0x201), "fields"),
        (inode_item(3, bytes(176), b"more"), "inode 3"),
    ],
)
def test_what_is_not_understood_is_not_replayed(log, item, word):
    log.commit(item)
    refused(log, word)


def test_cores_and_forks_that_do_not_fit(log):
    root, core = log.root, log.core_of(log.root)
    for item, word in (
        (inode_item(root, b"\0" + core[1:]), "core"),
        (inode_item(root, log.core_of(root, fork_at=200)), "behind"),
        (inode_item(root, core, bytes(400), fields=CORE | DATA), "fit"),
        (inode_item(root, core, bytes(8), fields=CORE | DATA | EXTENTS), "two forms"),
        (inode_item(root, core, bytes(8), fields=CORE | ROOT), "root"),
        (inode_item(root, core, bytes(72), fields=CORE | ROOT), "root"),
        (inode_item(root, core, b"BMA3\0\1\0\7" + bytes(80), fields=CORE | ROOT), "root"),
    ):
        log.sector = FIRST
        log.commit(item)
        refused(log, word)


@pytest.mark.parametrize(
    ("operations", "word"),
    [
        ([(1, START, b"")] * 2, "twice"),
        ([(1, START, b"more")], "twice"),
        ([(1, START, b""), (1, CONTINUES, b"x")], "never began"),
        ([(1, START, b""), (1, 0x40, b"x")], "flags"),
        ([(1, START, b""), (1, COMMIT, b"")], "no header"),
        ([(1, START, b""), (1, 0, b"x" * 16), (1, COMMIT, b"")], "no header"),
    ],
)
def test_transactions_that_contradict_themselves(log, operations, word):
    log.record(operations)
    refused(log, word)


def test_an_unmount_in_between_ends_what_was_begun(log):
    _, items = new_file(log)
    operations = transaction(*items)
    log.record([*operations[:-1], (7, UNMOUNT, b"")])
    log.record([(7, COMMIT, b""), (8, 0, b"")])
    system = log.opened()
    assert system.facts.notes == REPLAYED
    assert list(system.entries(system.root)) == []


def test_other_machines_and_missing_checksums(log):
    _, items = new_file(log)
    log.record(transaction(*items), form=2)
    refused(log, "form 2")
    log.sector = FIRST
    log.record(transaction(*items), summed=False)
    refused(log, "no checksum")


def test_an_operation_that_leaves_its_record(log):
    log.commit()
    at = log.start + (FIRST + 1) * 512
    # The length of the first operation, and the checksum made right again.
    struct.pack_into(">I", log.device.content, at + 4, 5000)
    head = log.start + FIRST * 512
    content = log.device.content
    content[head + 32 : head + 36] = bytes(4)
    crc = crc32c.checksum(bytes(content[head : head + 328] + content[at : at + 512]))
    struct.pack_into("<I", content, head + 32, crc)
    refused(log, "leaves its record")


def test_what_takes_too_much_is_not_replayed(log, monkeypatch):
    _, items = new_file(log)
    log.commit(*items)
    log.commit((buffer_item((EMPTY + 1) * 4096, {}, 4096, flags=2)[0],))
    for module, name, least, word in (
        (overlay, "_PAGES_MAX", 1, "changes more"),
        (log_transactions, "_OPERATIONS_MAX", 8, "operations"),
        (log_transactions, "_HELD_MAX", 400, "large transactions"),
        (log_replay, "_REMEMBERED_MAX", 0, "given up"),
        (log_replay, "_ACTIVE_MAX", 600, "MiB in the log"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, least)
            refused(log, word)
    assert log_ring.MORE in xfs.allocation(log.device, frozen=False).doubt


def test_a_log_of_version_4_is_left_aside(log):
    log.commit()
    (version,) = struct.unpack_from(">H", log.device.content, 100)
    struct.pack_into(">H", log.device.content, 100, version & ~0xF | 4)
    assert "version 4" in log.opened().facts.notes[-1]
