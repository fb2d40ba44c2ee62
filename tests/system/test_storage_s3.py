"""Storages on S3 through the command line, on servers made by others: moto and rclone."""

import pytest

from ruchu import clock, errors
from ruchu.storage.s3.bucket import Address, Bucket
from ruchu.testing import s3_servers
from ruchu.testing.command_line import CommandLine
from ruchu.units import KIB, MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]

SIZE = 20 * MIB + 777
KEYS = s3_servers.KEYS


@pytest.fixture(scope="module")
def moto():
    with s3_servers.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    with s3_servers.rclone(tmp_path_factory.mktemp("buckets")) as endpoint:
        yield endpoint


def prepared(home):
    home.mkdir(exist_ok=True)
    (home / "keys").write_text(f"access_key = {KEYS.access}\nsecret_key = {KEYS.secret}\n")
    (home / "passphrase").write_text("correct horse\n")
    return CommandLine(home)


@pytest.fixture
def cli(tmp_path):
    return prepared(tmp_path)


@pytest.fixture
def image(cli, rng):
    path = cli.home / "image"
    with path.open("wb") as file:
        file.write(rng.randbytes(10 * MIB))
        file.seek(18 * MIB)
        file.write(rng.randbytes(MIB))
        file.truncate(SIZE)
    return path


def location(endpoint, bucket, prefix="site/a"):
    s3_servers.new_bucket(endpoint, bucket)
    return f"s3://{bucket}/{prefix}?endpoint={endpoint}"


SECRETS = ("--key-file", "passphrase", "--credentials-file", "keys")


def change(path, start, content):
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)
    return path.read_bytes()


def back_up(cli, *words):
    return cli.json("backup", "image", "image", "--storage", "s", "--name", "o", *words)


def restored(cli, point):
    target = cli.home / f"restored-{point[:8]}"
    cli.run("restore", "image", point[:10], target)
    return target.read_bytes()


@pytest.mark.parametrize("server", ["moto", "rclone"])
def test_a_life_of_an_image(server, request, cli, image, rng):
    where = location(request.getfixturevalue(server), f"life-{server}")
    if server == "rclone":
        refused = cli.fails(2, "usage", "storage", "add", "s", where, *SECRETS)
        assert "--one-writer" in refused["hint"]
    cli.run("storage", "add", "s", where, *SECRETS, *(["--one-writer"] * (server == "rclone")))
    (state,) = cli.json("storage", "list")
    assert state["location"].startswith(f"s3://life-{server}/site/a?")
    assert state["probe"]["conditional_put"] is (server == "moto")
    assert KEYS.secret not in (cli.state / "storages.json").read_text()

    truth = {}
    full = back_up(cli)
    truth[full["point"]] = image.read_bytes()
    content = change(image, 3 * MIB, rng.randbytes(100_000))
    increment = back_up(cli)
    truth[increment["point"]] = content
    assert (increment["kind"], increment["parent"]) == ("incremental", full["point"])
    assert increment["bytes_stored"] < 400 * KIB
    content = change(image, 19 * MIB, rng.randbytes(1000))
    truth[back_up(cli)["point"]] = content

    assert cli.json("storage", "verify", "s", "--full")["clean"]
    cli.run("points", "delete", increment["point"][:8], "--yes", "--grace", "0d")
    del truth[increment["point"]]
    for point, expected in truth.items():
        assert restored(cli, point) == expected
    assert cli.json("storage", "verify", "s", "--full")["clean"]
    assert cli.json("storage", "show", "s")["objects"][0]["points"] == 2


def test_another_host_reads_and_takes_over(cli, image, rclone, tmp_path):
    where = location(rclone, "two-hosts")
    cli.run("storage", "add", "s", where, *SECRETS, "--one-writer")
    point = back_up(cli)["point"]
    other = prepared(tmp_path / "other")
    other.run("storage", "adopt", "s", where, *SECRETS)
    assert restored(other, point) == image.read_bytes()
    (other.home / "image").write_bytes(b"x" * MIB)
    words = ["backup", "image", "image", "--storage", "s", "--name", "o"]
    refused = other.fails(5, "storage-read-only", *words)
    assert "--take-over" in refused["hint"]

    other.run("storage", "remove", "s", "--force")
    other.run("storage", "adopt", "s", where, *SECRETS, "--take-over")
    other.json(*words)
    cli.fails(5, "storage-read-only", *words)
    assert len(cli.json("points", "list")) == 2


def test_what_is_wrong_is_said(cli, moto):
    where = location(moto, "wrong")
    cli.fails(5, "storage-gone", "storage", "add", "s", where.replace("wrong", "absent"), *SECRETS)
    nobody = s3_servers.free_port()
    away = f"s3://b123/p?endpoint=http://127.0.0.1:{nobody}"
    with pytest.raises(errors.StorageGone, match="Could not connect"):
        Bucket(Address("b123", "p", f"http://127.0.0.1:{nobody}", attempts_max=1), KEYS).require()
    assert away  # the command line would try for a minute
    for odd in (
        "s3://user:secret@bucket/p",
        "s3://bucket/../p",
        "s3://bucket/p?endpoint=ftp://x",
        "s3://bucket/p?unknown=1",
        "http://bucket/p",
    ):
        cli.fails(2, "usage", "storage", "add", "s", odd, *SECRETS)
    (cli.home / "keys").write_text("what is this\n")
    cli.fails(2, "usage", "storage", "add", "s", where, *SECRETS)
    (cli.home / "keys").unlink()
    cli.fails(3, "not-found", "storage", "add", "s", where, *SECRETS)


def test_wrong_credentials_are_refused(cli, rclone):
    where = location(rclone, "denied")
    (cli.home / "keys").write_text(f"access_key = {KEYS.access}\nsecret_key = another-secret\n")
    refused = cli.fails(5, "storage-refused", "storage", "add", "s", where, *SECRETS)
    assert "credentials" in refused["hint"]


def test_a_server_that_dies_loses_nothing_committed(cli, image, rng, tmp_path):
    buckets = tmp_path / "buckets"
    buckets.mkdir()
    port = s3_servers.free_port()
    with s3_servers.rclone(buckets, port) as endpoint:
        where = location(endpoint, "dies")
        cli.run("storage", "add", "s", where, *SECRETS, "--one-writer")
        truth = {back_up(cli)["point"]: image.read_bytes()}
        content = change(image, 0, rng.randbytes(9 * MIB))
        process = cli.popen("backup", "image", "image", "--storage", "s", "--name", "o", "--json")
        packs = buckets / "dies" / "site" / "a" / "chains"
        before = set(packs.rglob("*.json"))
        # Something of the run is there: its lock at least.
        while process.poll() is None and not set(packs.rglob("*.json")) - before:
            clock.SYSTEM.sleep(0.01)
    # The server is gone while the command runs, or just after it.
    out, _ = process.communicate(timeout=200)
    with s3_servers.rclone(buckets, port):
        if process.returncode:
            assert b'"storage' in out, out
            truth[back_up(cli)["point"]] = content
        for point, expected in truth.items():
            assert restored(cli, point) == expected
        assert cli.json("storage", "verify", "s", "--full")["clean"]
