"""Names, plans, bitmaps as extents, the orders of a group, errors: without libvirt's daemon."""

import datetime

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.clock import SYSTEM
from ruchu.errors import (
    AlreadyExists,
    InvalidName,
    NotFound,
    PlatformError,
    Unreachable,
    Unsupported,
)
from ruchu.model.extents import Content, Extent
from ruchu.model.machines import DiskSpec
from ruchu.model.sources import ChangeRef
from ruchu.platforms.libvirt import checkpoints, client, disks, hosts, naming, planning, snapshots
from ruchu.platforms.libvirt.checkpoints import Moment

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
MACHINE = "ABCDEF01-2222-3333-4444-555555555555"


# -------------------------------------------------------------------------------------- names


def test_checkpoint_names_are_ours_and_sort_by_time():
    name = naming.checkpoint("job-1.x", NOW)
    assert name.startswith("ruchu-job-1.x-20260102T030405678901Z-")
    assert naming.is_checkpoint_of(name, "job-1.x")
    assert not naming.is_checkpoint_of(name, "job-1")
    assert not naming.is_checkpoint_of(name, "x")
    assert not naming.is_checkpoint_of("ruchu-job-1.x", "job-1.x")
    assert name < naming.checkpoint("job-1.x", NOW + datetime.timedelta(microseconds=1))


def test_marks_name_owner_and_machine():
    mark = naming.mark("a", MACHINE)
    for name in (mark, f"{mark}.sock", f"{mark}.vda.scratch"):
        assert naming.is_mark_of(name, "a", MACHINE)
        assert not naming.is_mark_of(name, "b", MACHINE)
        assert not naming.is_mark_of(name, "a", MACHINE.replace("A", "B"))
    # One owner's name may look like the beginning of another's.
    other = naming.mark("a-abcdef01", "99999999-2222-3333-4444-555555555555")
    assert not naming.is_mark_of(f"{other}.sock", "a", MACHINE)
    assert not naming.is_mark_of("", "a", MACHINE)


@pytest.mark.parametrize("owner", ["", "-x", "a/b", "a b", "x" * 41, "é", "a\n", "restore"])
def test_owners_that_are_refused(owner):
    with pytest.raises(InvalidName):
        naming.mark(owner, MACHINE)


# -------------------------------------------------------------------------------------- plans


def disk(key, size=100, image_format="qcow2"):
    return DiskSpec(key, size, image_format, f"/{key}", tracked=image_format == "qcow2")


def test_plans():
    found = [disk("vda"), disk("vdb", image_format="raw"), disk("vdc"), disk("vdd", 200)]
    base = ChangeRef("cp")
    moment = Moment("cp", {"vda": "cp", "vdd": "cp"}, {"vda": 100, "vdd": 100})
    made = planning.plan(found, base, moment)
    assert [(plan.key, plan.base) for plan in made.disks] == [
        ("vda", "cp"),
        ("vdb", ""),
        ("vdc", ""),
        ("vdd", ""),
    ]
    assert [(reason.code, reason.disk) for reason in made.reasons] == [
        ("format-untracked", "vdb"),
        ("disk-new", "vdc"),
        ("disk-resized", "vdd"),
    ]
    assert dict(made.tracked) == {"vda": 100, "vdc": 100, "vdd": 200}
    lost = planning.plan(found[:1], base, None)
    assert [reason.code for reason in lost.reasons] == ["no-reference"]
    full = planning.plan(found[:1], None, None)
    assert (full.reasons, full.base_of("vda"), full.base_of("x")) == ((), "", "")


def test_choosing_disks():
    found = [disk("vda"), disk("vdb")]
    assert planning.chosen(found, ()) == tuple(found)
    assert planning.chosen(found, ["vdb"]) == (found[1],)
    with pytest.raises(NotFound, match="vdz"):
        planning.chosen(found, ["vda", "vdz"])
    with pytest.raises(NotFound):
        planning.chosen([], ())


def test_a_checkpoint_definition():
    text = checkpoints.definition("name", {"vda": 5}, ["vdb"])
    assert "<description>ruchu sizes: vda=5</description>" in text
    assert "<disk name=\"vda\" checkpoint='bitmap'/>" in text
    assert "<disk name=\"vdb\" checkpoint='no'/>" in text


# ------------------------------------------------------------------------------------ bitmaps

SIZE = 64
marks = st.frozensets(st.integers(0, SIZE - 1))
contents = st.lists(st.sampled_from(list(Content)), min_size=SIZE, max_size=SIZE)


def ranges(blocks):
    run = []
    for block in sorted(blocks):
        if run and sum(run[-1]) == block:
            run[-1] = (run[-1][0], run[-1][1] + 1)
        else:
            run.append((block, 1))
    return iter(run)


@given(left=marks, right=marks)
def test_the_union_of_bitmaps(left, right):
    found = list(disks.union(ranges(left), ranges(right)))
    assert found == list(ranges(left | right))


