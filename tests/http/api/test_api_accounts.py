"""Applications, users, sessions and administration over REST, against a real server; and attempts to get around it."""

import base64
import itertools
import json
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import jwt
import pytest
from server import Answer, App, RunningServer, start_server

NOT_SIGNED_IN = "未登录或会话已过期，请转到首页登录"
DENIED = "拒绝访问"
NO_APP = "请求的用户应用程序不存在"
_NAMES = itertools.count(1)

USER_KEYS = ["id", "avatar", "nickname", "registerAt", "lastSeenAt", "email", "bannedAt", "bannedReason"]
APP_KEYS = ["id", "appId", "comment", "createdAt", "user", "lastAccessAt", "bannedAt", "bannedReason", "trouble"]
VERBOSE_KEYS = ["id", "appId", "appSecret", "comment", "createdAt", "user"]


class Person(NamedTuple):
    """Somebody with a session token."""

    server: RunningServer
    id: int
    name: str
    token: str

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """A request with the token as X-BTN-Token."""
        return call(self.server, method, path, body, **{"X-BTN-Token": self.token, **headers})

    def by_cookie(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """The same as a browser sends it; underscores in header names are hyphens."""
        return call(self.server, method, path, body, Cookie=f"X-BTN-Token={self.token}", **headers)

    def data(self, method: str, path: str, body: object = None) -> Any:
        """The data of an answer that must be a good one."""
        answer = self.call(method, path, body)
        assert answer.status == 200, answer.body
        envelope = answer.json()
        assert list(envelope) == ["success", "message", "data"]
        assert envelope["success"] is True
        return envelope["data"]

    def new_app(self, comment: str = "nas") -> dict[str, Any]:
        """An application of theirs, with its secret."""
        return dict(self.data("PUT", "/api/userapp", {"comment": comment}))


def call(server: RunningServer, method: str, path: str, body: object = None, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None:
        named.setdefault("Content-Type", "application/json")
    return server.request(method, path, data, named)


def says(answer: Answer, status: int, text: str = "") -> bool:
    """Whether it is a refusal with this status that has the text, in the envelope."""
    envelope = answer.json()
    return (
        (answer.status, envelope["success"], envelope["data"]) == (status, False, None)
        and bool(envelope["message"])
        and text in envelope["message"]
        and "Traceback" not in envelope["message"]
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    text = "[auth]\nmax_apps_per_user = 3\n"
    with start_server(tmp_path_factory.mktemp("accounts"), text) as running:
        yield running


def person(server: RunningServer, *, admin: bool = False) -> Person:
    name = f"user{next(_NAMES)}"
    server.run("user", "add", name, *(["--admin"] if admin else []))
    token = server.token(name)
    me = call(server, "GET", "/api/user/me", X_BTN_Token=token).json()["data"]
    return Person(server, me["id"], name, token)


@pytest.fixture
def alice(server: RunningServer) -> Person:
    return person(server)


@pytest.fixture
def bob(server: RunningServer) -> Person:
    return person(server)


@pytest.fixture
def admin(server: RunningServer) -> Person:
    return person(server, admin=True)


def audit(server: RunningServer, action: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"{server.database.as_uri()}?mode=ro", uri=True)) as connection:
        sql = "SELECT success, user, address, user_agent, details FROM audit WHERE action=? ORDER BY id"
        rows = connection.execute(sql, (action,)).fetchall()
    return [{"success": s, "user": u, "address": a, "agent": g, **json.loads(d)} for s, u, a, g, d in rows]


def is_let_in(server: RunningServer, app: dict[str, Any]) -> bool:
    return server.get("/ping/config", App(app["appId"], app["appSecret"])).status == 200


# --- Applications -----------------------------------------------------------------------------------------------------


def test_an_application_from_its_making_to_its_end(alice: Person) -> None:
    made = alice.new_app("  nas  ")
    assert list(made) == VERBOSE_KEYS
    assert made["comment"] == "nas"
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", made["appSecret"])
    assert is_let_in(alice.server, made)

    path = f"/api/userapp/{made['appId']}"
    shown = alice.data("GET", path)
    assert list(shown) == APP_KEYS
    assert list(shown["user"]) == USER_KEYS
    assert (shown["user"]["id"], shown["bannedAt"]) == (alice.id, None)
    assert abs(shown["createdAt"] - time.time() * 1000) < 60_000

    assert alice.data("PATCH", path, {"comment": "seedbox"})["comment"] == "seedbox"
    assert [app["comment"] for app in alice.data("GET", "/api/userapp")] == ["seedbox"]

    reset = alice.data("POST", f"{path}/resetAppSecret")
    assert list(reset) == VERBOSE_KEYS
    assert is_let_in(alice.server, reset)
    assert not is_let_in(alice.server, made)

    answer = alice.call("DELETE", path)
    assert (answer.status, answer.json()) == (
        200,
        {"success": True, "message": "用户应用程序删除成功", "data": None},
    )
    assert not is_let_in(alice.server, reset)
    assert says(alice.call("GET", path), 404, NO_APP)
    assert says(alice.call("DELETE", path), 404, NO_APP)
    assert alice.data("GET", "/api/userapp") == []


def test_the_list_is_newest_first_and_only_ones_own(alice: Person, bob: Person) -> None:
    made = [alice.new_app(comment)["appId"] for comment in "abc"]
    bob.new_app()
    assert [app["appId"] for app in alice.data("GET", "/api/userapp")] == made[::-1]


def test_the_quota_holds_even_for_requests_at_once(alice: Person) -> None:
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda: answers.append(alice.call("PUT", "/api/userapp", {"comment": "x"})))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200] * 3 + [507] * 5
    assert says(next(a for a in answers if a.status == 507), 507, "您所拥有的用户应用程序数量已达上限")
    [oldest, *_] = alice.data("GET", "/api/userapp")
    alice.call("DELETE", f"/api/userapp/{oldest['appId']}")
    assert alice.call("PUT", "/api/userapp", {"comment": "x"}).status == 200


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (None, "JSON"),
        (b"", "JSON"),
        (b"{", ""),
        (b"\xff", ""),
        (b"[" * 10_000, ""),
        ([], "body"),
        ({}, "comment"),
        ({"comment": None}, "comment"),
        ({"comment": 7}, "comment"),
        ({"comment": ""}, "comment"),
        ({"comment": " \t "}, "comment"),
        ({"comment": "x" * 256}, "comment"),
        ({"comment": "a\nb"}, "comment"),
        ({"comment": "a\x00b"}, "comment"),
        (b'{"comment": "\\ud800"}', ""),
        ({"comment": "fine", "appSecret": "mine"}, "appSecret"),
    ],
)
def test_a_bad_comment_is_refused_with_its_name(alice: Person, body: object, names: str) -> None:
    app_id = alice.new_app("before")["appId"]
    for method, path in (("PUT", "/api/userapp"), ("PATCH", f"/api/userapp/{app_id}")):
        assert says(alice.call(method, path, body), 400, names)
    assert [app["comment"] for app in alice.data("GET", "/api/userapp")] == ["before"]


