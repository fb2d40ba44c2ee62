"""Shares and iSCSI disks: a real kernel as client, real servers in user space, killed meanwhile.

The kernel of a test machine may have neither, so the client is a guest with Debian's kernel, this
host's programs and this very source; see `ruchu.testing.guests.whole_host`.
"""

import contextlib
import json
import shlex
import sys
from pathlib import Path

import pytest

from ruchu import commands
from ruchu.exports import iscsi
from ruchu.exports.iscsi import Access, Unit
from ruchu.testing import s3_servers
from ruchu.testing.guests import whole_host
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
MODULES = (
    "nfsv4", "cifs", "iscsi_tcp", "sd_mod", "loop", "ext4", "crc32c_generic",
    "ccm", "gcm", "cmac", "ctr", "md4", "md5", "ecb", "nls_utf8",
    "sha512_generic", "ghash_generic", "seqiv",
)  # fmt: skip
TARGET = "iqn.2026-01.org.example:ruchu-storage"
ACCESS = Access("operator", "correct.horse.battery")
PASSWORD = "correct-horse"
LIMIT_S = 400.0
CONTENT_BYTES = 4 * MIB


@pytest.fixture
def place():
    made = commands.run(["mktemp", "-d", "/var/tmp/rg-XXXXXX"], timeout_s=10).text.strip()
    yield Path(made)
    commands.run(["rm", "-rf", made], timeout_s=30)


@contextlib.contextmanager
def nfs(place, port):
    """Run NFS-Ganesha on a directory."""
    export, state = place / "nfs", place / "nfs-state"
    export.mkdir(exist_ok=True)
    (state / "recovery").mkdir(parents=True, exist_ok=True)
    configuration = state / "ganesha.conf"
    configuration.write_text(f"""
NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1;
  Enable_NLM = false; Enable_RQUOTA = false; }}
NFSv4 {{ Grace_Period = 5; Lease_Lifetime = 5; Graceless = true;
  RecoveryBackend = fs; RecoveryRoot = "{state}/recovery"; }}
EXPORT {{ Export_Id = 1; Path = "{export}"; Pseudo = "/backup"; Protocols = 4; Transports = TCP;
  Access_Type = RW; Squash = No_Root_Squash; SecType = sys; FSAL {{ Name = VFS; }} }}
""")
    words = ["ganesha.nfsd", "-F", "-L", str(state / "log"), "-f", str(configuration)]
    with s3_servers.serving([*words, "-p", str(state / "pid")], port):
        yield


@contextlib.contextmanager
def smb(place, port):
    """Run Samba on a directory."""
    share, state = place / "smb", place / "smb-state"
    share.mkdir(exist_ok=True)
    state.mkdir(exist_ok=True)
    configuration = state / "smb.conf"
    folders = ("private dir", "lock directory", "state directory", "cache directory")
    lines = [f"{each} = {state}" for each in (*folders, "pid directory", "ncalrpc dir")]
    configuration.write_text(
        "[global]\nserver role = standalone server\ninterfaces = 127.0.0.1\n"
        f"bind interfaces only = yes\nsmb ports = {port}\nlog file = {state}/log\n"
        "disable spoolss = yes\nload printers = no\nstrict sync = yes\npassdb backend = tdbsam\n"
        + "\n".join(lines)
        + f"\n[backup]\npath = {share}\nread only = no\nvalid users = root\n"
    )
    words = ["smbpasswd", "-c", str(configuration), "-s", "-a", "root"]
    commands.run(words, timeout_s=60, input=f"{PASSWORD}\n{PASSWORD}\n".encode())
    words = ["smbd", "-F", "--no-process-group", "-s", str(configuration)]
    with s3_servers.serving(words, port):
        yield


@contextlib.contextmanager
def san(place, port):
    """Run tgtd with a disk in a file."""
    disk = place / "san.raw"
    if not disk.exists():
        with disk.open("wb") as file:
            file.truncate(400 * MIB)
    with iscsi.exported([Unit(disk, writable=True)], ACCESS, target=TARGET,
                        listen=("127.0.0.1", port)):  # fmt: skip
        yield


SERVERS = {"nfs": nfs, "cifs": smb, "iscsi": san}


def test_storages_outlive_their_servers(place):
    ports = {name: s3_servers.free_port() for name in SERVERS}
    options = {
        "nfs": ports["nfs"], "smb": ports["cifs"], "iscsi": ports["iscsi"], "target": TARGET,
        "password": PASSWORD, "chap": ACCESS.password,
    }  # fmt: skip
    (place / "options").write_text(json.dumps(options))
    script = place / "script"
    words = [sys.executable, "-S", "-P", HERE / "storage_in_guest.py", place / "options"]
    line = " ".join(shlex.quote(str(word)) for word in words)
    script.write_text(f"export PYTHONPATH={shlex.quote(str(SOURCE))}\nhostname guest\n{line}\n")
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(contextlib.ExitStack()) for name in SERVERS}
        for name, serve in SERVERS.items():
            running[name].enter_context(serve(place, ports[name]))
        guest = stack.enter_context(whole_host.running(place, script, MODULES))
        guest.wait_for("SAY disk grown", LIMIT_S)
        for name, serve in SERVERS.items():
            guest.wait_for(f"SAY {name} used", LIMIT_S)
            running[name].close()
            guest.wait_for(f"SAY {name} waits", LIMIT_S)
            running[name].enter_context(serve(place, ports[name]))
            guest.wait_for(f"SAY {name} whole", LIMIT_S)
        said = guest.wait_for("GUEST ended 0", LIMIT_S)
    assert "FAILED" not in said
    for folder in ("nfs", "smb"):
        for name in ("first", "second"):
            assert (place / folder / "packs" / "aa" / name).stat().st_size == CONTENT_BYTES
