"""Signing in through an identity provider of our own, over HTTP; and which providers there are."""

import base64
import http.server
import json
import threading
import urllib.parse

import httpx
import pytest
from joserfc import jwk, jwt

CLIENT, SECRET = "ruchu", "the secret of the client"
RULES = [{"value": "backup-users", "group": "*", "role": "operator"}]


class Provider(http.server.ThreadingHTTPServer):
    """An OpenID provider that lets everybody in as the same person."""

    def __init__(self, clock):
        super().__init__(("127.0.0.1", 0), Handler)
        self.clock = clock
        self.issuer = f"http://127.0.0.1:{self.server_port}"
        self.key = jwk.RSAKey.generate_key(2048, parameters={"kid": "one", "use": "sig"})
        self.nonces = {}

    def answer(self, path, query, form):
        """Return status, headers and document."""
        if path == "/.well-known/openid-configuration":
            names = {"authorization_endpoint": "authorize", "token_endpoint": "token",
                     "jwks_uri": "keys"}  # fmt: skip
            document = {name: f"{self.issuer}/{end}" for name, end in names.items()}
            return 200, {}, {"issuer": self.issuer, "response_types_supported": ["code"],
                             "subject_types_supported": ["public"],
                             "id_token_signing_alg_values_supported": ["RS256"],
                             **document}  # fmt: skip
        if path == "/keys":
            return 200, {}, {"keys": [self.key.as_dict(private=False)]}
        if path == "/authorize":
            code = f"code-{len(self.nonces)}"
            self.nonces[code] = query["nonce"]
            back = urllib.parse.urlencode({"code": code, "state": query["state"]})
            return 302, {"Location": f"{query['redirect_uri']}?{back}"}, {}
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "sub": "subject-1",
            "nonce": self.nonces.pop(form["code"]), "preferred_username": "alice",
            "groups": ["backup-users"],
        }  # fmt: skip
        token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
        return 200, {}, {"access_token": "a", "token_type": "Bearer", "id_token": token}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        expected = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        assert self.headers["Authorization"] == f"Basic {expected}"
        self.reply(dict(urllib.parse.parse_qsl(body)))

    def reply(self, form):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        status, headers, document = self.server.answer(url.path, query, form)
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def provider(world, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Provider(world.clock) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def corp(admin, provider):
    body = {"issuer": provider.issuer, "client": CLIENT, "title": "Company", "rules": RULES,
            "secret": SECRET}  # fmt: skip
    made = admin.put("/identity-providers/corp", json=body)
    assert made.status_code == 200, made.text
    return made


def browse(client, path="/oidc/corp/begin"):
    """Follow a browser to the provider; return the address that it comes back to."""
    began = client.get(path)
    assert began.status_code == 303, began.text
    there = httpx.get(began.headers["location"], trust_env=False, timeout=10)
    assert there.status_code == 302
    return began, there.headers["location"]


def test_somebody_comes_in_through_a_provider(world, corp):
    browser = world.client(None)
    (way,) = browser.get("/oidc").json()
    assert way == {"name": "corp", "title": "Company", "begin": "/api/v1/oidc/corp/begin"}
    began, back = browse(browser)
    cookie = began.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/api/v1/oidc/callback" in cookie
    assert back.startswith(corp.json()["callback"])
    done = browser.get(back)
    assert (done.status_code, done.headers["location"]) == (303, "/entered")
    assert browser.get("/sessions/current").json()["name"] == "alice"
    assert browser.get("/sessions/current").json()["grants"] == {"*": ["operator"]}
    assert browser.get(back).status_code == 401  # used up


def test_another_browser_does_not_come_back(world, corp):
    _, back = browse(world.client(None))
    answer = world.client(None).get(back)
    assert (answer.status_code, answer.json()["code"]) == (401, "not-authenticated")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("query", ["state=x&code=y", "state=x", "state=x&error=access_denied"])
def test_returns_without_a_departure_open_nothing(world, corp, query):
    answer = world.client(None).get(f"/oidc/callback?{query}")
    assert answer.status_code == 401


def test_a_host_that_cannot_be_is_refused(world, corp):
    for host in ("evil host", "[", "a/b", "x@y", 'a"b', ""):
        answer = world.client(None).get("/oidc/corp/begin", headers={"Host": host})
        assert answer.status_code == 422, host


def test_providers_are_written_shown_and_removed(world, admin, corp):
    assert SECRET not in corp.text + admin.get("/identity-providers").text
    shown = admin.get("/identity-providers/corp").json()
    assert shown["rules"] == RULES
    body = {key: shown[key] for key in ("issuer", "client", "rules")}
    off = admin.put("/identity-providers/corp", json={**body, "enabled": False}).json()
    assert off["enabled"] is False
    stranger = world.client(None)
    assert stranger.get("/oidc").json() == []
    assert stranger.get("/oidc/corp/begin").status_code == 403
    for issuer in ("http://id.example.com", "https://user@id.example.com", "ftp://x", "x"):
        odd = admin.put("/identity-providers/odd", json={**body, "issuer": issuer})
        assert odd.status_code == 422
    assert admin.delete("/identity-providers/corp").status_code == 204
    assert admin.delete("/identity-providers/corp").status_code == 404
    assert stranger.get("/oidc/corp/begin").status_code == 404


def test_a_provider_that_is_away_is_said_to_be(world, admin):
    body = {"issuer": "http://127.0.0.1:1", "client": CLIENT}
    admin.put("/identity-providers/away", json=body)
    answer = world.client(None).get("/oidc/away/begin")
    assert (answer.status_code, answer.json()["code"]) == (502, "identity-provider-away")