def test_a_comment_has_room_for_255_characters_of_any_script(alice: Person) -> None:
    for comment in ("x" * 255, "备" * 255, "🌱' OR 1=1 --", "<script>"):
        app = alice.new_app(comment)
        assert app["comment"] == comment
        alice.call("DELETE", f"/api/userapp/{app['appId']}")


def test_a_large_body_is_refused_unread(alice: Person) -> None:
    assert says(alice.call("PUT", "/api/userapp", {"comment": "x" * 100_000}), 413)


@pytest.mark.parametrize(
    "app_id", ["x", "1", "%00", "%ff", "..%2f", "' OR 1=1", "8c788023-8f09-4d5e-9d0c-0f3f3c1f6b1a"]
)
def test_an_unknown_application_is_not_found(alice: Person, app_id: str) -> None:
    path = f"/api/userapp/{app_id.replace(' ', '%20')}"
    assert alice.call("GET", path).status == 404
    assert alice.call("DELETE", path).status == 404
    assert alice.call("PATCH", path, {"comment": "x"}).status == 404
    assert alice.call("POST", f"{path}/resetAppSecret").status == 404


def test_another_users_application_can_be_neither_read_nor_changed(alice: Person, bob: Person) -> None:
    app = alice.new_app("hers")
    path = f"/api/userapp/{app['appId']}"
    assert says(bob.call("GET", path), 403, DENIED)
    assert says(bob.call("POST", f"{path}/resetAppSecret"), 403, DENIED)
    assert says(bob.call("PATCH", path, {"comment": "mine"}), 403, DENIED)
    assert says(bob.call("DELETE", path), 403, DENIED)
    assert is_let_in(alice.server, app)
    assert alice.data("GET", path)["comment"] == "hers"


