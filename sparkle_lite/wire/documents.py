"""Rule documents as bytes: JSON for every client's parser, and protocol 20's text lists of addresses.

A document is rendered and compressed once and then served from memory. Its version is a hash of what it says to whom,
so it is the same on every machine, and no two kinds or variants share one (PeerBanHelper keeps `rules` and
`rule_peer_identity` in a single cache, even across a change of server).
"""

import gzip
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NewType

import msgspec

from sparkle_lite.net import Network, address_bytes, parse_network
from sparkle_lite.wire.dialect import Dialect, Family
from sparkle_lite.wire.matchers import Matcher, without_exclusions

Kind = Literal["rules", "exception", "rule_peer_identity", "ip_denylist", "ip_allowlist"]
AddressLine = NewType("AddressLine", str)


class Variant(StrEnum):
    """Clients whose parsers want the same JSON."""

    PEERBANHELPER = "pbh"
    # Releases before 3.3.6 lower-case only the peer's side of a comparison.
    PEERBANHELPER_3 = "pbh3"
    QBCB = "qbcb"
    RUST = "rust"
    BITCOMET = "bc"


_VARIANTS = {Family.QBCB: Variant.QBCB, Family.RUST: Variant.RUST, Family.BITCOMET: Variant.BITCOMET}


def variant_of(dialect: Dialect) -> Variant:
    """The variant that a client reads; an unknown program gets PeerBanHelper's."""
    is_old = dialect.family is Family.PEERBANHELPER and dialect.protocol <= 3
    return _VARIANTS.get(dialect.family, Variant.PEERBANHELPER_3 if is_old else Variant.PEERBANHELPER)


class Document(NamedTuple):
    """A finished document: its content version (8 lower-case hex digits), the bytes, and the same compressed."""

    version: str
    body: bytes
    gzip: bytes


class Content(NamedTuple):
    """What a rule document says, by category in the operator's order; `script` maps a name to its source."""

    ip: Mapping[str, Sequence[AddressLine]]
    port: Mapping[str, Sequence[int]]
    peer_id: Mapping[str, Sequence[Matcher]]
    client_name: Mapping[str, Sequence[Matcher]]
    script: Mapping[str, str]


class Exempt(NamedTuple):
    """Rules whose matches must never be banned, for clients that read no exception list."""

    peer_id: Sequence[Matcher] = ()
    client_name: Sequence[Matcher] = ()


def address_lines(networks: Iterable[Network]) -> tuple[AddressLine, ...]:
    """The lines that publish these networks, in the same order: the only way to make an AddressLine.

    Every line is read back, because a line that means something else bans strangers. Raises ValueError then.
    """
    return tuple(map(_line, networks))


# From one publication to the next most stay.
@lru_cache(1 << 17)
def _line(network: Network) -> AddressLine:
    line = str(network)
    # A single address is read back by less than the whole parser.
    same = parse_network(line) == network if "/" in line else address_bytes(line) == network.address
    if not same:
        raise ValueError(f"{network!r} would be published as {line!r}, which means something else")
    return AddressLine(line)


# --- JSON -------------------------------------------------------------------------------------------------------------

# BTNScriptBC needs one address at least. This one (TEST-NET-1, RFC 5737) belongs to nobody.
_NOBODY = {"none": ("192.0.2.1",)}


def rules_json(kind: Kind, variant: Variant, content: Content, exempt: Exempt | None = None) -> Document:
    """A document of the kinds rules, rule_peer_identity (no addresses in it) or exception, for one variant.

    All maps are there even when empty: PeerBanHelper fails on a missing one. `exempt` is worked into the rules as each
    client can understand it; give none for an exception document.
    """
    exempt = exempt or Exempt()
    maps: dict[str, Mapping[str, Any]] = {
        "peer_id": _texts(variant, content.peer_id, exempt.peer_id),
        "client_name": _texts(variant, content.client_name, exempt.client_name),
        "ip": {} if kind == "rule_peer_identity" else _addresses(variant, content.ip),
        "port": _ports(variant, content.port),
    }
    if kind != "exception":
        is_pbh = variant in (Variant.PEERBANHELPER, Variant.PEERBANHELPER_3)
        maps["script"] = content.script if is_pbh else {}
    body = msgspec.json.encode(maps)
    version = _version(kind, variant, body)
    return _finish(version, b'{"version":"' + version.encode() + b'",' + body[1:])


