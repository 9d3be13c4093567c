"""Every client gets a configuration document that its own parser takes."""

import json
from typing import NamedTuple

import client_parsers as clients
import pytest

from sparkle_lite.wire.config_document import AbilityOffer, config_document, offered, versions
from sparkle_lite.wire.dialect import Dialect, Family, detect

NAMES = (
    *("submit_peers", "submit_bans", "submit_histories", "submit_swarm", "rules", "exception", "reconfigure"),
    *("rule_peer_identity", "ip_denylist", "ip_allowlist", "heartbeat", "ip_query"),
)
OFFERS = {name: AbilityOffer(900_000, 300_000) for name in NAMES}
BASE = "https://btn.example/sub"

FIVE = {"submit_peers", "submit_bans", "rules"}
EARLY = FIVE | {"reconfigure"}
MIDDLE = EARLY | {"submit_histories"}
SCRIPT = {"submit_peers", "rules", "reconfigure"}
ROUTES_20 = {"heartbeat", "ip_query"}
LISTS_20 = {"submit_bans", "submit_swarm", "rule_peer_identity", "ip_denylist", "ip_allowlist"}
MODERN = LISTS_20 | ROUTES_20 | {"reconfigure"}


class Row(NamedTuple):
    """A range of releases: user agents at both ends, who that is, its limits, and the abilities it is offered."""

    agents: tuple[str, ...]
    family: Family
    protocol: int
    limits: tuple[int, int]
    abilities: set[str]

    @property
    def dialect(self) -> Dialect:
        return detect(self.agents[0])


def pbh(*releases: str, tail: str) -> tuple[str, ...]:
    return tuple(f"PeerBanHelper/{release} {tail}" for release in releases)


