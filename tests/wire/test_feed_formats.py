"""Feeds: what a consumer's own rules read of each is exactly what the deny list says, of the families that it reads."""

import gzip
import ipaddress
import re
from collections.abc import Callable, Iterable

import client_parsers as clients
import feed_consumers as consumers
from feed_consumers import AnyNetwork, Range
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparkle_lite.net import Network, network_of, parse_network
from sparkle_lite.rules.feed_rendering import ListOrder, Rendered, render_list
from sparkle_lite.rules.operator import Rules
from sparkle_lite.rules.rendering import Listing, Published, publish
from sparkle_lite.wire.feeds import FORMATS, Credit, Feed

NOW = 1_800_000_000_000
LINK = "https://btn.example.org/ip/"
HARMLESS = {ipaddress.ip_network("192.0.2.1/32")}
PLAIN = re.compile(r"[A-Za-z0-9 _.]*")


def networks(bits: int, narrowest: int) -> st.SearchStrategy[Network]:
    """Networks of a family; many of them are neighbours, and some lie in others."""
    near = st.builds(lambda low: (0xCB007100 << bits - 32) + low, st.integers(0, (1 << 12) - 1))
    anywhere = st.integers(0, (1 << bits) - 1)
    addresses = st.one_of(near, anywhere).map(lambda number: number.to_bytes(bits // 8, "big"))
    return st.builds(network_of, addresses, st.integers(narrowest, bits))


ANY_NETWORK = st.one_of(networks(32, 1), networks(32, 20), networks(128, 1), networks(128, 116))
# What could be taken for a separator, a comment, another line or another format.
HOSTILE = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "x:1.2.3.4-5.6.7.8", "a , 200 , b", " - ", "] 9.9.9.9\n8.8.8.8", "#", "//", "x\r\n0.0.0.0/0", "迅雷", "-1",
            "flush set inet sparkle sparkle4", "; /system reset-configuration", "::1", "\u2028", "}", '"]', "\x00",
        ]
    ),
)  # fmt: skip
LISTED = st.dictionaries(ANY_NETWORK, st.tuples(HOSTILE, HOSTILE), max_size=40)
CREDITS = st.lists(HOSTILE, max_size=3)
Wanted = dict[Network, tuple[str, str]]


def published(wanted: Wanted, holes: Iterable[str] = (), link: str = LINK) -> Published:
    denied = [Listing("ip", network, category or "x", why, None) for network, (category, why) in wanted.items()]
    return publish(Rules(), [parse_network(text) for text in holes], NOW, denied=denied, link=link)


def feed_of(name: str, documents: Published, *credits: str) -> Feed:
    edition = Rendered(documents, 1, NOW, [Credit(f"list-{number}", text) for number, text in enumerate(credits)])
    return render_list(ListOrder.of(name, edition))


def served(documents: Published, *versions: int) -> set[AnyNetwork]:
    """What the deny list says, as PeerBanHelper reads it."""
    read = {ipaddress.ip_network(str(network)) for network, _ in clients.address_list(documents.ip_denylist.body)}
    return consumers.collapsed(network for network in read if network.version in versions)


def requires(body: bytes, read: Callable[[bytes], list[Range]], expected: set[AnyNetwork]) -> None:
    """The consumer blocks just what it should, or the harmless address where that is nothing."""
    blocked = consumers.networks_of(read(body))
    assert blocked == expected or (blocked == consumers.collapsed(expected | HARMLESS) and not expected), blocked


# --- Each consumer ----------------------------------------------------------------------------------------------------