def _texts(
    variant: Variant, categories: Mapping[str, Sequence[Matcher]], exempt: Sequence[Matcher]
) -> dict[str, list[str]]:
    if variant in (Variant.PEERBANHELPER, Variant.PEERBANHELPER_3):
        lower = variant is Variant.PEERBANHELPER_3
        # Releases from 9.2 on read no exception list: there an exception is an exclusion in every category.
        front = [matcher.negated().pbh(lower_case=lower) for matcher in exempt]
        return {name: front + [m.pbh(lower_case=lower) for m in ms] for name, ms in categories.items()}
    if variant is Variant.QBCB and all(matcher.qbcb() is not None for matcher in exempt):
        # It reads the exception list itself; only what can't be written there must be kept from being banned here.
        texts = {name: without_exclusions(matchers, Matcher.qbcb) for name, matchers in categories.items()}
    elif variant is Variant.RUST and not exempt:
        texts = {name: without_exclusions(matchers, Matcher.rust) for name, matchers in categories.items()}
    else:
        # BTNScriptBC reads addresses only; the others could ban what an exception protects.
        texts = {}
    return {name: rules for name, rules in texts.items() if rules}


def _addresses(variant: Variant, categories: Mapping[str, Sequence[AddressLine]]) -> Mapping[str, Sequence[str]]:
    if variant is Variant.QBCB:
        # It reads CIDR, else compares with the peer's text, which may spell an IPv6 address differently.
        return {
            name: [f"{line}/128" if ":" in line and "/" not in line else line for line in lines]
            for name, lines in categories.items()
        }
    if variant is Variant.BITCOMET:
        # PowerShell's JSON reader refuses keys that differ in case only.
        merged: dict[str, list[str]] = {}
        for name, lines in categories.items():
            merged.setdefault(name.lower(), []).extend(lines)
        return merged if any(merged.values()) else _NOBODY
    return categories


def _ports(variant: Variant, categories: Mapping[str, Sequence[int]]) -> Mapping[str, Sequence[int | str]]:
    if variant is Variant.QBCB:
        # Its list is of strings, and a number rejects the document; the Rust client the other way round.
        return {name: [str(port) for port in ports] for name, ports in categories.items()}
    return {} if variant is Variant.BITCOMET else categories


# --- Text -------------------------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """One line of a text list: the address, its category and the reason that clients show to their users."""

    line: AddressLine
    category: str
    reason: str


def deny_text(entries: Iterable[Listed]) -> Document:
    """The list of addresses to ban, each below a comment of its own: an entry uses up the comment above it."""
    return _text("ip_denylist", entries)


def allow_text(entries: Iterable[Listed]) -> Document:
    """The list of addresses never to ban, in the same grammar."""
    return _text("ip_allowlist", entries)


def _text(kind: Kind, entries: Iterable[Listed]) -> Document:
    body = "".join(
        [f"# [{_one_line(category)}] {_one_line(reason)}\n{line}\n" for line, category, reason in entries]
    ).encode()
    return _finish(_version(kind, None, body), body)


def _one_line(text: str) -> str:
    """Without line breaks of any kind: the rest of a comment would be read as an address."""
    return text if text.isprintable() and "  " not in text else " ".join(text.split())


# --- Both -------------------------------------------------------------------------------------------------------------


def _version(kind: Kind, variant: Variant | None, body: bytes) -> str:
    # Eight digits: BTNScriptBC takes every run of eight out of its saved file.
    return hashlib.sha256(f"{kind}\n{variant or ''}\n".encode() + body).hexdigest()[:8]


def _finish(version: str, body: bytes) -> Document:
    # Level 4 takes a fifth of the time of level 6, for a tenth more bytes.
    return Document(version, body, gzip.compress(body, compresslevel=4, mtime=0))
