"""OpenID Connect against a provider of our own: real HTTP, real signatures, and attacks."""

import base64
import functools
import hashlib
import hmac
import http.server
import json
import threading
import urllib.parse

import httpx
import pytest
from accounts_world import ADMIN, HERE, pass_time, person, principal, recorded, sign_in
from joserfc import jwk, jwt

from ruchu.control.accounts.oidc import Return
from ruchu.control.accounts.oidc_providers import Provider, Rule
from ruchu.control.accounts.users import Profile
from ruchu.control.audit.trail import Search
from ruchu.errors import (
    Forbidden,
    IdentityProviderAway,
    InvalidName,
    LastAdministrator,
    NotAuthenticated,
    NotFound,
    UsageError,
)
from ruchu.model.principals import LOCAL, Right, Role

REDIRECT = "https://ruchu.example/api/v1/oidc/return"
CLIENT, CLIENT_SECRET = "ruchu-client", "the secret of the client"


@functools.cache
def rsa_key(kid):
    return jwk.RSAKey.generate_key(2048, parameters={"kid": kid, "use": "sig"})


@functools.cache
def foreign_key():
    """Return a key that claims to be the provider's."""
    return jwk.RSAKey.generate_key(2048, parameters={"kid": "one"})


class ProviderServer:
    """An OpenID provider: discovery, keys, authorization with PKCE, tokens. It signs for real.

    Attributes:
        claims: of whoever signs in next.
        spoil: what it does wrong with the next token, by name.
    """

    def __init__(self, clock):
        self.clock = clock
        self.key = rsa_key("one")
        self.published = [self.key]
        self.claims = {
            "sub": "subject-1",
            "preferred_username": "Alice.Smith@corp",
            "name": "爱丽丝",
        }
        self.spoil = ""
        self.codes = {}
        self.requests = []
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                provider.answer(self, None)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                provider.answer(self, dict(urllib.parse.parse_qsl(body)))

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}/realm"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, request, form):
        url = urllib.parse.urlsplit(request.path)
        self.requests.append(url.path)
        routes = {
            "/realm/.well-known/openid-configuration": self.discovery,
            "/realm/keys": lambda: (200, {"keys": [key.as_dict(private=False) for key in
                                                  self.published]}),
        }  # fmt: skip
        if url.path == "/realm/authorize":
            status, headers = self.authorize(dict(urllib.parse.parse_qsl(url.query)))
            body = b""
        else:
            handler = routes.get(url.path)
            if url.path == "/realm/token":
                status, document = self.token(form, request.headers.get("Authorization"))
            else:
                status, document = handler() if handler else (404, {})
            headers, body = {"Content-Type": "application/json"}, json.dumps(document).encode()
        if self.spoil == "flood":
            body = b" " * (1 << 20)
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def discovery(self):
        base = self.issuer
        document = {
            "issuer": base if self.spoil != "issuer" else "https://elsewhere.example",
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "jwks_uri": f"{base}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }
        if self.spoil == "plain-token-endpoint":
            document["token_endpoint"] = "http://example.org/token"
        return 200, document

    def authorize(self, query):
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        assert query["client_id"] == CLIENT
        assert "openid" in query["scope"].split()
        code = f"code-{len(self.codes)}"
        self.codes[code] = query
        back = urllib.parse.urlencode({"code": code, "state": query["state"]})
        return 302, {"Location": f"{query['redirect_uri']}?{back}"}

    def token(self, form, authorization):
        expected = base64.b64encode(f"{CLIENT}:{CLIENT_SECRET}".encode()).decode()
        query = self.codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(
            hashlib.sha256(form["code_verifier"].encode()).digest()
        )
        if (
            query is None
            or authorization != f"Basic {expected}"
            or challenge.decode().rstrip("=") != query["code_challenge"]
            or form["redirect_uri"] != query["redirect_uri"]
        ):
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": "a-t", "token_type": "Bearer", "id_token": self.sign(query)}

    def sign(self, query):
        now = int(self.clock.now().timestamp())
        claims = {"iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300}
        claims |= {"nonce": query["nonce"], **self.claims}
        spoiled = {
            "nonce": {"nonce": "another"},
            "no-nonce": {"nonce": None},
            "audience": {"aud": "another-client"},
            "two-audiences": {"aud": [CLIENT, "another-client"], "azp": "another-client"},
            "expired": {"iat": now - 1000, "exp": now - 700},
            "future": {"nbf": now + 3600},
            "token-issuer": {"iss": "https://elsewhere.example"},
            "no-subject": {"sub": None},
            "odd-subject": {"sub": ["x"]},
            "no-expiry": {"exp": None},
            "at-hash": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
        }
        claims |= spoiled.get(self.spoil, {})
        claims = {name: value for name, value in claims.items() if value is not None}
        forge = {
            "none": self.unsigned,
            "foreign-key": lambda claims: self.signed(claims, foreign_key()),
            "hmac-with-public-key": self.signed_with_public_key,
            "changed": self.changed,
            "garbage": lambda _: "a.b",
        }.get(self.spoil, self.signed)
        return forge(claims)

    def signed(self, claims, key=None):
        key = key or self.key
        return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)

    def changed(self, claims):
        head, _, signature = self.signed(claims).split(".")
        return f"{head}.{self.part({**claims, 'sub': 'somebody-else'})}.{signature}"

    @staticmethod
    def part(document):
        return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")

    def unsigned(self, claims):
        return f"{self.part({'alg': 'none', 'typ': 'JWT'})}.{self.part(claims)}."

    def signed_with_public_key(self, claims):
        """The classic confusion: HMAC, with the public key in the place of the secret."""
        text = f"{self.part({'alg': 'HS256', 'kid': 'one'})}.{self.part(claims)}"
        mac = hmac.new(self.key.as_pem(private=False), text.encode(), "sha256").digest()
        return f"{text}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


@pytest.fixture
def provider(clock, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ProviderServer(clock)
    yield server
    server.close()


RULES = (
    Rule("backup-admins", "*", Role.ADMINISTRATOR),
    Rule("backup-users", "*", Role.OPERATOR),
    Rule("auditors", "*", Role.AUDITOR),
)


def settings(provider, **changes):
    fields = {"rules": RULES, "title": "Corporate", **changes}
    return Provider("corp", provider.issuer, CLIENT, **fields)


@pytest.fixture
def door(accounts, provider):
    accounts.providers.put(LOCAL, settings(provider), CLIENT_SECRET)
    provider.claims["groups"] = ["backup-users"]
    return accounts.oidc


def browse(departure):
    """Do what a browser does: follow the address, and come back with what it is given."""
    answer = httpx.get(departure.url, follow_redirects=False, timeout=10)
    assert answer.status_code == 302
    location = answer.headers["Location"]
    assert location.startswith(REDIRECT)
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(location).query))
    return Return(query["state"], query["code"], departure.binding)


