"""Feeds: the addresses of the deny list for programs that don't speak BTN, each format by its consumers' own rules.

A format is a renderer and a line of FORMATS. A label holds our sentence or a category, in characters that no consumer
takes for anything else; nothing says when it was rendered, so the same rules are the same bytes.
"""

import gzip
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

from sparkle_lite.net import Network, address_text, collapse, parse_network
from sparkle_lite.wire.rule_documents import Listed, listed_in

# For consumers that keep their old list when the new one is empty: an address that belongs to nobody (TEST-NET-1, RFC
# 5737).
HARMLESS = "192.0.2.1"
# What the sets and lists in a firewall are called.
SET, NEXT = "sparkle", "sparkle_new"

# A set that stands is never made anew, and one of another size counts as another: so the size never changes. It is a
# bound, not what is taken.
_IPSET_SIZE = 1 << 22

# Elements of one line of a set.
_ROW = 8
_LONGEST_LABEL = 200
_LONGEST_CREDIT = 200
_NO_CREDIT = re.compile(r"[^A-Za-z0-9_.,:/()@+-]+")
_NO_LABEL = re.compile(r"[^A-Za-z0-9_.]+")


class Feed(NamedTuple):
    """A finished feed: the bytes, the same compressed, `tag` (32 hex digits, a hash of the content) for ETag.

    `entries` counts networks, without one that only keeps the list from being empty. `published_at` (ms) is when this
    content was first published here.
    """

    name: str
    media_type: str
    tag: str
    body: bytes
    gzip: bytes
    entries: int
    published_at: int


class FeedContent:
    """What feeds are made of: the deny list as clients get it, in whose reasons `link` stands before the address."""

    def __init__(self, denylist: bytes, link: str) -> None:
        self.denylist = denylist
        self._link = link

    @cached_property
    def entries(self) -> list[tuple[Network, Listed]]:
        """Every line with its network, IPv4 before IPv6."""
        read = [(parse_network(each.line), each) for each in listed_in(self.denylist, self._link)]
        return sorted(read, key=lambda entry: len(entry[0].address))

    @cached_property
    def collapsed(self) -> list[Network]:
        """The same addresses as the fewest networks, none of them the whole of a family: ipset has no /0."""
        return [half for network in collapse(network for network, _ in self.entries) for half in _halves(network)]

    def family(self, bits: int) -> list[Network]:
        """Those of `collapsed` that are IPv4 (32) or IPv6 (128)."""
        return [network for network in self.collapsed if network.bits == bits]


def _halves(network: Network) -> Iterable[Network]:
    if network.prefix:
        return (network,)
    high = b"\x80" + network.address[1:]
    return Network(network.address, 1), Network(high, 1)


class Credit(NamedTuple):
    """Whom entries are owed to: their list's name here, and what its operator or its settings say, any text."""

    list_name: str
    text: str


class Rendering(NamedTuple):
    """What a renderer makes: the text, and how many networks are in it."""

    text: str
    entries: int


def render(name: str, content: FeedContent, credits: Sequence[Credit], published_at: int) -> Feed:
    """One feed of FORMATS, with the credits where it can have comments.

    Takes some 5 µs a line: call it off the event loop.
    """
    text, entries = FORMATS[name](content)
    comments = "".join(map(_comment, credits))
    if name in _COMMENTS_FIRST:
        text = comments + text
    elif name in _COMMENTS_LAST:
        text += comments
    return finish(name, text.encode(), entries, published_at)


def finish(name: str, body: bytes, entries: int, published_at: int) -> Feed:
    """A feed of these bytes."""
    media_type = "application/json" if name.endswith(".json") else "text/plain; charset=utf-8"
    tag = hashlib.sha256(f"{name}\n".encode() + body).hexdigest()[:32]
    # As rule documents are compressed.
    compressed = gzip.compress(body, compresslevel=4, mtime=0)
    return Feed(name, media_type, tag, body=body, gzip=compressed, entries=entries, published_at=published_at)


def _comment(credit: Credit) -> str:
    """A credit as a line that every consumer passes over, whatever its text is."""
    text = _NO_CREDIT.sub(" ", credit.text).strip()[:_LONGEST_CREDIT].rstrip()
    return f"# With entries of the list {credit.list_name}{f': {text}' if text else ''}\n"


# --- Plain lists ------------------------------------------------------------------------------------------------------


def _cidr(content: FeedContent) -> Rendering:
    return _with_prefixes(content.collapsed)


def _cidr4(content: FeedContent) -> Rendering:
    return _with_prefixes(content.family(32))


def _cidr6(content: FeedContent) -> Rendering:
    return _with_prefixes(content.family(128))


def _with_prefixes(networks: Sequence[Network]) -> Rendering:
    return Rendering("".join(f"{_cidr_text(network)}\n" for network in networks), len(networks))


def _cidr_text(network: Network) -> str:
    """A network with its prefix length, a single address too."""
    return f"{address_text(network.address)}/{network.prefix}"


# --- Torrent clients --------------------------------------------------------------------------------------------------


