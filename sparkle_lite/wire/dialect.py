"""Who asks, told from the User-Agent, and the configuration document that this client understands.

The table `_ABILITIES` is the whole offer: one line per ability and address. A client's parser fails on anything
unexpected (PeerBanHelper drops the whole configuration over one missing or null sub-field, qBittorrent-ClientBlocker
over one value that is no uint32), so every ability carries interval, endpoint and random_initial_delay, numbers are
plain positive integers, and nothing is ever null.
"""

import hashlib
import re
from collections.abc import Collection, Mapping
from enum import Flag, StrEnum, auto
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec


class Family(StrEnum):
    """The client programs that differ on the wire."""

    PEERBANHELPER = "peerbanhelper"
    QBCB = "qbittorrent-clientblocker"
    RUST = "peerbanhelper-rust"
    BITCOMET = "btnscriptbc"
    UNKNOWN = "unknown"


class Dialect(NamedTuple):
    """A client program and the protocol implementation number it speaks.

    `protocol` is 3..20 and up for PeerBanHelper, 0 for its releases 3.0 and 3.1, fixed for the other programs.
    `knows_its_progress` is False for PeerBanHelper 4.0.2 to 4.0.5: their `downloader_progress` is the peer's.
    """

    family: Family
    protocol: int
    knows_its_progress: bool = True

    @property
    def outdated(self) -> bool:
        """PeerBanHelper before 3.2: another protocol altogether, best answered with 403 and "please update"."""
        return self.family is Family.PEERBANHELPER and self.protocol < 3

    @property
    def reports_swarms(self) -> bool:
        """Whether most of what it sends are swarms; older clients send snapshots."""
        return self.protocol >= 20


_FIXED = (
    (re.compile(r"PeerBanHelper-Rust/"), Dialect(Family.RUST, 20)),
    (re.compile(r".*BTNScriptBC/", re.DOTALL), Dialect(Family.BITCOMET, 3)),
    (re.compile(r"qBittorrent-ClientBlocker/"), Dialect(Family.QBCB, 3)),
)
_UNKNOWN = Dialect(Family.UNKNOWN, 3)
_PROTOCOL = re.compile(r"BTN-Protocol-Version/(\d{1,6})(?!\d)")
_RELEASE = re.compile(r"PeerBanHelper/(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")
# PeerBanHelper's first release with each protocol number. Releases from 7.2 on say the number themselves; their rows
# serve user agents that a proxy cut short.
_RELEASES = (
    ((9, 2, 0), 20),
    ((9, 1, 0), 13),
    ((8, 0, 8), 12),
    ((8, 0, 0), 11),
    ((7, 3, 3), 10),
    ((7, 0, 0), 8),
    ((6, 0, 0), 7),
    ((5, 0, 6), 6),
    ((4, 0, 6), 5),
    ((4, 0, 3), 4),
    ((3, 2, 0), 3),
    ((0, 0, 1), 0),
)
# The protocol number stands at the end of PeerBanHelper's user agent, behind the name of the operating system.
_LONGEST_AGENT = 512


def detect(user_agent: str | None) -> Dialect:
    """The dialect of whoever sent this User-Agent.

    The number in "BTN-Protocol/2.0.1" is decoration and never read. A program nobody knows, or a PeerBanHelper without
    a release number ("0.0.0-undefined"), counts as unknown and is spoken to in the legacy shape.
    """
    return _detect((user_agent or "")[:_LONGEST_AGENT])


@lru_cache(maxsize=1024)
def _detect(agent: str) -> Dialect:
    for pattern, dialect in _FIXED:
        if pattern.match(agent):
            return dialect
    if number := _PROTOCOL.search(agent):
        return Dialect(Family.PEERBANHELPER, int(number[1]))
    if release := _RELEASE.match(agent):
        version = (int(release[1]), int(release[2]), int(release[3] or 0))
        for first, protocol in _RELEASES:
            if version >= first:
                return Dialect(Family.PEERBANHELPER, protocol, not (4, 0, 2) <= version <= (4, 0, 5))
    return _UNKNOWN


class AbilityOffer(NamedTuple):
    """How often a client shall use an ability: both values in milliseconds."""

    interval_ms: int
    random_initial_delay_ms: int