def enter(door):
    return door.finish(browse(door.begin("corp", REDIRECT)), HERE)


def test_somebody_new_comes_in(accounts, door, trail):
    opened = enter(door)
    me = accounts.bearer(opened.word)
    user = accounts.users.get(me.user)
    assert (user.name, user.display, user.elsewhere) == ("alice.smith", "爱丽丝", True)
    assert me.may(Right.OPERATE)
    assert not me.may(Right.AUDIT)
    assert accounts.bearer(enter(door).word).user == me.user
    assert len(accounts.users.list()) == 1
    assert CLIENT_SECRET not in str([record.document() for record in trail.search(Search())])
    with pytest.raises(NotAuthenticated):  # there is no password to guess
        sign_in(accounts, "alice.smith", "")


def test_roles_follow_the_groups_at_the_provider(accounts, door, provider):
    person(accounts, "boss", ADMIN)
    user = enter(door).user
    accounts.users.set_grants(LOCAL, user, {"default": frozenset({Role.RESTORE_OPERATOR})})
    provider.claims["groups"] = ["auditors", "nobody-knows", 7]
    me = accounts.bearer(enter(door).word)
    assert me.may(Right.AUDIT)
    assert not me.may(Right.OPERATE)
    assert me.may(Right.RESTORE, "default")  # what a person gave stays
    provider.claims["groups"] = "backup-admins"
    assert accounts.bearer(enter(door).word).may(Right.ACCOUNTS)
    accounts.providers.remove(LOCAL, "corp")
    assert accounts.users.get(user).grants == {"default": frozenset({Role.RESTORE_OPERATOR})}


def test_the_last_administrator_is_not_taken_away_by_claims(accounts, door, provider):
    provider.claims["groups"] = ["backup-admins"]
    user = enter(door).user
    provider.claims["groups"] = ["auditors"]
    with pytest.raises(LastAdministrator):
        enter(door)
    assert accounts.users.get(user).grants == ADMIN