def test_an_administrator_may_do_what_the_owner_may(alice: Person, admin: Person) -> None:
    app = alice.new_app()
    path = f"/api/userapp/{app['appId']}"
    assert admin.data("GET", path)["user"]["id"] == alice.id
    assert admin.data("PATCH", path, {"comment": "seen"})["user"]["id"] == alice.id
    assert admin.data("POST", f"{path}/resetAppSecret")["user"]["id"] == alice.id
    assert admin.call("DELETE", path).status == 200


def test_a_banned_application_stays_with_its_owner(alice: Person, admin: Person) -> None:
    app = alice.new_app()
    banned = admin.data("POST", f"/api/admin/userapp/{app['appId']}/ban", {"reason": "invents peers"})
    assert banned["bannedReason"] == "invents peers"
    assert not is_let_in(alice.server, app)
    path = f"/api/userapp/{app['appId']}"
    assert alice.data("GET", path)["bannedAt"] == banned["bannedAt"]
    assert says(alice.call("DELETE", path), 403, "invents peers")
    assert admin.data("POST", f"/api/admin/userapp/{app['appId']}/unban")["bannedAt"] is None
    assert is_let_in(alice.server, app)


def test_what_people_do_is_audited_with_its_outcome_and_without_secrets(alice: Person, bob: Person) -> None:
    app = alice.call("PUT", "/api/userapp", {"comment": "a"}, User_Agent="curl/8.9").json()["data"]
    path = f"/api/userapp/{app['appId']}"
    alice.call("PATCH", path, {"comment": "b"})
    reset = alice.data("POST", f"{path}/resetAppSecret")
    alice.call("DELETE", path)
    owner = {"appId": app["appId"], "userAppOwner": alice.id, "userId": alice.id}
    done = {"success": 1, "user": alice.id, "address": "127.0.0.1", "agent": None, **owner}
    for action, more in {
        "USERAPP_CREATE": {"userAppId": app["id"], "agent": "curl/8.9"},
        "USERAPP_EDIT": {"userAppOld": "a", "userAppNew": "b"},
        "USERAPP_RESET_SECRET": {},
        "USERAPP_DELETE": {"userAppId": app["id"]},
    }.items():
        rows = [row for row in audit(alice.server, action) if row.get("appId") == app["appId"]]
        assert rows == [done | more], action
    raw = alice.server.database.read_bytes() + b"".join(
        path.read_bytes() for path in alice.server.database.parent.glob("sparkle.db-wal")
    )
    for secret in (app["appSecret"], reset["appSecret"], alice.token):
        assert secret.encode() not in raw
    assert bob.id != alice.id


def test_who_may_not_ask_is_refused_before_the_request_is_read(alice: Person) -> None:
    nobody = alice._replace(token="")
    for body in (b"", b"{", {"comment": 1}, {"unknown": "x"}):
        assert NOT_SIGNED_IN in nobody.call("PUT", "/api/userapp", body).json()["message"], body
        refused = alice.call("PUT", "/api/admin/users", body)
        assert (refused.status, DENIED in refused.json()["message"]) == (403, True), body
    assert nobody.call("GET", "/api/admin/users?page=x").status == 403
    assert alice.call("PUT", "/api/userapp", b"{").status == 400


