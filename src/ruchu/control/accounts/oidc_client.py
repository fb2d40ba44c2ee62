"""Talking to an identity provider: discovery, the exchange of a code, the check of an ID token."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwk, jwt
from joserfc.errors import JoseError

from ruchu.clock import Clock
from ruchu.control.accounts.oidc_providers import Provider, check_address
from ruchu.errors import IdentityProviderAway, NotAuthenticated, UsageError

# Signatures that only the provider can make. None with a shared secret: then our own secret, or
# the provider's public key taken for one, would sign; and never `none`.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
              "Ed25519")  # fmt: skip
_TIME_LIMIT_S = 10.0
# Documents and tokens are some KiB.
_ANSWER_BYTES_MAX = 512 << 10
_KEYS_MAX = 64
# Providers change keys within days; an unknown key is looked for at once, but not every time.
_KEPT_S = 3600.0
_KEYS_AGAIN_S = 30.0
# Clocks of two servers.
_LEEWAY_S = 60


@dataclass(frozen=True, slots=True)
class _Known:
    """What was discovered of a provider, and when."""

    document: Mapping[str, Any]
    keys: jwk.KeySet
    at: float


class OidcClient:
    """Our side of OpenID Connect. Safe in several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._known: dict[str, _Known] = {}

    def authorization_url(
        self, provider: Provider, fields: Mapping[str, str], verifier: str
    ) -> str:
        """Return where a browser is sent; `fields` are redirect_uri, state and nonce.

        Raises:
            IdentityProviderAway: the provider does not answer, or not as it should.
        """
        return str(
            prepare_grant_uri(
                self._discovered(provider).document["authorization_endpoint"],
                provider.client,
                "code",
                scope=" ".join(provider.scopes),
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
                **fields,
            )
        )

    def exchange(
        self, provider: Provider, secret: str, fields: Mapping[str, str]
    ) -> dict[str, Any]:
        """Exchange a code for tokens; `fields` are code, redirect_uri and code_verifier.

        Raises:
            NotAuthenticated: the provider refuses the code.
            IdentityProviderAway: the provider does not answer, or not as it should.
        """
        form = {"grant_type": "authorization_code", "client_id": provider.client, **fields}
        document = self._discovered(provider).document
        auth = None
        if secret and _wants_post(document):
            form["client_secret"] = secret
        elif secret:
            auth = httpx.BasicAuth(provider.client, secret)
        status, answer = _request("POST", document["token_endpoint"], form, auth)
        if 400 <= status < 500:
            raise NotAuthenticated("(the provider refused the code)", hint="Sign in once more.")
        if status != 200 or not isinstance(answer.get("id_token"), str):
            raise IdentityProviderAway(f"({provider.issuer} gave no identity: status {status})")
        return answer

    def claims(
        self, provider: Provider, tokens: Mapping[str, Any], nonce: str
    ) -> Mapping[str, Any]:
        """Return the claims of an ID token that is signed, ours, fresh, and of this sign-in.

        Raises:
            NotAuthenticated: it is not.
            IdentityProviderAway: the keys of the provider cannot be read.
        """
        token = tokens["id_token"]
        if len(token) > _ANSWER_BYTES_MAX:
            raise NotAuthenticated("(the provider's token)")
        decoded = self._decoded(provider, token)
        options = {
            "iss": {"essential": True, "value": provider.issuer},
            "aud": {"essential": True, "value": provider.client},
        }
        params = {
            "nonce": nonce,
            "client_id": provider.client,
            "access_token": tokens.get("access_token"),
        }
        checked = CodeIDToken(decoded.claims, decoded.header, options, params)
        try:
            checked.validate(now=int(self._clock.now().timestamp()), leeway=_LEEWAY_S)
        except (JoseError, ValueError, TypeError) as error:
            raise NotAuthenticated(f"(the provider's token: {_why(error)})") from None
        subject = checked.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            raise NotAuthenticated("(the provider's token names nobody)")
        return dict(checked)

    def _decoded(self, provider: Provider, token: str) -> jwt.Token:
        """Check the signature; with fresh keys if those we know do not fit."""
        known = self._discovered(provider)
        try:
            return jwt.decode(token, known.keys, algorithms=ALGORITHMS)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            if self._clock.monotonic() - known.at < _KEYS_AGAIN_S:
                raise NotAuthenticated(f"(the provider's token: {_why(error)})") from None
        known = self._discovered(provider, fresh=True)
        try:
            return jwt.decode(token, known.keys, algorithms=ALGORITHMS)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise NotAuthenticated(f"(the provider's token: {_why(error)})") from None

    def _discovered(self, provider: Provider, *, fresh: bool = False) -> _Known:
        now = self._clock.monotonic()
        with self._guard:
            known = self._known.get(provider.issuer)
        if known is not None and not fresh and now - known.at < _KEPT_S:
            return known
        document = _fetched(get_well_known_url(provider.issuer, external=True))
        if document.get("issuer") != provider.issuer:
            raise IdentityProviderAway(f"({provider.issuer} says that it is another issuer)")
        try:
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                check_address(str(document.get(name, "")))
        except UsageError as error:
            raise IdentityProviderAway(f"({provider.issuer}: {error.detail})") from None
        known = _Known(document, _keys(_fetched(document["jwks_uri"])), now)
        with self._guard:
            self._known[provider.issuer] = known
            while len(self._known) > _KEYS_MAX:
                del self._known[next(iter(self._known))]
        return known


def _keys(document: Mapping[str, Any]) -> jwk.KeySet:
    """Return the keys that sign; those of kinds that nobody here knows are left out."""
    found: list[Any] = []
    listed = document.get("keys")
    for fields in listed[:_KEYS_MAX] if isinstance(listed, list) else []:
        if not isinstance(fields, dict) or fields.get("use", "sig") != "sig":
            continue
        if fields.get("kty") in {"RSA", "EC", "OKP"}:
            try:
                found.append(jwk.import_key(fields))
            except (JoseError, ValueError, TypeError, KeyError):
                continue
    if not found:
        raise IdentityProviderAway("(the provider has no keys that sign)")
    return jwk.KeySet(found)


def _wants_post(document: Mapping[str, Any]) -> bool:
    """Tell whether the provider takes the secret of a client in the form only."""
    methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return "client_secret_basic" not in methods and "client_secret_post" in methods


def _fetched(url: str) -> dict[str, Any]:
    status, answer = _request("GET", url)
    if status != 200:
        raise IdentityProviderAway(f"({url}: status {status})")
    return answer


def _request(
    method: str, url: str, form: Mapping[str, str] | None = None, auth: httpx.Auth | None = None
) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of an answer; redirects are not followed, the size is limited."""
    content = bytearray()
    headers = {"Accept": "application/json"}
    try:
        with (
            httpx.Client(timeout=_TIME_LIMIT_S, follow_redirects=False) as client,
            client.stream(method, url, data=form, headers=headers, auth=auth) as answer,
        ):
            for piece in answer.iter_bytes():
                content += piece
                if len(content) > _ANSWER_BYTES_MAX:
                    raise IdentityProviderAway(f"({url} answers with too much)")
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise IdentityProviderAway(f"({url}: {type(error).__name__})") from None
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    return status, document if isinstance(document, dict) else {}


def _why(error: Exception) -> str:
    """Return the kind of an error; its text may quote the token."""
    return getattr(error, "error", "") or type(error).__name__
