"""Files of a point through a server: listed, searched, fetched byte by byte, broken off honestly."""

import contextlib
import hashlib
import io
import os
import random
import signal
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from playwright.sync_api import expect

from ruchu.model import guest_paths
from ruchu.testing import browsers
from ruchu.testing.command_line import CommandLine
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk
from ruchu.testing.servers import PASSWORD
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

MANY = 1200
ODD = [b"\xff\xfe no text", b"new\nline", b"back\\slash", b'quo"ted;%', "ümlaut 语.txt".encode(),
       b"<img src=x>.html", b"\\xff literal"]  # fmt: skip
VOLUME = "/disk0"


def run(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, (words, done.stderr)


@contextlib.contextmanager
def mounted(image, options="loop"):
    at = image.with_suffix(".mount")
    at.mkdir(exist_ok=True)
    run("mount", "-o", options, image, at)
    try:
        yield at
    finally:
        run("umount", at)


def fill(root, rng):
    (root / "etc/deep").mkdir(parents=True)
    (root / "etc/a.conf").write_bytes(rng.randbytes(3000))
    (root / "etc/deep/B.CONF").write_bytes(b"b")
    (root / "big").write_bytes(rng.randbytes(24 * MIB + 321))
    with (root / "sparse").open("wb") as file:
        file.seek(40 * MIB)
        file.write(b"end")
        file.truncate(64 * MIB + 7)
    (root / "empty").touch()
    os.symlink("etc/a.conf", root / "link")
    os.symlink("/nowhere", root / "dangling")
    os.mknod(root / "null", 0o644 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(root / "fifo")
    for raw in ODD:
        (root / os.fsdecode(raw)).write_bytes(raw)
    (root / "many").mkdir()
    for number in range(MANY):
        (root / "many" / f"file {number:05}").write_bytes(b"x" * (number % 37))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Yield a server that has adopted a storage with a point; the point, and what is in it."""
    home = tmp_path_factory.mktemp("served")
    image = home / "guest.raw"
    with image.open("wb") as file:
        file.truncate(128 * MIB)
    run("mkfs.ext4", "-q", "-F", "-L", "guest", image)
    with mounted(image) as at:
        fill(at, random.Random(5))
    cli = CommandLine(home)
    cli.run("storage", "add", "s", "s", "--no-encryption")
    point = cli.json("backup", "image", image, "--storage", "s", "--name", "web", "--raw")["point"]
    with (
        browsers.console(home / "one") as console,
        mounted(image, "loop,ro,norecovery") as at,
    ):
        server = console.server
        server.nodes_online(1)
        server.post("/storages", {"name": "main", "location": str(home / "s"), "adopt": True})
        server.point, server.image, server.truth, server.console = point, image, at, console
        yield server


@pytest.fixture(scope="module")
def viewer(world):
    """Return an account that may only see."""
    made = world.post("/users", {"name": "viewer", "grants": {"*": ["read-only"]}})
    world.post("/password", {"link": made["link"], "password": PASSWORD})
    return browsers.Account("viewer", PASSWORD)


@pytest.fixture(scope="module")
def chromium():
    with browsers.browser() as started:
        yield started


def key(path):
    return guest_paths.key_of(os.fsencode(f"{VOLUME}/{path}") if path else VOLUME.encode())


def content(world, **params):
    return world.client.get(f"/points/{world.point}/files/content", params=params)


def listed(world, path, **more):
    """Return the entries of all pages of a directory."""
    items, after = [], ""
    while True:
        page = world.get(
            f"/points/{world.point}/files", key=key(path), limit=100, after=after, **more
        )
        items += page["items"]
        if page["next"] is None:
            return items
        after = page["next"]


def test_what_is_listed_is_what_is_there(world):
    (volume,) = world.get(f"/points/{world.point}/files")["volumes"]
    assert (volume["name"], volume["kind"], volume["label"]) == ("disk0", "ext4", "guest")
    assert volume["readable"]
    top = listed(world, "")
    names = {guest_paths.path_of(each["key"]).rpartition(b"/")[2]: each for each in top}
    assert set(names) == set(map(os.fsencode, os.listdir(world.truth)))
    kinds = [each["kind"] == "directory" for each in top]
    assert kinds == sorted(kinds, reverse=True)
    assert names[b"\xff\xfe no text"]["name"] == "\\xff\\xfe no text"
    assert names[b"link"]["target"] == "etc/a.conf"
    many = listed(world, "many")
    assert [each["name"] for each in many] == [f"file {number:05}" for number in range(MANY)]
    sizes = [each["size"] for each in listed(world, "many", sort="size", descending=True)]
    assert sizes == sorted(sizes, reverse=True)
    answer = world.client.get(f"/points/{world.point}/files", params={"path": f"{VOLUME}/none"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_what_is_searched_is_found(world):
    found = world.get(f"/points/{world.point}/files/search", pattern="*.conf")
    assert {each["path"] for each in found["items"]} == {
        f"{VOLUME}/etc/a.conf", f"{VOLUME}/etc/deep/B.CONF",
    }  # fmt: skip
    assert found["complete"]
    cut = world.get(
        f"/points/{world.point}/files/search", pattern="file*", key=key("many"), limit=10
    )
    assert (len(cut["items"]), cut["stopped"], cut["complete"]) == (10, "limit", False)


def test_files_come_byte_by_byte_under_their_names(world):
    for name in ("big", "sparse", "empty", *map(os.fsdecode, ODD)):
        answer = content(world, key=key(name))
        assert answer.status_code == 200, answer.text
        expected = (world.truth / name).read_bytes()
        assert answer.headers["content-length"] == str(len(expected))
        assert hashlib.sha256(answer.content).digest() == hashlib.sha256(expected).digest()
        header = answer.headers["content-disposition"]
        assert header.startswith("attachment; ")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
    said = content(world, key=key("ümlaut 语.txt")).headers["content-disposition"]
    assert unquote(said.partition("filename*=UTF-8''")[2]) == "ümlaut 语.txt"
    assert content(world, key=key("link")).content == (world.truth / "etc/a.conf").read_bytes()
    assert content(world, key=key("dangling")).status_code == 404
    assert content(world, key=key("fifo")).status_code == 422


def test_directories_and_several_files_come_as_an_archive(world):
    answer = content(world, key=key("etc"))
    assert 'filename="etc.zip"' in answer.headers["content-disposition"]
    assert "content-length" not in answer.headers
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        assert packed.testzip() is None
        assert packed.read("etc/a.conf") == (world.truth / "etc/a.conf").read_bytes()
        assert set(packed.namelist()) == {"etc/", "etc/a.conf", "etc/deep/", "etc/deep/B.CONF"}
    several = content(world, key=[key("big"), key("many")], format="tar")
    assert "web-" in several.headers["content-disposition"]
    with tarfile.open(fileobj=io.BytesIO(several.content)) as packed:
        assert packed.extractfile("big").read() == (world.truth / "big").read_bytes()
        assert len(packed.getnames()) == MANY + 2


@pytest.mark.parametrize("form", ["raw", "qcow2", "vhdx"])
def test_a_disk_comes_as_an_image(world, tmp_path, form):
    path = tmp_path / f"disk.{form}"
    url = f"/points/{world.point}/disks/disk0/image"
    with world.client.stream("GET", url, params={"format": form}) as answer:
        assert answer.status_code == 200
        with path.open("wb") as file:
            for piece in answer.iter_bytes():
                file.write(piece)
    assert f"-disk0.{form}" in answer.headers["content-disposition"]
    assert path.stat().st_size == int(answer.headers["content-length"])
    run("qemu-img", "compare", "-f", "raw", "-F", form, world.image, path)


def test_who_may_not_restore_gets_nothing(world, viewer, chromium):
    other = httpx.Client(base_url=world.client.base_url)
    wanted = {"name": viewer.name, "password": viewer.password}
    token = other.post("/sessions", json=wanted).json()["token"]
    other.headers["Authorization"] = f"Bearer {token}"
    for path in (
        f"/points/{world.point}/files", f"/points/{world.point}/files/search?pattern=x",
        f"/points/{world.point}/files/content?key={key('big')}",
        f"/points/{world.point}/disks/disk0/image",
    ):  # fmt: skip
        assert other.get(path).status_code == 403
    other.close()
    with browsers.visitor(chromium, world.console, account=viewer) as visitor:
        for act in ("files", "export"):
            browsers.show(visitor.page, f"/restore/point/{world.point}/{act}")
            expect(visitor.page.get_by_text("Your role does not allow this.")).to_be_visible()


def test_what_was_fetched_stands_in_the_audit_trail(world):
    content(world, key=[key("etc"), key("empty")])
    (first, *_) = world.get("/audit", action="point.download")["items"]
    assert first["facts"]["paths"] == [f"{VOLUME}/etc", f"{VOLUME}/empty"]


def test_what_breaks_off_never_looks_complete(world):
    broken_off(world, {"key": key("big")}, readers)
    broken_off(world, {"key": key("big"), "format": "tar"}, readers)
    broken_off(world, {"key": key("big"), "format": "zip"}, nodes)
    world.until(lambda: content(world, key=key("empty")).status_code == 200)


def broken_off(world, params, killed):
    """Kill processes while something is fetched slowly; the client must see it."""
    url = f"/points/{world.point}/files/content"
    size = 0
    with world.client.stream("GET", url, params=params) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_raw(64 << 10)
        size += len(next(pieces))
        for pid in killed(world):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            for piece in pieces:
                size += len(piece)
    assert size < 24 * MIB


def readers(world):
    """Return the processes that have a point open."""
    return processes(world, b"ruchu.nodes.point_process")


def nodes(world):
    """Return the processes of the node, of which a point is open in one."""
    return processes(world, b"\0node\0")


def processes(world, part):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            if part in line and os.fsencode(world.home) in line:
                found.append(int(path.parent.name))
    assert found
    return found


def fetched(page, click):
    """Click on what fetches something; return the name that it gets, and its content."""
    with page.expect_download() as waiting:
        click()
    download = waiting.value
    assert download.failure() is None
    return download.suggested_filename, Path(download.path()).read_bytes()


def test_a_person_looks_through_a_point_and_fetches_files(world, chromium):
    with browsers.visitor(chromium, world.console) as visitor:
        page = visitor.page
        browsers.show(page, f"/restore/point/{world.point}/files")
        page.get_by_text("guest").click()
        table = page.locator("[data-test=files]")
        expect(table).to_be_visible()
        get = table.get_by_label("Download ümlaut 语.txt")
        assert fetched(page, get.click) == ("ümlaut 语.txt", "ümlaut 语.txt".encode())
        _, odd = fetched(page, table.get_by_label("Download \\xff\\xfe no text").click)
        assert odd == ODD[0]
        table.get_by_label("Choose etc").click()
        table.get_by_label("Choose big").click()
        name, packed = fetched(page, page.locator("[data-test=fetch-zip]").click)
        assert name.startswith("web-")
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            assert archive.read("big") == (world.truth / "big").read_bytes()
        page.locator("[data-test=search] input, input[data-test=search]").first.fill("conf")
        page.keyboard.press("Enter")
        expect(page.get_by_text("B.CONF")).to_be_visible()
        expect(page.get_by_text(f"{VOLUME}/etc/deep")).to_be_visible()
    with browsers.visitor(chromium, world.console, size=browsers.PHONE, language="zh") as visitor:
        for path in (f"files?key={key('')}", f"files?key={key('many')}&sort=-size", "export"):
            browsers.show(visitor.page, f"/restore/point/{world.point}/{path}")
            visitor.page.locator("[data-test=files], [data-test=format]").wait_for()
            browsers.no_horizontal_scroll(visitor.page)


def test_a_browser_shows_a_broken_download_as_failed(world, chromium):
    with browsers.visitor(chromium, world.console) as visitor:
        page = visitor.page
        browsers.show(page, f"/restore/point/{world.point}/export?format=raw")
        with page.expect_download() as waiting:
            page.locator("[data-test=fetch-image]").click()
        for pid in readers(world):
            os.kill(pid, signal.SIGKILL)
        assert waiting.value.failure() is not None


def test_files_are_sent_back_into_a_running_machine(world, libvirt_uri, place):
    world.post("/platforms", {"name": "kvm", "uri": libvirt_uri, "scratch": str(place)})
    with guests.booted(libvirt_uri, [GuestDisk("vda", 64 * MIB)], prefix="ruchu-f") as guest:
        body = {
            "keys": [key("etc"), key("ümlaut 语.txt")], "platform": "kvm", "machine": guest.name,
            "directory": "/mnt/vda/back",
        }  # fmt: skip
        path = f"/points/{world.point}/files/return"
        done = world.over(world.post(path, body)["id"])
        assert done["state"] == "succeeded", (done, world.trouble())
        digest = hashlib.sha256((world.truth / "etc/a.conf").read_bytes()).hexdigest()
        assert guest.run("sha256sum /mnt/vda/back/etc/a.conf").split()[0] == digest
        again = world.over(world.post(path, body)["id"])
        assert again["state"] == "failed"
        (task,) = world.get(f"/runs/{again['id']}/tasks")
        assert {each["code"] for each in task["result"]["problems"]} == {"already-exists"}
        done = world.over(world.post(path, {**body, "overwrite": True})["id"])
        assert done["state"] == "succeeded", (done, world.trouble())
