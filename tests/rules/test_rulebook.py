"""Rules from the configuration to documents that every client parses and that never ban the wrong peer."""

import gzip
import ipaddress
import json
from datetime import UTC, datetime
from typing import Any

import client_parsers as clients
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkle_lite.config import RuleEntry
from sparkle_lite.errors import Problem
from sparkle_lite.net import Network, address_bytes, network_of, parse_network
from sparkle_lite.rules.guard import ANALYSES_WIDEST, Guard
from sparkle_lite.rules.operator import BadRulesError, Rules, compile_rules
from sparkle_lite.rules.rendering import Listing, Published, publish
from sparkle_lite.wire.dialect import Dialect, Family, detect
from sparkle_lite.wire.matchers import Matcher, MatcherError, category_verdict, parse
from sparkle_lite.wire.rule_documents import Listed, address_lines, deny_text

PBH = detect("PeerBanHelper/9.1.5")
PBH_3 = detect("PeerBanHelper/3.2.0")
PBH_6 = detect("PeerBanHelper/6.4.8")
PBH_20 = detect("PeerBanHelper/9.5.0")
QBCB = detect("qBittorrent-ClientBlocker/3.8")
RUST = detect("PeerBanHelper-Rust/0.1.4")
RS = detect("PeerBanHelper-RS")
LIBRETORRENT = detect("LibreTorrent/4.1.1 BTN-Protocol/v2.0.1 BTN-Protocol-Version/20")
BITCOMET = detect("WindowsPowerShell/5.1 BTNScriptBC/v0.0.1")
UNKNOWN = detect(None)
EVERYBODY = (PBH, PBH_3, PBH_6, PBH_20, QBCB, RUST, RS, LIBRETORRENT, BITCOMET, UNKNOWN)
OLD = (PBH_3, PBH_6)
NOW = 1_800_000_000_000


def entry(kind: Any, *content: Any, category: str = "test", expires: datetime | None = None) -> RuleEntry:
    return RuleEntry(type=kind, category=category, content=content, expires=expires)


def published(
    *rules: RuleEntry, exceptions: tuple[RuleEntry, ...] = (), protected: tuple[str, ...] = (), now_ms: int = NOW
) -> Published:
    return publish(compile_rules(rules, exceptions), [parse_network(text) for text in protected], now_ms)


def read(dialect: Dialect, body: bytes) -> clients.Ruleset:
    if dialect.family is Family.QBCB:
        return clients.qbcb_rules(body)
    if dialect.family is Family.RUST:
        return clients.rust_rules(body)
    if dialect.family is Family.BITCOMET:
        return clients.bitcomet_rules(body)
    if dialect.family in (Family.LIBRETORRENT, Family.UNKNOWN):
        return clients.method_rules(body)
    return clients.pbh_rules(body, lowers_rule=dialect is not PBH_3, before_7=dialect in OLD)


def rules_of(document: Published, dialect: Dialect) -> clients.Ruleset:
    return read(dialect, document.rules(dialect).body)


def problems(*rules: RuleEntry, exceptions: tuple[RuleEntry, ...] = ()) -> tuple[Problem, ...]:
    with pytest.raises(BadRulesError) as caught:
        compile_rules(rules, exceptions)
    return caught.value.problems


FULL = (
    entry("ip", "203.0.113.0/24", "198.51.100.9", "2001:db8:150c::/47", "2001:db8:4a1:7::c3", category="PCDN"),
    entry("port", 12345, "6881", category="bad-port"),
    entry("peer_id", '{"method":"STARTS_WITH","content":"-HP"}', category="hp/torrent"),
    entry(
        "client_name",
        '{"method":"STARTS_WITH","content":"xm/torrent"}',
        {"method": "EQUALS", "content": "gopeed dev"},
        "Xunlei",
        {"method": "REGEX", "content": r"^[a-z]{8}/0\.0\.0$", "hit": "TRUE", "miss": "DEFAULT"},
        category="xm/torrent",
    ),
    entry("script", "return false", category="拦截脚本"),
)


# --- Documents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", EVERYBODY)
def test_every_client_parses_the_rules_and_bans_what_they_say(dialect: Dialect) -> None:
    rules = rules_of(published(*FULL), dialect)
    for address in ("203.0.113.77", "198.51.100.9", "2001:db8:150d::1", "2001:db8:4a1:7::c3"):
        assert rules.bans_address(address)
    assert not rules.bans_address("203.0.112.255")
    if dialect.family is Family.BITCOMET:
        return
    if dialect not in OLD:
        assert rules.bans_peer_id("-hp0001-")
    if dialect is not LIBRETORRENT and dialect not in OLD:
        assert rules.ports == {"bad-port": ["6881", "12345"] if dialect.family is Family.QBCB else [6881, 12345]}
    assert rules.bans_name("XM/Torrent 3")
    assert rules.bans_name("a xunlei thing")
    assert not rules.bans_name("qBittorrent/4.6.0")
    if dialect.family is not Family.RUST:
        assert rules.bans_name("Gopeed dev")
        assert not rules.bans_name("Gopeed dev 2")
        assert rules.bans_name("abcdefgh/0.0.0")
        assert not rules.bans_name("ABCDEFGH/0.0.0")
        assert not rules.bans_name("abcdefgh/0.0.0 ")