@given(LISTED, CREDITS)
@settings(max_examples=50, deadline=None)
@example({}, [])
@example({parse_network("2001:db8::5"): ("a", "b")}, ["\\"])
@example({parse_network("0.0.0.0/1"): ("a", "b"), parse_network("128.0.0.0/1"): ("a", "b")}, [])
def test_every_consumer_reads_what_is_served(wanted: Wanted, credits: list[str]) -> None:
    documents = published(wanted)
    v4, v6, both = served(documents, 4), served(documents, 6), served(documents, 4, 6)
    bodies = {name: feed_of(name, documents, *credits).body for name in FORMATS}

    for name, expected in (("cidr.txt", both), ("cidr4.txt", v4), ("cidr6.txt", v6)):
        assert consumers.networks_of(consumers.cidr_list(bodies[name])) == expected
    requires(bodies["transmission.txt"], consumers.transmission, v4)
    requires(bodies["peerguardian.p2p"], consumers.deluge, v4)
    requires(bodies["peerguardian.p2p"], consumers.biglybt, v4)
    requires(bodies["peerguardian.p2p"], consumers.transmission, v4)
    requires(bodies["pbh.txt"], lambda body: [each for each, _ in consumers.peerbanhelper(body)], both)

    # Where there is no IPv4, the harmless address stands before IPv6.
    first = set() if v4 else HARMLESS
    assert consumers.networks_of(consumers.qbittorrent(bodies["ipfilter.dat"])) == consumers.collapsed(both | first)
    assert consumers.networks_of(consumers.biglybt(bodies["ipfilter.dat"])) == consumers.collapsed(v4 | first)


