"""Programs for the kernel as numbers; that a kernel takes them is shown in tests/system."""

import struct

import pytest

from ruchu.errors import GuardUnsupported
from ruchu.storage.guarding.bpf import programs, structures
from ruchu.storage.guarding.bpf.assembling import Assembler
from ruchu.storage.guarding.bpf.programs import HOOKS, REQUIRED, Hook, Maps
from ruchu.storage.guarding.bpf.structures import Structures

INT, POINTER, STRUCT, UNION, CONST, FUNCTION, PROTOTYPE = 1, 2, 4, 5, 10, 12, 13


class Description:
    """Writes a BTF section."""

    def __init__(self):
        self.strings = b"\0"
        self.types = b""
        self.count = 0

    def text(self, name):
        if not name:
            return 0
        self.strings += name.encode() + b"\0"
        return len(self.strings) - len(name) - 1

    def add(self, kind, name="", target=0, rows=(), tail=b""):
        self.types += struct.pack("<III", self.text(name), kind << 24 | len(rows), target)
        self.types += b"".join(struct.pack(f"<{len(row)}I", *row) for row in rows) + tail
        self.count += 1
        return self.count

    def structure(self, name, *members, kind=STRUCT):
        rows = [(self.text(member), target, bits) for member, target, bits in members]
        return self.add(kind, name, 0, rows)

    def function(self, name, *parameters):
        rows = [(self.text("p"), target) for target in parameters]
        return self.add(FUNCTION, name, self.add(PROTOTYPE, "", 0, rows))

    def content(self):
        header = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings)
        )
        return header + self.types + self.strings


@pytest.fixture
def described():
    d = Description()
    number = d.add(INT, "int", 4, tail=b"\0\0\0\0")
    inode = d.structure("inode", ("i_ino", number, 64))
    block = d.structure("super_block", ("s_dev", number, 128))
    name = d.structure("qstr", ("hash", number, 0), ("name", number, 64))
    anonymous = d.structure("", ("__d_name", name, 0), ("d_name", name, 0), kind=UNION)
    pointers = [d.add(POINTER, "", each) for each in (inode, block)]
    dentry = d.structure(
        "dentry", ("d_parent", number, 64), ("", anonymous, 256), ("d_inode", pointers[0], 512),
        ("d_sb", pointers[1], 576),
    )  # fmt: skip
    to_dentry = d.add(POINTER, "", dentry)
    path = d.structure("path", ("mnt", number, 0), ("dentry", to_dentry, 64))
    file = d.structure("file", ("f_mode", number, 96), ("f_path", path, 640))
    d.structure("task_struct", ("group_leader", number, 800), ("start_boottime", number, 960))
    to_file = d.add(POINTER, "", d.add(CONST, "", file))
    to_path = d.add(POINTER, "", path)
    d.function("bpf_lsm_file_open", to_file)
    d.function("bpf_lsm_path_rename", to_path, to_dentry, to_path, to_dentry, number)
    d.function("bpf_lsm_odd", number)
    return d


def test_members_are_found_through_unions_and_structures_within(described):
    kernel = Structures(described.content())
    assert kernel.offset("dentry", "d_inode") == 64
    assert kernel.offset("dentry", "d_name", "name") == 32 + 8
    assert kernel.offset("file", "f_path", "dentry") == 80 + 8
    for missing in (("dentry", "d_none"), ("none", "x"), ("file", "f_mode", "x")):
        with pytest.raises(GuardUnsupported):
            kernel.offset(*missing)


def test_arguments_are_found_by_what_they_point_to(described):
    kernel = Structures(described.content())
    rename = kernel.function("bpf_lsm_path_rename")
    assert kernel.arguments(rename, "dentry") == (1, 3)
    assert kernel.arguments(rename, "path") == (0, 2)
    assert kernel.arguments(kernel.function("bpf_lsm_file_open"), "file") == (0,)
    assert kernel.function("bpf_lsm_none") is None


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 40, b"\x9f\xeb\1\0"], ids=["nothing", "zeros", "start"]
)
def test_what_is_no_description_is_refused(content):
    with pytest.raises(GuardUnsupported):
        Structures(content)


def test_a_description_that_is_cut_off_is_refused(described):
    with pytest.raises(GuardUnsupported):
        Structures(described.content()[:60])


def test_a_kernel_that_says_nothing(tmp_path):
    with pytest.raises(GuardUnsupported):
        structures.of_this_kernel(tmp_path / "none")


def test_jumps_lead_to_their_labels():
    code = Assembler()
    code.jump_equal(1, 7, "end")
    code.number(0, 1)
    code.jump("end")
    code.label("end")
    code.leave(0)
    assert code.assembled() == b"".join(
        struct.pack("<BBhi", *each)
        for each in ((0x15, 1, 2, 7), (0xB7, 0, 0, 1), (0x05, 0, 0, 0), (0xB7, 0, 0, 0),
                     (0x95, 0, 0, 0))
    )  # fmt: skip


def test_programs_jump_forward_within_themselves_only(described):
    kernel = Structures(described.content())
    maps = Maps(3, 4, 5, 6)
    for number, hook in enumerate(HOOKS):
        function = kernel.function(f"bpf_lsm_{hook.name}")
        if function is None:
            continue
        code = programs.build(number, function, maps, kernel)
        count = len(code) // 8
        for at in range(count):
            operation, _, offset, _ = struct.unpack_from("<BBhi", code, at * 8)
            if operation & 7 == 5 and operation not in {0x85, 0x95}:
                assert -1 < offset < count - at
        assert code.endswith(struct.pack("<BBhi", 0x95, 0, 0, 0))
        # Every map is used: devices, roots, admitted, events.
        loaded = {struct.unpack_from("<i", code, at * 8 + 4)[0]
                  for at in range(count) if code[at * 8 : at * 8 + 1] == b"\x18"}  # fmt: skip
        assert loaded == {3, 4, 5, 6}


def test_a_hook_that_is_about_something_else_is_refused(described, monkeypatch):
    kernel = Structures(described.content())
    monkeypatch.setattr(programs, "HOOKS", (Hook("odd", "x", "dentry"),))
    with pytest.raises(GuardUnsupported, match="odd"):
        programs.build(0, kernel.function("bpf_lsm_odd"), Maps(1, 2, 3, 4), kernel)


def test_the_stack_holds_the_event():
    assert programs._EVENT >= -512
    assert programs._EVENT % 8 == 0
    assert {hook.name for hook in HOOKS} >= REQUIRED
