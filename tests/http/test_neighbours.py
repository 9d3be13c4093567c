"""Two servers that take over each other's decisions, both at once: no loop, and what one withdraws the other ends."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from server import App, RunningServer, start_server, wait_for

ALICE, BOB, CONFIGURED = "45.1.1.7", "45.2.2.9", "45.3.3.0/24"
RULES = f"""
[[rules]]
type = "ip"
category = "PCDN"
content = ["{CONFIGURED}"]
"""


class Neighbours(NamedTuple):
    """Two servers, and the application that each has at the other."""

    alice: RunningServer
    bob: RunningServer
    alices: App
    bobs: App


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbours]:
    with (
        start_server(tmp_path_factory.mktemp("alice"), RULES) as alice,
        start_server(tmp_path_factory.mktemp("bob")) as bob,
    ):
        yield Neighbours(alice, bob, bob.add_app(), alice.add_app())


def source(name: str, other: RunningServer, app: App, **more: str) -> str:
    """The lines that take another server's decisions over."""
    lines = {
        "name": name,
        "url": f"{other.url}/feeds/decisions.json",
        "format": "sparkle",
        "app_id": app.app_id,
        "app_secret": app.secret,
        **more,
    }
    return "[[imports]]\nallow_private = true\n" + "".join(f'{key} = "{value}"\n' for key, value in lines.items())


def pull(server: RunningServer) -> str:
    return server.run("imports", "run")


def listed(server: RunningServer) -> dict[str, str]:
    """What is in force, by target, with its origin."""
    return {rule["target"]: rule["origin"] for rule in json.loads(server.run("rules", "list", "--json"))}


def document(server: RunningServer, app: App) -> dict[str, list[str]]:
    """The chain of each decision that a server hands on, by its targets."""
    answer = server.request("GET", "/feeds/decisions.json", headers=app.headers)
    assert answer.status == 200
    return {target: one["chain"] for one in answer.json()["decisions"] for target in one["targets"]}


def test_two_servers_exchange_decisions_and_neither_keeps_what_the_other_withdrew(both: Neighbours) -> None:
    alice, bob, alices, bobs = both
    alice.run("rules", "deny", ALICE, "--reason", "a secret of ours")
    bob.run("rules", "deny", BOB)
    alice.reload(RULES + source("bob", bob, alices, trust="create"))
    bob.reload(source("alice", alice, bobs, trust="create"))
    # What is decided by hand is on a feed within the two seconds that a server notices a command in.
    wait_for(lambda: ALICE in document(alice, bobs) and BOB in document(bob, alices), 5)
    for _ in range(3):
        assert "stays" not in pull(alice) + pull(bob)
    assert listed(alice) == {CONFIGURED: "config", ALICE: "admin", BOB: "import:bob"}
    assert listed(bob) == {BOB: "admin", ALICE: "import:alice", CONFIGURED: "import:alice"}
    wait_for(lambda: ALICE in document(bob, alices) and BOB in document(alice, bobs), 5)
    node_of_alice, node_of_bob = document(alice, bobs)[ALICE][0], document(bob, alices)[BOB][0]
    assert document(bob, alices)[ALICE] == [node_of_alice, node_of_bob]
    assert document(alice, bobs)[BOB] == [node_of_bob, node_of_alice]
    # It expires by itself where the neighbour is never heard of again, and says whose it is.
    [shown] = [rule for rule in json.loads(bob.run("rules", "list", "--json")) if rule["target"] == ALICE]
    assert shown["expiresAt"] is not None and shown["code"] == "neighbour"
    assert shown["evidence"]["neighbour"]["chain"] == [node_of_alice]
    assert "a secret of ours" not in json.dumps(shown)
    # Nothing changes while nothing is decided.
    assert pull(alice) + pull(bob) == "bob: unchanged\nalice: unchanged\n"

    decision = next(rule for rule in json.loads(alice.run("rules", "list", "--json")) if rule["target"] == ALICE)
    alice.run("rules", "withdraw", str(decision["id"]))
    wait_for(lambda: ALICE not in document(alice, bobs), 5)
    for _ in range(2):
        pull(bob)
        pull(alice)
    assert ALICE not in listed(alice) | listed(bob)
    assert BOB in listed(alice)


def test_a_neighbour_only_supports_unless_the_file_says_more_and_needs_no_more_than_an_application(
    both: Neighbours, tmp_path_factory: pytest.TempPathFactory
) -> None:
    alice, _, _, bobs = both
    with start_server(tmp_path_factory.mktemp("carol"), source("alice", alice, bobs)) as carol:
        wait_for(lambda: json.loads(carol.run("imports", "list", "--json"))[0]["state"] == "on", 15)
        assert listed(carol) == {}
        name, state, entries = carol.run("imports", "list").splitlines()[1].split()[:3]
        assert (name, state) == ("alice", "on") and int(entries) >= 1
    wrong = source("alice", alice, bobs._replace(secret="wrong-secret"))
    with start_server(tmp_path_factory.mktemp("dave"), wrong) as dave:
        wait_for(lambda: json.loads(dave.run("imports", "list", "--json"))[0]["state"] == "failed", 15)
        assert "wrong-secret" not in dave.run("imports", "list", "--json") + dave.stderr + dave.run("config", "show")
