"""Rule documents as bytes: JSON for every client's parser, and protocol 20's text lists of addresses.

A document is rendered and compressed once and then served from memory. Its version is a hash of what it says to whom,
so it is the same on every machine, and no two kinds or variants share one (PeerBanHelper keeps `rules` and
`rule_peer_identity` in a single cache, even across a change of server).
"""

import gzip
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NewType

import msgspec

from sparkle_lite.net import Network, address_bytes, parse_network
from sparkle_lite.wire.dialect import Addresses, Exceptions, Ports, Reading, RuleTexts
from sparkle_lite.wire.matchers import Matcher, without_exclusions

Kind = Literal["rules", "exception", "rule_peer_identity", "ip_denylist", "ip_allowlist"]
AddressLine = NewType("AddressLine", str)


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

# For clients that need one address at least. This one (TEST-NET-1, RFC 5737) belongs to nobody.
_NOBODY = {"none": ("192.0.2.1",)}


def rules_json(kind: Kind, reads: Reading, content: Content, exempt: Exempt | None = None) -> Document:
    """A document of the kinds rules, rule_peer_identity (no addresses in it) or exception, for all who read so.

    All maps are there even when empty: PeerBanHelper fails on a missing one. `exempt` is worked into the rules as each
    client can understand it; give none for an exception document.
    """
    exempt = exempt or Exempt()
    maps: dict[str, Mapping[str, Any]] = {
        "peer_id": _texts(reads, content.peer_id, exempt.peer_id) if reads.peer_ids else {},
        "client_name": _texts(reads, content.client_name, exempt.client_name),
        "ip": {} if kind == "rule_peer_identity" else _addresses(reads.addresses, content.ip),
        "port": _ports(reads.ports, content.port),
    }
    if kind != "exception":
        maps["script"] = content.script if reads.scripts else {}
    body = msgspec.json.encode(maps)
    version = _version(kind, reads.variant, body)
    return _finish(version, b'{"version":"' + version.encode() + b'",' + body[1:])


def _spell(texts: RuleTexts, matcher: Matcher) -> str | None:
    """A rule as a client reads it that knows no exclusions, or None when it can't be told."""
    match texts:
        case RuleTexts.EXPRESSIONS:
            return matcher.expression()
        case RuleTexts.METHODS:
            return matcher.method_alone()
        case RuleTexts.SUBSTRINGS:
            return matcher.substring()
        case _:
            return None


def _texts(
    reads: Reading, categories: Mapping[str, Sequence[Matcher]], exempt: Sequence[Matcher]
) -> dict[str, list[str]]:
    if reads.exceptions is Exceptions.EXCLUSIONS:
        lower = reads.texts is RuleTexts.OBJECTS_LOWER
        front = [matcher.negated().pbh(lower_case=lower) for matcher in exempt]
        return {name: front + [m.pbh(lower_case=lower) for m in ms] for name, ms in categories.items()}
    if not all(_is_told(reads, matcher) for matcher in exempt):
        # What an exception protects could be banned here.
        return {}
    texts = {
        name: without_exclusions(matchers, lambda matcher: _spell(reads.texts, matcher))
        for name, matchers in categories.items()
    }
    return {name: rules for name, rules in texts.items() if rules}


def _is_told(reads: Reading, exempt: Matcher) -> bool:
    """Whether a client that reads no exclusions can be told an exception by name."""
    return reads.exceptions is Exceptions.DOCUMENT and _spell(reads.texts, exempt) is not None


def _addresses(spelling: Addresses, categories: Mapping[str, Sequence[AddressLine]]) -> Mapping[str, Sequence[str]]:
    match spelling:
        case Addresses.PREFIXED:
            return {
                name: [f"{line}/128" if ":" in line and "/" not in line else line for line in lines]
                for name, lines in categories.items()
            }
        case Addresses.NEVER_EMPTY:
            merged: dict[str, list[str]] = {}
            for name, lines in categories.items():
                merged.setdefault(name.lower(), []).extend(lines)
            return merged if any(merged.values()) else _NOBODY
        case Addresses.PLAIN:
            return categories


def _ports(spelling: Ports, categories: Mapping[str, Sequence[int]]) -> Mapping[str, Sequence[int | str]]:
    match spelling:
        case Ports.STRINGS:
            return {name: [str(port) for port in ports] for name, ports in categories.items()}
        case Ports.UNREAD:
            return {}
        case Ports.NUMBERS:
            return categories


# --- Text -------------------------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """One line of a text list: the address, its category and the reason that clients show to their users."""

    line: AddressLine
    category: str
    reason: str


def deny_text(entries: Iterable[Listed]) -> Document:
    """The list of addresses to ban, each below a comment of its own: an entry uses up the comment above it.

    No blank stands behind the sign, because PeerBanHelper cuts the sign alone and shows the rest.
    """
    return _text("ip_denylist", entries)


def allow_text(entries: Iterable[Listed]) -> Document:
    """The list of addresses never to ban, in the same grammar."""
    return _text("ip_allowlist", entries)


def _text(kind: Kind, entries: Iterable[Listed]) -> Document:
    body = "".join(
        [f"#[{_one_line(category)}] {_one_line(reason)}\n{line}\n" for line, category, reason in entries]
    ).encode()
    return _finish(_version(kind, "", body), body)


def _one_line(text: str) -> str:
    """Without line breaks of any kind: the rest of a comment would be read as an address."""
    return text if text.isprintable() and "  " not in text else " ".join(text.split())


# --- Both -------------------------------------------------------------------------------------------------------------


def _version(kind: Kind, variant: str, body: bytes) -> str:
    # Eight digits: BTNScriptBC takes every run of eight out of its saved file.
    return hashlib.sha256(f"{kind}\n{variant}\n".encode() + body).hexdigest()[:8]


def _finish(version: str, body: bytes) -> Document:
    # Level 4 takes a fifth of the time of level 6, for a tenth more bytes.
    return Document(version, body, gzip.compress(body, compresslevel=4, mtime=0))
