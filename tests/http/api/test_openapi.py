"""The OpenAPI document is true, its page needs nobody else, and no input however bad is a fault of the server's own."""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import pytest
from litestar import Litestar, get
from litestar.exceptions import ImproperlyConfiguredException
from litestar.routes import HTTPRoute
from litestar.utils.sync import AsyncCallable
from server import Answer, RunningServer, read_answer, served_paths

from sparkle_lite.app import create_app
from sparkle_lite.http.session import DEPENDENCIES, Injected
from sparkle_lite.server import Server

Json = dict[str, Any]

TORRENT = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
CHROMIUM = Path("/usr/bin/chromium")
METHODS = ("get", "put", "post", "delete", "patch")


@pytest.fixture(scope="module")
def document(shared: RunningServer) -> Json:
    """The document as it is served."""
    answer = shared.request("GET", "/openapi.json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    return dict(answer.json())


@pytest.fixture(scope="module")
def token(shared: RunningServer) -> str:
    """A session of an administrator."""
    return shared.token()


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield f"{method} {path}", item[method]


def contents(operation: Json) -> Iterator[tuple[str, Json]]:
    """Every body of an operation: where, and its media type object."""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"request {media_type}", content
    for status, answer in operation["responses"].items():
        for media_type, content in answer.get("content", {}).items():
            yield f"{status} {media_type}", content


# --- The document -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_everything_that_the_server_answers_to_is_documented(document: Json) -> None:
    served = {re.sub(r":\w+}", "}", path) for path in served_paths()}
    api = {path for path in served if path.startswith(("/api/", "/ping/", "/auth/"))}
    assert api <= set(document["paths"]) <= served
    assert {"/healthz", "/readyz", "/metrics", "/login"} <= set(document["paths"])


def test_a_handler_that_wants_what_nobody_provides_stops_the_start() -> None:
    @get("/")
    async def mistyped(sever: Injected[Server]) -> None:
        raise AssertionError(sever)

    with pytest.raises(ImproperlyConfiguredException, match="sever"):
        Litestar([mistyped], dependencies=DEPENDENCIES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_runs_before_a_handler_takes_no_thread() -> None:
    routes = [route for route in create_app(cast(Server, None)).routes if isinstance(route, HTTPRoute)]
    assert len(routes) > 50
    for handler in (handler for route in routes for handler in route.route_handlers):
        for step in (handler.resolve_before_request(), *handler.resolve_guards()):
            assert not isinstance(step, AsyncCallable), str(handler)
        assert not any(each.sync_to_thread for each in handler.resolve_dependencies().values()), str(handler)


def test_every_operation_is_described(document: Json) -> None:
    found = dict(operations(document))
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    for name, operation in found.items():
        assert operation["summary"], name
        assert len(operation["tags"]) == 1, name
        assert operation["tags"][0] in tags, name
        assert all(answer["description"] for answer in operation["responses"].values()), name
        assert "security" in operation, name
    ids = [operation["operationId"] for operation in found.values()]
    assert sorted(set(ids)) == sorted(ids)


def test_every_parameter_has_a_description_and_an_example_that_fits(document: Json) -> None:
    for name, operation in operations(document):
        for parameter in operation["parameters"]:
            assert parameter["description"], (name, parameter)
            jsonschema_rs.Draft202012Validator(parameter["schema"]).validate(parameter["example"])


def test_every_body_has_an_example_that_fits_its_schema(document: Json) -> None:
    components = {"components": document["components"]}
    for name, operation in operations(document):
        for where, content in contents(operation):
            if content["schema"] == {"type": "string"}:
                continue
            assert "example" in content, (name, where)
            validator = jsonschema_rs.Draft202012Validator({**components, **content["schema"]})
            errors = [error.message for error in validator.iter_errors(content["example"])]
            assert not errors, (name, where, errors)


def test_schemas_have_names_that_people_can_read(document: Json) -> None:
    schemas = document["components"]["schemas"]
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+", name) for name in schemas)
    assert {"BanHistory", "UserApplicationListAnswer", "AdminUserPageAnswer", "Refusal", "IpQuery"} <= set(schemas)
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(schemas)


def test_every_way_to_sign_in_is_a_scheme_that_is_explained(document: Json) -> None:
    schemes = document["components"]["securitySchemes"]
    used = {name for _, operation in operations(document) for each in operation["security"] for name in each}
    assert used == set(schemes)
    assert all(scheme["description"] for scheme in schemes.values())


def test_what_needs_a_session_says_so(document: Json, shared: RunningServer) -> None:
    for name, operation in operations(document):
        method, _, path = name.partition(" ")
        if operation["security"] and "{" not in path:
            query = "&".join(
                f"{each['name']}={each['example']}" for each in operation["parameters"] if each["required"]
            )
            bodies = [content["example"] for where, content in contents(operation) if where.startswith("request")]
            body = json.dumps(bodies[0]).encode() if bodies else None
            assert shared.request(method.upper(), f"{path}?{query}", body).status in (403, 429), name
            assert "403" in operation["responses"], name


def test_there_is_no_second_document_beside_the_documentation(shared: RunningServer) -> None:
    for path in ("/docs/openapi.json", "/schema", "/schema/openapi.json"):
        answer = shared.request("GET", path)
        assert (answer.status, answer.json()["success"]) == (404, False)


# --- The page ---------------------------------------------------------------------------------------------------------


def bundle_of(page: Answer) -> str:
    found = re.search(r'<script src="(/docs/rapidoc\.[0-9a-f]{10}\.js)"', page.body.decode())
    assert found
    return found[1]


def test_the_documentation_page_names_no_other_site(shared: RunningServer) -> None:
    page = shared.request("GET", "/docs")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not re.search(rb"(https?:)?//", page.body)
    assert b'load-fonts="false"' in page.body
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "//" not in policy


def test_the_bundle_is_served_for_ever_plain_and_compressed(shared: RunningServer) -> None:
    path = bundle_of(shared.request("GET", "/docs"))
    plain = shared.request("GET", path)
    small = shared.request("GET", path, headers={"Accept-Encoding": "gzip"})
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["content-type"].startswith("text/javascript")
    assert plain.headers["vary"] == "Accept-Encoding"
    assert small.headers["content-encoding"] == "gzip"
    assert gzip.decompress(small.body) == plain.body
    assert len(small.body) < len(plain.body) / 3
    assert shared.request("GET", "/docs/rapidoc.0123456789.js").status == 404


def test_the_bundle_loads_only_fonts_from_elsewhere_which_the_page_switches_off(shared: RunningServer) -> None:
    text = shared.request("GET", bundle_of(shared.request("GET", "/docs"))).body.decode()
    hosts = set(re.findall(r"https?://([a-z0-9.-]+\.[a-z]+)", text))
    # Licences, errors and the names of dialects, and the fonts: a host that appears here has to be looked into.
    assert hosts == {
        "example.com",
        "fonts.gstatic.com",
        "github.com",
        "marked.js.org",
        "spec.openapis.org",
        "swagger.io",
        "vladimirgorej.com",
    }


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs chromium")
def test_a_browser_shows_the_documentation_and_asks_nobody_else(shared: RunningServer) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    asked: list[str] = []
    said: list[str] = []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{shared.url}/docs")
        page.get_by_text("Search bans").first.wait_for(timeout=20_000)
        page.wait_for_load_state("networkidle")
        browser.close()
    assert {url for url in asked if not url.startswith((f"{shared.url}/", "data:", "blob:"))} == set()
    assert said == []


# --- Bad input --------------------------------------------------------------------------------------------------------


def ask(server: RunningServer, head: bytes, token: str, body: bytes = b"") -> Answer:
    """A request whose first line is just these bytes."""
    raw = b"%b HTTP/1.1\r\nHost: localhost\r\nX-BTN-Token: %b\r\nContent-Length: %d\r\n\r\n%b"
    with server.connect() as sock:
        sock.sendall(raw % (head, token.encode(), len(body), body))
        return read_answer(sock, head.split(b" ")[0].decode())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /nothing/here", 404),
        (b"GET /%ff", 404),
        (b"GET /api/user/%ff", 404),
        (b"GET /api/user/99999999999999999999", 404),
        (b"GET /api/user/" + b"9" * 5000, 404),
        (b"GET /api/userapp/%00", 404),
        (b"GET /api/userapp/%ed%a0%80", 404),
        (b"GET /api/userapp/\xff", 400),
        (b"POST /api/rules/99999999999999999999/approve", 404),
        (b"GET /api/admin/audit?user=9223372036854775808", 400),
        (b"GET /api/admin/audit?user=" + b"9" * 5000, 400),
        (b"GET /api/admin/audit?user=null", 400),
        (b"GET /api/admin/audit?user=1&user=2", 400),
        (b"GET /api/admin/audit?usr=1", 400),
        (b"GET /api/admin/audit?action=%00%ff%ed%a0%80", 200),
        (b"GET /api/admin/users?page=9223372036854775808", 400),
        (b"GET /api/banhistory?page=9223372036854775808", 400),
        (b"GET /api/banhistory?after=%ff", 400),
        (b"GET /api/rules?state=null", 400),
        (b"GET /api/rules?ip=%00", 400),
        (b"GET /api/why?client_name=%ed%a0%80%00", 200),
        (b"POST /login?token=%00%ff", 403),
    ],
)
def test_no_path_or_query_is_too_bad(shared: RunningServer, token: str, head: bytes, status: int) -> None:
    answer = ask(shared, head, token)
    assert answer.status == status
    assert answer.json()["success"] is (status == 200)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"", 400, "body"),
        (b"null", 400, "body"),
        (b"[]", 400, "body"),
        (b"{", 400, ""),
        (b"\xff\xfe\x00", 400, ""),
        (b"\x00", 400, ""),
        (b"{}", 400, "comment"),
        (b'{"comment":5}', 400, "comment"),
        (b'{"comment":"a","more":1}', 400, "more"),
        (b'{"comment":"\\ud800"}', 400, ""),
        (b'{"comment":"\xed\xa0\x80"}', 400, "UTF-8"),
        (b'{"comment":"\\u0000"}', 400, "comment"),
        (b'{"comment":NaN}', 400, ""),
        (b'{"comment":1e999}', 400, ""),
        (b"[" * 60_000, 400, "deep"),
        (b'{"comment":' * 5_000, 400, "deep"),
        (b'{"comment":"%b"}' % (b"a" * 70_000), 413, "large"),
    ],
)
def test_no_body_is_too_bad(shared: RunningServer, token: str, body: bytes, status: int, named: str) -> None:
    answer = ask(shared, b"PUT /api/userapp", token, body)
    assert answer.status == status
    refusal = answer.json()
    assert (refusal["success"], refusal["data"]) == (False, None)
    assert named in refusal["message"]


