"""Whose address no rule may list, and what is decided and yet told to nobody."""

import html
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import client_parsers as clients
import pytest
from reports import DAY, NOW, World
from server import App, RunningServer, wait_for

from sparkle_lite.config import AnalysisSection
from sparkle_lite.net import address_bytes, parse_network
from sparkle_lite.rules.guard import Guard
from sparkle_lite.rules.protected import Protected

ADDRESSES = {"member": "203.0.113.77", "anonymous": "203.0.113.66", "self": "203.0.113.88", "excepted": "203.0.113.99"}
CONFIG = f"""
[server]
trusted_proxies = ["127.0.0.0/8"]
[auth]
anonymous_apps = true
[[rules]]
type = "ip"
category = "cheaters"
content = {json.dumps(list(ADDRESSES.values()))}
[[exceptions]]
type = "ip"
category = "friends"
content = ["{ADDRESSES["excepted"]}"]
"""
SERVED_WITHIN_S = 2.5


def change(server: RunningServer, sql: str, *values: object) -> None:
    """Change an account as another process would."""
    with closing(sqlite3.connect(server.database, isolation_level=None, timeout=10)) as connection:
        connection.execute(sql, values)


def denied(server: RunningServer) -> set[str]:
    body = server.get("/ping/ruleIpDenylist").body
    return {str(network).partition("/")[0] for network, _ in clients.address_list(body)}


def becomes(server: RunningServer, expected: set[str]) -> None:
    """The deny list says just this within two seconds."""
    deadline = time.monotonic() + SERVED_WITHIN_S
    while denied(server) != expected:
        assert time.monotonic() < deadline, (denied(server), expected)
        time.sleep(0.05)


def visit(server: RunningServer, name: str, app: App | None = None) -> None:
    headers = app.headers if app else {"X-BTN-InstallationID": "3f2c1b7e-0000-4000-8000-000000000001"}
    headers |= {"X-Forwarded-For": ADDRESSES[name], "User-Agent": "x"}
    assert server.request("GET", "/ping/config", headers=headers).status == 200


def states(server: RunningServer) -> dict[str, Any]:
    """The rules of the file as `rules list` tells them: what each is withheld for."""
    rules = json.loads(server.run("rules", "list", "--state", "active", "--json"))
    return {rule["target"]: rule["withheld"] and rule["withheld"]["code"] for rule in rules if rule["action"] == "deny"}


def test_protection_is_earned_and_what_is_withheld_says_so(start: Callable[..., RunningServer]) -> None:
    server = start(CONFIG)
    server.run("user", "add", "ann")
    server.run("user", "add", "sam", "--no-vouch")
    ann, sam = server.add_app("ann"), server.add_app("sam")
    change(server, "UPDATE user SET registered_by='self', vouched_at=NULL WHERE name='sam'")
    time.sleep(2.2)  # noticed
    anonymous, own = ADDRESSES["anonymous"], ADDRESSES["self"]
    everybody = {ADDRESSES["member"], anonymous, own}
    assert denied(server) == everybody
    visit(server, "anonymous")
    visit(server, "self", sam)
    visit(server, "member", ann)
    # The member's at once; whoever anybody can be protects nobody.
    assert denied(server) == {anonymous, own}
    expected = {ADDRESSES["member"]: "member", anonymous: None, own: None, ADDRESSES["excepted"]: "excepted"}
    wait_for(lambda: states(server) == expected, 5)
    server.run("user", "ban", "ann", "--reason", "x")
    becomes(server, everybody)
    server.run("user", "unban", "ann")
    becomes(server, {anonymous, own})
    server.run("app", "ban", ann.app_id, "--reason", "x")
    becomes(server, everybody)
    server.run("app", "unban", ann.app_id)
    becomes(server, {anonymous, own})
    change(server, "UPDATE user SET role='admin' WHERE name='sam'")
    becomes(server, {anonymous})
    change(server, "UPDATE user SET role='user' WHERE name='sam'")
    becomes(server, {anonymous, own})
    server.run("user", "vouch", "sam")
    becomes(server, {anonymous})
    server.run("user", "unvouch", "sam")
    becomes(server, {anonymous, own})
    server.run("app", "delete", ann.app_id)
    becomes(server, everybody)