def test_refused_attempts_are_audited_but_cannot_fill_the_table(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with start_server(tmp_path_factory.mktemp("attempts")) as fresh:
        owner, other = person(fresh), person(fresh)
        path = f"/api/userapp/{owner.new_app()['appId']}"
        role = "/api/admin/users/1/role"
        assert other.call("POST", role, {"role": "user"}).status == 403
        [row] = audit(fresh, "ADMIN")
        assert (row["success"], row["user"], row["path"]) == (0, other.id, role)
        for _ in range(10):
            assert other.call("DELETE", path).status == 403
        rows = [row for row in audit(fresh, "USERAPP_DELETE") if not row["success"]]
        assert 1 <= len(rows) <= 3
        assert (rows[0]["user"], rows[0]["appId"]) == (other.id, path.rpartition("/")[2])
        assert "administrator" in rows[0]["error"]

        elsewhere = App("", "", "127.8.0.1" if sys.platform == "linux" else "")
        for _ in range(10):
            assert fresh.request("GET", "/login?token=guessed-link", app=elsewhere).status == 403
        rows = [row for row in audit(fresh, "USER_LOGIN") if not row["success"]]
        assert len(rows) <= 3
        assert "guessed-link" not in json.dumps(rows)


def test_whatever_is_for_administrators_is_audited_alike_when_it_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with start_server(tmp_path_factory.mktemp("refused")) as fresh:
        alice = person(fresh)
        assert alice.call("POST", "/api/rules/deny", {"target": "203.0.113.7"}).status == 403
        assert alice.call("GET", "/api/user/1").status == 403
        assert alice.by_cookie("GET", "/admin/users", Accept="text/html").status == 403
        rows = audit(fresh, "ADMIN")
        assert {(row["success"], row["user"]) for row in rows} == {(0, alice.id)}
        asked = [(row["method"], row["path"]) for row in rows]
        assert sorted(asked) == [("GET", "/admin/users"), ("GET", "/api/user/1"), ("POST", "/api/rules/deny")]


# --- Users ------------------------------------------------------------------------------------------------------------


def test_everybody_sees_themselves(alice: Person) -> None:
    me = alice.data("GET", "/api/user/me")
    assert list(me) == USER_KEYS
    assert (me["id"], me["nickname"], me["avatar"], me["email"]) == (alice.id, alice.name, None, None)
    assert isinstance(me["registerAt"], int)
    assert isinstance(me["lastSeenAt"], int)
    assert alice.data("GET", f"/api/user/{alice.id}") == me


def test_other_users_are_for_administrators(alice: Person, bob: Person, admin: Person) -> None:
    assert says(bob.call("GET", f"/api/user/{alice.id}"), 403, DENIED)
    assert says(bob.call("GET", "/api/user/999999"), 403, DENIED)
    assert admin.data("GET", f"/api/user/{alice.id}")["nickname"] == alice.name
    for unknown in ("999999", "0", "-1", str(1 << 63), "9" * 40):
        assert says(admin.call("GET", f"/api/user/{unknown}"), 404, "Unable to find requested user")
    assert says(admin.call("GET", "/api/user/x"), 404)


def test_every_operation_but_the_torrent_hash_wants_a_login(server: RunningServer) -> None:
    schema = server.request("GET", "/openapi.json").json()
    seen = 0
    for path, operations in schema["paths"].items():
        if not path.startswith(("/api/user", "/api/admin")) or path == "/api/user/logout":
            continue
        for method in operations:
            real = path.replace("{user_id}", "1").replace("{app_id}", "x")
            body = {"comment": "x"} if "userapp" in path and "admin" not in path else {"reason": "x"}
            if path.endswith("role"):
                body = {"role": "user"}
            if path == "/api/admin/users":
                body = {"name": "x"}
            answer = call(server, method.upper(), real, None if method == "get" else body)
            assert says(answer, 403, NOT_SIGNED_IN), (method, path)
            assert answer.headers["cache-control"] == "no-store"
            seen += 1
    assert seen >= 18


# --- Sessions ---------------------------------------------------------------------------------------------------------


def test_a_token_is_taken_as_bearer_header_or_cookie_but_not_from_the_url(alice: Person) -> None:
    me = "/api/user/me"
    assert call(alice.server, "GET", me, Authorization=f"Bearer {alice.token}").status == 200
    assert call(alice.server, "GET", me, Authorization=f"bearer  {alice.token}").status == 200
    assert call(alice.server, "GET", me, X_BTN_Token=alice.token).status == 200
    assert alice.by_cookie("GET", me).status == 200
    assert says(call(alice.server, "GET", f"{me}?X-BTN-Token={alice.token}"), 403, NOT_SIGNED_IN)
    assert says(call(alice.server, "GET", me, Authorization=f"Basic {alice.token}"), 403, NOT_SIGNED_IN)


def test_a_header_beats_the_cookie_even_if_it_is_wrong(alice: Person, bob: Person) -> None:
    assert bob.by_cookie("GET", "/api/user/me", X_BTN_Token=alice.token).json()["data"]["id"] == alice.id
    assert says(bob.by_cookie("GET", "/api/user/me", X_BTN_Token="x"), 403, NOT_SIGNED_IN)
    assert says(bob.by_cookie("GET", "/api/user/me", Authorization="Bearer x"), 403, NOT_SIGNED_IN)


def test_logging_out_ends_the_session_at_once_and_clears_the_cookie(alice: Person) -> None:
    for method in ("POST", "GET"):
        me = Person(alice.server, alice.id, alice.name, alice.server.token(alice.name))
        answer = me.by_cookie(method, "/api/user/logout", Sec_Fetch_Site="same-origin")
        assert (answer.status, answer.body) == (200, b"")
        cookie = answer.headers["set-cookie"]
        assert all(part in cookie for part in ("X-BTN-Token=", "Max-Age=0", "Path=/", "HttpOnly"))
        assert says(me.call("GET", "/api/user/me"), 403, NOT_SIGNED_IN)
        assert me.call(method, "/api/user/logout").status == 200
    assert call(alice.server, "GET", "/api/user/logout").status == 200
    assert alice.call("GET", "/api/user/me").status == 200


def test_sessions_are_listed_and_the_others_ended(alice: Person) -> None:
    others = [alice.server.token(alice.name) for _ in range(2)]
    listed = alice.data("GET", "/api/user/sessions")
    assert [list(each) for each in listed] == [["createdAt", "expiresAt", "origin", "current"]] * 3
    assert [each["current"] for each in listed].count(True) == 1
    assert alice.data("DELETE", "/api/user/sessions") == {"ended": 2}
    for token in others:
        assert call(alice.server, "GET", "/api/user/me", X_BTN_Token=token).status == 403
    assert len(alice.data("GET", "/api/user/sessions")) == 1


def test_a_login_link_signs_a_browser_in_and_a_script_too_once(alice: Person) -> None:
    server = alice.server

    def link() -> str:
        return server.run("user", "login-link", alice.name).strip().partition("/login")[2]

    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    query = link()
    answer = server.request("POST", f"/login{query}", headers=browser)
    assert (answer.status, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "Path=/", "SameSite=lax"))
    token = cookie.partition("=")[2].partition(";")[0]
    assert call(server, "GET", "/api/user/me", X_BTN_Token=token).json()["data"]["id"] == alice.id
    again = server.request("GET", f"/login{query}", headers=browser)
    assert (again.status, again.headers["content-type"].partition(";")[0]) == (403, "text/html")
    script = {"Accept": "application/json"}
    assert says(server.request("GET", f"/login{query}", headers=script), 403, "used already")

    query = link()
    assert server.request("GET", f"/login{query}", headers=script).json()["data"] == {"user": alice.name}
    answer = server.request("POST", f"/login{query}", headers=script)
    assert answer.json()["data"]["user"] == alice.name
    assert call(server, "GET", "/api/user/me", X_BTN_Token=answer.json()["data"]["token"]).status == 200


