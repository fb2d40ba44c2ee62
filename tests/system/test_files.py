"""Files out of points, through the command line, compared with the mounted original."""

import base64
import contextlib
import hashlib
import io
import os
import random
import shlex
import socket
import stat
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from ruchu.testing.command_line import CommandLine
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

DISK = 512 * MIB
# Name → (first byte, bytes): ext4, XFS and NTFS in a GPT.
PARTS = {"ext4": (1 * MIB, 96 * MIB), "xfs": (97 * MIB, 320 * MIB), "ntfs": (417 * MIB, 64 * MIB)}
EXT4, XFS, NTFS = "/disk0p1", "/disk0p2", "/disk0p3"
MANY = 500


def run(*words, **more):
    command = list(map(str, words))
    done = subprocess.run(command, capture_output=True, timeout=120, check=False, **more)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@contextlib.contextmanager
def mounted(image, kind, options="loop"):
    at = Path(f"{image}.mount")
    at.mkdir(exist_ok=True)
    if kind == "ntfs":
        run("ntfs-3g", image, at, "-o", "streams_interface=windows,permissions")
    else:
        run("mount", "-t", kind, "-o", options, image, at)
    try:
        yield at
    finally:
        run("umount", at)
        if kind == "ntfs":
            # The FUSE daemon may still be writing when umount returns.
            run("flock", "-w", "60", image, "true")


