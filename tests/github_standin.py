"""A small GitHub on a local port: the pages and answers of its OAuth web application flow, with its errors.

It behaves as GitHub's documents say: errors of the token URL come with status 200 and JSON, a code is good once and
only for the redirect_uri and the PKCE challenge that it was made for, a token is asked for as a bearer.
"""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

CLIENT_ID = "Iv1.0123456789abcdef"
CLIENT_SECRET = "stand-in-client-secret-5f2c"


@dataclass
class Person:
    """An account of the stand-in; `emails` are (address, primary, verified)."""

    id: int
    login: str
    name: str | None = None
    emails: list[tuple[str, bool, bool]] = field(default_factory=list)

    def profile(self) -> dict[str, Any]:
        """What /user says; real answers have many more keys."""
        avatar = f"https://avatars.example/u/{self.id}?v=4"
        return {
            "login": self.login,
            "id": self.id,
            "avatar_url": avatar,
            "name": self.name,
            "email": None,
            "type": "User",
        }


@dataclass
class Code:
    """A code that was given out, and what it is bound to."""

    person: Person
    redirect_uri: str
    challenge: str


class Call(NamedTuple):
    """A request that it was sent; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class StandIn:
    """The state of the stand-in. `faults` maps a path to one of the ways below in which it goes wrong."""

    def __init__(self) -> None:
        self.callback = ""
        self.person = Person(1, "octocat")
        self.denies = False
        self.faults: dict[str, str] = {}
        self.codes: dict[str, Code] = {}
        self.given_codes: list[str] = []
        self.tokens: dict[str, Person] = {}
        self.seen: list[Call] = []
        self.url = ""

    def config(self) -> str:
        """The table of config.toml that leads here."""
        return (
            f'[auth.github]\nclient_id = "{CLIENT_ID}"\nclient_secret = "{CLIENT_SECRET}"\n'
            f'authorize_url = "{self.url}/login/oauth/authorize"\n'
            f'token_url = "{self.url}/login/oauth/access_token"\napi_url = "{self.url}/api"\n'
        )

    def authorize(self, query: dict[str, str]) -> str | None:
        """Where the browser is sent, or None for a client that GitHub doesn't know."""
        if query.get("client_id") != CLIENT_ID:
            return None
        back = {"state": query.get("state", "")}
        if not query.get("redirect_uri", "").endswith("/auth/oauth2/github/callback"):
            back |= {"error": "redirect_uri_mismatch", "error_description": "The redirect_uri MUST match."}
        elif self.denies:
            back |= {"error": "access_denied", "error_description": "The user has denied your application access."}
        else:
            code = secrets.token_hex(10)
            challenge = query["code_challenge"] if query.get("code_challenge_method") == "S256" else ""
            self.codes[code] = Code(self.person, query["redirect_uri"], challenge)
            self.given_codes.append(code)
            back["code"] = code
        return f"{query['redirect_uri']}?{urlencode(back)}"

    def exchange(self, form: dict[str, str]) -> dict[str, str]:
        """The answer of the token URL."""
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return _error("incorrect_client_credentials", "The client_id and/or client_secret passed are incorrect.")
        code = self.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if code is None or challenge != code.challenge:
            return _error("bad_verification_code", "The code passed is incorrect or expired.")
        if form.get("redirect_uri") != code.redirect_uri:
            return _error("redirect_uri_mismatch", "The redirect_uri MUST match the registered callback URL.")
        token = f"gho_{secrets.token_hex(18)}"
        self.tokens[token] = code.person
        return {"access_token": token, "scope": "read:user,user:email", "token_type": "bearer"}


def _error(name: str, text: str) -> dict[str, str]:
    return {"error": name, "error_description": text, "error_uri": "https://docs.example/errors"}


class _Handler(BaseHTTPRequestHandler):
    standin: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A page or an answer of the API."""
        path = self._note()
        if self._goes_wrong(path):
            return
        if path == "/login/oauth/authorize":
            query = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
            target = self.standin.authorize(query)
            self._send(302, b"", {"Location": target}) if target else self._send(404, b"")
            return
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        person = self.standin.tokens.get(token) if scheme == "Bearer" else None
        if person is None:
            self._json({"message": "Bad credentials", "status": "401"}, 401)
        elif path == "/api/user":
            self._json(person.profile())
        elif path == "/api/user/emails":
            names = ("email", "primary", "verified")
            self._json([dict(zip(names, each, strict=True)) | {"visibility": None} for each in person.emails])
        else:
            self._json({"message": "Not Found"}, 404)

    def do_POST(self) -> None:
        """The token URL."""
        path = self._note()
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not self._goes_wrong(path):
            self._json(self.standin.exchange({k: v[0] for k, v in parse_qs(body).items()}))

    def _note(self) -> str:
        path = urlsplit(self.path).path
        self.standin.seen.append(Call(self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        return path

    def _goes_wrong(self, path: str) -> bool:
        fault = self.standin.faults.get(path)
        match fault:
            case None:
                return False
            case "slow":
                time.sleep(2)
                self._json({})
            case "drip":
                self._drip()
            case "oversize":
                self._send(200, b'{"login":"' + b"x" * (2 << 20) + b'"}')
            case "redirect":
                self._send(302, b"", {"Location": f"{self.standin.url}/elsewhere"})
            case "hang up":
                self.close_connection = True
            case "rate limit":
                self._json({"message": "API rate limit exceeded"}, 403)
            case "html":
                self._send(200, b"<html>Unicorn!</html>")
            case _ if fault.isdecimal():
                self._json({"message": "no"}, int(fault))
            case _:
                self._send(200, fault.encode(), {"Set-Cookie": "_gh_sess=tracked; Path=/"})
        return True

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(20):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)
        self.close_connection = True

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Set-Cookie": "_gh_sess=tracked; Path=/"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gives up on a slow answer is what some tests want."""


@contextmanager
def running() -> Iterator[StandIn]:
    """A stand-in that listens on a free port."""
    standin = StandIn()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"standin": standin}))
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield standin
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