def _forge(token: str, header: dict[str, Any], key: str, **claims: Any) -> str:
    known = jwt.decode(token, options={"verify_signature": False}) | claims
    return jwt.encode(known, key, algorithm=header["alg"], headers=header)


@pytest.mark.parametrize("kind", ["none", "None", "other key", "empty key", "other user", "no signature", "other id"])
def test_a_forged_token_is_refused(alice: Person, kind: str) -> None:
    head, body, signature = alice.token.split(".")

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = jwt.decode(alice.token, options={"verify_signature": False})
    forged = {
        "none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "None": f"{part({'alg': 'None', 'typ': 'JWT'})}.{body}.{signature}",
        "other key": _forge(alice.token, {"alg": "HS256"}, "k" * 43),
        "empty key": _forge(alice.token, {"alg": "HS512"}, "0" * 64),
        "other user": f"{head}.{part(claims | {'sub': '1'})}.{signature}",
        "no signature": f"{head}.{body}.",
        "other id": f"{head}.{part(claims | {'jti': 'x'})}.{signature}",
    }[kind]
    assert says(call(alice.server, "GET", "/api/user/me", X_BTN_Token=forged), 403, NOT_SIGNED_IN)
    assert alice.call("GET", "/api/user/me").status == 200


@pytest.mark.parametrize("token", ["x", ".", "..", "a.b.c", "é", "A" * 8000, "eyJ"])
def test_a_token_that_is_none_is_refused(server: RunningServer, token: str) -> None:
    assert says(call(server, "GET", "/api/user/me", X_BTN_Token=token), 403, NOT_SIGNED_IN)
    assert call(server, "GET", "/api/user/logout", X_BTN_Token=token).status == 200


# --- Requests of other sites ------------------------------------------------------------------------------------------