SYSTEM = "(docker; Linux,6.1.0-13-amd64,Debian GNU/Linux 12 (bookworm) build 1)"
PBH = Family.PEERBANHELPER
PBH_9_1, PBH_9_5 = detect("PeerBanHelper/9.1.5"), detect("PeerBanHelper/9.5.0")
ROWS = (
    Row(pbh("3.2.0", "4.0.2", tail="BTN-Protocol/0.0.0-dev"), PBH, 3, (3, 3), EARLY),
    Row(pbh("4.0.3", "4.0.5", tail="BTN-Protocol/0.0.0-dev"), PBH, 4, (3, 3), EARLY),
    Row(pbh("4.0.6", "4.4.2", tail="BTN-Protocol/0.0.0-dev"), PBH, 5, (3, 3), EARLY),
    Row(pbh("5.0.0", "5.0.5", tail="BTN-Protocol/0.0.0-dev"), PBH, 5, (3, 3), FIVE),
    Row(pbh("5.0.6", "5.1.0", tail="BTN-Protocol/0.0.0-dev"), PBH, 6, (3, 3), FIVE),
    Row(pbh("6.0.0-RC1", "6.4.8", tail="BTN-Protocol/0.0.1"), PBH, 7, (3, 99), EARLY),
    Row(pbh("7.0.0-beta1", "7.1.5", tail="BTN-Protocol/0.0.2"), PBH, 8, (3, 99), MIDDLE),
    Row(
        pbh("7.2.0", "7.3.2", tail=f"{SYSTEM} BTN-Protocol/0.0.3 BTN-Protocol-Version/8"),
        PBH, 8, (3, 99), MIDDLE,
    ),
    Row(
        pbh("7.3.3", "7.4.15", tail=f"{SYSTEM} BTN-Protocol/0.0.3 BTN-Protocol-Version/10"),
        PBH, 10, (3, 99), MIDDLE,
    ),
    Row(
        pbh("8.0.0-beta1", "8.0.7", tail=f"{SYSTEM} BTN-Protocol/0.1.0 BTN-Protocol-Version/11"),
        PBH, 11, (3, 99), MIDDLE,
    ),
    Row(
        pbh("8.0.8", "9.0.10", tail=f"{SYSTEM} BTN-Protocol/2.0.0 BTN-Protocol-Version/12"),
        PBH, 12, (3, 99), MIDDLE,
    ),
    Row(
        pbh("9.1.0", "9.1.5", tail=f"{SYSTEM} BTN-Protocol/2.0.1 BTN-Protocol-Version/13"),
        PBH, 13, (3, 99), MIDDLE,
    ),
    Row(
        pbh("9.2.0-beta1", "9.5.0", "0.0.0-undefined", tail=f"{SYSTEM} BTN-Protocol/2.0.1 BTN-Protocol-Version/20"),
        PBH, 20, (20, 20), MODERN,
    ),
    Row(
        pbh("10.0.0", tail=f"{SYSTEM} BTN-Protocol/3.0.0 BTN-Protocol-Version/120"),
        PBH, 120, (20, 120), MODERN,
    ),
    Row(
        ("qBittorrent-ClientBlocker/3.8 (linux, amd64) BTN-Protocol/0.0.0-dev",),
        Family.QBCB, 3, (3, 3), MIDDLE | {"exception"},
    ),
    Row(
        ("PeerBanHelper-Rust/0.1.4/BTN-Protocol/2.0.1/20",),
        Family.RUST, 20, (20, 20), LISTS_20 | {"heartbeat"},
    ),
    Row(("PeerBanHelper-RS", "PeerBanHelper-RS/2.0"), Family.RS, 20, (20, 20), MODERN),
    Row(
        ("LibreTorrent/4.1.1 BTN-Protocol/v2.0.1 BTN-Protocol-Version/20", "LibreTorrent/4.2.0"),
        Family.LIBRETORRENT, 20, (20, 20), LISTS_20 | ROUTES_20,
    ),
    Row(
        ("LibreTorrent/5.0.0 BTN-Protocol/v3.0.0 BTN-Protocol-Version/21",),
        Family.LIBRETORRENT, 21, (20, 21), LISTS_20 | ROUTES_20,
    ),
    Row(("Novel/1.0 BTN-Protocol-Version/20",), Family.UNKNOWN, 20, (20, 20), MODERN),
    Row(("Novel/2.0 BTN-Protocol-Version/22",), Family.UNKNOWN, 22, (20, 22), MODERN),
    Row(("Novel/0.1 BTN-Protocol-Version/12",), Family.UNKNOWN, 12, (3, 99), MIDDLE),
    Row(
        tuple(
            f"WindowsPowerShell/5.1.19041.4648 BTNScriptBC/v0.0.1 BTN-Protocol/{version}"
            for version in ("0.0.1", "0.0.0-dev", "7.0.0")
        ),
        Family.BITCOMET, 3, (3, 3), SCRIPT,
    ),
)  # fmt: skip


def take(dialect: Dialect, body: bytes) -> clients.Configured:
    if dialect.family is Family.QBCB:
        return clients.qbcb_config(body)
    if dialect.family is Family.RUST:
        return clients.rust_config(body)
    if dialect.family is Family.BITCOMET:
        return clients.bitcomet_config(body)
    if dialect.family is Family.LIBRETORRENT:
        return clients.libretorrent_config(body, dialect.protocol)
    return clients.pbh_config(body, dialect.protocol)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_every_release_is_told_by_its_user_agent(row: Row) -> None:
    assert {(detect(agent).family, detect(agent).protocol) for agent in row.agents} == {(row.family, row.protocol)}
    assert len({detect(agent).traits for agent in row.agents}) == 1 or "4.0.2" in row.agents[-1]


@pytest.mark.parametrize(("release", "known"), [("4.0.1", True), ("4.0.2", False), ("4.0.5", False), ("4.0.6", True)])
def test_four_releases_send_the_peers_progress_as_their_own(release: str, known: bool) -> None:
    assert detect(f"PeerBanHelper/{release} BTN-Protocol/0.0.0-dev").traits.knows_its_progress is known


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_exceptions_are_offered_to_qbittorrent_clientblocker_alone(row: Row) -> None:
    for prefer_legacy in (False, True):
        names = offered(row.dialect, NAMES, prefer_legacy)
        assert ("exception" in names) is (row.family is Family.QBCB)


