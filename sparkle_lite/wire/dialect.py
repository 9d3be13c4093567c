"""The table of client programs: who asks, told from the User-Agent, and all that differs between them.

From the row of each (`FAMILIES` and the constants before it) the configuration document, rule documents and the
meaning of what is submitted are derived.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple


class Family(StrEnum):
    """The client programs that differ on the wire."""

    PEERBANHELPER = "peerbanhelper"
    QBCB = "qbittorrent-clientblocker"
    RUST = "peerbanhelper-rust"
    RS = "peerbanhelper-rs"
    LIBRETORRENT = "libretorrentee"
    BITCOMET = "btnscriptbc"
    UNKNOWN = "unknown"


class Shape(StrEnum):
    """Which of two sets of abilities and bodies a client uses; `min_protocol_version` chooses for PeerBanHelper."""

    LEGACY = "legacy"
    MODERN = "modern"


class RuleTexts(StrEnum):
    """How a client reads the texts of peer id and client name rules."""

    # PeerBanHelper's grammar: hit, miss and if; expressions match the whole text.
    OBJECTS = "objects"
    # The same; releases before 3.3.6 lower-case only the peer's side of a comparison.
    OBJECTS_LOWER = "objects, lower case"
    # Objects whose hit, miss and if are not read, compared case-sensitively; only an expression ignores case, and it
    # matches any part.
    EXPRESSIONS = "expressions"
    # Objects of which only method and content are read; an expression matches any part in any case.
    METHODS = "methods"
    # The whole text is one substring.
    SUBSTRINGS = "substrings"
    UNREAD = "unread"


class Exceptions(StrEnum):
    """How a client is kept from banning a peer that an exception names by its peer id or client name.

    Addresses need no telling: they are holes in the networks of every client's rules.
    """

    # It reads the exception document.
    DOCUMENT = "document"
    # An exclusion stands in front of every category.
    EXCLUSIONS = "exclusions"
    # It can't be told, so it gets no rules of that kind while there is an exception.
    UNTOLD = "untold"


class Ports(StrEnum):
    """How a client reads port rules; what is of the other type rejects a document."""

    NUMBERS = "numbers"
    STRINGS = "strings"
    UNREAD = "unread"


class Addresses(StrEnum):
    """How a client reads the addresses of a JSON document."""

    PLAIN = "plain"
    # A single IPv6 address is compared as text, which a peer may spell differently: it needs a prefix length.
    PREFIXED = "prefixed"
    # The list may not be empty, nor two categories differ by their case only.
    NEVER_EMPTY = "never empty"


class Reading(NamedTuple):
    """How a client reads rule documents: all who read alike share one document, told apart by `variant`."""

    variant: str
    texts: RuleTexts = RuleTexts.OBJECTS
    peer_ids: bool = True
    ports: Ports = Ports.NUMBERS
    addresses: Addresses = Addresses.PLAIN
    exceptions: Exceptions = Exceptions.EXCLUSIONS
    scripts: bool = False


_LEGACY = frozenset({"submit_peers", "submit_bans", "submit_histories", "rules", "reconfigure"})
_LISTS = frozenset({"submit_bans", "submit_swarm", "rule_peer_identity", "ip_denylist", "ip_allowlist"})
_QUERIES = frozenset({"heartbeat", "ip_query"})
_READS_PBH = Reading("pbh", scripts=True)

# PeerBanHelper before 7.0.0 hands the peer's id to the matcher of ports, which throws, and then no rule applies at all;
# its rules by peer id look at the client's name.
_READS_PBH_OLD = _READS_PBH._replace(variant="pbh-before-7", peer_ids=False, ports=Ports.UNREAD, scripts=False)


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Traits:
    """One row of the table: what a client program can be told, and what that which it sends means.

    `limits` are min_protocol_version and max_protocol_version. `intervals` divides the operator's interval of an
    ability, `at_once` names the abilities that are offered without a random delay and with the smallest of their
    intervals. `needs` can't be switched off, `beside` names what is offered whenever another ability is. `legacy` is
    the row for an operator who prefers the old shapes.

    Of what is sent: `offsets_add` says that a swarm's total is traffic plus offset; with everybody else the traffic
    already is the total. `knows_its_progress` is False where `downloader_progress` is the peer's.
    `unchanged_rows_are_sightings` is False where a list of peers is never emptied: a row like the one before says
    nothing. `ban_time_is_last_sight`: `ban_at` moves for as long as the banned peer keeps coming.
    `first_seen_is_now`: a history's `first_time_seen` is the time of sending. `identifiers_big_endian`: a torrent's
    identifier has its salt's bytes turned round.
    """

    family: Family
    name: str
    shape: Shape
    limits: tuple[int, int]
    abilities: frozenset[str]
    reads: Reading
    solves: bool = False
    intervals: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    at_once: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    beside: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    legacy: "Traits | None" = None
    outdated: bool = False
    offsets_add: bool = False
    knows_its_progress: bool = True
    unchanged_rows_are_sightings: bool = True
    ban_time_is_last_sight: bool = False
    first_seen_is_now: bool = False
    identifiers_big_endian: bool = False


# --- The table --------------------------------------------------------------------------------------------------------

# No PeerBanHelper is ever offered `exception`: from 7.0.0 to 9.1.5 it builds another ability from it and switches all
# of BTN off, the others don't know it. An exception reaches it as an exclusion and as holes in the addresses.
_PBH_7 = Traits(
    family=Family.PEERBANHELPER,
    name="PeerBanHelper 7.0.0 to 9.1.5",
    shape=Shape.LEGACY,
    limits=(3, 99),
    abilities=_LEGACY,
    reads=_READS_PBH,
)
_PBH_6 = replace(
    _PBH_7, name="PeerBanHelper 6.0.0 to 6.4.8", abilities=_LEGACY - {"submit_histories"}, reads=_READS_PBH_OLD
)

# Up to 5.1.0 the maximum is checked the wrong way round: it may be no larger than the client's own number.
_PBH_4 = replace(_PBH_6, name="PeerBanHelper 4.0.6 to 4.4.2", limits=(3, 3))

# Each change of the version makes these start all their tasks once more and stop none.
_PBH_5 = replace(_PBH_4, name="PeerBanHelper 5.0.0 to 5.1.0", abilities=_PBH_4.abilities - {"reconfigure"})
_PBH_4_0_3 = replace(_PBH_4, name="PeerBanHelper 4.0.3 to 4.0.5", knows_its_progress=False)
_PBH_3 = replace(
    _PBH_4,
    name="PeerBanHelper 3.2.0 to 4.0.1",
    reads=_READS_PBH_OLD._replace(variant="pbh-before-4.0.3", texts=RuleTexts.OBJECTS_LOWER),
)
_PBH_4_0_2 = replace(_PBH_3, name="PeerBanHelper 4.0.2", knows_its_progress=False)
_PBH_2 = replace(_PBH_3, name="PeerBanHelper before 3.2.0", outdated=True)
_PBH_9_2 = replace(
    _PBH_7,
    name="PeerBanHelper 9.2.0 or newer",
    shape=Shape.MODERN,
    limits=(20, 20),
    abilities=_LISTS | _QUERIES | {"reconfigure"},
    solves=True,
    legacy=replace(_PBH_7, name="PeerBanHelper 9.2.0 or newer", abilities=_LEGACY | _QUERIES),
)
_QBCB = Traits(
    family=Family.QBCB,
    name="qBittorrent-ClientBlocker",
    shape=Shape.LEGACY,
    limits=(3, 3),
    abilities=_LEGACY | {"exception"},
    reads=Reading(
        "qbcb",
        texts=RuleTexts.EXPRESSIONS,
        ports=Ports.STRINGS,
        addresses=Addresses.PREFIXED,
        exceptions=Exceptions.DOCUMENT,
    ),
    # A peer that rules ban before the exceptions have come stays banned for a day.
    at_once=frozenset({"rules", "exception"}),
    # With the rules alone it would ban whom an exception names.
    beside=MappingProxyType({"exception": "rules"}),
    unchanged_rows_are_sightings=False,
    ban_time_is_last_sight=True,
    first_seen_is_now=True,
    identifiers_big_endian=True,
)
_RUST = Traits(
    family=Family.RUST,
    name="PeerBanHelper-Rust",
    shape=Shape.MODERN,
    limits=(20, 20),
    abilities=_LISTS | {"heartbeat"},
    reads=Reading("rust", texts=RuleTexts.SUBSTRINGS, exceptions=Exceptions.UNTOLD),
    # It sends one page at each interval, and has its whole history to send.
    intervals=MappingProxyType({"submit_bans": 5, "submit_swarm": 5}),
    offsets_add=True,
)
_RS = replace(_PBH_9_2, family=Family.RS, name="PeerBanHelper-RS", solves=False, legacy=None)
_CAUTIOUS = Reading("plain", texts=RuleTexts.METHODS, exceptions=Exceptions.UNTOLD)
_LIBRETORRENT = Traits(
    family=Family.LIBRETORRENT,
    name="LibreTorrentEE",
    shape=Shape.MODERN,
    limits=(20, 20),
    abilities=_LISTS | _QUERIES,
    reads=_CAUTIOUS._replace(variant="libretorrent", ports=Ports.UNREAD),
    solves=True,
    offsets_add=True,
)
_BITCOMET = Traits(
    family=Family.BITCOMET,
    name="BTNScriptBC",
    shape=Shape.LEGACY,
    limits=(3, 3),
    abilities=frozenset({"submit_peers", "rules", "reconfigure"}),
    reads=Reading(
        "bc",
        texts=RuleTexts.UNREAD,
        ports=Ports.UNREAD,
        addresses=Addresses.NEVER_EMPTY,
        exceptions=Exceptions.UNTOLD,
    ),
    # It reads these without looking whether they are there.
    needs=frozenset({"submit_peers", "rules", "reconfigure"}),
)

# A program that nobody knows gets texts that can't be misread into banning whom an exclusion protects.
_UNKNOWN = Traits(
    family=Family.UNKNOWN,
    name="other programs",
    shape=Shape.LEGACY,
    limits=(3, 99),
    abilities=_LEGACY,
    reads=_CAUTIOUS,
)
_UNKNOWN_20 = replace(_UNKNOWN, shape=Shape.MODERN, limits=(20, 20), abilities=_LISTS | _QUERIES | {"reconfigure"})
FAMILIES = (
    *(_PBH_9_2, _PBH_7, _PBH_6, _PBH_5, _PBH_4, _PBH_4_0_3, _PBH_4_0_2, _PBH_3),
    *(_QBCB, _RUST, _RS, _LIBRETORRENT, _BITCOMET, _UNKNOWN_20, _UNKNOWN),
)
"""Every row of clients that are served, newest PeerBanHelper first."""
READINGS = tuple(dict.fromkeys(row.reads for row in FAMILIES))
"""Every way in which rule documents are read."""


class Dialect(NamedTuple):
    """A client program and the protocol implementation number it speaks.

    `protocol` is 3..20 and up for PeerBanHelper, 0 for its releases 3.0 and 3.1; what the others say or are known for.
    """

    traits: Traits
    protocol: int

    @property
    def family(self) -> Family:
        """The program."""
        return self.traits.family

    def spoken(self, prefer_legacy: bool) -> Traits:
        """The row that counts where the operator does or doesn't prefer the old shapes."""
        return (self.traits.legacy or self.traits) if prefer_legacy else self.traits


