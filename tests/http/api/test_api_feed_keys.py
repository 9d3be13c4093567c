"""Feed keys over REST, against a real server."""

import itertools
import json
from typing import Any

from server import Answer, RunningServer

_NAMES = itertools.count(1)


def member(server: RunningServer) -> tuple[str, str]:
    """A new user: their name, and a session token."""
    name = f"reader{next(_NAMES)}"
    server.run("user", "add", name)
    return name, server.token(name)


def call(server: RunningServer, token: str, method: str, path: str, body: object = None) -> Answer:
    data = None if body is None else json.dumps(body).encode()
    return server.request(method, f"/api/{path}", data, {"X-BTN-Token": token})


def data(answer: Answer) -> Any:
    assert answer.status == 200, answer
    return answer.json()["data"]


def read(server: RunningServer, key: str) -> int:
    return server.request("GET", f"/feeds/cidr.txt?key={key}").status


def test_a_member_makes_lists_and_revokes_keys_of_their_own(shared: RunningServer) -> None:
    name, token = member(shared)
    made = data(call(shared, token, "PUT", "feedkeys", {"name": " nas "}))
    assert list(made) == ["id", "name", "key", "user", "createdAt"]
    assert (made["name"], made["user"]) == ("nas", name)
    assert read(shared, made["key"]) == 200
    [listed] = data(call(shared, token, "GET", "feedkeys"))
    assert listed == {
        "id": made["id"],
        "name": "nas",
        "user": name,
        "createdAt": made["createdAt"],
        "lastUsedAt": listed["lastUsedAt"],
    }
    assert listed["lastUsedAt"] >= made["createdAt"]
    assert call(shared, token, "PUT", "feedkeys", {"name": "nas"}).status == 409
    assert call(shared, token, "PUT", "feedkeys", {"name": "x" * 41}).status == 400
    assert call(shared, token, "PUT", "feedkeys", {"name": "a", "user": 1}).status == 400
    for number in range(19):
        data(call(shared, token, "PUT", "feedkeys", {"name": f"{number}"}))
    assert call(shared, token, "PUT", "feedkeys", {"name": "more"}).status == 507
    assert data(call(shared, token, "DELETE", f"feedkeys/{made['id']}")) is None
    assert read(shared, made["key"]) == 403
    assert call(shared, token, "DELETE", f"feedkeys/{made['id']}").status == 404


def test_only_administrators_see_and_revoke_the_keys_of_others(shared: RunningServer) -> None:
    name, token = member(shared)
    made = data(call(shared, token, "PUT", "feedkeys", {"name": "tv"}))
    _, stranger = member(shared)
    assert data(call(shared, stranger, "GET", "feedkeys")) == []
    assert call(shared, stranger, "DELETE", f"feedkeys/{made['id']}").status == 403
    assert call(shared, stranger, "GET", "admin/feedkeys").status == 403
    assert call(shared, "", "GET", "feedkeys").status == 403
    assert read(shared, made["key"]) == 200
    admin = shared.token()
    page = data(call(shared, admin, "GET", "admin/feedkeys?pageSize=1"))
    assert (page["page"], page["size"], len(page["results"])) == (0, 1, 1)
    assert page["total"] >= 1
    rows = data(call(shared, admin, "GET", "admin/feedkeys?pageSize=3000"))["results"]
    [row] = [row for row in rows if row["id"] == made["id"]]
    assert (row["name"], row["user"]) == ("tv", name)
    assert made["key"] not in json.dumps(rows)
    data(call(shared, admin, "DELETE", f"feedkeys/{made['id']}"))
    assert read(shared, made["key"]) == 403
    audited = data(call(shared, admin, "GET", "admin/audit?action=FEED_KEY_REVOKE&success=true"))["results"]
    assert [entry["details"]["feedKey"] for entry in audited[:1]] == ["tv"]
