"""Locations: what is taken, what is refused, and that a location comes back from its text."""

import pytest

from ruchu.errors import UsageError
from ruchu.storage import locations
from ruchu.storage.mounting import mounts, shares

RIGHT = (
    "file:///backup/ruchu",
    "s3://bucket/some/prefix?endpoint=https://s3.example.org:9000&region=eu-1&style=path",
    "s3://bucket",
    "device:///dev/mapper/vg-lv",
    "device:///dev/disk/by-id/wwn-0x5000c500",
    "device:///dev/sdb?uuid=01234567-89ab-4def-8123-456789abcdef",
    "nfs://nas/volume1/back%20up?vers=4.1",
    "nfs://[fd00::1]:20049/export",
    "smb://nas:1445/backup/ruchu?seal=1&domain=CORP",
    "iscsi://san:3260/iqn.2001-05.com.example:backup/3",
)
WRONG = (
    "http://host/x",
    "s3:///prefix",
    "s3://user:secret@bucket/x",
    "s3://bucket:9000/x",
    "s3://bucket/a//b",
    "s3://bucket/../x",
    "s3://bucket/x?endpoint=https://host/path",
    "s3://bucket/x?style=odd",
    "s3://bucket/x?region=a&region=b",
    "s3://bucket/x#fragment",
    "device://host/dev/sdb",
    "device:///etc/passwd",
    "device:///dev/../etc/passwd",
    "device:///dev/sdb?uuid=1234",
    "nfs:///export",
    "nfs://nas",
    "nfs://nas/a,exec",
    "nfs://nas,soft/export",
    "nfs://nas/export?vers=4.2,soft",
    "nfs://nas/export?soft=1",
    "nfs://-o/export",
    "smb://nas/",
    "smb://nas/sh%0aare",
    "iscsi://san/iqn.2001-05.com.example:backup",
    "iscsi://san/target/0",
    "file://host/path",
    "file:///path?x=1",
    "nfs://nas:port/export",
    "x" * 3000 + "://",
)


@pytest.mark.parametrize("text", RIGHT)
def test_a_location_comes_back(text):
    found = locations.parse(text)
    assert locations.parse(str(found)) == found


def test_what_is_in_a_location():
    found = locations.parse("iscsi://san:3261/iqn.2001-05.com.example:backup/3")
    assert (found.host, found.port) == ("san", 3261)
    assert found.target == ("iqn.2001-05.com.example:backup", 3)
    assert found.mounted
    assert not locations.parse("/some/where").mounted
    assert locations.parse("s3://bucket/a/b/").path == "a/b"
    assert locations.parse("nfs://nas/back%20up").path == "/back up"


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_location_is_refused(text):
    with pytest.raises(UsageError):
        locations.parse(text)


def test_a_secret_is_not_repeated():
    with pytest.raises(UsageError) as caught:
        locations.parse("smb://user:secret@nas/share")
    assert "secret" not in str(caught.value)


def test_options_of_mounts():
    nfs = shares.nfs_options(locations.parse("nfs://nas:2049/x?vers=3"))
    assert {"hard", "vers=3", "port=2049", "nolock"} <= set(nfs)
    assert "soft" not in nfs
    smb = shares.smb_options(locations.parse("smb://nas/x?seal=1"))
    assert {"cache=strict", "seal", "vers=3.1.1"} <= set(smb)
    for wrong in ("nfs://nas/x?vers=2", "nfs://nas/x?sec=none"):
        with pytest.raises(UsageError):
            shares.nfs_options(locations.parse(wrong))
    with pytest.raises(UsageError):
        shares.smb_options(locations.parse("smb://nas/x?vers=1.0"))


def test_credentials_lie_in_a_file_for_a_moment(tmp_path):
    with shares.credentials_file(tmp_path, "user", "pass,word=x", "CORP") as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text() == "username=user\npassword=pass,word=x\ndomain=CORP\n"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError), shares.credentials_file(tmp_path, "user", "a\nb"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_mounts_is_read():
    found = {mount.point: mount for mount in mounts.table()}
    assert found["/proc"].kind == "proc"