FOREIGN = [
    {},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": "http://127.0.0.1"},
    {"Origin": "http://127.0.0.1.evil.example:1"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_change_by_cookie_from_another_site_is_refused(alice: Person, headers: dict[str, str]) -> None:
    path = f"/api/userapp/{alice.new_app('before')['appId']}"
    other = "another site"
    assert says(alice.by_cookie("PATCH", path, {"comment": "after"}, **headers), 403, other)
    assert says(alice.by_cookie("DELETE", path, **headers), 403, other)
    assert says(alice.by_cookie("POST", f"{path}/resetAppSecret", **headers), 403, other)
    assert says(alice.by_cookie("PUT", "/api/userapp", {"comment": "x"}, **headers), 403, other)
    assert says(alice.by_cookie("GET", "/api/user/logout", **headers), 403, other)
    assert says(alice.by_cookie("POST", "/api/user/logout", **headers), 403, other)
    assert [app["comment"] for app in alice.data("GET", "/api/userapp")] == ["before"]


def test_a_change_by_cookie_from_our_own_pages_is_made(alice: Person) -> None:
    path = f"/api/userapp/{alice.new_app()['appId']}"
    for number, headers in enumerate(
        ({"Origin": alice.server.url}, {"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"})
    ):
        assert alice.by_cookie("PATCH", path, {"comment": f"c{number}"}, **headers).status == 200
    assert alice.by_cookie("GET", path).status == 200


def test_a_change_by_header_needs_no_origin(alice: Person) -> None:
    path = f"/api/userapp/{alice.new_app()['appId']}"
    assert alice.call("PATCH", path, {"comment": "x"}, Origin="https://evil.example").status == 200


def test_behind_a_public_url_both_names_of_the_server_are_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    with start_server(tmp_path_factory.mktemp("public"), '[server]\npublic_url = "https://btn.example"\n') as fresh:
        me = person(fresh)
        for origin, status in (("https://btn.example", 200), (fresh.url, 200), ("http://btn.example", 403)):
            assert me.by_cookie("PUT", "/api/userapp", {"comment": "x"}, Origin=origin).status == status


# --- Administration ---------------------------------------------------------------------------------------------------


def test_administration_is_closed_to_everybody_else(alice: Person, bob: Person) -> None:
    app = bob.new_app()
    for method, path, body in (
        ("GET", "/api/admin/users", None),
        ("PUT", "/api/admin/users", {"name": "x", "role": "admin"}),
        ("POST", f"/api/admin/users/{bob.id}/ban", {"reason": "x"}),
        ("POST", f"/api/admin/users/{bob.id}/unban", None),
        ("POST", f"/api/admin/users/{bob.id}/vouch", None),
        ("POST", f"/api/admin/users/{bob.id}/unvouch", None),
        ("POST", f"/api/admin/users/{alice.id}/role", {"role": "admin"}),
        ("POST", "/api/admin/users/1/loginLink", None),
        ("GET", "/api/admin/userapp", None),
        ("POST", f"/api/admin/userapp/{app['appId']}/ban", {"reason": "x"}),
        ("POST", f"/api/admin/userapp/{app['appId']}/unban", None),
        ("GET", "/api/admin/audit", None),
    ):
        assert says(alice.call(method, path, body), 403, DENIED), path
    assert alice.call("GET", "/api/admin/users").status == 403
    assert is_let_in(bob.server, app)


def test_users_are_added_listed_in_pages_and_banned(admin: Person) -> None:
    name = f"user{next(_NAMES)}"
    made = admin.data("PUT", "/api/admin/users", {"name": name})
    assert list(made) == [*USER_KEYS, "name", "role", "registeredBy", "githubId", "githubLogin", "vouched", "word"]
    assert (made["name"], made["role"], made["registeredBy"]) == (name, "user", "admin")
    assert says(admin.call("PUT", "/api/admin/users", {"name": name.upper()}), 409, name)
    for bad in ({}, {"name": ""}, {"name": "a\nb"}, {"name": "anonymous"}, {"name": "x", "role": "root"}):
        assert says(admin.call("PUT", "/api/admin/users", bad), 400)

    everybody = admin.data("GET", "/api/admin/users")
    assert (everybody["page"], everybody["size"]) == (0, 100)
    # In some orders of the tests there are more users than a page holds.
    assert len(everybody["results"]) == min(everybody["total"], 100)
    second = admin.data("GET", "/api/admin/users?page=1&pageSize=1")
    assert second["results"] == everybody["results"][1:2]
    assert admin.data("GET", "/api/admin/users?page=9223372036854775807")["results"] == []


def test_people_are_vouched_for_and_no_more(admin: Person) -> None:
    # The preset is `friends`.
    for asked, vouched in ((None, True), (True, True), (False, False)):
        body = {"name": f"user{next(_NAMES)}"} | ({} if asked is None else {"vouched": asked})
        made = admin.data("PUT", "/api/admin/users", body)
        assert (made["vouched"], made["word"]) == (vouched, 1 if vouched else None)
    way = f"/api/admin/users/{made['id']}"
    for _ in range(2):
        assert admin.data("POST", f"{way}/vouch")["vouched"] is True
    for _ in range(2):
        assert admin.data("POST", f"{way}/unvouch")["vouched"] is False
    with closing(sqlite3.connect(admin.server.database, isolation_level=None)) as connection:
        connection.execute("INSERT INTO word VALUES (?,0.75,3,0,?,'{}')", (made["id"], made["id"]))
    # The newest is the last one, who need not be on the first page.
    newest = admin.data("GET", "/api/admin/users?pageSize=1")["total"] - 1
    [listed] = admin.data("GET", f"/api/admin/users?pageSize=1&page={newest}")["results"]
    assert listed["id"] == made["id"]
    assert (listed["vouched"], listed["word"]) == (False, 0.75)
    assert admin.data("POST", f"{way}/unban")["word"] == 0.75
    assert says(admin.call("POST", f"/api/admin/users/{admin.id}/unvouch"), 409, "whose word always counts")
    assert says(admin.call("POST", "/api/admin/users/99999/vouch"), 404)
    for action in ("USER_VOUCH", "USER_UNVOUCH"):
        assert [row["name"] for row in audit(admin.server, action)] == [made["name"]]


def test_a_ban_ends_everything_at_once_and_an_unban_lets_in_again(alice: Person, admin: Person) -> None:
    app = alice.new_app()
    banned = admin.data("POST", f"/api/admin/users/{alice.id}/ban", {"reason": "sold the account"})
    assert banned["bannedReason"] == "sold the account"
    answer = alice.call("GET", "/api/user/me")
    assert says(answer, 403, "此用户已被管理员停用")
    assert "sold the account" in answer.json()["message"]
    assert says(alice.call("PUT", "/api/userapp", {"comment": "x"}), 403)
    assert not is_let_in(alice.server, app)
    assert says(admin.call("POST", f"/api/admin/users/{alice.id}/loginLink"), 403)
    assert admin.data("POST", f"/api/admin/users/{alice.id}/unban")["bannedAt"] is None
    assert is_let_in(alice.server, app)
    assert says(alice.call("GET", "/api/user/me"), 403, NOT_SIGNED_IN)
    assert {row["user"] for row in audit(admin.server, "USER_BAN") if row["reason"] == "sold the account"} == {alice.id}


def test_a_role_takes_effect_at_once(alice: Person, admin: Person) -> None:
    assert alice.call("GET", "/api/admin/users").status == 403
    assert admin.data("POST", f"/api/admin/users/{alice.id}/role", {"role": "admin"})["role"] == "admin"
    # No session outlives the rights that it had; a link that was made before is good all the same.
    assert says(alice.call("GET", "/api/admin/users"), 403, NOT_SIGNED_IN)
    raised = alice._replace(token=alice.server.token(alice.name))
    assert raised.call("GET", "/api/admin/users").status == 200
    admin.data("POST", f"/api/admin/users/{alice.id}/role", {"role": "admin"})
    assert raised.call("GET", "/api/admin/users").status == 200
    admin.data("POST", f"/api/admin/users/{alice.id}/role", {"role": "user"})
    assert says(raised.call("GET", "/api/user/me"), 403, NOT_SIGNED_IN)
    assert alice.call("GET", "/api/admin/users").status == 403


def test_the_last_administrator_cannot_leave(tmp_path_factory: pytest.TempPathFactory) -> None:
    with start_server(tmp_path_factory.mktemp("last")) as fresh:
        only = Person(fresh, 1, "admin", fresh.token())
        ban, role = "/api/admin/users/1/ban", "/api/admin/users/1/role"
        assert says(only.call("POST", ban, {"reason": "x"}), 409, "last administrator")
        assert says(only.call("POST", role, {"role": "user"}), 409, "last administrator")
        other = person(fresh, admin=True)
        assert only.call("POST", f"/api/admin/users/{other.id}/ban", {"reason": "x"}).status == 200
        assert says(only.call("POST", role, {"role": "user"}), 409, "last administrator")
        only.data("POST", f"/api/admin/users/{other.id}/unban")
        assert only.data("POST", role, {"role": "user"})["role"] == "user"
        assert only.call("POST", role, {"role": "admin"}).status == 403


def test_an_administrator_makes_a_login_link(alice: Person, admin: Person) -> None:
    made = admin.data("POST", f"/api/admin/users/{alice.id}/loginLink")
    assert made["url"].startswith(f"{admin.server.url}/login?token=")
    assert made["expiresAt"] > time.time() * 1000
    path = made["url"].removeprefix(admin.server.url)
    answer = admin.server.request("GET", path, headers={"Accept": "application/json"})
    assert answer.json()["data"]["user"] == alice.name


def test_all_applications_are_listed_with_their_owners(alice: Person, admin: Person) -> None:
    app = alice.new_app("of alice")
    page = admin.data("GET", "/api/admin/userapp?pageSize=1")
    assert (page["total"] >= 1, len(page["results"])) == (True, 1)
    assert (page["results"][0]["appId"], page["results"][0]["user"]["id"]) == (app["appId"], alice.id)
    assert "appSecret" not in page["results"][0]


@pytest.mark.parametrize("path", ["/api/admin/users", "/api/admin/userapp", "/api/admin/audit"])
@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("pageSize=3001", "请求的分页数量参数超过最大允许值"),
        ("pageSize=0", "pageSize"),
        ("pageSize=-1", "pageSize"),
        ("pageSize=x", "pageSize"),
        ("pageSize=1.5", "pageSize"),
        ("page=-1", "page"),
        ("page=x", "page"),
        ("pagesize=1", "pagesize"),
        ("sucess=false", "sucess"),
    ],
)
def test_a_bad_page_is_refused_with_its_name(admin: Person, path: str, query: str, names: str) -> None:
    assert says(admin.call("GET", f"{path}?{query}"), 400, names)