@pytest.mark.parametrize("dialect", EVERYBODY)
def test_every_client_parses_documents_without_any_rule(dialect: Dialect) -> None:
    nothing = published()
    rules_of(nothing, dialect)
    if dialect.family is not Family.BITCOMET:
        assert read(dialect, nothing.rule_peer_identity(dialect).body).networks == {}
    if dialect.family is Family.QBCB:
        clients.qbcb_rules(nothing.exception(dialect).body)


def test_btnscriptbc_is_given_an_address_of_nobody_when_there_is_none() -> None:
    assert json.loads(published().rules(BITCOMET).body)["ip"] == {"none": ["192.0.2.1"]}
    assert json.loads(published().rules(PBH).body)["ip"] == {}


@pytest.mark.parametrize("dialect", OLD)
def test_peerbanhelper_before_7_is_given_no_port_and_no_peer_id_and_a_version_of_its_own(dialect: Dialect) -> None:
    document = published(entry("port", 6881), entry("peer_id", "-XL"), entry("client_name", "xunlei"))
    served = json.loads(document.rules(dialect).body)
    assert (served["port"], served["peer_id"]) == ({}, {})
    assert rules_of(document, dialect).bans_name("Xunlei")
    # What it has cached from a server that knew no better is replaced, whether or not there is such a rule.
    for rules in (document, published(entry("client_name", "xunlei"))):
        assert rules.rules(dialect).version not in {rules.rules(other).version for other in (PBH, QBCB, UNKNOWN)}
    assert rules_of(document, PBH).ports == {"test": [6881]}


def test_what_libretorrent_reads_bans_none_whom_an_exception_names() -> None:
    document = published(
        entry("client_name", "thunder", {"method": "REGEX", "content": "Evil.*"}),
        entry("peer_id", "-XL"),
        exceptions=(entry("client_name", {"method": "STARTS_WITH", "content": "Thunderbird"}),),
    )
    for dialect in (LIBRETORRENT, UNKNOWN, detect("Novel/1 BTN-Protocol-Version/20")):
        body = document.rule_peer_identity(dialect).body
        rules = read(dialect, body)
        assert not rules.bans_name("Thunderbird 3")
        assert rules.bans_peer_id("-XL0001-")
        assert not any(word in body for word in (b"hit", b"miss", b'\\"if'))
    rules = read(
        LIBRETORRENT, published(entry("client_name", {"method": "REGEX", "content": "Evil.*"})).rules(UNKNOWN).body
    )
    assert (rules.bans_name("Evil 3"), rules.bans_name("evil 3"), rules.bans_name("not Evil 3")) == (True, False, False)


# What Java's expressions mean in ASCII, .NET takes for Unicode, and its end of a text for the end of a line.
@pytest.mark.parametrize(
    ("pattern", "banned", "spared"),
    [
        (r"\w+", "abc_9", "abcé"),
        (r"\d\D", "1x", "٣x"),
        (r"a\sb", "a\tb", "a\u2003b"),
        (r"a\Sb", "a\u2003b", "a b"),
        (r"[\w.]+", "a.b", "é.b"),
        (r"[\d-]+", "1-2", "٣-2"),
        (r"[^\s]+", "a\u2003b", "a b"),
        (r"a.b", "a-b", "a\rb"),
        (r"x\b.+", "xé", "xy"),
        (r"abc$", "abc", "abcd"),
    ],
)
@pytest.mark.parametrize("dialect", [QBCB, LIBRETORRENT])
def test_an_expression_means_the_same_in_another_dialect(
    dialect: Dialect, pattern: str, banned: str, spared: str
) -> None:
    rules = rules_of(published(entry("client_name", {"method": "REGEX", "content": pattern})), dialect)
    assert rules.bans_name(banned)
    assert not rules.bans_name(spared)
    assert not rules.bans_name(banned + "\n")


@settings(deadline=None)
@given(
    st.from_regex(r"(\\[dws]|\[\^?[a\\dw.-]{1,4}\]|[ab.1]|\(a\|b\)){1,4}[*+?]?", fullmatch=True),
    st.lists(st.text("aAb1_- é٣\r\n", max_size=5), min_size=8, max_size=8),
)
def test_an_expression_that_is_told_at_all_matches_what_java_matches(pattern: str, names: list[str]) -> None:
    try:
        matcher = parse({"method": "REGEX", "content": pattern})
    except MatcherError:
        return
    written = matcher.expression()
    if written is not None:
        rules = read(QBCB, published(entry("client_name", {"method": "REGEX", "content": pattern})).rules(QBCB).body)
        for name in names:
            assert rules.bans_name(name) is bool(matcher.matches(name)), (pattern, written, name)