class ConfigDocument(NamedTuple):
    """The bytes of a configuration document and its `reconfigure.version`, a hash of everything else in it."""

    body: bytes
    version: str


class _Document(Flag):
    """Which kind of configuration document a client gets; an ability lists the kinds it belongs in."""

    LEGACY = auto()
    MODERN = auto()
    ANY = LEGACY | MODERN


class _Ability(NamedTuple):
    """One ability at one address.

    PeerBanHelper knows it from protocol `first` to `last`; `others` are the other programs that do. Text in `extra`
    is a path below the base URL.
    """

    name: str
    path: str
    documents: _Document
    first: int
    last: int
    others: frozenset[Family] = frozenset()
    extra: tuple[tuple[str, bool | str], ...] = ()


_ALWAYS = 1 << 30
_OLD, _NEW, _ANY = _Document.LEGACY, _Document.MODERN, _Document.ANY
_RUST = frozenset({Family.RUST})
_SCRIPT = frozenset({Family.BITCOMET})
_OTHERS = frozenset({Family.QBCB, Family.UNKNOWN})
# Without multi_if PeerBanHelper sends no credentials and then fails on the answer.
_MULTI_IF = (("multi_if", True),)
_WIDGET = (("iframe_endpoint", "/ping/queryIp/widget"),)

# Left out on purpose: submit_hitrate (nobody needs it), `exceptions` (read by nobody), heartbeat for PeerBanHelper
# before protocol 20 (it sends no credentials there), submit_histories in protocol 20 documents (the same transfers come
# as submit_swarm), rules for the Rust client beside rule_peer_identity (both share one `rev`).
_ABILITIES = (
    _Ability("submit_peers", "/ping/peers/submit", _OLD, 3, _ALWAYS, _OTHERS | _SCRIPT),
    _Ability("submit_bans", "/ping/bans/submit", _OLD, 3, _ALWAYS, _OTHERS),
    _Ability("submit_bans", "/ping/syncBanHistory", _NEW, 20, _ALWAYS, _RUST),
    _Ability("submit_histories", "/ping/histories/submit", _OLD, 8, _ALWAYS, _OTHERS),
    _Ability("submit_swarm", "/ping/syncSwarm", _NEW, 20, _ALWAYS, _RUST),
    _Ability("rules", "/ping/rules/retrieve", _OLD, 3, _ALWAYS, _OTHERS | _SCRIPT),
    _Ability("exception", "/ping/exception", _OLD, 8, 19, _OTHERS),
    _Ability("rule_peer_identity", "/ping/rulePeerIdentity", _NEW, 20, _ALWAYS, _RUST),
    _Ability("ip_denylist", "/ping/ruleIpDenylist", _NEW, 20, _ALWAYS, _RUST),
    _Ability("ip_allowlist", "/ping/ruleIpAllowlist", _NEW, 20, _ALWAYS, _RUST),
    _Ability("heartbeat", "/ping/heartbeat", _ANY, 20, _ALWAYS, _RUST, _MULTI_IF),
    _Ability("ip_query", "/ping/queryIp", _ANY, 20, _ALWAYS, extra=_WIDGET),
    _Ability("reconfigure", "/ping/reconfigure", _ANY, 3, _ALWAYS, _OTHERS | _SCRIPT),
)

# BTNScriptBC reads these three without looking whether they are there, so it gets them even when the operator switched
# one off, then once a day.
_BITCOMET_NEEDS = ("submit_peers", "rules", "reconfigure")
_ONCE_A_DAY = AbilityOffer(86_400_000, 300_000)
# 24 days: the largest int that every client's number type holds.
_LONGEST_WAIT = (1 << 31) - 1


def _document(dialect: Dialect, prefer_legacy: bool) -> _Document:
    willing = dialect.family is Family.PEERBANHELPER and dialect.protocol >= 20 and not prefer_legacy
    # The Rust client uses the shapes of protocol 20 whatever it is told.
    return _Document.MODERN if willing or dialect.family is Family.RUST else _Document.LEGACY