def test_the_audit_is_filtered_and_walked(alice: Person, admin: Person) -> None:
    for comment in "abc":
        alice.new_app(comment)
    mine = f"/api/admin/audit?user={alice.id}&action=USERAPP_CREATE"
    every = admin.data("GET", mine)
    assert every["next"] is None
    assert len(every["results"]) == 3
    assert list(every["results"][0]) == [
        "id", "timestamp", "action", "success", "user", "address", "userAgent", "details"
    ]  # fmt: skip
    walked, after = [], ""
    for _ in range(3):
        page = admin.data("GET", f"{mine}&pageSize=1{after}")
        walked += page["results"]
        after = f"&after={page['next']}"
    assert walked == every["results"]
    assert page["next"] is None
    oldest = every["results"][-1]["timestamp"]
    assert admin.data("GET", f"{mine}&timeTo={oldest - 1}")["results"] == []
    assert len(admin.data("GET", f"{mine}&timeFrom={oldest}")["results"]) == 3
    assert admin.data("GET", f"{mine}&success=false")["results"] == []
    assert admin.data("GET", "/api/admin/audit?action=%27%20OR%201=1")["results"] == []


@pytest.mark.parametrize(
    "query", ["timeFrom=2&timeTo=1", "timeFrom=x", "user=99999999999999999999", "success=perhaps", "after=x"]
)
def test_a_bad_audit_filter_is_refused(admin: Person, query: str) -> None:
    assert says(admin.call("GET", f"/api/admin/audit?{query}"), 400, query.partition("=")[0])