def test_categories_that_differ_in_case_only_are_one_for_btnscriptbc() -> None:
    document = published(entry("ip", "1.2.3.4", category="PCDN"), entry("ip", "1.2.3.9", category="pcdn"))
    rules = rules_of(document, BITCOMET)
    assert rules.bans_address("1.2.3.4")
    assert rules.bans_address("1.2.3.9")
    assert set(rules_of(document, PBH).networks) == {"PCDN", "pcdn"}


def test_scripts_go_to_peerbanhelper_alone() -> None:
    document = published(entry("script", "one()", "two()", category="s"))
    assert rules_of(document, PBH).scripts == {"s": "one()", "s 2": "two()"}
    for dialect in (QBCB, RUST, LIBRETORRENT, BITCOMET, UNKNOWN):
        assert json.loads(document.rules(dialect).body)["script"] == {}
    assert "script" not in json.loads(document.exception(QBCB).body)


def test_the_clients_differ_so_much_that_none_takes_the_documents_of_another() -> None:
    document = published(*FULL)
    with pytest.raises(clients.ClientRejects):
        clients.qbcb_rules(document.rules(PBH).body)
    with pytest.raises(clients.ClientRejects):
        clients.rust_rules(document.rules(QBCB).body)
    with pytest.raises(clients.ClientRejects):
        clients.pbh_rules(document.rules(RUST).body)
    with pytest.raises(clients.ClientRejects):
        clients.pbh_rules(document.exception(PBH).body)
    with pytest.raises(clients.ClientRejects):
        clients.bitcomet_rules(published().rules(PBH).body)


@pytest.mark.parametrize("dialect", EVERYBODY)
def test_the_identity_rules_are_the_rules_without_addresses(dialect: Dialect) -> None:
    document = published(*FULL)
    identity = json.loads(document.rule_peer_identity(dialect).body)
    rules = json.loads(document.rules(dialect).body)
    assert identity["ip"] == {}
    assert {k: v for k, v in identity.items() if k not in ("ip", "version")} == {
        k: v for k, v in rules.items() if k not in ("ip", "version")
    }


def test_no_two_documents_share_a_version_and_the_same_content_keeps_its_own() -> None:
    first, again = published(*FULL), published(*FULL)
    assert first.documents == again.documents
    documents = [*first.documents.values(), first.ip_denylist, first.ip_allowlist]
    assert len({document.version for document in documents}) == len(documents)
    assert all(
        document.version != published().documents[key].version
        for key, document in first.documents.items()
        if key[0] == "rules"
    )


def test_the_version_is_the_same_on_every_machine() -> None:
    assert published(*FULL).rules(PBH).version == "d75b2243"


def test_the_compressed_bytes_are_the_same_document() -> None:
    document = published(*FULL).rules(PBH)
    assert gzip.decompress(document.gzip) == document.body
    assert document.gzip == published(*FULL).rules(PBH).gzip


def test_rules_of_one_category_are_joined_and_addresses_collapsed() -> None:
    document = published(
        entry("ip", "1.2.3.1", "1.2.3.0"), entry("ip", "1.2.2.0/24"), entry("ip", "1.2.3.0", category="b")
    )
    assert json.loads(document.rules(PBH).body)["ip"] == {"test": ["1.2.2.0/24", "1.2.3.0/31"], "b": ["1.2.3.0"]}


def test_old_peerbanhelper_gets_its_rules_in_lower_case() -> None:
    document = published(entry("client_name", "XunLei", {"method": "REGEX", "content": "[A-Z]L.*"}))
    old = rules_of(document, PBH_3)
    assert old.bans_name("Xunlei 7")
    assert old.bans_name("XL 0012")
    assert not old.bans_name("xl 0012")
    assert b"XunLei" in document.rules(PBH).body


# --- The text lists ---------------------------------------------------------------------------------------------------


def test_the_deny_list_gives_every_address_a_reason_of_its_own() -> None:
    document = published(*FULL, entry("ip", "198.51.100.9", category="again"), exceptions=(entry("ip", "9.9.9.0/30"),))
    listed = clients.address_list(document.ip_denylist.body)
    assert [str(network) for network, _ in listed] == [
        "198.51.100.9/32",
        "203.0.113.0/24",
        "2001:db8:4a1:7::c3/128",
        "2001:db8:150c::/47",
    ]
    assert {reason for _, reason in listed} == {"[PCDN] listed by the operator of this server"}
    allowed = clients.address_list(document.ip_allowlist.body)
    assert [str(network) for network, _ in allowed] == ["9.9.9.0/30"]


def test_an_empty_deny_list_is_empty() -> None:
    assert published().ip_denylist.body == b""


def test_a_reason_stays_on_its_line() -> None:
    (line,) = address_lines([parse_network("1.2.3.4")])
    document = deny_text([Listed(line, "a\nb", "x, y\r\n1.2.3.5\u2028# z")])
    ((network, reason),) = clients.address_list(document.body)
    assert (str(network), reason) == ("1.2.3.4/32", "[a b] x, y 1.2.3.5 # z")