@pytest.mark.parametrize("groups", [None, [], ["others"], {"a": 1}, 7, ""])
def test_somebody_without_a_role_does_not_come_in(accounts, door, provider, groups):
    provider.claims["groups"] = groups
    with pytest.raises(Forbidden):
        enter(door)
    assert not accounts.users.list()


@pytest.mark.parametrize(
    "spoil",
    [
        "nonce", "no-nonce", "audience", "two-audiences", "expired", "future", "token-issuer",
        "no-subject", "odd-subject", "no-expiry", "at-hash", "foreign-key", "none",
        "hmac-with-public-key", "changed", "garbage",
    ],
)  # fmt: skip
def test_tokens_that_do_not_hold(accounts, door, provider, trail, spoil):
    provider.spoil = spoil
    with pytest.raises(NotAuthenticated):
        enter(door)
    assert not accounts.users.list()
    assert recorded(trail, "session.") == [("unknown", "session.open", "unknown", "refused")]


def test_a_return_works_once(door, provider):
    came = browse(door.begin("corp", REDIRECT))
    door.finish(came, HERE)
    with pytest.raises(NotAuthenticated):
        door.finish(came, HERE)
    # Nor with a fresh code of the provider's.
    other = browse(door.begin("corp", REDIRECT))
    with pytest.raises(NotAuthenticated):
        door.finish(Return(came.state, other.code, came.binding), HERE)


def test_a_return_of_another_browser(door):
    """Signing a victim in as the attacker: the victim's browser lacks the cookie."""
    came = browse(door.begin("corp", REDIRECT))
    with pytest.raises(NotAuthenticated):
        door.finish(Return(came.state, came.code, "another"), HERE)
    with pytest.raises(NotAuthenticated):  # and the state is used up with the attempt
        door.finish(came, HERE)


def test_a_code_of_another_departure(door):
    """A stolen code does not fit: its challenge belongs to another verifier."""
    one, other = (browse(door.begin("corp", REDIRECT)) for _ in range(2))
    with pytest.raises(NotAuthenticated):
        door.finish(Return(one.state, other.code, one.binding), HERE)


def test_a_return_that_took_too_long(door, clock):
    came = browse(door.begin("corp", REDIRECT))
    pass_time(clock, seconds=601)
    with pytest.raises(NotAuthenticated):
        door.finish(came, HERE)


@pytest.mark.parametrize("state", ["", "x", "\x00", "\ud800", "x" * 100_000])
def test_states_that_nobody_made(door, state):
    with pytest.raises(NotAuthenticated):
        door.finish(Return(state, "code", "binding"), HERE)


def test_an_answer_of_another_issuer(door, provider):
    came = browse(door.begin("corp", REDIRECT))
    with pytest.raises(NotAuthenticated):
        door.finish(Return(came.state, came.code, came.binding, "https://elsewhere.example"), HERE)


def test_the_secret_of_the_client_is_needed(accounts, provider, door):
    accounts.providers.put(LOCAL, settings(provider), "wrong")
    with pytest.raises(NotAuthenticated):
        enter(door)
    accounts.providers.put(LOCAL, settings(provider), CLIENT_SECRET)
    accounts.providers.put(LOCAL, settings(provider, title="Other"), None)
    enter(door)


@pytest.mark.parametrize("spoil", ["issuer", "plain-token-endpoint", "flood"])
def test_a_provider_that_does_not_answer_as_it_should(door, provider, spoil):
    provider.spoil = spoil
    with pytest.raises(IdentityProviderAway):
        door.begin("corp", REDIRECT)


def test_a_provider_that_is_gone(door, provider, accounts):
    accounts.providers.put(
        LOCAL, Provider("gone", "http://127.0.0.1:1/x", CLIENT, rules=RULES), CLIENT_SECRET
    )
    with pytest.raises(IdentityProviderAway):
        door.begin("gone", REDIRECT)
    with pytest.raises(NotFound):
        door.begin("nobody", REDIRECT)
    with pytest.raises(InvalidName):
        door.begin("\x00", REDIRECT)


def test_a_provider_that_changes_its_keys(door, provider, clock):
    enter(door)
    provider.key, provider.published = rsa_key("two"), [rsa_key("one"), rsa_key("two")]
    pass_time(clock, seconds=60)
    provider.requests.clear()
    enter(door)
    assert provider.requests.count("/realm/keys") == 1