def test_offering_exceptions_to_peerbanhelper_switches_it_off() -> None:
    document = json.loads(config_document(detect("PeerBanHelper/9.1.5"), OFFERS, BASE).body)
    document["ability"]["exception"] = dict(document["ability"]["rules"])
    with pytest.raises(clients.ClientRejects, match="version"):
        clients.pbh_config(json.dumps(document).encode(), 13)
    document["ability"]["exception"]["version"] = "12345678"
    with pytest.raises(clients.ClientRejects, match="ClassCastException"):
        clients.pbh_config(json.dumps(document).encode(), 13)


def test_qbittorrent_clientblocker_fetches_rules_and_exceptions_in_one_pass() -> None:
    dialect = detect("qBittorrent-ClientBlocker/3.8")
    apart = OFFERS | {"rules": AbilityOffer(900_000, 300_000), "exception": AbilityOffer(600_000, 100_000)}
    for offers in (apart, apart | {"rules": apart["exception"], "exception": apart["rules"]}):
        abilities = json.loads(config_document(dialect, offers, BASE).body)["ability"]
        for name in ("rules", "exception"):
            assert (abilities[name]["interval"], abilities[name]["random_initial_delay"]) == (600_000, 1)
        assert abilities["submit_bans"]["random_initial_delay"] == 300_000
    # Whoever switches exceptions off doesn't want those banned whom they name.
    alone = {name: offer for name, offer in apart.items() if name != "exception"}
    abilities = json.loads(config_document(dialect, alone, BASE).body)["ability"]
    assert [abilities[name]["interval"] for name in ("rules", "exception")] == [900_000, 900_000]
    assert not {"rules", "exception"} & set(offered(dialect, [name for name in alone if name != "rules"]))


@pytest.mark.parametrize(("operator", "offer"), [(900_000, 180_000), (120_000, 60_000), (30_000, 30_000)])
def test_the_rust_client_reports_five_times_as_often_as_it_sends_one_page_a_turn(operator: int, offer: int) -> None:
    offers = OFFERS | dict.fromkeys(("submit_bans", "submit_swarm", "ip_denylist"), AbilityOffer(operator, 1))
    abilities = json.loads(config_document(detect("PeerBanHelper-Rust/0.1.4"), offers, BASE).body)["ability"]
    assert [abilities[name]["interval"] for name in ("submit_bans", "submit_swarm", "ip_denylist")] == [
        offer, offer, operator,
    ]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_work_is_asked_only_of_who_can_do_it(row: Row) -> None:
    document = json.loads(config_document(row.dialect, OFFERS, BASE, proof_of_work=["submit_bans"]).body)
    can = row.family in (PBH, Family.LIBRETORRENT) and row.protocol >= 20
    assert ("proof_of_work_captcha" in document) is can


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_every_release_takes_its_document_and_all_of_its_abilities(row: Row) -> None:
    document = config_document(row.dialect, OFFERS, BASE)
    taken = take(row.dialect, document.body)
    assert set(taken.abilities) == row.abilities == set(json.loads(document.body)["ability"])
    assert taken.shape == ("modern" if row.limits[0] == 20 else "legacy")
    assert versions(row.dialect) == row.limits


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_an_operator_who_prefers_legacy_gets_legacy_shapes_from_peerbanhelper(row: Row) -> None:
    document = config_document(row.dialect, OFFERS, BASE, prefer_legacy=True)
    taken = take(row.dialect, document.body)
    is_pbh_20 = row.dialect.family is PBH and row.dialect.protocol >= 20
    # The others of protocol 20 know no other shapes.
    assert taken.shape == ("modern" if row.limits[0] == 20 and not is_pbh_20 else "legacy")
    assert set(taken.abilities) == (MIDDLE | ROUTES_20 if is_pbh_20 else row.abilities)


@pytest.mark.parametrize("release", ["3.0", "3.0.0", "3.1.4", "2.5.1"])
def test_peerbanhelper_before_3_2_is_outdated(release: str) -> None:
    dialect = detect(f"PeerBanHelper/{release} BTN-Protocol/0.0.0-dev")
    assert (dialect.family, dialect.protocol) == (Family.PEERBANHELPER, 0)
    assert dialect.traits.outdated


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.agents[0][:30])
def test_no_other_client_is_outdated(row: Row) -> None:
    assert not row.dialect.traits.outdated