def test_a_network_that_would_read_back_as_another_is_not_published() -> None:
    with pytest.raises(ValueError, match=r"means something else|host bits"):
        address_lines([Network(bytes([1, 2, 3, 4]), 24)])
    with pytest.raises(ValueError, match=r"means something else|prefix"):
        address_lines([Network(bytes(10) + b"\xff\xff" + bytes(4), 96)])


# --- Guard rails ------------------------------------------------------------------------------------------------------


def test_a_protected_address_is_cut_out_and_held_for_review() -> None:
    document = published(entry("ip", "203.0.113.0/29", "8.8.8.8"), protected=("203.0.113.3", "8.8.8.8", "7.7.7.7"))
    for dialect in EVERYBODY:
        rules = rules_of(document, dialect)
        assert [rules.bans_address(f"203.0.113.{i}") for i in range(8)] == [i != 3 for i in range(8)]
        assert not rules.bans_address("8.8.8.8")
    assert [(h.category, str(h.network)) for h in document.held] == [("test", "8.8.8.8"), ("test", "203.0.113.3")]
    assert "203.0.113.3\n" not in document.ip_denylist.body.decode()


def test_an_excepted_network_is_cut_out_and_not_held() -> None:
    document = published(
        entry("ip", "203.0.113.0/24", "5.5.5.5", "6.6.6.6"),
        exceptions=(entry("ip", "203.0.113.128/25", "5.0.0.0/8"),),
        protected=("203.0.113.200", "5.5.5.5"),
    )
    assert json.loads(document.rules(PBH).body)["ip"] == {"test": ["6.6.6.6", "203.0.113.0/25"]}
    assert document.held == ()
    assert clients.qbcb_rules(document.exception(QBCB).body).bans_address("203.0.113.200")


def test_it_is_known_whether_an_address_is_banned() -> None:
    document = published(entry("ip", "203.0.113.0/24", "2001:db8::/32"), protected=("203.0.113.3",))
    banned = [
        text
        for text in ("203.0.113.2", "203.0.113.3", "203.0.114.1", "2001:db8::9")
        if document.touches(address_bytes(text))
    ]
    assert banned == ["203.0.113.2", "2001:db8::9"]


def test_an_excepted_port_is_in_no_rule() -> None:
    document = published(entry("port", 1, 2), entry("port", 2, category="b"), exceptions=(entry("port", "2"),))
    assert rules_of(document, PBH).ports == {"test": [1]}
    assert json.loads(document.exception(QBCB).body)["port"] == {"test": ["2"]}


@pytest.mark.parametrize("dialect", EVERYBODY)
def test_an_excepted_name_is_banned_by_nobody(dialect: Dialect) -> None:
    document = published(
        entry("client_name", "thunder", "evil"),
        entry("client_name", "bird", category="b"),
        entry("peer_id", "-XL"),
        exceptions=(entry("client_name", {"method": "STARTS_WITH", "content": "Thunderbird"}),),
    )
    rules = rules_of(document, dialect)
    excepted = dialect.family is Family.QBCB and clients.qbcb_rules(document.exception(dialect).body).bans_name(
        "Thunderbird 3"
    )
    assert excepted or not rules.bans_name("Thunderbird 3")
    if dialect in (RUST, LIBRETORRENT, UNKNOWN):
        assert rules.client_name == {}
    elif dialect is not BITCOMET:
        assert rules.bans_name("evil thunder")
    if dialect is not BITCOMET and dialect not in OLD:
        assert rules.bans_peer_id("-XL0012-")


def test_an_exception_that_qbcb_can_not_express_takes_its_rules_away() -> None:
    document = published(
        entry("client_name", "a"),
        entry("peer_id", "b"),
        exceptions=(entry("client_name", {"method": "LENGTH", "min": 1, "max": 3}),),
    )
    assert json.loads(document.rules(QBCB).body)["client_name"] == {}
    assert rules_of(document, QBCB).bans_peer_id("b")
    assert not rules_of(document, PBH).bans_name("aaa")
    assert rules_of(document, PBH).bans_name("aaaa")


@pytest.mark.parametrize("dialect", [QBCB, RUST])
def test_what_an_exclusion_protects_is_not_banned_by_clients_without_exclusions(dialect: Dialect) -> None:
    document = published(
        entry("client_name", "thunder", {"method": "CONTAINS", "content": "thunderbird", "hit": "FALSE"}),
        entry("client_name", "evil", {"method": "LENGTH", "min": 3, "max": 9}, category="b"),
    )
    assert rules_of(document, PBH).bans_name("thunder")
    assert not rules_of(document, PBH).bans_name("thunderbird")
    rules = rules_of(document, dialect)
    assert not rules.bans_name("thunderbird")
    assert rules.bans_name("evil")
    assert not rules.bans_name("abcd")


