"""What the manual's table says that each client program is told, against what it is told."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sparkle_lite
from sparkle_lite.config import RuleEntry
from sparkle_lite.rules.operator import compile_rules
from sparkle_lite.rules.rendering import publish
from sparkle_lite.wire.config_document import offered
from sparkle_lite.wire.dialect import FAMILIES, Dialect, detect

MANUAL = Path(sparkle_lite.__file__).parent / "manual"

# Who stands in each row of the table of what clients are told.
CLIENTS = (
    ("PeerBanHelper/9.5.0", "PeerBanHelper/9.1.5", "PeerBanHelper/7.0.0", "PeerBanHelper-RS"),
    tuple(f"PeerBanHelper/{release}" for release in ("6.4.8", "5.1.0", "4.4.2", "4.0.5", "4.0.2", "3.2.0")),
    ("qBittorrent-ClientBlocker/3.8b6 (linux, amd64) BTN-Protocol/0.0.0-dev",),
    ("PeerBanHelper-Rust/0.1.4/BTN-Protocol/2.0.1/20",),
    ("LibreTorrent/4.1.1 BTN-Protocol/v2.0.1 BTN-Protocol-Version/20",),
    ("WindowsPowerShell/5.1 BTNScriptBC/0.1.5 BTN-Protocol/0.0.1",),
    ("Somebody/1.0", "Somebody/1.0 BTN-Protocol-Version/21"),
)
MARKS = {"✓": 2, "most": 1, "大部分": 1, "–": 0}


def entry(kind: Any, *content: Any, category: str = "some") -> RuleEntry:
    return RuleEntry(type=kind, category=category, content=content)


SHORT = {"method": "LENGTH", "min": 1, "max": 2}
RULES = (
    entry("port", 65000),
    entry("peer_id", "-XL00"),
    entry("client_name", SHORT, category="length"),
    entry("client_name", {"method": "CONTAINS", "content": "a", "hit": "FALSE"}, "b", category="exclusion"),
    entry("client_name", {"method": "REGEX", "content": "^hp[/ ][0-9.]+$"}, category="anybody's expression"),
    entry("client_name", {"method": "REGEX", "content": r"\p{IsHan}+"}, category="Java's expression"),
    entry("script", "return false;"),
)
# One that each client who knows exceptions can be told, and one that takes PeerBanHelper's grammar.
EXCEPTIONS = (entry("client_name", "seedbox"), entry("client_name", SHORT))


class Told(NamedTuple):
    """Five columns of the table, as MARKS counts them."""

    ports: int
    peer_ids: int
    exclusions: int
    expressions: int
    exceptions: int


def document(client: Dialect, *exceptions: RuleEntry) -> dict[str, Any]:
    published = publish(compile_rules(RULES, exceptions), [], 1_800_000_000_000)
    return dict(json.loads(published.rules(client).body))


def told(client: Dialect) -> Told:
    said = document(client)
    names = said["client_name"]
    return Told(
        ports=2 * bool(said["port"]),
        peer_ids=2 * bool(said["peer_id"]),
        exclusions=2 * ("length" in names and "exclusion" in names),
        expressions=("anybody's expression" in names) + ("Java's expression" in names),
        # Who can't be told of an exception gets no rules of its type.
        exceptions=sum(bool(document(client, one)["client_name"]) for one in EXCEPTIONS),
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_client_is_told_what_the_table_says(language: str) -> None:
    page = (MANUAL / language / "rules.md").read_text("utf-8")
    table = [line.strip("|").split("|") for line in page.splitlines() if line.count("|") == 9][2:]
    for row, agents in zip(table, CLIENTS, strict=True):
        name, ports, peer_ids, exclusions, expressions, scripts, exceptions, settings = (cell.strip() for cell in row)
        for agent in agents:
            client = detect(agent)
            marks = Told(*(MARKS[cell] for cell in (ports, peer_ids, exclusions, expressions, exceptions)))
            assert told(client) == marks, (name, agent)
            assert scripts == "–" or document(client)["script"], (name, agent)
            if "`reconfigure`" in settings:
                assert ("Helper/5." in agent) != ("reconfigure" in offered(client, {"reconfigure"})), (name, agent)


def test_everybody_who_is_served_stands_in_the_table() -> None:
    assert {detect(agent).traits for agents in CLIENTS for agent in agents} == set(FAMILIES)
