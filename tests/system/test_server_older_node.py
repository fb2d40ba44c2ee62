"""A node of an earlier state of this repository, on the server of today.

There is no release before the first one, so an earlier commit stands for it: the first one that
people could have run with nodes. Its node runs with the same libraries, out of `git archive`.
"""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from ruchu import commands
from ruchu.testing import servers
from ruchu.testing.guests import bare
from ruchu.testing.servers import Server

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
EARLIER = "45b4012b8a25172fe23d1071928de14eda3062ca"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """Return the sources of then."""
    made = subprocess.run(
        ["git", "-C", str(ROOT), "archive", EARLIER, "src"], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"the history is not here: {made.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


@pytest.fixture
def machine(libvirt_uri, home):
    """Yield the name of a machine that is off, with something on its disk."""
    image, raw = home / "disk.qcow2", home / "disk.raw"
    raw.write_bytes(bytes(range(256)) * (8 << 12))
    commands.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(image)], timeout_s=60
    )
    with bare.machine(libvirt_uri, image) as name:
        yield name


def test_a_node_of_before_does_its_work(earlier, libvirt_uri, home, machine):
    with Server(home / "one", "--no-node") as server:
        url = server.post("/nodes/tokens", {"name": "old"})["url"]
        inside = ["env", f"PYTHONPATH={earlier}"]
        with servers.node(home / "old", url, inside=inside):
            server.nodes_online(1)
            made = {"name": "main", "location": str(home / "storage"), "passphrase": "sieben 7"}
            server.post("/storages", made)
            scratch = str(home / "scratch")
            server.post("/platforms", {"name": "kvm", "uri": libvirt_uri, "scratch": scratch})
            server.post("/platforms/kvm/refresh")
            server.post("/policies", {
                "name": "nightly", "selection": {"platform": "kvm", "machines": [machine]},
                "storage": "main", "retention": {"count": 3}, "options": {"quiesce": False},
            })  # fmt: skip
            for kind in ("full", "incremental"):
                run = server.post("/policies/nightly/run", {"kind": kind})
                assert server.over(run["id"])["state"] == "succeeded", server.trouble()
            points = server.get("/points")["items"]
            assert [each["kind"] for each in points] == ["incremental", "full"]
            body = {"storage": "main", "depth": "full"}
            run = server.post("/runs", {"kind": "verify", "name": "main", "body": body})
            assert server.over(run["id"])["state"] == "succeeded", server.trouble()
            body = {
                "point": points[0]["id"], "platform": "kvm",
                "placement": {"name": f"{machine}-back", "directory": str(home), "macs": "new"},
            }  # fmt: skip
            run = server.post("/runs", {"kind": "restore", "name": machine, "body": body})
            assert server.over(run["id"])["state"] == "succeeded", server.trouble()
            back = home / f"{machine}-back-vda.qcow2"
            done = commands.run(
                ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(home / "disk.raw"),
                 str(back)], timeout_s=60,
            )  # fmt: skip
            assert "identical" in done.text
            # The old one does not answer what it does not know; the server goes on and says so.
            (node,) = server.nodes_online(1)
            assert node["name"] == "old"