networks_v4 = st.builds(
    lambda address, prefix: network_of((address | 0xCB000000).to_bytes(4, "big"), prefix),
    st.integers(0, 1023), st.integers(21, 32),
)  # fmt: skip
networks_v6 = st.builds(
    lambda address, prefix: network_of((0x20010DB8 << 96 | address).to_bytes(16, "big"), prefix),
    st.integers(0, 63), st.integers(119, 128),
)  # fmt: skip
some_networks = st.lists(networks_v4 | networks_v6, max_size=8)


@settings(deadline=None)
@given(rules=some_networks, exceptions=some_networks, protected=some_networks)
def test_carving_never_bans_a_protected_address_and_never_loses_another(
    rules: list[Network], exceptions: list[Network], protected: list[Network]
) -> None:
    document = publish(
        compile_rules(
            [entry("ip", *map(str, rules[:4])), entry("ip", *map(str, rules[4:]), category="b")],
            [entry("ip", *map(str, exceptions))],
        ),
        protected,
        NOW,
    )
    banned = spread(n for ns in clients.pbh_rules(document.rules(PBH).body).networks.values() for n in ns)
    wanted = spread(map(str, rules)) - spread(map(str, exceptions))
    assert banned == wanted - spread(map(str, protected))
    assert spread(str(held.network) for held in document.held) == wanted & spread(map(str, protected))
    assert spread(n for n, _ in clients.address_list(document.ip_denylist.body)) == banned
    for network in (*rules, *protected):
        assert document.touches(network.address) == (ipaddress.ip_address(network.address) in banned)


def spread(networks: Any) -> set[Any]:
    return {address for network in networks for address in ipaddress.ip_network(network)}


def test_thousands_of_protected_addresses_in_a_wide_rule_are_no_trouble() -> None:
    members = [Network((0x0B000000 + i * 4099).to_bytes(4, "big"), 32) for i in range(2000)]
    document = publish(compile_rules([entry("ip", "11.0.0.0/8")], []), members, NOW)
    assert len(document.held) == 2000
    assert not any(document.touches(member.address) for member in members)


# --- Expiry -----------------------------------------------------------------------------------------------------------


def test_an_expired_rule_is_left_out_and_the_next_to_expire_is_known() -> None:
    soon, later = datetime.fromtimestamp(NOW / 1000 + 60, UTC), datetime.fromtimestamp(NOW / 1000 + 90, UTC)
    book = compile_rules(
        [entry("ip", "1.1.1.1", expires=soon), entry("ip", "2.2.2.2"), entry("port", 5, expires=later)],
        [entry("ip", "2.2.2.2", expires=later)],
    )
    bans = {}
    for now in (NOW, NOW + 60_000, NOW + 90_000):
        document = publish(book, [], now)
        bans[document.next_expiry_ms] = json.loads(document.rules(PBH).body)["ip"]
    assert bans == {NOW + 60_000: {"test": ["1.1.1.1"]}, NOW + 90_000: {}, None: {"test": ["2.2.2.2"]}}


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once_with_their_place() -> None:
    found = problems(
        entry("ip", "1.2.3.4", "1.2.3.4/24", "not an address", 7),
        entry("port", 80, 0, "ALL", True, 65536),
        exceptions=(entry("client_name", '{"method":"contains","content":"x"}'), entry("script", "x")),
    )
    assert [problem.path for problem in found] == [
        *(("rules", 0, "content", j) for j in (1, 2, 3)),
        *(("rules", 1, "content", j) for j in (1, 2, 3, 4)),
        ("exceptions", 0, "content", 0),
        ("exceptions", 1, "content", 0),
    ]
    assert all(problem.message and problem.hint for problem in found)
    assert found[-2].hint == 'write "CONTAINS"'


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0",
        "127.0.0.1",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "224.0.0.1",
        "::",
        "::1",
        "::/3",
        "ff02::1",
        "::8000:0:0/81",
    ],
)
def test_a_rule_over_addresses_that_no_peer_has_is_refused(text: str) -> None:
    assert problems(entry("ip", text))


def test_an_exception_for_the_own_machine_is_fine_but_not_one_for_everybody() -> None:
    assert published(exceptions=(entry("ip", "127.0.0.1", "::1"),)).exception(PBH)
    assert problems(exceptions=(entry("ip", "0.0.0.0/0"),))


@pytest.mark.parametrize(
    "fields", [{"hit": "FALSE"}, {"miss": "TRUE"}, {"if": {"method": "CONTAINS", "content": "x"}}], ids=str
)
def test_an_exception_is_one_plain_matcher(fields: dict[str, Any]) -> None:
    assert problems(exceptions=(entry("peer_id", {"method": "EQUALS", "content": "x"} | fields),))


def test_an_entry_without_content_says_nothing() -> None:
    assert compile_rules([entry("ip")], []).rules[0].networks == ()
    assert publish(Rules(), [], NOW).documents == published(entry("ip"), entry("client_name")).documents