def test_keys_are_not_fetched_for_every_bad_token(door, provider, clock):
    enter(door)
    provider.spoil = "foreign-key"
    provider.requests.clear()
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            enter(door)
    assert provider.requests.count("/realm/keys") == 0


def test_a_disabled_account_does_not_come_in(accounts, door):
    person(accounts, "boss", ADMIN)
    user = enter(door).user
    accounts.users.set_disabled(LOCAL, user, disabled=True)
    with pytest.raises(NotAuthenticated):
        enter(door)


def test_an_account_of_the_same_name_or_mail_is_not_taken_over(accounts, door, provider):
    local = person(accounts, "alice.smith", ADMIN)
    accounts.users.change(LOCAL, local, Profile(mail="alice@corp.example"))
    provider.claims |= {"email": "alice@corp.example", "email_verified": True}
    user = enter(door).user
    assert user != local
    assert accounts.users.get(user).name == "alice.smith-2"
    provider.claims |= {"sub": "subject-2"}
    assert accounts.users.get(enter(door).user).name == "alice.smith-3"


@pytest.mark.parametrize(
    ("claims", "enters"),
    [
        ({"email": "a@corp.example", "email_verified": True}, True),
        ({"email": "a@CORP.example", "email_verified": True}, True),
        ({"email": "a@corp.example", "email_verified": False}, False),
        ({"email": "a@corp.example", "email_verified": "true"}, False),
        ({"email": "a@corp.example"}, False),
        ({"email": "a@corp.example.evil.org", "email_verified": True}, False),
        ({"email": "corp.example", "email_verified": True}, True),
        ({"email": ["a@corp.example"], "email_verified": True}, False),
        ({}, False),
    ],
)
def test_domains(accounts, door, provider, claims, enters):
    accounts.providers.put(LOCAL, settings(provider, domains=("corp.example",)), None)
    provider.claims |= claims
    if enters:
        enter(door)
    else:
        with pytest.raises(Forbidden):
            enter(door)


def test_nobody_new_where_accounts_are_not_made(accounts, door, provider):
    accounts.providers.put(LOCAL, settings(provider, create=False), None)
    with pytest.raises(Forbidden):
        enter(door)
    accounts.providers.put(LOCAL, settings(provider, enabled=False), None)
    with pytest.raises(Forbidden):
        door.begin("corp", REDIRECT)


@pytest.mark.parametrize(
    "name", ["", "../../etc", "admin\x00", "local", "系统", "x" * 300, "a@b", None, 7, {"a": 1}]
)
def test_odd_names_become_names(accounts, door, provider, name):
    provider.claims |= {"preferred_username": name, "name": "x\ny", "locale": "?"}
    user = accounts.users.get(enter(door).user)
    assert user.name.isascii()
    assert user.display == user.name


@pytest.mark.parametrize(
    "issuer",
    [
        "http://example.org", "ftp://127.0.0.1", "https://", "", "javascript:alert(1)",
        "https://user:pw@example.org", "http://127.0.0.1.evil.org", "https://x/#y", "http://[::1",
    ],
)  # fmt: skip
def test_issuers_that_are_not_allowed(accounts, issuer):
    with pytest.raises(UsageError):
        accounts.providers.put(LOCAL, Provider("corp", issuer, CLIENT), None)


def test_who_may_change_providers(accounts, provider):
    person(accounts, "alice", {"*": frozenset({Role.OPERATOR})})
    me = principal(accounts, "alice")
    with pytest.raises(Forbidden):
        accounts.providers.put(me, settings(provider), None)
    with pytest.raises(Forbidden):
        accounts.providers.remove(me, "corp")
    for bad in (
        settings(provider, scopes=("profile",)),
        settings(provider, rules=(Rule("x", "../y", Role.AUDITOR),)),
        Provider("Corp Ltd", provider.issuer, CLIENT),
    ):
        with pytest.raises(UsageError):
            accounts.providers.put(LOCAL, bad, None)
    accounts.providers.put(LOCAL, settings(provider), None)
    assert accounts.providers.list() == [settings(provider)]


def test_nothing_of_a_departure_shows(door):
    departure = door.begin("corp", REDIRECT)
    assert departure.binding not in repr(departure)
    assert departure.binding not in departure.url
