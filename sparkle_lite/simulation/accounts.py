"""Accounts on a server that somebody else runs: made over its REST API with an administrator's token."""

import asyncio
import json
from typing import Any

from sparkle_lite.errors import SparkleError
from sparkle_lite.simulation.client import Account
from sparkle_lite.simulation.connection import Connection, ServerReply, Target

_AGENT = "sparkle-lite simulate"
_PATIENCE = 6


async def make(target: Target, token: str, names: list[str]) -> list[Account]:
    """An application each for people of these names. A user who is there already keeps what they have.

    Raises SparkleError when the server is not there, or refuses.
    """
    connection = Connection(target)
    tokens: dict[str, str] = {}
    found = []
    try:
        users = await _users(connection, token)
        for number, name in enumerate(names):
            if name not in tokens:
                user = users.get(name.lower()) or await _add_user(connection, token, name)
                tokens[name] = await _token_of(connection, token, user)
            data = await _ask(connection, "PUT", "/api/userapp", tokens[name], {"comment": f"simulated {number + 1}"})
            found.append(Account(data["appId"], data["appSecret"]))
    finally:
        await connection.close()
    return found


async def _users(connection: Connection, token: str) -> dict[str, int]:
    """Row ids by name."""
    found: dict[str, int] = {}
    page = 0
    while True:
        data = await _ask(connection, "GET", f"/api/admin/users?page={page}&pageSize=100", token)
        found |= {row["name"].lower(): row["id"] for row in data["results"]}
        if len(data["results"]) < 100:
            return found
        page += 1


async def _add_user(connection: Connection, token: str, name: str) -> int:
    data = await _ask(connection, "PUT", "/api/admin/users", token, {"name": name, "role": "user"})
    return int(data["id"])


async def _token_of(connection: Connection, token: str, user: int) -> str:
    """A session of a user, by a login link."""
    data = await _ask(connection, "POST", f"/api/admin/users/{user}/loginLink", token)
    secret = data["url"].partition("token=")[2]
    body, more = json.dumps({"token": secret}).encode(), ("Content-Type: application/json",)
    answer = await _exchange(connection, "POST", "/login", body=body, more=more)
    return str(_data_of(answer)["token"])


async def _ask(connection: Connection, method: str, path: str, token: str, body: Any = None) -> Any:
    more = (f"Authorization: Bearer {token}", "Content-Type: application/json")
    data = b"" if body is None else json.dumps(body).encode()
    return _data_of(await _exchange(connection, method, path, body=data, more=more))


async def _exchange(
    connection: Connection, method: str, path: str, *, body: bytes = b"", more: tuple[str, ...] = ()
) -> ServerReply:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {connection.target.netloc}", f"User-Agent: {_AGENT}"]
    lines += ["Accept: application/json", *more, f"Content-Length: {len(body)}", "", ""]
    for _ in range(_PATIENCE):
        answer = await connection.exchange("\r\n".join(lines).encode() + body)
        if answer.status != 429:
            break
        await asyncio.sleep(min(float(answer.headers.get("retry-after", 5)), 60))
    return answer


def _data_of(answer: ServerReply) -> Any:
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = {}
    if answer.status not in (200, 201) or not isinstance(document, dict) or "data" not in document:
        said = document.get("message", "") if isinstance(document, dict) else ""
        raise SparkleError("forbidden", "simulation.no_account", status=answer.status, reason=said)
    return document["data"]