# --- Telling who it is ------------------------------------------------------------------------------------------------

_PROTOCOL = re.compile(r"BTN-Protocol-Version/(\d{1,6})(?!\d)")
_RELEASE = re.compile(r"PeerBanHelper/(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")
_PBH_AGENT = re.compile(r"PeerBanHelper/")

# In this order; the number is what a program speaks that says none.
_NAMED = (
    (re.compile(r"PeerBanHelper-Rust/"), _RUST, 20),
    (re.compile(r"PeerBanHelper-RS\b"), _RS, 20),
    (re.compile(r".*BTNScriptBC/", re.DOTALL), _BITCOMET, 3),
    (re.compile(r"qBittorrent-ClientBlocker/"), _QBCB, 3),
)
_LIBRETORRENT_AGENT = re.compile(r"LibreTorrent/")

# PeerBanHelper's first release with each protocol number or trait. Releases from 7.2 on say the number themselves;
# their rows serve user agents that a proxy cut short.
_RELEASES = (
    ((9, 2, 0), 20, _PBH_9_2),
    ((9, 1, 0), 13, _PBH_7),
    ((8, 0, 8), 12, _PBH_7),
    ((8, 0, 0), 11, _PBH_7),
    ((7, 3, 3), 10, _PBH_7),
    ((7, 0, 0), 8, _PBH_7),
    ((6, 0, 0), 7, _PBH_6),
    ((5, 0, 6), 6, _PBH_5),
    ((5, 0, 0), 5, _PBH_5),
    ((4, 0, 6), 5, _PBH_4),
    ((4, 0, 3), 4, _PBH_4_0_3),
    ((4, 0, 2), 3, _PBH_4_0_2),
    ((3, 2, 0), 3, _PBH_3),
    ((0, 0, 1), 0, _PBH_2),
)