# --- Torrents ---------------------------------------------------------------------------------------------------------

INFO_HASH = "a5b24a285c3533d80ce62181813640ac4a0e6ed7"
IDENTIFIER = "52fa13494a4571a951b46b1a04be19ab9d8089c3d3761956c99f5435e6f2c8ad"
BASE32 = base64.b32encode(bytes.fromhex(INFO_HASH)).decode()


@pytest.mark.parametrize("text", [INFO_HASH, INFO_HASH.upper(), f"%20{INFO_HASH}", BASE32, BASE32.lower()])
def test_the_identifier_of_a_torrent_is_for_everybody(server: RunningServer, text: str) -> None:
    answer = server.request("GET", f"/api/torrent/hash?hash={text}")
    assert answer.json() == {"success": True, "message": None, "data": {"torrentIdentifier": IDENTIFIER}}


@pytest.mark.parametrize("query", ["", "?hash=", "?hash=x", f"?hash={INFO_HASH}0", f"?hash={'g' * 40}", "?hash=%00"])
def test_what_is_no_info_hash_is_refused(server: RunningServer, query: str) -> None:
    assert says(server.request("GET", f"/api/torrent/hash{query}"), 400, "hash")
    assert len(server.request("GET", f"/api/torrent/hash?hash={'0' * 64}").json()["data"]["torrentIdentifier"]) == 64