@pytest.mark.parametrize("body", [b'{"peerPort":9223372036854775808}', b'{"peerPort":%b}' % (b"9" * 5000)])
def test_a_number_beyond_64_bits_is_refused(shared: RunningServer, token: str, body: bytes) -> None:
    assert ask(shared, b"POST /api/banhistory/query", token, body).status == 400


@pytest.mark.parametrize(
    ("head", "allow"),
    [
        (b"POST /api/user/me", {"GET", "HEAD", "OPTIONS"}),
        (b"TRACE /api/userapp/x", {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH"}),
        (b"DELETE /healthz", {"GET", "HEAD", "OPTIONS"}),
        (b"POST /openapi.json", {"GET", "HEAD", "OPTIONS"}),
        (b"POST /ping/config", {"GET", "HEAD"}),
        (b"PUT /ping/peers/submit", {"GET", "HEAD", "POST"}),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(shared: RunningServer, token: str, head: bytes, allow: set[str]) -> None:
    answer = ask(shared, head, token)
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == allow
    assert answer.json()["success"] is False


@pytest.mark.parametrize(
    ("path", "allow"),
    [("/api/userapp", "GET, HEAD, OPTIONS, PUT"), ("/api/admin/users", "GET, HEAD, OPTIONS, PUT")],
)
def test_options_names_every_method_of_a_path_to_anybody(
    shared: RunningServer, token: str, path: str, allow: str
) -> None:
    for each in (token, ""):
        answer = ask(shared, f"OPTIONS {path}".encode(), each)
        assert (answer.status, answer.headers["allow"]) == (204, allow)


# --- Everything at once -----------------------------------------------------------------------------------------------

# How many made-up requests each operation gets after the few thousand that follow from the schemas alone.
EXAMPLES = os.environ.get("SPARKLE_FUZZ_EXAMPLES", "1")
PHASES = "examples,coverage" if EXAMPLES == "1" else "examples,coverage,fuzzing,stateful"
# Ending the session, or the administrator, would leave nothing but refusals to be tested.
EXCLUDED = ("logOutByGet", "logOutByPost", "adminBanUser", "adminSetRole")
# A schema can't say everything that a filter must be (an address, a range in order), so 400 is no mistake there.
FUZZING = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "400", "403", "404", "409", "413", "415", "429", "507"]
"""


def fuzz(server: RunningServer, folder: Path, token: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Send requests that fit the document, and such that don't, and check every answer against it."""
    (folder / "schemathesis.toml").write_text(FUZZING, "utf-8")
    headers = {
        **server.app.headers,
        "X-BTN-Token": token,
        # It would be made up otherwise, and wins over the others.
        "Authorization": f"Bearer {token}",
    }
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json"]
    command += [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]
    command += [word for name in EXCLUDED for word in ("--exclude-operation-id", name)]
    command += ["--checks", "all", "--continue-on-failure", "--generation-database", "none", "--no-color", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.timeout(240)
def test_every_answer_is_one_that_the_document_promises(start: Callable[..., RunningServer], tmp_path: Path) -> None:
    server = start("[auth]\nmax_apps_per_user = 100000\n[limits]\nrequests_per_minute = 0\n")
    peer = {"ip_address": "45.33.32.9", "torrent_identifier": TORRENT, "client_name": "Xunlei", "peer_id": "-XL0019-"}
    ban = {"module": "m", "rule": "r", "ban_unique_id": "x", "peer": peer}
    assert server.post({"peers": [peer], "bans": [ban]}).rejected == 0
    token = server.token()
    found = fuzz(server, tmp_path, token, "--phases", PHASES, "--max-examples", EXAMPLES, "--workers", "2")
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr
    # A token that ended, or nothing but refusals, would be found in order too.
    assert server.request("GET", "/api/user/me", headers={"X-BTN-Token": token}).status == 200
    counted = re.findall(
        r'^sparkle_http_requests_total\{route="/(\w+)[^"]*",status="2\d\d"\} (\S+)$',
        server.request("GET", "/metrics").body.decode(),
        re.MULTILINE,
    )
    answered = {family: sum(float(n) for name, n in counted if name == family) for family in ("api", "ping")}
    assert answered["api"] > 400 and answered["ping"] > 100, answered
    assert '"level": "error"' not in server.stderr
