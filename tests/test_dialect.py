"""Every client gets a configuration document that its own parser takes."""

import json
from typing import NamedTuple

import client_parsers as clients
import pytest

from sparkle_lite.wire.dialect import AbilityOffer, Dialect, Family, config_document, detect, offered, versions

NAMES = (
    *("submit_peers", "submit_bans", "submit_histories", "submit_swarm", "rules", "exception", "reconfigure"),
    *("rule_peer_identity", "ip_denylist", "ip_allowlist", "heartbeat", "ip_query"),
)
OFFERS = {name: AbilityOffer(900_000, 300_000) for name in NAMES}
BASE = "https://btn.example/sub"

EARLY = {"submit_peers", "submit_bans", "rules", "reconfigure"}
MIDDLE = EARLY | {"submit_histories", "exception"}
LATE = EARLY | {"submit_histories"}
SCRIPT = {"submit_peers", "rules", "reconfigure"}
ROUTES_20 = {"heartbeat", "ip_query"}
LISTS_20 = {"submit_bans", "submit_swarm", "rule_peer_identity", "ip_denylist", "ip_allowlist"}
MODERN = LISTS_20 | ROUTES_20 | {"reconfigure"}


class Row(NamedTuple):
    """A range of releases: user agents at both ends, who that is, its limits, and the abilities it is offered."""

    agents: tuple[str, ...]
    dialect: Dialect
    limits: tuple[int, int]
    abilities: set[str]


def pbh(*releases: str, tail: str) -> tuple[str, ...]:
    return tuple(f"PeerBanHelper/{release} {tail}" for release in releases)


SYSTEM = "(docker; Linux,6.1.0-13-amd64,Debian GNU/Linux 12 (bookworm) build 1)"
PBH = Family.PEERBANHELPER
ROWS = (
    Row(pbh("3.2.0", "4.0.2", tail="BTN-Protocol/0.0.0-dev"), Dialect(PBH, 3), (3, 3), EARLY),
    Row(pbh("4.0.3", "4.0.5", tail="BTN-Protocol/0.0.0-dev"), Dialect(PBH, 4), (3, 3), EARLY),
    Row(pbh("4.0.6", "4.4.2", "5.0.5", tail="BTN-Protocol/0.0.0-dev"), Dialect(PBH, 5), (3, 3), EARLY),
    Row(pbh("5.0.6", "5.1.0", tail="BTN-Protocol/0.0.0-dev"), Dialect(PBH, 6), (3, 3), EARLY),
    Row(pbh("6.0.0-RC1", "6.4.8", tail="BTN-Protocol/0.0.1"), Dialect(PBH, 7), (3, 99), EARLY),
    Row(pbh("7.0.0-beta1", "7.1.5", tail="BTN-Protocol/0.0.2"), Dialect(PBH, 8), (3, 99), MIDDLE),
    Row(
        pbh("7.2.0", "7.3.2", tail=f"{SYSTEM} BTN-Protocol/0.0.3 BTN-Protocol-Version/8"),
        Dialect(PBH, 8), (3, 99), MIDDLE,
    ),
    Row(
        pbh("7.3.3", "7.4.15", tail=f"{SYSTEM} BTN-Protocol/0.0.3 BTN-Protocol-Version/10"),
        Dialect(PBH, 10), (3, 99), MIDDLE,
    ),
    Row(
        pbh("8.0.0-beta1", "8.0.7", tail=f"{SYSTEM} BTN-Protocol/0.1.0 BTN-Protocol-Version/11"),
        Dialect(PBH, 11), (3, 99), MIDDLE,
    ),
    Row(
        pbh("8.0.8", "9.0.10", tail=f"{SYSTEM} BTN-Protocol/2.0.0 BTN-Protocol-Version/12"),
        Dialect(PBH, 12), (3, 99), MIDDLE,
    ),
    Row(
        pbh("9.1.0", "9.1.5", tail=f"{SYSTEM} BTN-Protocol/2.0.1 BTN-Protocol-Version/13"),
        Dialect(PBH, 13), (3, 99), MIDDLE,
    ),
    Row(
        pbh("9.2.0-beta1", "9.5.0", "0.0.0-undefined", tail=f"{SYSTEM} BTN-Protocol/2.0.1 BTN-Protocol-Version/20"),
        Dialect(PBH, 20), (20, 20), MODERN,
    ),
    Row(
        pbh("10.0.0", tail=f"{SYSTEM} BTN-Protocol/3.0.0 BTN-Protocol-Version/120"),
        Dialect(PBH, 120), (20, 120), MODERN,
    ),
    Row(
        ("qBittorrent-ClientBlocker/3.8 (linux, amd64) BTN-Protocol/0.0.0-dev",),
        Dialect(Family.QBCB, 3), (3, 3), MIDDLE,
    ),
    Row(
        ("PeerBanHelper-Rust/0.1.4/BTN-Protocol/2.0.1/20",),
        Dialect(Family.RUST, 20), (20, 20), LISTS_20 | {"heartbeat"},
    ),
    Row(
        tuple(
            f"WindowsPowerShell/5.1.19041.4648 BTNScriptBC/v0.0.1 BTN-Protocol/{version}"
            for version in ("0.0.1", "0.0.0-dev", "7.0.0")
        ),
        Dialect(Family.BITCOMET, 3), (3, 3), SCRIPT,
    ),
)  # fmt: skip


