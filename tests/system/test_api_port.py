"""The console port of a real server against clients that mean no good."""

import contextlib
import json
import socket
import threading

import pytest

from ruchu.api import patience, serving, shielding
from ruchu.testing.servers import Server

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Yield a server without a node, and see that nothing was a bug of it."""
    home = tmp_path_factory.mktemp("port")
    with Server(home, "--no-node") as running:
        yield running
    assert "Traceback" not in (home / "server.log").read_text()


@contextlib.contextmanager
def connected(server):
    url = server.client.base_url
    with socket.create_connection((url.host, url.port), timeout=60) as connection:
        yield connection


def everything(connection):
    """Return what comes until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            found += part
    return found


def said(server, request):
    """Send bytes as they are; return what is answered before the connection closes."""
    with connected(server) as connection:
        connection.sendall(request)
        return everything(connection)


def raw(server, target, *headers, method="GET"):
    """Make a request with a target and headers as they are; return status, headers, body."""
    word = server.client.headers["Authorization"]
    lines = [f"{method} {target} HTTP/1.1", "Host: ruchu", "Connection: close",
             f"Authorization: {word}", *headers]  # fmt: skip
    with connected(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = everything(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode("latin-1").lower(), body


def test_a_request_that_never_ends_is_cut_off_and_others_are_served(server):
    """Slow loris: connections that send a line now and then, and never the last one."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(server)) for _ in range(50)]
        for number, connection in enumerate(slow):
            if number % 3 == 0:
                continue  # says nothing at all
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            if number % 3 == 2:
                drip(connection, stack)
        assert server.get("/about")["version"]
        for connection in slow:
            assert everything(connection) == b""
    assert server.get("/about")["version"]


def drip(connection, stack):
    """Send a header every half second until that fails."""
    ended = threading.Event()

    def go():
        while not ended.wait(0.5):
            try:
                connection.sendall(b"X-Slow: 1\r\n")
            except OSError:
                return

    thread = threading.Thread(target=go)
    thread.start()
    stack.callback(thread.join)
    stack.callback(ended.set)


def test_a_body_that_never_comes_is_not_waited_for():
    """The limit is long (a slow line may send 4 MiB), so its time is not spent here."""
    assert patience.BODY_LIMIT_S * (64 << 10) >= shielding.BODY_BYTES_MAX
    assert patience.HEADERS_LIMIT_S < patience.BODY_LIMIT_S


def test_headers_have_a_size(server):
    # What comes with one read is taken whole; what does not end within it is held to the limit.
    long = f"X-Long: {'x' * (serving.HEADERS_BYTES_MAX + (1 << 20))}"
    status, head, _ = raw(server, "/api/v1/about", long)
    assert status == 400
    assert "connection: close" in head


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(server):
    status, _, body = raw(
        server, "/api/v1/runs", f"Content-Length: {shielding.BODY_BYTES_MAX + 1}",
        "Content-Type: application/json", method="POST",
    )  # fmt: skip
    assert status == 413
    assert json.loads(body)["code"] == "too-large"


def test_a_body_in_pieces_is_refused_when_it_is_too_large(server):
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    word = server.client.headers["Authorization"].encode()
    head = (
        b"POST /api/v1/runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: " + word
        + b"\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )  # fmt: skip
    with connected(server) as connection:
        connection.sendall(head)
        with contextlib.suppress(ConnectionError):
            for _ in range(shielding.BODY_BYTES_MAX // 0x10000 + 2):
                connection.sendall(piece)
            connection.sendall(b"0\r\n\r\n")
        answer = everything(connection)
    assert b" 413 " in answer.splitlines()[0]


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/../../../etc/passwd",
        "/api/v1/storages/../../../../etc/passwd",
        "/api/v1/storages/..%2f..%2f..%2fetc%2fpasswd",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/api/v1/storages/%2e%2e",
        "/api/v1/openapi.json/../../healthz",
        "/api/v1/storages/%00",
        "/api/v1/storages/x%0d%0aSet-Cookie:%20a=b",
        "/api/v1/points?text=x%0d%0aSet-Cookie:%20a=b&after=%00",
    ],
)
def test_no_path_leads_out(server, target):
    status, head, body = raw(server, target)
    assert status in {404, 422}
    assert "set-cookie" not in head
    assert b"root:" not in body


@pytest.mark.parametrize(
    "header",
    [
        "X-A: b\r\n\r\nGET /api/v1/users HTTP/1.1\r\nHost: x",
        'If-Match: "1"\r\nX-B: c',
        "User-Agent: \x1b[31mred\x07",
        "Idempotency-Key: \xff\xfe",
        "Last-Event-ID: 9999999999999999999999",
        "Host: evil",
        "Content-Length: -1",
        "Content-Length: 1\r\nContent-Length: 2",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: gzip, chunked",
        "Upgrade: websocket\r\nConnection: upgrade",
        "Upgrade: h2c",
        "Expect: 100-continue",
    ],
)
def test_headers_are_headers_and_nothing_else(server, header):
    """What is no header is refused; a second request in it is at most a request of its own."""
    answer = said(server, (
        f"GET /healthz HTTP/1.1\r\nHost: ruchu\r\nConnection: close\r\n{header}\r\n\r\n"
    ).encode("latin-1"))  # fmt: skip
    status = int(answer.split()[1]) if answer else 400
    assert status in {200, 400}
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"\x1b" not in answer
    assert server.get("/about")["version"]


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,  # TLS on a plain port
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 10,
        b"\x00" * 1000,
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"A" * 100_000,
    ],
)
def test_what_is_no_request_is_closed(server, request_):
    with connected(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request_)
            connection.shutdown(socket.SHUT_WR)
        answer = everything(connection)
    # 307: a version of its own is read as any other, and whoever is not signed in is led to sign in.
    allowed = (b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 307")
    assert answer == b"" or answer.startswith(allowed)
    assert server.get("/about")["version"]


def test_an_address_of_a_client_is_not_taken_from_a_header(server):
    """Nobody escapes the limit of requests, or a lockout, by saying to be somebody else."""
    server.client.get("/about", headers={"X-Forwarded-For": "203.0.113.9"})
    addresses = {each["address"] for each in server.get("/sessions")}
    assert addresses == {"127.0.0.1"}
    server.client.post(
        "/sessions", json={"name": "admin", "password": "x"},
        headers={"X-Forwarded-For": "203.0.113.9"},
    )  # fmt: skip
    refused = server.get("/audit", action="session.open")["items"][0]
    assert refused["facts"]["address"] == "127.0.0.1"
