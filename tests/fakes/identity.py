"""A provider of accounts, over HTTP on this machine: an OpenID Connect server with discovery, keys and signed tokens,
and the addresses and shapes of Google's, GitHub's and Microsoft's. It checks what a provider checks: the client, the
address to come back to, that a code works once, and PKCE."""

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID, CLIENT_SECRET = "tertulia", "a-secret-of-the-client"
GOOGLE_ISSUER = "https://accounts.google.com"


@cache
def signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Identity:
    """Who is logged in at the provider. `said` is what OpenID servers and Google say beyond `sub`, `emails` and `mail`
    what GitHub and Microsoft do."""

    sub: str = "248289761001"
    said: dict[str, Any] = field(default_factory=dict)
    emails: list[dict[str, Any]] = field(default_factory=list)
    mail: str | None = None


class IdentityProvider:
    """`with IdentityProvider() as provider:` serves at `provider.url`. Settings of a test:

    - `identity`: who is logged in there. `refuses`: they press “cancel”.
    - `answers`: what a path answers instead: a status and a body.
    - `token`: what the ID token says otherwise.

    `asked` are the parameters of the last request to be sent back, `requests` the paths of all requests.
    """

    def __init__(self) -> None:
        self.identity = Identity()
        self.refuses = False
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.token: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.asked: dict[str, str] = {}
        self.requests: list[str] = []
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def send_back(self, asked: dict[str, str]) -> str:
        """Return the address that somebody is sent back to."""
        self.asked = asked
        if self.refuses:
            found = {"error": "access_denied", "error_description": "<b>The raw words of the provider</b>"}
        else:
            found = {"code": secrets.token_urlsafe(8)}
            self._codes[found["code"]] = asked
        return f"{asked['redirect_uri']}?{urlencode({**found, 'state': asked['state']})}"

    def exchange(self, form: dict[str, str], issuer: str) -> tuple[int, Any]:
        asked = self._codes.pop(form.get("code", ""), None)
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).rstrip(b"=").decode()
        if (
            asked is None
            or (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET)
            or form.get("redirect_uri") != asked["redirect_uri"]
            or (asked.get("code_challenge_method"), asked.get("code_challenge")) != ("S256", challenge)
        ):
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {"iss": issuer, "aud": CLIENT_ID, "sub": self.identity.sub, "iat": now, "exp": now + 60}
        if "max_age" in asked:
            claims["auth_time"] = now
        claims |= self.identity.said | self.token
        token = jwt.encode(claims, signing_key(), algorithm="RS256", headers={"kid": "one"})
        return 200, {"access_token": "an-access-token", "token_type": "Bearer", "expires_in": 60, "id_token": token}

    def tell(self, path: str, form: dict[str, str]) -> tuple[int, Any]:
        """Return a status, and what is asked for."""
        me, issuer = self.identity, GOOGLE_ISSUER if path.startswith("/google/") else self.url
        if path.endswith(("/token", "/access_token")):
            return self.exchange(form, issuer)
        found = {
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "userinfo_endpoint": f"{self.url}/userinfo",
                "jwks_uri": f"{self.url}/jwks",
                "token_endpoint_auth_methods_supported": ["client_secret_post"],
            },
            "/jwks": {
                "keys": [json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(signing_key().public_key())) | {"kid": "one"}]
            },
            "/userinfo": {"sub": me.sub, **me.said, **self.userinfo},
            "/api/v3/user": {"id": int(me.sub), "login": "ana-there", "name": "Ana There", "email": me.mail},
            "/api/v3/user/emails": me.emails,
            "/v1.0/me": {
                "id": f"id-{me.sub}",
                "displayName": "Ana There",
                "mail": me.mail,
                "userPrincipalName": me.mail,
            },
        }
        return (200, found[path]) if path in found else (404, {"error": "not_found"})


def _handler_of(provider: IdentityProvider) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            provider.requests.append(parts.path)
            if parts.path.endswith("/authorize"):
                self._ask({name: values[0] for name, values in parse_qs(parts.query).items()})
            else:
                self._answer(parts.path, {})

        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            provider.requests.append(self.path)
            self._answer(self.path, dict(parse_qsl(form)))

        def _ask(self, asked: dict[str, str]) -> None:
            """Send a program back at once; ask a browser first."""
            address = provider.send_back(asked)
            if "text/html" not in self.headers.get("Accept", ""):
                self.send_response(302)
                self.send_header("Location", address)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            page = f'<!doctype html><title>Provider</title><a href="{html.escape(address)}">It is me</a>'
            self._send(200, page.encode(), "text/html")

        def _answer(self, path: str, form: dict[str, str]) -> None:
            if path in provider.answers:
                self._send(*provider.answers[path], "application/json")
                return
            status, body = provider.tell(path, form)
            self._send(status, json.dumps(body).encode(), "application/json")

        def _send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            pass

    return Handler