@pytest.mark.parametrize(
    "agent",
    [None, "", "curl/8.5.0", "PeerBanHelper", "PeerBanHelper/0.0.0-undefined BTN-Protocol/0.0.1", "\udcff" * 9000],
)
def test_anybody_else_is_spoken_to_in_the_legacy_shape(agent: str | None) -> None:
    dialect = detect(agent)
    assert (dialect.family, dialect.protocol) == (Family.UNKNOWN, 3)
    assert not dialect.traits.outdated
    assert versions(dialect) == (3, 99)
    assert set(json.loads(config_document(dialect, OFFERS, BASE).body)["ability"]) == MIDDLE


@pytest.mark.parametrize(("release", "protocol"), [("7.2.0", 8), ("7.4.15", 10), ("8.0.7", 11), ("9.5.0", 20)])
def test_a_shortened_user_agent_still_tells_the_release(release: str, protocol: int) -> None:
    assert detect(f"PeerBanHelper/{release} (docker; Linux").protocol == protocol


def test_the_restated_version_checks_refuse_the_documents_of_other_releases() -> None:
    middle = config_document(PBH_9_1, OFFERS, BASE).body
    modern = config_document(PBH_9_5, OFFERS, BASE).body
    for body, protocol in (
        (middle, 6),
        (modern, 13),
        (config_document(detect("PeerBanHelper/3.2.0"), OFFERS, BASE).body, 7),
    ):
        with pytest.raises(clients.ClientRejects, match="is not for"):
            clients.pbh_config(body, protocol)
    with pytest.raises(clients.ClientRejects, match="mismatch"):
        clients.qbcb_config(modern)


def test_endpoints_are_absolute_and_end_in_the_fixed_paths() -> None:
    body = config_document(PBH_9_1, OFFERS, BASE + "/").body
    assert {name: node["endpoint"] for name, node in json.loads(body)["ability"].items()} == {
        "submit_peers": f"{BASE}/ping/peers/submit",
        "submit_bans": f"{BASE}/ping/bans/submit",
        "submit_histories": f"{BASE}/ping/histories/submit",
        "rules": f"{BASE}/ping/rules/retrieve",
        "reconfigure": f"{BASE}/ping/reconfigure",
    }


def test_protocol_20_endpoints_are_the_fixed_paths() -> None:
    abilities = json.loads(config_document(PBH_9_5, OFFERS, BASE).body)["ability"]
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
    some = {name: offer for name, offer in OFFERS.items() if name not in ("rules", "reconfigure")}
    document = config_document(PBH_9_1, some, BASE)
    assert set(take(PBH_9_1, document.body).abilities) == MIDDLE - {"rules", "reconfigure"}
    assert offered(PBH_9_1, some) == ("submit_peers", "submit_bans", "submit_histories")


def test_with_nothing_switched_on_the_document_is_still_one_that_clients_take() -> None:
    for row in ROWS:
        take(row.dialect, config_document(row.dialect, {}, BASE).body)


def test_btnscriptbc_keeps_the_three_abilities_that_it_can_not_do_without() -> None:
    dialect = detect("WindowsPowerShell/5.1 BTNScriptBC/v0.0.1")
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
    dialect = PBH_9_1
    first = config_document(dialect, OFFERS, BASE)
    assert config_document(dialect, dict(reversed(OFFERS.items())), BASE + "/") == first
    assert json.loads(first.body)["ability"]["reconfigure"]["version"] == first.version
    others = [
        config_document(dialect, OFFERS | {"rules": AbilityOffer(900_001, 300_000)}, BASE),
        config_document(dialect, OFFERS | {"rules": AbilityOffer(900_000, 300_001)}, BASE),
        config_document(dialect, OFFERS, "https://other.example"),
        config_document(PBH_9_5, OFFERS, BASE),
        config_document(PBH_9_5, OFFERS, BASE, prefer_legacy=True),
        config_document(PBH_9_5, OFFERS, BASE, proof_of_work=["heartbeat"]),
    ]
    assert len({first.version, *(document.version for document in others)}) == 7


def test_the_version_is_the_same_on_every_machine() -> None:
    assert config_document(PBH_9_1, OFFERS, BASE).version == "e118d53eab5301f0"