# --- The grammar of names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "",
        "true",
        "False",
        "null",
        "0",
        "-1.5",
        "[]",
        "{",
        '{"method":"CONTAINS","content":"x"} x',
        "{}",
        '{"method":"contains","content":"x"}',
        '{"method":"MATCHES","content":"x"}',
        '{"method":"CONTAINS"}',
        '{"method":"CONTAINS","content":5}',
        '{"method":"CONTAINS","content":""}',
        '{"method":"CONTAINS","content":null}',
        '{"method":"LENGTH"}',
        '{"method":"LENGTH","min":1}',
        '{"method":"LENGTH","min":5,"max":3}',
        '{"method":"LENGTH","min":1.5,"max":3}',
        '{"method":"LENGTH","min":true,"max":3}',
        '{"method":"LENGTH","min":0,"max":2147483648}',
        '{"method":"EQUALS","content":"x","hit":"true"}',
        '{"method":"EQUALS","content":"x","miss":false}',
        '{"method":"EQUALS","content":"x","Hit":"TRUE"}',
        '{"method":"EQUALS","content":"x","min":1}',
        '{"method":"EQUALS","content":"x","if":true}',
        '{"method":"EQUALS","content":"x","if":{"method":"x"}}',
        '{"method":"REGEX","content":"("}',
        '{"method":"REGEX","content":"a{"}',
        '{"method":"REGEX","content":"*a"}',
    ],
)
def test_what_peerbanhelper_could_not_parse_is_refused_with_a_hint(content: str) -> None:
    with pytest.raises(MatcherError) as caught:
        parse(content)
    assert caught.value.message
    assert caught.value.hint


def test_conditions_can_not_be_nested_without_end() -> None:
    fields: dict[str, Any] = {"method": "CONTAINS", "content": "x"}
    for _ in range(2000):
        fields = {"method": "CONTAINS", "content": "x", "if": fields}
    with pytest.raises(MatcherError, match="deep"):
        parse(fields)


@pytest.mark.parametrize(
    "content", ['{"if":' * 5000, "a\udcff", "[" * 4000, {"method": "REGEX", "content": "[" * 4000}]
)
def test_hostile_text_is_refused(content: Any) -> None:
    with pytest.raises(MatcherError):
        parse(content)


def test_plain_text_means_contains() -> None:
    assert parse(" Xunlei") == Matcher(parse('{"method":"CONTAINS","content":" Xunlei"}').method, " Xunlei")


@pytest.mark.parametrize(
    ("rule", "text", "verdict"),
    [
        ({"method": "STARTS_WITH", "content": "-XL"}, "-xl0012", True),
        ({"method": "STARTS_WITH", "content": "-XL"}, "a-xl", None),
        ({"method": "ENDS_WITH", "content": "Dev"}, "gopeed DEV", True),
        ({"method": "CONTAINS", "content": "UN"}, "xunlei", True),
        ({"method": "EQUALS", "content": "ABC"}, "abc", True),
        ({"method": "EQUALS", "content": "ABC"}, "abcd", None),
        ({"method": "REGEX", "content": "[a-z]+"}, "abc", True),
        ({"method": "REGEX", "content": "[a-z]+"}, "abc1", None),
        ({"method": "REGEX", "content": "[a-z]+"}, "ABC", None),
        ({"method": "LENGTH", "min": 2, "max": 2}, "😀", True),
        ({"method": "LENGTH", "min": 2, "max": 2}, "a", None),
        ({"method": "CONTAINS", "content": "x", "hit": "FALSE", "miss": "TRUE"}, "x", False),
        ({"method": "CONTAINS", "content": "x", "hit": "FALSE", "miss": "TRUE"}, "y", True),
        (
            {"method": "CONTAINS", "content": "x", "if": {"method": "LENGTH", "min": 3, "max": 9, "miss": "FALSE"}},
            "x",
            False,
        ),
        (
            {"method": "CONTAINS", "content": "x", "if": {"method": "LENGTH", "min": 3, "max": 9, "miss": "FALSE"}},
            "xyz",
            True,
        ),
        ({"method": "CONTAINS", "content": "x", "if": {"method": "LENGTH", "min": 3, "max": 9}}, "x", True),
    ],
    ids=str,
)
def test_a_rule_says_what_peerbanhelper_says(rule: dict[str, Any], text: str, verdict: bool | None) -> None:
    assert parse(rule).matches(text) is verdict
    assert parse(json.dumps(rule)) == parse(rule) == parse(parse(rule).pbh())