def test_what_is_withheld_says_so_wherever_decisions_are_shown(start: Callable[..., RunningServer]) -> None:
    server = start(CONFIG)
    server.run("user", "add", "bob")
    visit(server, "member", server.add_app("bob"))
    address = ADDRESSES["member"]
    wait_for(lambda: states(server)[address] == "member", 5)
    tokens = {"admin": server.token(), "bob": server.token("bob")}

    def ask(who: str, path: str) -> Any:
        return server.request("GET", path, headers={"Cookie": f"X-BTN-Token={tokens[who]}"})

    for who, code in (("admin", "member"), ("bob", "protected")):
        for path in ("/api/rules?state=active&action=deny", f"/api/why?ip={address}"):
            data = ask(who, path).json()["data"]
            [rule] = [one for one in data.get("results", data.get("rules")) if one["target"] == address]
            assert rule["state"] == "active" and rule["withheld"]["code"] == code, (who, path)
            assert set(rule["withheld"]["reason"]) >= {"en", "zh"}
        for path in ("/rules", f"/ip/{address}"):
            page = html.unescape(ask(who, path).body.decode())
            assert "not served" in page
            assert ("A member's client came from there within 14 days." in page) is (who == "admin"), (who, path)
    assert "withheld (member)" in server.run("rules", "list")
    assert "withheld (excepted)" in server.run("rules", "list")
    assert "  withheld (member)  deny" in server.run("rules", "why", address)
    served = next(one for one in json.loads(server.run("rules", "list", "--json")) if one["target"] == "203.0.113.66")
    assert served["withheld"] is None
    exported = [json.loads(line) for line in server.run("rules", "export", "--format", "jsonl").splitlines()]
    assert {one["target"] for one in exported if one["withheld"] is None} == denied(server)


@pytest.mark.parametrize(
    ("more", "is_known"),
    [
        ({}, True),
        ({"by": "self"}, False),
        ({"by": "self", "active_days": 2}, False),
        ({"by": "self", "active_days": 3}, True),
        ({"by": "self", "active_days": 9, "age": 6 * DAY}, False),
    ],
)
async def test_who_registered_themselves_protects_when_they_are_known(
    world: World, more: dict[str, Any], is_known: bool
) -> None:
    user = world.person("p", **more)
    app = world.app(user)
    world.main.execute("INSERT INTO userapp_address VALUES (?,?,?,?)", (app, address_bytes("9.9.9.9"), NOW, NOW))
    protected = Protected(set())
    await world.database.open()
    await protected.look_at_accounts(world.database, AnalysisSection(), NOW)
    async with world.database.reader() as reader:
        assert await protected.members(reader, NOW) == ({address_bytes("9.9.9.9")} if is_known else set())
    await world.database.close()


def test_a_network_is_withheld_only_as_a_whole() -> None:
    members = [address_bytes(f"1.2.3.{n}") for n in range(4)]
    guard = Guard([address_bytes("5.5.5.5")], members, [parse_network("1.2.3.4/30")], {("client_name", "x")})
    assert [guard.withheld("ip", parse_network(text)) for text in ("1.2.3.0/30", "1.2.3.4/31", "5.5.5.5")] == [
        "member",
        "excepted",
        "own",
    ]
    assert guard.withheld("ip", parse_network("1.2.3.0/29")) in ("excepted", "member")
    assert guard.withheld("ip", parse_network("1.2.3.0/28")) is None
    assert (guard.withheld("client_name", "x"), guard.withheld("client_name", "y")) == ("excepted", None)