def _known(dialect: Dialect, document: _Document) -> list[_Ability]:
    is_pbh = dialect.family is Family.PEERBANHELPER
    return [
        ability
        for ability in _ABILITIES
        if document in ability.documents
        and (ability.first <= dialect.protocol <= ability.last if is_pbh else dialect.family in ability.others)
    ]


def offered(dialect: Dialect, enabled: Collection[str], prefer_legacy: bool = False) -> tuple[str, ...]:
    """The abilities that this client gets, in the order of the document.

    `enabled` are the abilities that the operator switched on, `prefer_legacy` says that PeerBanHelper 9.2+ shall use
    the old shapes.
    """
    needed = _BITCOMET_NEEDS if dialect.family is Family.BITCOMET else ()
    known = _known(dialect, _document(dialect, prefer_legacy))
    return tuple(ability.name for ability in known if ability.name in enabled or ability.name in needed)


def versions(dialect: Dialect, prefer_legacy: bool = False) -> tuple[int, int]:
    """min_protocol_version and max_protocol_version for this client.

    PeerBanHelper 3.2 to 5.1 checks the maximum the wrong way round and needs it no larger than its own number; newer
    releases need it no smaller. From protocol 11 on the minimum also chooses the shapes: up to 10 means legacy.
    """
    family, protocol = dialect.family, dialect.protocol
    if family in (Family.QBCB, Family.BITCOMET) or (family is Family.PEERBANHELPER and protocol < 7):
        return 3, 3
    if family is Family.RUST:
        return 20, 20
    if _document(dialect, prefer_legacy) is _Document.MODERN:
        return 20, max(20, protocol)
    return 3, max(99, protocol)


def config_document(
    dialect: Dialect,
    abilities: Mapping[str, AbilityOffer],
    base_url: str,
    *,
    prefer_legacy: bool = False,
    proof_of_work: Collection[str] = (),
) -> ConfigDocument:
    """The configuration document for this client.

    `abilities` are the ones that the operator switched on, `base_url` is the address of this server as the client sees
    it (scheme, host, base path; no query, because some clients append "?rev=" blindly). `proof_of_work` are the
    abilities that want it; only a client that can solve a challenge is told. The version is the same on every machine
    and after every restart, and changes when anything in the document does.
    """
    base = base_url.rstrip("/")
    names = offered(dialect, abilities, prefer_legacy)
    known = _known(dialect, _document(dialect, prefer_legacy))
    offers = {
        ability.name: _render(ability, abilities.get(ability.name, _ONCE_A_DAY), base)
        for ability in known
        if ability.name in names
    }
    minimum, maximum = versions(dialect, prefer_legacy)
    document: dict[str, Any] = {"min_protocol_version": minimum, "max_protocol_version": maximum, "ability": offers}
    asked = [name for name in offers if name in proof_of_work and solves(dialect, prefer_legacy)]
    for name in asked:
        offers[name]["pow_captcha"] = True
    if asked:
        # Left out otherwise: a null here costs PeerBanHelper the whole document.
        document["proof_of_work_captcha"] = {"endpoint": f"{base}/ping/captcha/createSession"}
    version = hashlib.sha256(msgspec.json.encode(document)).hexdigest()[:16]
    if "reconfigure" in offers:
        offers["reconfigure"]["version"] = version
    return ConfigDocument(msgspec.json.encode(document), version)


def solves(dialect: Dialect, prefer_legacy: bool = False) -> bool:
    """Whether this client can do a proof of work: PeerBanHelper 9.2+ in the shapes of protocol 20."""
    return _document(dialect, prefer_legacy) is _Document.MODERN and dialect.family is Family.PEERBANHELPER


def _render(ability: _Ability, offer: AbilityOffer, base: str) -> dict[str, int | str | bool]:
    extra = {name: base + value if isinstance(value, str) else value for name, value in ability.extra}
    return {
        "interval": _wait(offer.interval_ms),
        "endpoint": base + ability.path,
        # 0 makes PeerBanHelper's random number generator throw: the ability would silently never run.
        "random_initial_delay": _wait(offer.random_initial_delay_ms),
        **extra,
    }


def _wait(milliseconds: int) -> int:
    return min(max(1, int(milliseconds)), _LONGEST_WAIT)