def fill(root, rng):  # noqa: PLR0915 - one of each kind
    """Make what a Linux file system can hold, and what a hostile guest would."""
    (root / "etc").mkdir()
    for name in ("a.conf", "b.conf", "hosts"):
        (root / "etc" / name).write_bytes(rng.randbytes(rng.randrange(1, 5000)))
    (root / "etc/deep/er").mkdir(parents=True)
    (root / "etc/deep/er/C.CONF").write_text("x")
    (root / "big").write_bytes(rng.randbytes(5 * MIB + 321))
    with (root / "sparse").open("wb") as file:
        file.seek(20 * MIB)
        file.write(rng.randbytes(100_000))
        file.truncate(64 * MIB)
    (root / "empty").touch()
    os.link(root / "big", root / "etc" / "big again")
    os.link(root / "big", root / "big third")
    os.symlink("etc/hosts", root / "relative")
    os.symlink("/etc", root / "absolute")
    os.symlink("../../../../etc/hosts", root / "etc" / "above")
    os.symlink("round", root / "round")
    os.mknod(root / "null", 0o644 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(root / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as bound:
        place = os.getcwd()
        os.chdir(root)
        bound.bind("socket")
        os.chdir(place)
    for raw in (
        b"new\nline",
        b"\xff\xfe no text",
        b"back\\slash",
        b"\x1b[31mred",
        "ümlaut 语".encode(),
    ):
        (root / os.fsdecode(raw)).write_bytes(raw)
    os.setxattr(root / "etc/a.conf", "user.note", b"\0binary\xff")
    run("setfacl", "-m", "u:1234:rw,g:77:r", root / "etc/b.conf")
    run("setfacl", "-d", "-m", "u:1234:rwx", root / "etc")
    os.chown(root / "etc/hosts", 1001, 70000)
    os.chmod(root / "etc/hosts", 0o4751)
    os.chown(root / "relative", 5, 6, follow_symlinks=False)
    many = root / "many"
    many.mkdir()
    for number in range(MANY):
        (many / f"file {number:05}").write_bytes(b"%d" % number * (number % 50))
    for number, path in enumerate(sorted(root.rglob("*"))):
        moment = 1_500_000_000_000_000_000 + number * 1_000_000_007
        os.utime(path, ns=(moment + 5, moment), follow_symlinks=False)
    os.utime(root / "etc", ns=(1, -2_000_000_000))


def fill_windows(root, rng):
    (root / "Users" / "me").mkdir(parents=True)
    (root / "Users" / "me" / "Letter.TXT").write_bytes(b"Dear me\r\n")
    (root / "Users" / "me" / "Letter.TXT:Zone.Identifier").write_bytes(b"[ZoneTransfer]")
    (root / "big.bin").write_bytes(rng.randbytes(3 * MIB + 11))
    (root / "卷.txt").write_bytes(b"x")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Yield a command line with a point of a disk, and the images of its volumes."""
    home = tmp_path_factory.mktemp("files")
    rng = random.Random(7)
    disk = home / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(DISK)
    table = "label: gpt\n" + "".join(
        f"start={start // 512}, size={size // 512}\n" for start, size in PARTS.values()
    )
    run("sfdisk", disk, input=table.encode())
    images = {}
    for kind, (start, size) in PARTS.items():
        image = images[kind] = home / f"{kind}.image"
        with image.open("wb") as file:
            file.truncate(size)
        if kind == "ntfs":
            run("mkntfs", "-F", "-Q", "-q", image)
        else:
            run(f"mkfs.{kind}", *(["-q", "-F"] if kind == "ext4" else ["-q"]), "-L", kind, image)
        with mounted(image, kind) as at:
            (fill_windows if kind == "ntfs" else fill)(at, rng)
        run(
            "dd",
            f"if={image}",
            f"of={disk}",
            "bs=1M",
            f"seek={start // MIB}",
            "conv=notrunc,sparse",
        )
    cli = CommandLine(home)
    cli.run("storage", "add", "s", "s", "--no-encryption")
    done = cli.json("backup", "image", disk, "--storage", "s", "--name", "o", "--raw")
    cli.point = done["point"]
    cli.images = images
    return cli


def seen(path):
    """Return all that can be told of a file, but for what no restore can bring back."""
    found = os.lstat(path)
    kind = stat.S_IFMT(found.st_mode)
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if not name.startswith("trusted.SGI_ACL")  # how XFS keeps what is there as an ACL, too
    }
    facts = (found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, xattrs)
    content = None
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        content = (found.st_size, found.st_nlink, digest)
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
        content = found.st_rdev
    return facts, content


def tree(root):
    root = os.fsencode(root)
    found = {}
    for place, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = os.path.join(place, name)
            found[path[len(root) :]] = seen(path)
    found.pop(b"/lost+found", None)
    return found


@pytest.mark.parametrize(("kind", "volume"), [("ext4", EXT4), ("xfs", XFS)])
def test_a_whole_volume_is_as_it_was(saved, tmp_path, kind, volume):
    done = saved.json("files", "get", saved.point, volume, "--to", tmp_path / "out")
    assert done["failed"] == 0
    assert done["notes"] == []
    got = tmp_path / "out" / volume.strip("/")
    with mounted(saved.images[kind], kind, "loop,ro,norecovery") as at:
        assert tree(got) == tree(at)
        assert seen(got) == seen(at)
    assert os.stat(got / "sparse").st_blocks * 512 < MIB
    assert os.stat(got / "big").st_ino == os.stat(got / "etc" / "big again").st_ino
    assert (done["hard_links"], done["special"]) == (2, 3)
    again = saved.json("files", "get", saved.point, volume, "--to", tmp_path / "out", status=2)
    assert again["failed"] > MANY
    assert {each["code"] for each in again["problems"]} == {"already-exists"}
    (got / "etc/hosts").write_text("changed")
    saved.run("files", "get", saved.point, volume, "--to", tmp_path / "out", "--overwrite")
    with mounted(saved.images[kind], kind, "loop,ro,norecovery") as at:
        assert tree(got) == tree(at)


def test_ntfs_comes_with_its_streams(saved, tmp_path):
    done = saved.json("files", "get", saved.point, f"{NTFS}/users/ME", "--to", tmp_path)
    assert (done["failed"], done["files"], done["streams"]) == (0, 1, 1)
    assert (tmp_path / "me/Letter.TXT").read_bytes() == b"Dear me\r\n"
    assert (tmp_path / "me/Letter.TXT:Zone.Identifier").read_bytes() == b"[ZoneTransfer]"
    words = ("files", "cat", saved.point, f"{NTFS}/USERS/me/letter.txt")
    assert saved.run(*words) == "Dear me\r\n"
    assert saved.run(*words, "--stream", "Zone.Identifier") == "[ZoneTransfer]"
    shown = saved.json(*words)
    assert base64.b64decode(shown["content_base64"]) == b"Dear me\r\n"
    assert shown["streams"] == {"Zone.Identifier": 14}
    saved.fails(3, "not-found", *words, "--stream", "other")


def test_volumes_are_listed_and_can_be_pasted(saved):
    volumes = saved.json("files", "ls", saved.point)
    assert [(each["path"], each["kind"], each["reason"]) for each in volumes] == [
        (EXT4, "ext4", ""), (XFS, "xfs", ""), (NTFS, "ntfs", ""),
    ]  # fmt: skip
    assert [each["label"] for each in volumes[:2]] == ["ext4", "xfs"]
    assert [each["size"] for each in volumes] == [size for _, size in PARTS.values()]
    for line in saved.run("files", "ls", saved.point).splitlines():
        assert saved.run("files", "ls", saved.point, f"/{line.split()[0]}")


def test_listings_tell_what_the_kernel_tells(saved):
    with mounted(saved.images["ext4"], "ext4", "loop,ro") as at:
        for folder in ("", "/etc", "/many"):
            listed = saved.json("files", "ls", saved.point, EXT4 + folder)
            real = {
                os.fsencode(entry.name): os.lstat(entry) for entry in os.scandir(f"{at}{folder}")
            }
            assert len(listed) == len(real)
            for each in listed:
                name = base64.b64decode(each.get("name_base64", "")) or each["name"].encode()
                found = real[name]
                assert int(each["mode"], 8) == stat.S_IMODE(found.st_mode)
                assert (each["owner"], each["group"]) == (found.st_uid, found.st_gid)
                assert each["links"] == found.st_nlink
                assert each["allocated"] == found.st_blocks * 512
                assert each["node"] == found.st_ino
                # A device has no size, and a directory that of its blocks.
                assert each["size"] == found.st_size
                whole, rest = divmod(found.st_mtime_ns, 10**9)
                expected = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
                assert each["modified"] == f"{expected}.{rest:09}Z"
        total = sum(1 for _ in at.rglob("*"))
    assert len(saved.json("files", "ls", saved.point, EXT4, "--recursive")) == total
    (null,) = (each for each in listed_root(saved) if each["name"] == "null")
    assert (null["kind"], null["device"]) == ("character-device", [1, 3])
    (link,) = saved.json("files", "ls", saved.point, f"{EXT4}/relative")
    assert (link["kind"], link["target"]) == ("symlink", "etc/hosts")


def listed_root(saved):
    return saved.json("files", "ls", saved.point, EXT4)


def test_hostile_names_never_reach_a_terminal(saved):
    process = saved.popen("files", "ls", saved.point, EXT4)
    out, _ = process.communicate()
    assert all(byte >= 32 or byte == 10 for byte in out)
    lines = out.decode().splitlines()
    assert len(lines) == len(listed_root(saved))
    shown = [r"new\x0aline", r"\xff\xfe no text", r"back\\slash", r"\x1b[31mred", "ümlaut 语"]
    for name in shown:
        assert sum(line.endswith(f" {name}") for line in lines) == 1
        process = saved.popen("files", "cat", saved.point, f"{EXT4}/{name}")
        content, _ = process.communicate()
        # What is printed can be pasted; the content of each of these files is its name.
        assert (content and content != name.encode()) or name == "ümlaut 语"
    odd = {each["name"]: each for each in listed_root(saved) if "name_base64" in each}
    assert list(odd) == [r"\xff\xfe no text"]
    assert base64.b64decode(odd[r"\xff\xfe no text"]["name_base64"]) == b"\xff\xfe no text"


def test_cat_is_safe_for_binaries_and_follows_links(saved):
    with mounted(saved.images["ext4"], "ext4", "loop,ro") as at:
        big = (at / "big").read_bytes()
        hosts = (at / "etc/hosts").read_bytes()
        digest = hashlib.sha256((at / "sparse").read_bytes()).hexdigest()
    out, _ = saved.popen("files", "cat", saved.point, f"{EXT4}/big").communicate()
    assert out == big
    words = ("files", "cat", saved.point, f"{EXT4}/big", "--head", "1500000")
    out, _ = saved.popen(*words).communicate()
    assert out == big[:1_500_000]
    shown = saved.json(*words)
    assert (len(base64.b64decode(shown["content_base64"])), shown["truncated"]) == (1_500_000, True)
    out, _ = saved.popen("files", "cat", saved.point, f"{EXT4}/sparse").communicate()
    assert hashlib.sha256(out).hexdigest() == digest
    for path in ("relative", "absolute/hosts", "etc/above", "etc/../../../etc/./hosts"):
        out, _ = saved.popen("files", "cat", saved.point, f"{EXT4}/{path}").communicate()
        assert out == hosts, path
    saved.fails(12, "guest-damaged", "files", "cat", saved.point, f"{EXT4}/round")
    saved.fails(3, "not-found", "files", "cat", saved.point, f"{EXT4}/etc/nothing")
    saved.fails(2, "usage", "files", "cat", saved.point, f"{EXT4}/etc")
    saved.fails(3, "not-found", "files", "ls", saved.point, "/nowhere")


def test_find_in_one_and_several_points(saved):
    confs = [f"{EXT4}/etc/a.conf", f"{EXT4}/etc/b.conf", f"{XFS}/etc/a.conf", f"{XFS}/etc/b.conf"]
    found = saved.json("files", "find", saved.point, "*.conf")
    assert [each["path"] for each in found] == confs
    assert {each["point"] for each in found} == {saved.point}
    found = saved.json("files", "find", saved.point, "*.conf", "--ignore-case")
    assert len(found) == 6
    found = saved.json("files", "find", "*.conf", "--object", "o")
    assert [each["path"] for each in found] == confs
    found = saved.json("files", "find", f"{EXT4}/etc/*.conf", "--point", saved.point)
    assert [each["path"] for each in found] == confs[:2]
    found = saved.json("files", "find", saved.point, "/*/etc/**/C.*")
    assert [each["path"] for each in found] == [f"{v}/etc/deep/er/C.CONF" for v in (EXT4, XFS)]
    assert saved.json("files", "find", saved.point, "nothing*") == []
    assert confs[0] in saved.run("files", "find", saved.point, "a.conf")
    saved.fails(2, "usage", "files", "find", "*.conf")


def test_tar_gives_back_everything(saved, tmp_path):
    archive = tmp_path / "out.tar"
    done = saved.json("files", "get", saved.point, f"{EXT4}/", "--tar", archive)
    assert (done["failed"], done["hard_links"]) == (0, 2)
    assert [note["text"] for note in done["notes"]] == ["left out: socket, which tar cannot hold"]
    out = tmp_path / "out"
    out.mkdir()
    options = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-xpf"]
    run("tar", *options, archive, "-C", out)
    with mounted(saved.images["ext4"], "ext4", "loop,ro") as at:
        expected = tree(at)
        del expected[b"/socket"]
        assert tree(out / "disk0p1") == expected
    process = saved.popen("files", "get", saved.point, f"{EXT4}/", "--tar", "-")
    streamed, said = process.communicate()
    assert process.returncode == 0, said
    assert streamed == archive.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(streamed)) as packed:
        assert packed.getmember("disk0p1/etc/a.conf").pax_headers["SCHILY.xattr.user.note"]
    saved.fails(2, "already-exists", "files", "get", saved.point, EXT4, "--tar", archive)


def test_zip_holds_content_and_says_what_it_cannot(saved, tmp_path):
    archive = tmp_path / "out.zip"
    done = saved.json("files", "get", saved.point, f"{EXT4}/", f"{NTFS}/Users", "--zip", archive)
    assert (done["failed"], done["streams"]) == (0, 1)
    notes = " ".join(note["text"] for note in done["notes"])
    for what in ("hard links", "socket", "character-device", "fifo", "%HH", "ACLs"):
        assert what in notes
    with mounted(saved.images["ext4"], "ext4", "loop,ro") as at, zipfile.ZipFile(archive) as packed:
        assert packed.testzip() is None
        names = set(packed.namelist())
        for name in ("big", "sparse", "etc/hosts", "etc/deep/er/C.CONF", "ümlaut 语", "empty"):
            assert packed.read(f"disk0p1/{name}") == (at / name).read_bytes()
    assert {"disk0p1/back%5Cslash", "disk0p1/new%0Aline", "disk0p1/%FF%FE no text"} <= names
    assert packed.getinfo("disk0p1/etc/hosts").external_attr >> 16 == 0o104751
    assert stat.S_ISLNK(packed.getinfo("disk0p1/absolute").external_attr >> 16)
    assert packed.NameToInfo["Users/me/Letter.TXT:Zone.Identifier"].file_size == 14
    process = saved.popen("files", "get", saved.point, f"{EXT4}/etc", "--zip", "-")
    streamed, said = process.communicate()
    assert process.returncode == 0, said
    (tmp_path / "streamed.zip").write_bytes(streamed)
    run("python3", "-m", "zipfile", "-e", tmp_path / "streamed.zip", tmp_path / "unpacked")
    assert (tmp_path / "unpacked/etc/a.conf").stat().st_size > 0


# A name whose inode is not in use; a name that is a directory whose inode is not in use either.
BROKEN = {
    "ext4": lambda image, node: run("debugfs", "-w", "-R", f"clri <{node}>", image),
    "xfs": lambda image, node: run(
        "xfs_db", "-x", "-c", f"inode {node}", "-c", "write core.mode 0", image
    ),
}


GONE = {"/disk0/top/file 3", "/disk0/top/gone dir"}
KEPT = {f"file {number}" for number in range(8)} - {"file 3"}


@pytest.fixture(scope="module", params=BROKEN)
def broken(request, tmp_path_factory):
    """Return a command line with a point of a file system of which two inodes are not in use."""
    home, kind = tmp_path_factory.mktemp("broken"), request.param
    disk = home / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(PARTS["xfs"][1])
    run(f"mkfs.{kind}", *(["-q", "-F"] if kind == "ext4" else ["-q"]), disk)
    with mounted(disk, kind) as at:
        (at / "top/gone dir").mkdir(parents=True)
        for number in range(8):
            (at / f"top/file {number}").write_bytes(b"%d" % number * 100)
        nodes = [os.lstat(f"{at}{path.removeprefix('/disk0')}").st_ino for path in sorted(GONE)]
    for node in nodes:
        BROKEN[kind](disk, node)
    cli = CommandLine(home)
    cli.run("storage", "add", "s", "s", "--no-encryption")
    cli.point = cli.json("backup", "image", disk, "--storage", "s", "--name", "o", "--raw")["point"]
    return cli


def assert_told(cli, done):
    assert {each["path"] for each in done["problems"]} == GONE
    assert {each["code"] for each in done["problems"]} == {"guest-damaged"}
    assert (done["failed"], done["entries"], done["files"]) == (2, 10, 7)
    assert done["error"]["code"] == "guest-incomplete"
    assert "2 of 10 entries" in done["error"]["message"]
    assert all(f"failed: {path}: " in cli.err for path in GONE)
    assert "ruchu: Not everything" in cli.err


def test_what_cannot_be_read_is_told_and_the_rest_is_fetched(broken, tmp_path):
    fetch = ("files", "get", broken.point, "/disk0/top")
    assert_told(broken, broken.json(*fetch, "--to", tmp_path / "out", status=12))
    assert set(os.listdir(tmp_path / "out/top")) == KEPT
    assert_told(broken, broken.json(*fetch, "--tar", tmp_path / "out.tar", status=12))
    with tarfile.open(tmp_path / "out.tar") as packed:
        assert set(packed.getnames()) == {"top", *(f"top/{name}" for name in KEPT)}
    assert_told(broken, broken.json(*fetch, "--zip", tmp_path / "out.zip", status=12))
    with zipfile.ZipFile(tmp_path / "out.zip") as packed:
        assert packed.testzip() is None
        assert set(packed.namelist()) == {"top/", *(f"top/{name}" for name in KEPT)}
    process = broken.popen(*fetch, "--tar", "-")
    streamed, said = process.communicate()
    assert process.returncode == 12
    assert streamed == (tmp_path / "out.tar").read_bytes()
    assert b"2 of 10 entries" in said


def test_what_cannot_be_read_is_told_and_the_rest_is_listed_and_found(broken):
    listed = broken.json("files", "ls", broken.point, "/disk0/top", status=12)
    assert {each["path"] for each in listed if "problem" in each} == GONE
    assert len(listed) == 9
    assert "2 entries could not be read" in broken.err
    broken.fails(12, "guest-damaged", "files", "cat", broken.point, "/disk0/top/file 3")
    found = broken.json("files", "find", broken.point, "file *", status=12)
    assert {each["name"] for each in found if "problem" not in each} == KEPT
    assert {each["path"] for each in found if "problem" in each} == GONE


def test_files_go_into_a_running_guest(saved, libvirt_uri, place):  # noqa: PLR0915 - one boot
    saved.run("platform", "add", "kvm", libvirt_uri, "--scratch", place)
    with guests.booted(libvirt_uri, [GuestDisk("vda", 128 * MIB)], prefix="ruchu-f") as guest:
        send = ("files", "get", saved.point, f"{EXT4}/etc", f"{EXT4}/big")
        into = ("--guest", guest.name, "--guest-path", "/mnt/vda/a b/$(x)'\"", "--platform", "kvm")
        done = saved.json(*send, *into)
        assert (done["failed"], done["problems"]) == (0, [])
        quoted = shlex.quote(into[3])
        with mounted(saved.images["ext4"], "ext4", "loop,ro") as at:
            for path in [at / "big", *sorted((at / "etc").rglob("*"))]:
                inside = f"{quoted}/{shlex.quote(str(path.relative_to(at)))}"
                found = os.lstat(path)
                told = guest.run(f"stat -c '%a %u %g %Y %F' {inside}").split(" ", 4)
                expected = [f"{stat.S_IMODE(found.st_mode):o}", found.st_uid, found.st_gid]
                if path.is_symlink():
                    assert guest.run(f"readlink {inside}").strip() == os.readlink(path)
                    continue
                assert told[:4] == [*map(str, expected), str(found.st_mtime_ns // 10**9)], path
                if path.is_file():
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    assert guest.run(f"sha256sum {inside}").split()[0] == digest
        assert guest.run(f"find {quoted} -name '.ruchu*'") == ""
        links = [guest.run(f"stat -c %i {quoted}/{name}") for name in ("big", "etc/big\\ again")]
        assert links[0] == links[1]

        guest.run(f"echo mine > {quoted}/etc/hosts")
        again = saved.json(*send, *into, status=2)
        assert {each["code"] for each in again["problems"]} == {"already-exists"}
        assert guest.run(f"cat {quoted}/etc/hosts") == "mine\n"
        assert saved.json(*send, *into, "--overwrite")["failed"] == 0
        assert guest.run(f"wc -c < {quoted}/etc/hosts").strip() != "5"
        assert guest.run(f"find {quoted} -name '.ruchu*'") == ""

        # A disk that is full: what was begun is removed, and the guest's error is told.
        guest.run("mkdir /small && mount -t tmpfs -o size=1m tmpfs /small")
        full = ("files", "get", saved.point, f"{EXT4}/big", "--guest", guest.name)
        error = saved.fails(10, "guest-agent", *full, "--guest-path", "/small")
        assert "space" in error["message"]
        assert guest.run("ls -A /small") == ""
        saved.fails(10, "guest-agent", *full, "--guest-path", "/proc/nothing")
        saved.fails(2, "usage", *full)
    saved.fails(3, "not-found", *full, "--guest-path", "/tmp")
