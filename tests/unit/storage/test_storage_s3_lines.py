"""S3 over a bad line: answers that are lost, answers that break off, uploads that are left over."""

import contextlib
import socket
import threading

import pytest

from ruchu import errors
from ruchu.storage.s3 import creating, probing, writing
from ruchu.storage.s3.bucket import Address, Bucket
from ruchu.storage.s3.creating import Traits
from ruchu.storage.s3.storage import S3Storage
from ruchu.testing import s3_servers
from ruchu.units import KIB, MIB

pytestmark = pytest.mark.slow


class BadLine:
    """Passes requests on; what `spoil` wants is done to the answer of one request."""

    def __init__(self, port):
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.verb = b""
        self.keep = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def spoil(self, verb, keep):
        """Let only so many bytes of the next answer to this verb through, then cut the line."""
        self.verb, self.keep = verb, keep

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        server = socket.create_connection(("127.0.0.1", self._upstream))
        state = {"left": None}

        def forward():
            with contextlib.suppress(OSError):
                while data := client.recv(64 * KIB):
                    if self.verb and data.startswith(self.verb):
                        state["left"], self.verb = self.keep, b""
                    server.sendall(data)

        threading.Thread(target=forward, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := server.recv(64 * KIB):
                if state["left"] is not None:
                    client.sendall(data[: state["left"]])
                    state["left"] -= min(len(data), state["left"])
                    if not state["left"]:
                        break
                else:
                    client.sendall(data)
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self):
        self._listener.close()


@pytest.fixture(scope="module")
def moto():
    with s3_servers.moto() as endpoint:
        yield endpoint


@pytest.fixture
def line(moto):
    line = BadLine(int(moto.rpartition(":")[2]))
    yield line
    line.close()


@pytest.fixture
def storage(moto, line, request):
    name = f"line-{abs(hash(request.node.name))}"
    s3_servers.new_bucket(moto, name)
    address = Address(name, "p", f"http://127.0.0.1:{line.port}", attempts_max=3)
    storage = S3Storage(Bucket(address, s3_servers.KEYS), Traits())
    yield storage
    storage.close()


def test_a_put_whose_answer_was_lost_is_ours(storage, line):
    line.spoil(b"PUT", 0)
    storage.put("locks/1.json", b"who I am")
    assert storage.get("locks/1.json", 100) == b"who I am"
    with pytest.raises(errors.ObjectExists):
        storage.put("locks/1.json", b"who I am")


def test_an_upload_whose_last_answer_was_lost_is_ours(storage, line, rng):
    content = rng.randbytes(writing.PART_BYTES_FIRST + MIB)
    with storage.open_writer("packs/a") as writer:
        writer.write([content[:MIB], content[MIB:]])
        # The first POST began the upload; the next one ends it.
        line.spoil(b"POST", 0)
        writer.commit()
    assert storage.get("packs/a", len(content)) == content
    assert storage.sweep_unfinished("") == 0


def test_an_answer_that_breaks_off_is_asked_for_again(storage, line, rng):
    content = rng.randbytes(3 * MIB)
    storage.put("packs/a", content)
    line.spoil(b"GET", MIB)
    assert storage.get("packs/a", len(content)) == content
    line.spoil(b"GET", MIB)
    buffer = bytearray(2 * MIB)
    storage.read_into("packs/a", MIB, memoryview(buffer))
    assert buffer == content[MIB:]


def test_uploads_of_dead_writers_are_ended_those_of_living_ones_not(storage, rng):
    part = rng.randbytes(writing.PART_BYTES_FIRST)
    with storage.open_writer("chains/a/packs/living") as writer:
        writer.write([part])
        creator = creating.Creator(storage._bucket, Traits(), None, None)
        creator.begin("chains/a/packs/dead")
        creator.begin("chains/b/packs/other")
        assert storage.sweep_unfinished("chains/a") == 1
        assert storage.sweep_unfinished("chains/a") == 0
        writer.commit()
    assert storage.get("chains/a/packs/living", len(part)) == part
    assert storage.sweep_unfinished("") == 1


def test_a_bucket_that_is_gone_is_no_empty_storage(storage):
    storage.put("a", b"x")
    storage.delete("a")
    storage._client.delete_bucket(Bucket=storage._bucket.name)
    for call in (
        lambda: list(storage.list("")),
        lambda: list(storage.folders("")),
        lambda: storage.size("a"),
        lambda: storage.get("a", 1),
        lambda: storage.put("a", b"x"),
        lambda: storage.sweep_unfinished(""),
    ):
        with pytest.raises(errors.StorageGone):
            call()


def test_versions_go_too(moto):
    bucket = s3_servers.new_bucket(moto, "with-versions", locking=True)
    found = probing.probe(bucket)
    assert (found.versioned, found.lockable, found.conditional_put) == (True, True, True)
    storage = S3Storage(bucket, found.traits())
    for turn in range(3):
        storage.put("a", b"%d" % turn)
        storage.delete("a")
    storage.put("ab", b"another")
    left = bucket.client.list_object_versions(Bucket=bucket.name, Prefix="a")
    assert [each["Key"] for each in left["Versions"]] == ["ab"]
    assert not left.get("DeleteMarkers")