def take(dialect: Dialect, body: bytes) -> clients.Configured:
    if dialect.family is Family.QBCB:
        return clients.qbcb_config(body)
    if dialect.family is Family.RUST:
        return clients.rust_config(body)
    if dialect.family is Family.BITCOMET:
        return clients.bitcomet_config(body)
    return clients.pbh_config(body, dialect.protocol)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_every_release_is_told_by_its_user_agent(row: Row) -> None:
    assert {detect(agent)[:2] for agent in row.agents} == {row.dialect[:2]}


@pytest.mark.parametrize(("release", "known"), [("4.0.1", True), ("4.0.2", False), ("4.0.5", False), ("4.0.6", True)])
def test_four_releases_send_the_peers_progress_as_their_own(release: str, known: bool) -> None:
    assert detect(f"PeerBanHelper/{release} BTN-Protocol/0.0.0-dev").knows_its_progress is known


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_every_release_takes_its_document_and_all_of_its_abilities(row: Row) -> None:
    document = config_document(row.dialect, OFFERS, BASE)
    taken = take(row.dialect, document.body)
    assert set(taken.abilities) == row.abilities == set(json.loads(document.body)["ability"])
    assert taken.shape == ("modern" if row.dialect.protocol >= 20 else "legacy")
    assert versions(row.dialect) == row.limits


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_an_operator_who_prefers_legacy_gets_legacy_shapes_from_peerbanhelper(row: Row) -> None:
    document = config_document(row.dialect, OFFERS, BASE, prefer_legacy=True)
    taken = take(row.dialect, document.body)
    is_pbh_20 = row.dialect.family is PBH and row.dialect.protocol >= 20
    # The Rust client knows no other shapes.
    assert taken.shape == ("modern" if row.dialect.family is Family.RUST else "legacy")
    assert set(taken.abilities) == (LATE | ROUTES_20 if is_pbh_20 else row.abilities)


@pytest.mark.parametrize("release", ["3.0", "3.0.0", "3.1.4", "2.5.1"])
def test_peerbanhelper_before_3_2_is_outdated(release: str) -> None:
    dialect = detect(f"PeerBanHelper/{release} BTN-Protocol/0.0.0-dev")
    assert dialect == Dialect(Family.PEERBANHELPER, 0)
    assert dialect.outdated


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_no_other_client_is_outdated(row: Row) -> None:
    assert not row.dialect.outdated


@pytest.mark.parametrize(
    "agent",
    [None, "", "curl/8.5.0", "PeerBanHelper", "PeerBanHelper/0.0.0-undefined BTN-Protocol/0.0.1", "\udcff" * 9000],
)
def test_anybody_else_is_spoken_to_in_the_legacy_shape(agent: str | None) -> None:
    dialect = detect(agent)
    assert dialect == Dialect(Family.UNKNOWN, 3)
    assert not dialect.outdated
    assert versions(dialect) == (3, 99)
    assert set(json.loads(config_document(dialect, OFFERS, BASE).body)["ability"]) == MIDDLE


@pytest.mark.parametrize(("release", "protocol"), [("7.2.0", 8), ("7.4.15", 10), ("8.0.7", 11), ("9.5.0", 20)])
def test_a_shortened_user_agent_still_tells_the_release(release: str, protocol: int) -> None:
    assert detect(f"PeerBanHelper/{release} (docker; Linux").protocol == protocol


