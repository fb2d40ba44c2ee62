"""A storage that a node of a real server guards: attacked by root, told by mail and by webhook."""

import contextlib
import datetime
import email
import email.policy
import hashlib
import http.server
import ipaddress
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ruchu.testing import servers
from ruchu.testing.guests.guest import GuestDisk, defined
from ruchu.testing.lines import Line
from ruchu.testing.servers import Server
from ruchu.units import MIB
from ruchu.wire.calling import Address
from ruchu.wire.enrolment import Invitation

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT_S = 120
PASSWORD = "geheim-passwort"


# ------------------------------------------------------------------------------- who is told


class Arrivals:
    """What came in, in order; a test waits for what it expects."""

    def __init__(self):
        self.changed = threading.Condition()
        self.all = []

    def put(self, what):
        with self.changed:
            self.all.append((time.monotonic(), what))
            self.changed.notify_all()

    def wait(self, *words):
        """Return when the first came that holds all of these words, and what it was."""

        def found():
            return next((each for each in self.all if all(w in each[1] for w in words)), None)

        with self.changed:
            assert self.changed.wait_for(found, LIMIT_S), (words, self.all)
            return found()


class MailServer(Controller):
    """An SMTP server with STARTTLS and authentication, on a port that the system chooses."""

    def __init__(self, context):
        self.mails = Arrivals()
        options = {"require_starttls": True, "auth_required": True, "authenticator": _authenticate}
        super().__init__(self, hostname="127.0.0.1", port=0, tls_context=context, **options)

    async def handle_DATA(  # noqa: N802 - a name of aiosmtpd
        self, server, session, envelope
    ):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert session.ssl is not None
        self.mails.put(f"{mail['Subject']}\n{mail.get_body(('plain',)).get_content()}")
        return "250 accepted"

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


def _authenticate(server, session, envelope, method, data):
    right = (data.login, data.password) == (b"ruchu", PASSWORD.encode())
    return AuthResult(success=right, handled=right)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return the files of a certificate for this host, which is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=3))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def mail_server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = MailServer(context)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def hook():
    """Yield what came to a webhook, and its address."""
    arrivals = Arrivals()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrivals.put(json.dumps(json.loads(body), ensure_ascii=False))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield arrivals, f"http://127.0.0.1:{server.server_address[1]}/hook"
    server.shutdown()
    server.server_close()
    thread.join()


# ----------------------------------------------------------------------------- the storage


