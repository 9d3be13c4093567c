"""HEAD: what GET would answer, without the body, and nothing is changed by it."""

import json
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import pytest
from feeder import feed
from github_standin import CLIENT_ID, CLIENT_SECRET
from server import PBH20, Answer, App, Headers, RunningServer, chunked, opened, served_paths, start_server, wait_for
from simulated_clients import solve
from test_github import CALLBACK, LOGIN

from sparkle_lite.accounts.proof_of_work import PER_USERAPP
from sparkle_lite.http.api import docs
from sparkle_lite.http.web import render

CONFIG = f"""
[auth]
anonymous_apps = true
[auth.github]
client_id = "{CLIENT_ID}"
client_secret = "{CLIENT_SECRET}"
[btn.proof_of_work]
abilities = ["ip_denylist"]
difficulty_bits = 1
[limits]
requests_per_minute = 0
[[rules]]
type = "ip"
category = "PCDN"
content = ["60.220.182.0/24"]
"""
BROWSER = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Site": "same-origin"}
DENYLIST, CHALLENGE = "/ping/ruleIpDenylist", "/ping/captcha/createSession"
# What a GET of these changes can't be compared afterwards.
UNSAFE = {"/api/user/logout", LOGIN, CALLBACK}
# What is different at every request.
VOLATILE = {"date", "transfer-encoding"}
REFUSED = re.compile(r"""INSERT INTO "audit" VALUES\(\d+,\d+,'\w+',0,""")
CLOCK = re.compile(r"""INSERT INTO "setting" VALUES\('clock',""")
QUERIES = {
    "/api/torrent/hash": "?hash=a5b24a285c3533d80ce62181813640ac4a0e6ed7",
    "/api/rules/at": "?time=1723974917039",
    "/api/why": "?ip=60.220.182.1",
    "/ping/queryIp": "?ip=60.220.182.1",
    CHALLENGE: "?type=heartbeat",
    "/torrent": "?identifier=abc",
    "/rules/dry-run": "?run=1&name=over_download",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with something of everything."""
    with start_server(tmp_path_factory.mktemp("head"), CONFIG) as running:
        feed(running, running.app)
        running.run("rules", "deny", "203.0.113.7", "--forever")
        (running.folder / "list.txt").write_text("203.0.113.8\n")
        running.run("rules", "import", str(running.folder / "list.txt"), "--name", "mine")
        (running.folder / "data" / "backups").mkdir()
        archive = str(running.folder / "data" / "backups" / "mine.tar")
        command = [sys.executable, "-m", "sparkle_lite", "backup", archive, "--config", str(running.config)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        yield running


def everything(server: RunningServer, token: str) -> Headers:
    """An administrator's browser that has the credentials of a client too, one that is asked for no work."""
    return {**BROWSER, **server.app.headers, "User-Agent": "curl/8", "Cookie": f"X-BTN-Token={token}"}


def targets(server: RunningServer) -> dict[str, str]:
    """Every path that the application knows, and the same with its parameters filled in."""
    values = {
        "app_id:str": server.app.app_id,
        "user_id:int": "1",
        "rule_id:int": "1",
        "key_id:int": "1",
        "decision_id:int": "1",
        "review_id:int": "1",
        "address:path": "60.220.182.1",
        "identifier:path": "abc",
    }
    names = {
        "/explore": "bans",
        "/client": "Transmission",
        "/rules/analyses": "over_download",
        "/rules/imports": "mine",
        "/admin/settings/backups": "mine.tar",
    }
    names |= {"/static": next(iter(render.assets())), "/docs": docs._files().name}
    found = {}
    for route in served_paths():
        name = next((name for start, name in names.items() if route.startswith(f"{start}/{{")), "")
        path = re.sub(r"\{([^}]+)}", lambda match, name=name: values.get(match[1], name), route)
        found[route] = path + QUERIES.get(route, "")
    found["/ping/queryIp/widget"] += f"?ip=1.2.3.4&appId={server.app.app_id}&appSecret={server.app.secret}"
    return found


def stored(server: RunningServer) -> dict[str, list[str]]:
    """Every row of every file of a server that has stopped, but for the log of what was refused, and the time."""
    files = {}
    for file in (server.database, *server.segments.glob("*.db")):
        with opened(file) as connection:
            files[file.name] = [
                line for line in connection.iterdump() if not (REFUSED.match(line) or CLOCK.match(line))
            ]
    return files


def head(server: RunningServer, path: str, headers: Headers | None = None) -> Answer:
    answer = server.request("HEAD", path, headers=headers)
    assert answer.body == b""
    assert "set-cookie" not in answer.headers
    return answer


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_head_changes_nothing_on_any_route(server: RunningServer) -> None:
    token = server.token()
    link = server.run("user", "login-link", "admin").strip().removeprefix(server.url)
    begun = server.request("GET", LOGIN)
    state = re.search("state=([^&]+)", begun.headers["location"])
    assert state is not None
    verifier = begun.headers["set-cookie"].partition(";")[0]
    asked = targets(server)
    server.stop()
    before = stored(server)
    server.start()
    headers = everything(server, token)
    for path in asked.values():
        assert head(server, path, headers).status < 500
    assert head(server, link, headers).status == 200
    assert head(server, link, {**headers, "Accept": "application/json"}).status == 200
    # What a login with GitHub would be led on to, and back to.
    assert head(server, LOGIN).status == 302
    back = f"{CALLBACK}?code=abc&state={state[1]}"
    assert head(server, back, {"Cookie": f"{verifier}; X-BTN-Token={token}"}).headers["location"] == "/"
    server.stop()
    after = stored(server)
    server.start()
    assert after.keys() == before.keys()
    for name, rows in before.items():
        assert after[name] == rows
    # Nor has it used up or ended anything that is no row.
    assert server.request("GET", link, headers={"Accept": "application/json"}).status == 200
    assert server.request("GET", "/api/user/me", headers={"X-BTN-Token": token}).status == 200


def lines(answer: Answer, counters: bool = False) -> dict[str, str]:
    """The lines of an answer's head that HEAD and GET have in common."""
    volatile = VOLATILE | {"set-cookie"} | ({"content-length"} if counters else set())
    return {name: value for name, value in answer.headers.items() if name not in volatile}


def around(server: RunningServer, path: str, headers: Headers) -> tuple[Answer, Answer]:
    """HEAD between two GETs that agree, and the second of them: some pages say what a job did a moment ago."""
    for _ in range(5):
        earlier = server.request("GET", path, headers=headers)
        without, whole = head(server, path, headers), server.request("GET", path, headers=headers)
        if lines(earlier) == lines(whole):
            break
    return without, whole


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_head_is_answered_as_get_is_on_every_route(server: RunningServer) -> None:
    headers = everything(server, server.token())
    served = set()
    for route, path in targets(server).items():
        if route in UNSAFE:
            continue
        without, whole = around(server, path, headers)
        assert without.status == whole.status, path
        # The counters change with every request.
        assert lines(without, route == "/metrics") == lines(whole, route == "/metrics"), path
        if whole.status in (200, 303):
            served.add(route)
        else:
            # Those that take POST alone, and submissions, which a GET without a body can't be.
            assert whole.status == 405 or (whole.status == 400 and route.endswith("/submit")), path
    assert len(served) > 50
    assert server.request("HEAD", "/nothing").status == 404


def test_head_of_what_a_get_would_end_says_what_the_get_would(server: RunningServer) -> None:
    token = server.token()
    out = head(server, "/api/user/logout", {"X-BTN-Token": token})
    assert (out.status, out.headers["content-length"]) == (200, "0")
    assert head(server, "/api/user/logout", {"Cookie": f"X-BTN-Token={token}"}).status == 403
    link = server.run("user", "login-link", "admin").strip().removeprefix(server.url)
    for path, status in ((link, 200), (link + "x", 403), ("/login?token=", 403)):
        assert head(server, path, {"Accept": "application/json"}).status == status
        assert head(server, path, BROWSER).status == (200 if path.endswith("=") else status)
    began, begins = server.request("GET", LOGIN), head(server, LOGIN)
    assert began.headers.keys() - begins.headers.keys() == {"set-cookie"}
    assert len(began.headers["location"]) == len(begins.headers["location"])
    for query, status in (("", 403), ("?state=x&code=y", 403)):
        assert head(server, CALLBACK + query).status == status


def test_head_registers_no_client_without_credentials(server: RunningServer) -> None:
    for path in ("/ping/config", "/ping/rules/retrieve", f"{CHALLENGE}?type=heartbeat"):
        headers = {"X-BTN-InstallationID": str(uuid.uuid4())}
        for _ in range(2):
            assert head(server, path, headers).status == 200
        with opened(server.database) as connection:
            assert not connection.execute("SELECT 1 FROM user WHERE name='anonymous'").fetchall()
    # One that was deleted stays that.
    made = {"X-BTN-InstallationID": str(uuid.uuid4())}
    assert server.request("GET", "/ping/config", headers=made).status == 200
    listed = json.loads(server.run("app", "list", "--json"))
    app_id = next(app["app_id"] for app in listed if app["user"] == "anonymous")
    assert head(server, "/ping/config", made).status == 200
    server.run("app", "delete", app_id)
    wait_for(lambda: server.request("GET", "/ping/config", headers=made).status == 403, 3)
    assert head(server, "/ping/config", made).status == 403


def test_a_refused_head_is_in_the_audit_as_it_may_be_a_guess(server: RunningServer) -> None:
    wrong = {"X-BTN-AppID": server.app.app_id, "X-BTN-AppSecret": "wrong", "User-Agent": "guesser/1"}
    source = App("", "", "127.4.4.4")
    assert server.request("HEAD", "/ping/config", headers=wrong, app=source).status == 403
    with opened(server.database) as connection:
        noted = connection.execute("SELECT success FROM audit WHERE user_agent='guesser/1'").fetchall()
    assert [row["success"] for row in noted] == [0]


def test_head_makes_no_challenge_and_uses_none_up(server: RunningServer) -> None:
    app = server.add_app()
    headers = {**app.headers, "User-Agent": PBH20}

    def ask(method: str, path: str, **more: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return server.request(method, path, headers=headers | named, app=app)

    for _ in range(PER_USERAPP + 1):
        assert ask("HEAD", f"{CHALLENGE}?type=ip_denylist").status == 200
    assert ask("HEAD", CHALLENGE).status == 400
    number, solution = solve(ask("GET", f"{CHALLENGE}?type=ip_denylist").json())
    proof = {"X_BTN_PowID": number, "X_BTN_PowSolution": solution}
    assert ask("HEAD", DENYLIST).status == 403
    assert ask("HEAD", DENYLIST, **proof | {"X_BTN_PowSolution": "AAAA"}).status == 403
    assert ask("HEAD", f"{DENYLIST}?rev=a", **proof).status == 200
    assert ask("GET", f"{DENYLIST}?rev=b", **proof).status == 200
    assert ask("HEAD", f"{DENYLIST}?rev=c", **proof).status == 200
    assert ask("GET", f"{DENYLIST}?rev=c", **proof).status == 403


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("path", ["/ping/peers/submit", "/ping/bans/submit", "/ping/histories/submit"])
def test_a_body_of_a_head_is_not_stored(server: RunningServer, path: str, framing: str) -> None:
    app = server.add_app()
    peer = {"ip_address": "45.33.32.9", "torrent_identifier": "t", "client_name": "x", "peer_id": "-XL0019-"}
    ban = {"module": "m", "rule": "r", "ban_unique_id": "x", "peer": peer}
    body = json.dumps({"populate_time": 1, "peers": [peer], "bans": [ban]}).encode()
    lines = [f"{name}: {value}" for name, value in {**app.headers, "Host": "a"}.items()]
    lines.append("Transfer-Encoding: chunked" if framing == "chunks" else f"Content-Length: {len(body)}")
    with server.connect(app) as sock:
        sent = "\r\n".join([f"HEAD {path} HTTP/1.1", *lines, "", ""]).encode()
        sock.sendall(sent + (chunked(body) if framing == "chunks" else body))
        assert read_head(sock)[0].split()[1] == "400"
        # The connection goes on behind that body.
        sock.sendall("\r\n".join(["GET /ping/config HTTP/1.1", *lines[:-1], "", ""]).encode())
        assert read_head(sock)[0].split()[1] == "200"
    assert not server.rows("snapshot", app) + server.rows("ban", app)


def read_head(sock: socket.socket) -> list[str]:
    """The lines of an answer's head; what stands behind is left."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(1)
    return data.decode().splitlines()


def test_heads_share_a_connection_with_other_requests(server: RunningServer) -> None:
    headers = everything(server, server.token())
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        for path in ("/explore/bans/csv", "/static/none", "/ping/config", "/openapi.json", "/nothing") * 2:
            for method in ("HEAD", "GET"):
                connection.request(method, path, headers=headers)
                response = connection.getresponse()
                assert bool(response.read()) is (method == "GET" and path != "/static/none")
                assert not response.will_close


def test_heads_are_logged_and_counted_by_the_path_in_its_plain_form(server: RunningServer) -> None:
    assert head(server, "/ping//config/", server.app.headers).status == 200
    line = next(line for line in reversed(server.logged()) if line.get("method") == "HEAD")
    assert (line["path"], line["status"], line["app_id"]) == ("/ping/config", 200, server.app.app_id)
    assert "//" not in server.request("GET", "/metrics").body.decode().replace("http://", "")