def test_the_restated_version_checks_refuse_the_documents_of_other_releases() -> None:
    middle = config_document(Dialect(PBH, 13), OFFERS, BASE).body
    modern = config_document(Dialect(PBH, 20), OFFERS, BASE).body
    for body, protocol in ((middle, 6), (modern, 13), (config_document(Dialect(PBH, 3), OFFERS, BASE).body, 7)):
        with pytest.raises(clients.ClientRejects, match="is not for"):
            clients.pbh_config(body, protocol)
    with pytest.raises(clients.ClientRejects, match="mismatch"):
        clients.qbcb_config(modern)


def test_endpoints_are_absolute_and_end_in_the_fixed_paths() -> None:
    body = config_document(Dialect(PBH, 13), OFFERS, BASE + "/").body
    assert {name: node["endpoint"] for name, node in json.loads(body)["ability"].items()} == {
        "submit_peers": f"{BASE}/ping/peers/submit",
        "submit_bans": f"{BASE}/ping/bans/submit",
        "submit_histories": f"{BASE}/ping/histories/submit",
        "rules": f"{BASE}/ping/rules/retrieve",
        "exception": f"{BASE}/ping/exception",
        "reconfigure": f"{BASE}/ping/reconfigure",
    }


def test_protocol_20_endpoints_are_the_fixed_paths() -> None:
    abilities = json.loads(config_document(Dialect(PBH, 20), OFFERS, BASE).body)["ability"]
    assert {name: node["endpoint"].removeprefix(f"{BASE}/ping/") for name, node in abilities.items()} == {
        "submit_bans": "syncBanHistory",
        "submit_swarm": "syncSwarm",
        "rule_peer_identity": "rulePeerIdentity",
        "ip_denylist": "ruleIpDenylist",
        "ip_allowlist": "ruleIpAllowlist",
        "heartbeat": "heartbeat",
        "ip_query": "queryIp",
        "reconfigure": "reconfigure",
    }
    assert abilities["heartbeat"]["multi_if"] is True
    assert abilities["ip_query"]["iframe_endpoint"] == f"{BASE}/ping/queryIp/widget"


def test_an_ability_that_is_switched_off_is_not_offered() -> None:
    some = {name: offer for name, offer in OFFERS.items() if name not in ("exception", "reconfigure")}
    document = config_document(Dialect(PBH, 13), some, BASE)
    assert set(take(Dialect(PBH, 13), document.body).abilities) == MIDDLE - {"exception", "reconfigure"}
    assert offered(Dialect(PBH, 13), some) == ("submit_peers", "submit_bans", "submit_histories", "rules")


def test_with_nothing_switched_on_the_document_is_still_one_that_clients_take() -> None:
    for row in ROWS:
        take(row.dialect, config_document(row.dialect, {}, BASE).body)


def test_btnscriptbc_keeps_the_three_abilities_that_it_can_not_do_without() -> None:
    dialect = Dialect(Family.BITCOMET, 3)
    document = config_document(dialect, {"rules": OFFERS["rules"]}, BASE)
    taken = take(dialect, document.body)
    assert taken.abilities["rules"]["interval"] == 900_000
    assert taken.abilities["submit_peers"]["interval"] == 86_400_000


@pytest.mark.parametrize("value", [0, -5, 1 << 40])
def test_a_time_that_some_client_could_not_bear_is_brought_into_bounds(value: int) -> None:
    offers = {name: AbilityOffer(value, value) for name in NAMES}
    for row in ROWS:
        take(row.dialect, config_document(row.dialect, offers, BASE).body)


def test_the_version_changes_exactly_when_the_document_does() -> None:
    dialect = Dialect(PBH, 13)
    first = config_document(dialect, OFFERS, BASE)
    assert config_document(dialect, dict(reversed(OFFERS.items())), BASE + "/") == first
    assert json.loads(first.body)["ability"]["reconfigure"]["version"] == first.version
    others = [
        config_document(dialect, OFFERS | {"rules": AbilityOffer(900_001, 300_000)}, BASE),
        config_document(dialect, OFFERS | {"rules": AbilityOffer(900_000, 300_001)}, BASE),
        config_document(dialect, OFFERS, "https://other.example"),
        config_document(Dialect(PBH, 20), OFFERS, BASE),
        config_document(Dialect(PBH, 20), OFFERS, BASE, prefer_legacy=True),
        config_document(Dialect(PBH, 20), OFFERS, BASE, proof_of_work=["heartbeat"]),
    ]
    assert len({first.version, *(document.version for document in others)}) == 7


def test_the_version_is_the_same_on_every_machine() -> None:
    assert config_document(Dialect(PBH, 13), OFFERS, BASE).version == "ab270a0419242c36"