def _pbh(content: FeedContent) -> Rendering:
    """PeerBanHelper's subscription: the deny list as it is.

    A comment is the reason of the entry below it. A list without an entry is no update: it goes on with the old one.
    """
    text = content.denylist.decode()
    return Rendering(text or f"{HARMLESS}\n", text.count("\n") // 2)


def _ipfilter(content: FeedContent) -> Rendering:
    """eMule's DAT, for qBittorrent, which reads both families.

    BiglyBT takes a first line that has a colon before digits for the other format, and so would any with IPv6.
    """
    lines = [
        f"{address_text(network.address)} - {_last(network)} , 000 , {_label(listed)}\n"
        for network, listed in content.entries
    ]
    if not content.entries or content.entries[0][0].bits != 32:
        lines.insert(0, f"{HARMLESS} - {HARMLESS} , 000 , nobody\n")
    return Rendering("".join(lines), len(content.entries))


def _peerguardian(content: FeedContent) -> Rendering:
    """PeerGuardian's text, for Deluge and BiglyBT: one line with IPv6 would end Deluge's import."""
    lines = [
        f"{_label(listed)}:{address_text(network.address)}-{_last(network)}\n"
        for network, listed in content.entries
        if network.bits == 32
    ]
    return Rendering("".join(lines) or f"nobody:{HARMLESS}-{HARMLESS}\n", len(lines))


def _transmission(content: FeedContent) -> Rendering:
    """What every version reads: CIDR of IPv4, each with its prefix length. An empty list is refused."""
    text, entries = _cidr4(content)
    return Rendering(text or f"{HARMLESS}/32\n", entries)


def _last(network: Network) -> str:
    return address_text(network.last.to_bytes(len(network.address), "big"))


def _label(listed: Listed) -> str:
    return _plain(f"{listed.category} {listed.reason}")


# Many have the same reason.
@lru_cache(1 << 14)
def _plain(text: str) -> str:
    """Without what separates anything anywhere."""
    return _NO_LABEL.sub(" ", text).strip()[:_LONGEST_LABEL].rstrip()


# --- Firewalls --------------------------------------------------------------------------------------------------------


def _nftables(content: FeedContent) -> Rendering:
    """A file is one transaction: whoever reads the sets meanwhile sees the old ones or the new ones."""
    sets, families = [], ((4, "ipv4_addr", 32), (6, "ipv6_addr", 128))
    parts = []
    for number, kind, bits in families:
        sets.append(f"\tset {SET}{number} {{\n\t\ttype {kind}\n\t\tflags interval\n\t}}\n")
        parts.append(f"flush set inet {SET} {SET}{number}\n")
        if rows := ",\n".join(_rows(content.family(bits))):
            parts.append(f"add element inet {SET} {SET}{number} {{\n{rows}\n}}\n")
    return Rendering(f"table inet {SET} {{\n{''.join(sets)}}}\n{''.join(parts)}", len(content.collapsed))


def _rows(networks: Sequence[Network]) -> Iterator[str]:
    for start in range(0, len(networks), _ROW):
        yield "\t" + ", ".join(map(_cidr_text, networks[start : start + _ROW]))


def _ipset(content: FeedContent) -> Rendering:
    """For `ipset restore`: a set beside is filled and swapped with the one that rules name."""
    lines = []
    for number, family, bits in ((4, "inet", 32), (6, "inet6", 128)):
        name, beside = f"{SET}{number}", f"{NEXT}{number}"
        kind = f"hash:net family {family} maxelem {_IPSET_SIZE} -exist"
        lines += [f"create {name} {kind}", f"create {beside} {kind}", f"flush {beside}"]
        lines += [f"add {beside} {_cidr_text(network)}" for network in content.family(bits)]
        lines += [f"swap {beside} {name}", f"destroy {beside}"]
    return Rendering("".join(f"{line}\n" for line in lines), len(content.collapsed))


def _routeros(content: FeedContent) -> Rendering:
    """For RouterOS's /import, which ends at the first line that fails: until all is there, the old list stands."""
    lines = []
    for menu, bits in (("ip", 32), ("ipv6", 128)):
        lines += [f"/{menu} firewall address-list", f'remove [find where list="{NEXT}"]']
        lines += [f"add list={NEXT} address={_cidr_text(network)}" for network in content.family(bits)]
        lines += [f'remove [find where list="{SET}"]', f'set [find where list="{NEXT}"] list={SET}']
    return Rendering("".join(f"{line}\n" for line in lines), len(content.collapsed))


FORMATS: Mapping[str, Callable[[FeedContent], Rendering]] = {
    "cidr.txt": _cidr,
    "cidr4.txt": _cidr4,
    "cidr6.txt": _cidr6,
    "pbh.txt": _pbh,
    "ipfilter.dat": _ipfilter,
    "peerguardian.p2p": _peerguardian,
    "transmission.txt": _transmission,
    "nftables.conf": _nftables,
    "ipset.txt": _ipset,
    "routeros.rsc": _routeros,
}

# Those whose consumers pass over a line that begins with "#"; PeerBanHelper takes it for the reason of the next entry.
_COMMENTS_FIRST = ("cidr.txt", "cidr4.txt", "cidr6.txt", "nftables.conf", "ipset.txt", "routeros.rsc")
_COMMENTS_LAST = ("pbh.txt",)