@pytest.fixture
def disk(tmp_path):
    """Yield a directory on a file system of its own."""
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(600 * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    # Whoever guarded it has ended.
    subprocess.run(["umount", place], check=True)


def content(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def attempt(*words):
    """Run a foreign program; return whether it says that it did what it wanted."""
    return subprocess.run(list(map(str, words)), capture_output=True, check=False).returncode == 0


def python(code, path):
    # The interpreter that Ruchu itself runs from: it is not known by its file.
    return attempt(sys.executable, "-c", f"import os, sys; path = sys.argv[1]; {code}", path)


def guarded(server, name="main"):
    """Wait until a node says that it guards a storage."""
    server.until(
        lambda: any(name in node["load"].get("guarded", ()) for node in server.get("/nodes"))
    )


def alarm(server, code, *words):
    """Wait for an open alarm whose text holds some words; return it."""
    return server.until(
        lambda: next(
            (
                each
                for each in server.get("/alarms")
                if each["code"] == code and all(word in each["text"] for word in words)
            ),
            None,
        )
    )


def tell_people(server, mail_server, certificate, address):
    settings = {
        "host": "127.0.0.1", "port": mail_server.port, "sender": "ruchu@example.com",
        "recipients": ["ops@example.com"], "ca_file": str(certificate[0]),
    }  # fmt: skip
    secrets = {"user": "ruchu", "password": PASSWORD}
    mail = {"kind": "mail", "settings": settings, "secrets": secrets}
    server.call("PUT", "/alarm-channels/mail", json=mail)
    hook = {"kind": "webhook", "settings": {"url": address}}
    server.call("PUT", "/alarm-channels/hook", json=hook)
    rule = {"channels": ["mail", "hook"], "codes": ["guard-*", "tamper-*"], "severity": "warning"}
    server.call("PUT", "/alarm-rules/guards", json=rule)


@pytest.fixture
def home(place):
    (place / "scratch").mkdir()
    yield place
    for path in sorted(place.iterdir()):
        shutil.rmtree(path)


def test_root_changes_nothing_and_people_hear_of_it_while_backups_go_on(
    libvirt_uri, home, disk, mail_server, certificate, hook
):
    hooks, address = hook
    root = disk / "storage"
    with (
        defined(libvirt_uri, [GuestDisk("vda", 64 * MIB)]) as guest,
        Server(home / "one", "--guard") as server,
    ):
        guest.start()
        server.nodes_online(1)
        tell_people(server, mail_server, certificate, address)
        made = {"name": "main", "location": str(root), "passphrase": "sieben Berge 7"}
        server.post("/storages", made)
        server.post(
            "/platforms", {"name": "kvm", "uri": libvirt_uri, "scratch": str(home / "scratch")}
        )
        guarded(server)
        backed_up(server, guest, "full")

        before = content(root)
        pack = next(root.glob("chains/*/packs/*/*.pack"))
        refused_everywhere(pack, root)
        assert content(root) == before

        # A file that is not sealed is refused by the guard, which names who tried.
        stray = pack.parent / "stray"
        assert not attempt("dd", "if=/dev/zero", f"of={stray}", "count=1")
        mail_server.mails.wait("tried to change storage main (dd)", "/dd ", "stray")
        hooks.wait("guard-refused", "main (dd)", "stray")

        # Lifting the flags is told, with the program; they are set again.
        lifted_and_told(server, pack, mail_server.mails, hooks)
        assert not attempt("rm", "-f", pack)

        # Ruchu itself goes on.
        stray.unlink(missing_ok=True)
        guest.run("echo more >/mnt/vda/second; sync")
        backed_up(server, guest, "incremental")
        verified(server)
        after = content(root)
        assert [
            name for name in before if name.endswith(".pack") and after[name] != before[name]
        ] == []
        refused = [each for each in server.get("/alarms") if each["code"] == "guard-refused"]
        assert {each["subject"] for each in refused} == {"main (dd)"}


def lifted_and_told(server, pack, mails, hooks):
    began = time.monotonic()
    assert attempt("chattr", "-i", "-a", pack)
    by_mail, _ = mails.wait("were lifted", "main (chattr)", "/chattr ", pack.name)
    by_hook, _ = hooks.wait("guard-flags-lifted", "chattr", pack.name)
    sys.stdout.write(f"flags lifted: mail {by_mail - began:.2f} s, hook {by_hook - began:.2f} s\n")
    found = alarm(server, "guard-flags-lifted", "chattr", "set again")
    facts = found["facts"]
    assert facts["program"]["comm"] == "chattr"
    assert (facts["storage"], facts["path"]) == ("main", str(pack.parents[4]))
    assert found["severity"] == "critical"


def verified(server):
    body = {"storage": "main", "depth": "full"}
    run = server.post("/runs", {"kind": "verify", "name": "main", "body": body})
    done = server.over(run["id"])
    assert done["state"] == "succeeded", (done["reason"], server.trouble())


def refused_everywhere(pack, root):
    head = next(root.glob("chains/*/points/*.json"))
    for path in (pack, head, root / "ruchu-storage.json"):
        assert not python("open(path, 'r+b').write(b'x')", path)
        assert not python("open(path, 'ab').write(b'x')", path)
        assert not python("os.truncate(path, 0)", path)
        assert not python("os.rename(path, path + '.locked')", path)
        assert not attempt("dd", "if=/dev/zero", f"of={path}", "count=1", "conv=notrunc")
        assert not attempt("mv", path, f"{path}.locked")
        assert not attempt("rm", "-f", path)
        assert not attempt("cp", "/etc/hostname", path)
        assert not attempt("chmod", "666", path)
    assert not attempt("rm", "-rf", root / "chains")
    assert not attempt("mv", root / "chains", root / "gone")


def backed_up(server, guest, kind):
    policy = {
        "name": "nightly", "selection": {"platform": "kvm", "machines": [guest.uuid]},
        "storage": "main", "retention": {"count": 3}, "options": {"quiesce": True},
    }  # fmt: skip
    if kind == "full":
        server.post("/policies", policy)
    run = server.post("/policies/nightly/run", {"kind": kind})
    done = server.over(run["id"])
    assert done["state"] == "succeeded", (done["reason"], server.trouble())


# -------------------------------------------------------------- what happens without the server


def behind(server, line):
    """Return the URL with which a node joins through a line."""
    invitation = Invitation.parse(server.post("/nodes/tokens", {"name": "far"})["url"])
    address = Address("127.0.0.1", line.port)
    return str(Invitation(address, invitation.token, invitation.fingerprint))


def worker_of(process):
    """Return the process in which the guard of a node runs."""
    for children in Path(f"/proc/{process.popen.pid}/task").glob("*/children"):
        for pid in children.read_text().split():
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                return int(pid)
    return None


def waits(folder, code):
    """Tell whether an alarm of a code is on the disk of a node."""
    texts = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            texts.append(path.read_text())
    return any(f'"{code}"' in text for text in texts)


def test_no_alarm_of_a_node_is_lost_with_its_line_or_its_process(home, disk):
    root = disk / "storage"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(home / "one", "--no-node"))
        host, _, port = server.process.line["nodes"].rpartition(":")
        line = stack.enter_context(Line((host, int(port))))
        url = behind(server, line)
        node = stack.enter_context(servers.node(home / "far", url, "--guard"))
        server.nodes_online(1)
        server.post("/storages", {"name": "main", "location": str(root)})
        guarded(server)

        # The guard dies: told, started again, and taken back.
        first = worker_of(node)
        os.kill(first, signal.SIGKILL)
        server.until(
            lambda: [each for each in server.get("/alarms/past")["items"]
                     if each["code"] == "guard-ended" and each["subject"] == "main"]
        )  # fmt: skip
        server.until(lambda: worker_of(node) not in {None, first})
        guarded(server)

        # Nobody hears of what happens now, and the node dies with it.
        line.cut()
        target = root / "ruchu-storage.json"
        assert attempt("chattr", "-i", "-a", target)
        kept = home / "far" / "node" / "alarms"
        server.until(lambda: waits(kept, "guard-flags-lifted"))
        assert [each for each in server.get("/alarms") if each["code"].startswith("guard")] == []
        node.kill()
        line.mend()
        node.start()
        found = alarm(server, "guard-flags-lifted", "chattr", target.name)
        assert (found["facts"]["node"], found["subject"]) == ("far", "main (chattr)")
        # Acknowledged on both sides: nothing waits any more, and nothing comes twice.
        server.until(lambda: not list(kept.glob("*.json")))
        server.post(f"/alarms/{found['id']}/acknowledge", {"remark": "it was me"})


# A program of root that may do everything but what fanotify asks for.
LESS = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")


def test_a_storage_that_cannot_be_guarded_is_told_until_it_is(home, disk):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(home / "one", "--no-node"))
        url = server.post("/nodes/tokens", {"name": "far"})["url"]
        node = stack.enter_context(servers.node(home / "far", url, "--guard", inside=LESS))
        server.nodes_online(1)
        server.post("/storages", {"name": "main", "location": str(disk / "storage")})
        found = alarm(server, "guard-unsupported")
        assert (found["subject"], found["severity"]) == ("main", "error")
        node.end()
        node.command = node.command[len(LESS) :]
        node.start()
        guarded(server)
        # Others may be open: whether the storage is there was asked while the node was not.
        server.until(
            lambda: "guard-unsupported" not in {each["code"] for each in server.get("/alarms")}
        )
        # What the guard of a node saw can be compared by hand, as the documents say.
        words = ["--state", home / "far" / "node" / "local", "guard", disk / "storage", "--check"]
        assert attempt(sys.executable, "-m", "ruchu", *words)