@given(marked=marks, content=contents)
def test_marked_ranges_get_the_content_of_the_disk(marked, content):
    extents = [Extent(block, 1, each) for block, each in enumerate(content)]
    found = list(disks.with_content(ranges(marked), iter(extents)))
    blocks = {}
    for extent in found:
        for block in range(extent.start, extent.end):
            assert block not in blocks
            blocks[block] = extent.content
    zeros = {Content.ZERO, Content.HOLE}
    assert blocks == {
        block: Content.ZERO if content[block] in zeros else Content.DATA for block in marked
    }


def test_what_the_map_does_not_cover_is_read():
    found = list(disks.with_content(iter([(0, 10)]), iter([Extent(0, 4, Content.HOLE)])))
    assert found == [Extent(0, 4, Content.ZERO), Extent(4, 6, Content.DATA)]


# ------------------------------------------------------------------------------------- orders


class Recorded:
    """A machine that notes its steps, and fails at one of them."""

    def __init__(self, log, name, fails=""):
        self.log, self.name, self.fails = log, name, fails

    def __getattr__(self, step):
        def called():
            self.log.append(f"{self.name}.{step}")
            if step == self.fails:
                raise PlatformError(f"{self.name} {step}")
            return f"point {self.name}"

        return called


def run(order, *fails):
    log = []
    captures = [Recorded(log, str(number), fail) for number, fail in enumerate(fails)]
    with snapshots.opened(captures, order, lambda *_: None) as points:
        log.append("body")
    return log, points


def test_serial_is_one_after_the_other():
    log, _ = run("serial", "", "")
    assert log == [
        *["0.prepare", "0.freeze", "0.begin", "0.thaw"],
        *["1.prepare", "1.freeze", "1.begin", "1.thaw"],
        *["0.connect", "1.connect", "body", "1.close", "0.close"],
    ]


def test_a_barrier_freezes_all_before_it_begins_any():
    log, _ = run("barrier", "", "", "")
    steps = [entry.partition(".")[2] for entry in log]
    assert steps == [
        *["prepare"] * 3,
        *["freeze"] * 3,
        *["begin"] * 3,
        *["thaw"] * 3,
        *["connect"] * 3,
        "",
        *["close"] * 3,
    ]


@pytest.mark.parametrize("order", ["serial", "parallel", "barrier"])
@pytest.mark.parametrize("step", ["prepare", "freeze", "begin", "thaw", "connect"])
def test_a_failing_machine_is_thawed_and_closed_and_the_others_go_on(order, step):
    log, points = run(order, "", step, "")
    assert isinstance(points[1], PlatformError)
    assert [points[0], points[2]] == ["point 0", "point 2"]
    for number in range(3):
        assert f"{number}.close" in log
        frozen = f"{number}.freeze" in log
        assert not frozen or f"{number}.thaw" in log
    if step != "connect":
        assert "1.connect" not in log


def test_an_error_at_the_end_closes_the_others_too():
    log = []
    captures = [Recorded(log, "0"), Recorded(log, "1", "close"), Recorded(log, "2")]
    with pytest.raises(PlatformError), snapshots.opened(captures, "serial", lambda *_: None):
        pass
    assert log[-3:] == ["2.close", "1.close", "0.close"]


# ------------------------------------------------------------------------------ errors, hosts


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, NotFound),
        (libvirt.VIR_ERR_RPC, Unreachable),
        (libvirt.VIR_ERR_DOM_EXIST, AlreadyExists),
        (libvirt.VIR_ERR_NO_SUPPORT, Unsupported),
        (libvirt.VIR_ERR_INTERNAL_ERROR, PlatformError),
    ],
)
def test_errors_of_libvirt(code, kind):
    error = libvirt.libvirtError("x")
    error.err = (code, 0, "the text", 2, "", "", "", 0, 0)
    with pytest.raises(kind) as caught, client.translated("machine x"):
        raise error
    assert type(caught.value) is kind
    assert "machine x" in str(caught.value)


def test_a_daemon_that_does_not_answer():
    with pytest.raises(Unreachable):
        client.Client("qemu+unix:///system?socket=/no/such/socket").connection()


def test_hosts_of_uris():
    assert isinstance(hosts.host_of("qemu:///system", SYSTEM), hosts.LocalHost)
    remote = hosts.host_of("qemu+ssh://u@h:22/system?keyfile=/k", SYSTEM)
    assert isinstance(remote, hosts.SshHost)
    remote.close()
    for uri in ("qemu+tls://h/system", "qemu+tcp://h/system", "xen:///", "test:///default"):
        with pytest.raises(Unsupported):
            hosts.host_of(uri, SYSTEM)


def test_the_local_host(tmp_path):
    host = hosts.LocalHost()
    path = f"{tmp_path}/a/b/file"
    host.make_directory(f"{tmp_path}/a/b")
    assert host.names(f"{tmp_path}/none") == []
    host.write(path, b"data")
    with pytest.raises(PlatformError):
        host.write(path, b"again")
    host.sync(path)
    assert host.exists(path)
    assert host.read(path) == b"data"
    host.rename(path, f"{path}2")
    assert host.names(f"{tmp_path}/a/b") == ["file2"]
    host.remove(path)
    host.remove(f"{path}2")
    with pytest.raises(PlatformError):
        host.read(path)
    with pytest.raises(PlatformError):
        host.names("/proc/self/status")
    with host.socket("/x") as reached:
        assert reached == "/x"