# Those that say their number, by the smallest of each row.
_NUMBERS = ((20, _PBH_9_2), (8, _PBH_7), (7, _PBH_6), (6, _PBH_5), (4, _PBH_4), (3, _PBH_3), (0, _PBH_2))

# The protocol number stands at the end of PeerBanHelper's user agent, behind the name of the operating system.
_LONGEST_AGENT = 512


def detect(user_agent: str | None) -> Dialect:
    """The dialect of whoever sent this User-Agent.

    The number in "BTN-Protocol/2.0.1" is decoration and never read. A program that nobody knows is spoken to by the
    protocol number that it names, in the legacy shape where it names none of 20 or more; so is a PeerBanHelper without
    a release number ("0.0.0-undefined") that names none.
    """
    return _detect((user_agent or "")[:_LONGEST_AGENT])


@lru_cache(maxsize=1024)
def _detect(agent: str) -> Dialect:
    for pattern, traits, protocol in _NAMED:
        if pattern.match(agent):
            return Dialect(traits, protocol)
    named = _PROTOCOL.search(agent)
    if _LIBRETORRENT_AGENT.match(agent):
        return Dialect(_LIBRETORRENT, int(named[1]) if named else 20)
    if _PBH_AGENT.match(agent):
        return _peerbanhelper(agent, int(named[1]) if named else None)
    number = int(named[1]) if named else 3
    return Dialect(_UNKNOWN_20 if number >= 20 else _UNKNOWN, number)


def _peerbanhelper(agent: str, named: int | None) -> Dialect:
    if named is not None:
        return next(Dialect(traits, named) for first, traits in _NUMBERS if named >= first)
    if release := _RELEASE.match(agent):
        version = (int(release[1]), int(release[2]), int(release[3] or 0))
        for since, protocol, traits in _RELEASES:
            if version >= since:
                return Dialect(traits, protocol)
    return Dialect(_UNKNOWN, 3)