@given(LISTED, LISTED, CREDITS)
@settings(max_examples=30, deadline=None)
def test_a_firewall_goes_from_any_list_to_any_other_at_once(before: Wanted, wanted: Wanted, credits: list[str]) -> None:
    old, new = published(before), published(wanted)
    v4, v6 = served(new, 4), served(new, 6)

    sets = consumers.nftables(feed_of("nftables.conf", new, *credits).body)
    assert consumers.networks_of(sets["sparkle4"]) == v4
    assert consumers.networks_of(sets["sparkle6"]) == v6

    body = feed_of("ipset.txt", new, *credits).body
    stood = consumers.ipset(feed_of("ipset.txt", old).body)
    # A restore that was cut off leaves the set beside half full.
    lines = body.splitlines(keepends=True)
    for cut in (0, len(lines) // 2, len(lines) - 1):
        again = consumers.ipset(b"".join(lines[:cut]), stood) if cut else stood
        ended = consumers.ipset(body, again)
        assert set(ended) == {"sparkle4", "sparkle6"}
        assert (set(ended["sparkle4"].members), set(ended["sparkle6"].members)) == (split(v4), split(v6))


@given(LISTED, LISTED, CREDITS)
@settings(max_examples=30, deadline=None)
def test_a_router_goes_from_any_list_to_any_other_and_keeps_its_own_lists(
    before: Wanted, wanted: Wanted, credits: list[str]
) -> None:
    old, new = published(before), published(wanted)
    body = feed_of("routeros.rsc", new, *credits).body
    theirs = ("mine", ipaddress.ip_network("203.0.113.0/24"))
    entries = consumers.routeros(feed_of("routeros.rsc", old).body, [theirs])
    lines = body.splitlines(keepends=True)
    for cut in (0, len(lines) // 2):
        again = consumers.routeros(b"".join(lines[:cut]), entries) if cut else entries
        ended = consumers.routeros(body, again)
        assert {each for name, each in ended if name == "sparkle"} == split(served(new, 4, 6))
        assert {name for name, _ in ended} <= {"sparkle", "mine"}
        assert theirs in ended


def split(expected: set[AnyNetwork]) -> set[AnyNetwork]:
    """No network is all there is."""
    return {half for network in expected for half in (network.subnets() if network.prefixlen == 0 else (network,))}


@given(LISTED)
@settings(max_examples=30, deadline=None)
def test_no_label_is_taken_for_anything_else(wanted: Wanted) -> None:
    documents = published(wanted)
    for line in feed_of("ipfilter.dat", documents).body.decode("ascii").splitlines():
        assert PLAIN.fullmatch(line.split(" , ", 2)[2])
    for line in feed_of("peerguardian.p2p", documents).body.decode("ascii").splitlines():
        assert PLAIN.fullmatch(line.partition(":")[0])


def test_the_reason_is_told_where_the_consumer_shows_one() -> None:
    why = "3 people saw it cheat about its progress; until 2027-01-09"
    documents = published({parse_network("203.0.113.0/24"): ("untrusted_vote", why)}, holes=["203.0.113.128/25"])
    label = "untrusted_vote 3 people saw it cheat about its progress until 2027 01 09"
    assert feed_of("ipfilter.dat", documents).body.decode() == f"203.0.113.0 - 203.0.113.127 , 000 , {label}\n"
    assert feed_of("peerguardian.p2p", documents).body.decode() == f"{label}:203.0.113.0-203.0.113.127\n"
    [(_, comment)] = consumers.peerbanhelper(feed_of("pbh.txt", documents).body)
    assert comment == f"[untrusted_vote] {why} {LINK}203.0.113.0"
    assert feed_of("transmission.txt", documents).body == b"203.0.113.0/25\n"


def test_a_credit_is_one_line_of_plain_text_where_a_feed_can_have_comments() -> None:
    documents = published({parse_network("203.0.113.7"): ("a", "b"), parse_network("2001:db8::5"): ("a", "b")})
    credits = ("BTN-Collected-Rules by PBH-BTN, CC BY 4.0", "x\r\n0.0.0.0/0; /system reset \\", "迅雷")
    expected = [
        "# With entries of the list list-0: BTN-Collected-Rules by PBH-BTN, CC BY 4.0",
        "# With entries of the list list-1: x 0.0.0.0/0 /system reset",
        "# With entries of the list list-2",
    ]
    for name in FORMATS:
        plain, feed = feed_of(name, documents), feed_of(name, documents, *credits)
        lines = feed.body.decode("ascii").splitlines()
        if name in ("ipfilter.dat", "peerguardian.p2p", "transmission.txt"):
            assert feed == plain
            continue
        assert (lines[-3:] if name == "pbh.txt" else lines[:3]) == expected
        assert "\n".join(line for line in lines if line not in expected) + "\n" == plain.body.decode()
        assert (feed.entries, feed.tag != plain.tag) == (plain.entries, True)
    reasons = {why for _, why in consumers.peerbanhelper(feed_of("pbh.txt", documents, *credits).body)}
    assert reasons == {why for _, why in consumers.peerbanhelper(feed_of("pbh.txt", documents).body)}


def test_a_long_list_of_ipv6_alone_ends_nothing_early() -> None:
    wanted = {Network(bytes((0x20, 1)) + number.to_bytes(14, "big"), 128): ("a", "b") for number in range(0, 3000, 2)}
    documents = published({**wanted, parse_network("203.0.113.7"): ("a", "b")})
    body = feed_of("ipfilter.dat", documents).body
    assert consumers.networks_of(consumers.biglybt(body)) == {ipaddress.ip_network("203.0.113.7/32")}
    assert len(consumers.qbittorrent(body)) == 1501


def test_the_same_rules_are_the_same_bytes_and_no_feed_has_the_tag_of_another() -> None:
    wanted = {parse_network("203.0.113.7"): ("a", "b"), parse_network("198.51.100.0/24"): ("c", "d")}
    first = {name: feed_of(name, published(wanted)) for name in FORMATS}
    again = {name: feed_of(name, published(wanted)) for name in FORMATS}
    assert first == again
    assert len({feed.tag for feed in first.values()}) == len(FORMATS)
    for name, feed in first.items():
        assert gzip.decompress(feed.gzip) == feed.body
        assert (feed.name, feed.entries) == (name, 0 if name == "cidr6.txt" else 2)
        other = feed_of(name, published({**wanted, parse_network("2001:db8::/64"): ("a", "b")}))
        v4_alone = name in ("cidr4.txt", "peerguardian.p2p", "transmission.txt")
        assert (other.tag == feed.tag) == v4_alone