def test_one_false_anywhere_settles_a_category() -> None:
    rules = [parse("thunder"), parse({"method": "CONTAINS", "content": "bird", "hit": "FALSE"})]
    texts = ("thunder", "thunderbird", "bird", "x")
    assert [category_verdict(rule.matches(text) for rule in rules) for text in texts] == [
        True,
        False,
        False,
        False,
    ]
    assert not category_verdict([])


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        (r"(?<name>a|b)\k<name>", ["aa", "bb"], ["ab"]),
        (r"a*+b", ["aab", "b"], ["aa"]),
        (r"\Qa.b(\E+", ["a.b(", "a.b(("], ["axb("]),
        (r"\p{Alpha}+\p{Digit}", ["abc1"], ["äbc1", "abc"]),
        (r"\p{L}+", ["äbc", "迅雷"], ["a1"]),
        (r"[\w-.]+", ["a-b.c"], ["a b"]),
        (r"[a-z&&[^aeiou]]+", ["xyz"], ["xaz"]),
        (r"[a[0-9]]+", ["a0"], ["b0"]),
        (r"[^\H]", [" "], ["a"]),
        (r"a(?i)b|c", ["ab", "aB", "C"], ["AB"]),
        (r"(?i)xl.*", ["XL1", "xl"], ["aXL"]),
        (r"\x41\x{42}C\0104", ["ABCD"], ["abcd"]),
        (r"(?i:x)y", ["Xy"], ["XY"]),
        (r"[]a]+\z", ["]a"], ["b"]),
        (r"a\Rb", ["a\r\nb"], ["ab"]),
    ],
)
def test_java_expressions_are_understood(pattern: str, hits: list[str], misses: list[str]) -> None:
    matcher = parse({"method": "REGEX", "content": pattern})
    assert [text for text in hits if not matcher.matches(text)] == []
    assert [text for text in misses if matcher.matches(text)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "a)",
        "[a",
        "*",
        "a**",
        "a{",
        "{",
        "a{2,1}",
        r"\y",
        "(?P<n>a)",
        "(?#x)",
        "(?(1)a|b)",
        r"\k<n>",
        "[]",
        "[z-a]",
        "a\\",
        r"\x{110000}",
        "(?<=a*)b",
        "(?q)",
    ],
)
def test_an_expression_that_java_refuses_is_refused(pattern: str) -> None:
    with pytest.raises(MatcherError):
        parse({"method": "REGEX", "content": pattern})


@settings(deadline=None)
@given(st.text(max_size=12, alphabet=r"ab1\QE[](){}?+*|^$&-.<>=!:pkxuiN,"))
def test_any_expression_is_either_refused_or_can_be_used(pattern: str) -> None:
    try:
        matcher = parse({"method": "REGEX", "content": pattern})
    except MatcherError:
        return
    assert matcher.matches("ab1") in (True, None)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"method": "REGEX", "content": "a*+b"}, None),
        ({"method": "REGEX", "content": "[a[b]]"}, None),
        ({"method": "REGEX", "content": r"\p{Alpha}"}, None),
        ({"method": "REGEX", "content": "a|b"}, r"^(?-i:a|b)\z"),
        ({"method": "STARTS_WITH", "content": "a.b/c-d(["}, r"^a\.b/c-d\(\["),
        ({"method": "ENDS_WITH", "content": "x"}, r"x\z"),
        ({"method": "EQUALS", "content": ""}, r"^\z"),
        ({"method": "LENGTH", "min": 1, "max": 2}, None),
        ({"method": "CONTAINS", "content": "x", "hit": "FALSE"}, None),
        ({"method": "CONTAINS", "content": "x", "miss": "TRUE"}, None),
        ({"method": "CONTAINS", "content": "x", "if": {"method": "CONTAINS", "content": "y"}}, None),
    ],
    ids=str,
)
def test_qbcb_gets_an_anchored_expression_or_nothing(rule: dict[str, Any], text: str | None) -> None:
    written = parse(rule).expression()
    assert (written and json.loads(written)) == (text and {"method": "REGEX", "content": text})


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"method": "CONTAINS", "content": "x"}, "x"),
        ({"method": "STARTS_WITH", "content": "-XL"}, "-XL"),
        ({"method": "STARTS_WITH", "content": "-X"}, None),
        ({"method": "EQUALS", "content": "abc"}, None),
        ({"method": "CONTAINS", "content": "x", "hit": "FALSE"}, None),
    ],
    ids=str,
)
def test_the_rust_client_gets_a_substring_or_nothing(rule: dict[str, Any], text: str | None) -> None:
    assert parse(rule).substring() == text


# --- Decisions beside the configuration -------------------------------------------------------------------------------


def listing(text: str, category: str = "votes", reason: str = "4 people saw it", expires: int | None = None) -> Listing:
    return Listing("ip", parse_network(text), category, reason, expires)


