"""The configuration document: which abilities a client is offered, at which paths, and how often.

A client's parser fails on anything unexpected (PeerBanHelper drops the whole configuration over one missing or null
sub-field, qBittorrent-ClientBlocker over one value that is no uint32), so every ability carries interval, endpoint and
random_initial_delay, numbers are plain positive integers, and nothing is ever null.
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from sparkle_lite.units import DAY_MS, MINUTE_MS
from sparkle_lite.wire.dialect import Dialect, Shape, Traits


class AbilityOffer(NamedTuple):
    """How often a client shall use an ability: both values in milliseconds."""

    interval_ms: int
    random_initial_delay_ms: int


class ConfigDocument(NamedTuple):
    """The bytes of a configuration document and its `reconfigure.version`, a hash of everything else in it."""

    body: bytes
    version: str


class _Ability(NamedTuple):
    """One ability: its path in either shape, and more sub-fields; text among them is a path below the base URL."""

    name: str
    legacy: str
    modern: str = ""
    extra: tuple[tuple[str, bool | str], ...] = ()


# Without multi_if PeerBanHelper sends no credentials and then fails on the answer.
_MULTI_IF = (("multi_if", True),)
_WIDGET = (("iframe_endpoint", "/ping/queryIp/widget"),)

# In the order of the document. Left out on purpose: submit_hitrate (nobody needs it), heartbeat for PeerBanHelper
# before protocol 20 (it sends no credentials there), submit_histories in the modern shape (the same transfers come as
# submit_swarm), rules for the Rust client beside rule_peer_identity (both share one `rev`).
_ABILITIES = (
    _Ability("submit_peers", "/ping/peers/submit"),
    _Ability("submit_bans", "/ping/bans/submit", "/ping/syncBanHistory"),
    _Ability("submit_histories", "/ping/histories/submit"),
    _Ability("submit_swarm", "/ping/syncSwarm"),
    _Ability("rules", "/ping/rules/retrieve"),
    _Ability("exception", "/ping/exception"),
    _Ability("rule_peer_identity", "/ping/rulePeerIdentity"),
    _Ability("ip_denylist", "/ping/ruleIpDenylist"),
    _Ability("ip_allowlist", "/ping/ruleIpAllowlist"),
    _Ability("heartbeat", "/ping/heartbeat", extra=_MULTI_IF),
    _Ability("ip_query", "/ping/queryIp", extra=_WIDGET),
    _Ability("reconfigure", "/ping/reconfigure"),
)

# What a client needs although the operator switched it off comes once a day.
_ONCE_A_DAY = AbilityOffer(DAY_MS, 5 * MINUTE_MS)
_SHORTEST_SHARE_MS = MINUTE_MS

# 24 days: the largest int that every client's number type holds.
_LONGEST_WAIT = (1 << 31) - 1


def offered(dialect: Dialect, enabled: Collection[str], prefer_legacy: bool = False) -> tuple[str, ...]:
    """The abilities that this client gets, in the order of the document.

    `enabled` are the abilities that the operator switched on, `prefer_legacy` says that PeerBanHelper 9.2+ shall use
    the old shapes.
    """
    spoken = dialect.spoken(prefer_legacy)
    wanted = {*enabled, *spoken.needs, *(name for name, other in spoken.beside.items() if other in enabled)}
    return tuple(ability.name for ability in _ABILITIES if ability.name in spoken.abilities & wanted)


def versions(dialect: Dialect, prefer_legacy: bool = False) -> tuple[int, int]:
    """min_protocol_version and max_protocol_version for this client.

    PeerBanHelper 3.2 to 5.1 checks the maximum the wrong way round and needs it no larger than its own number; newer
    releases need it no smaller. From protocol 11 on the minimum also chooses the shapes: up to 10 means legacy.
    """
    least, most = dialect.spoken(prefer_legacy).limits
    return least, max(most, dialect.protocol) if dialect.protocol > 20 else most


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
    spoken = dialect.spoken(prefer_legacy)
    names = offered(dialect, abilities, prefer_legacy)
    offers = {
        ability.name: _render(ability, _offer(ability.name, spoken, abilities), spoken.shape, base)
        for ability in _ABILITIES
        if ability.name in names
    }
    minimum, maximum = versions(dialect, prefer_legacy)
    document: dict[str, Any] = {"min_protocol_version": minimum, "max_protocol_version": maximum, "ability": offers}
    asked = [name for name in offers if name in proof_of_work and spoken.solves]
    for name in asked:
        offers[name]["pow_captcha"] = True
    if asked:
        # Left out otherwise: a null here costs PeerBanHelper the whole document.
        document["proof_of_work_captcha"] = {"endpoint": f"{base}/ping/captcha/createSession"}
    version = hashlib.sha256(msgspec.json.encode(document)).hexdigest()[:16]
    if "reconfigure" in offers:
        offers["reconfigure"]["version"] = version
    return ConfigDocument(msgspec.json.encode(document), version)


def _offer(name: str, spoken: Traits, abilities: Mapping[str, AbilityOffer]) -> AbilityOffer:
    """How often this client shall use an ability, of what the operator wrote."""
    offer = abilities.get(name, _ONCE_A_DAY)
    if name in spoken.at_once:
        together = [abilities[other].interval_ms for other in spoken.at_once if other in abilities]
        return AbilityOffer(min(together, default=offer.interval_ms), 1)
    if share := spoken.intervals.get(name):
        return offer._replace(interval_ms=min(offer.interval_ms, max(offer.interval_ms // share, _SHORTEST_SHARE_MS)))
    return offer


def _render(ability: _Ability, offer: AbilityOffer, shape: Shape, base: str) -> dict[str, int | str | bool]:
    extra = {name: base + value if isinstance(value, str) else value for name, value in ability.extra}
    path = (shape is Shape.MODERN and ability.modern) or ability.legacy
    return {
        "interval": _wait(offer.interval_ms),
        "endpoint": base + path,
        # 0 makes PeerBanHelper's random number generator throw: the ability would silently never run.
        "random_initial_delay": _wait(offer.random_initial_delay_ms),
        **extra,
    }


def _wait(milliseconds: int) -> int:
    return min(max(1, int(milliseconds)), _LONGEST_WAIT)