def test_decisions_are_published_beside_the_configuration_each_with_its_own_reason() -> None:
    document = publish(
        compile_rules([entry("ip", "1.2.3.0/31")], []),
        [],
        NOW,
        denied=[
            listing("9.9.9.9", reason="b"),
            listing("9.9.9.8", reason="a"),
            listing("7.7.7.7", "also"),
            listing("1.2.3.0"),
        ],
        allowed=[Listing("ip", parse_network("8.8.8.8"), "admin", "pardoned", None)],
    )
    assert json.loads(document.rules(PBH).body)["ip"] == {
        "test": ["1.2.3.0/31"],
        "also": ["7.7.7.7"],
        "votes": ["1.2.3.0", "9.9.9.8", "9.9.9.9"],
    }
    listed = [(str(network), reason) for network, reason in clients.address_list(document.ip_denylist.body)]
    assert listed == [
        ("1.2.3.0/31", "[test] listed by the operator of this server"),
        ("7.7.7.7/32", "[also] 4 people saw it"),
        ("1.2.3.0/32", "[votes] 4 people saw it"),
        ("9.9.9.8/32", "[votes] a"),
        ("9.9.9.9/32", "[votes] b"),
    ]
    assert document.ip_allowlist.body == b"#[admin] pardoned\n8.8.8.8\n"
    assert document.listed(address_bytes("1.2.3.0")) == ("test", "votes")
    assert document.excepted(address_bytes("8.8.8.8")) == ("admin",)


def test_the_order_in_which_decisions_were_made_does_not_show() -> None:
    decided = [
        listing("1.2.3.4"),
        listing("2001:db8::/64", "x"),
        listing("1.2.3.0/24"),
        Listing("peer_id", parse("b"), "votes", "x", None),
        Listing("peer_id", parse("a"), "votes", "x", None),
    ]
    assert (
        publish(Rules(), [], NOW, denied=decided).documents == publish(Rules(), [], NOW, denied=decided[::-1]).documents
    )


def test_an_address_within_a_listed_network_of_its_category_is_no_line_of_its_own() -> None:
    document = publish(Rules(), [], NOW, denied=[listing("1.2.3.4"), listing("1.2.3.0/24"), listing("1.2.4.0")])
    assert json.loads(document.rules(PBH).body)["ip"] == {"votes": ["1.2.3.0/24", "1.2.4.0"]}


def test_neighbours_of_a_list_do_not_grow_into_a_wider_network() -> None:
    document = publish(Rules(), [], NOW, denied=[listing("1.2.2.0/24"), listing("1.2.3.0/24")])
    assert json.loads(document.rules(PBH).body)["ip"] == {"votes": ["1.2.2.0/24", "1.2.3.0/24"]}


def test_reasons_link_to_the_page_of_the_address() -> None:
    rules = compile_rules([entry("ip", "1.2.3.0/31")], [])
    document = publish(rules, [], NOW, denied=[listing("2001:db8::/64")], link="https://btn.example/ip/")
    assert [reason for _, reason in clients.address_list(document.ip_denylist.body)] == [
        "[test] listed by the operator of this server https://btn.example/ip/1.2.3.0",
        "[votes] 4 people saw it https://btn.example/ip/2001:db8::",
    ]


def test_the_next_expiry_is_the_earliest_of_everything() -> None:
    decided = [listing("1.2.3.4", expires=NOW + 9), listing("1.2.3.5", expires=NOW + 5), listing("1.2.3.6")]
    assert publish(Rules(), [], NOW, denied=decided).next_expiry_ms == NOW + 5
    assert (
        publish(Rules(), [], NOW, denied=decided, allowed=[listing("1.2.3.9", expires=NOW + 2)]).next_expiry_ms
        == NOW + 2
    )


@pytest.mark.parametrize(
    ("text", "obstacle"),
    [
        ("1.2.3.4", None),
        ("1.2.3.0/24", None),
        ("1.2.2.0/23", "wide"),
        ("2001:db8::/56", None),
        ("2001:db8::/55", "wide"),
        ("192.168.1.1", "special"),
        ("fc00::1", "special"),
        ("8.8.8.8", "own"),
        ("8.8.8.0/24", None),
        ("2001:db8:8::/64", "own"),
        ("2001:db8:8::/56", None),
        ("9.9.9.9", "member"),
        ("9.9.9.8/31", None),
        ("2001:db8:9::1234", None),
        ("2001:db8:9::/64", "member"),
        ("5.5.5.0/24", "excepted"),
        ("5.5.4.0/24", None),
        ("5.5.5.5", "excepted"),
    ],
)
def test_one_judge_says_what_must_not_be_listed(text: str, obstacle: str | None) -> None:
    guard = Guard(
        map(address_bytes, ("8.8.8.8", "2001:db8:8::1")),
        map(address_bytes, ("9.9.9.9", "2001:db8:9::9")),
        [parse_network("5.5.5.0/25"), parse_network("5.5.5.128/25")],
    )
    assert guard.obstacle(parse_network(text), ANALYSES_WIDEST) == obstacle


@settings(deadline=None)
@given(networks=st.lists(networks_v4 | networks_v6, max_size=30), asked=networks_v4 | networks_v6)
def test_a_set_of_networks_finds_what_overlaps(networks: list[Network], asked: Network) -> None:
    document = publish(Rules(), [], NOW, denied=[listing(str(one)) for one in networks])
    expected = any(one.contains(network_of(asked.address, asked.bits)) for one in networks)
    assert document.touches(asked.address) == expected
