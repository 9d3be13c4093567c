"""Rule documents as bytes: JSON for every client's parser, and protocol 20's text lists of addresses.

A document is rendered and compressed once and then served from memory. Its version is a hash of what it says to whom,
so it is the same on every machine, and no two kinds or variants share one (PeerBanHelper keeps `rules` and
`rule_peer_identity` in a single cache, even across a change of server).
"""

import gzip
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NewType

import msgspec

from sparkle_lite.net import Network, address_bytes, parse_network
from sparkle_lite.wire.dialect import Addresses, Exceptions, Ports, Reading, RuleTexts
from sparkle_lite.wire.matchers import Matcher

Kind = Literal["rules", "exception", "rule_peer_identity", "ip_denylist", "ip_allowlist"]
Identity = Literal["peer_id", "client_name"]
AddressLine = NewType("AddressLine", str)


class Document(NamedTuple):
    """A finished document: its content version (8 lower-case hex digits), the bytes, and the same compressed.

    Of some 65,000 contents two may share a version, but not their `tag` (32 hex digits).
    """

    version: str
    tag: str
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

    @classmethod
    def of(cls, exceptions: Content) -> "Exempt":
        """What an exception document says, for those who don't read it."""
        return cls(
            peer_id=[matcher for matchers in exceptions.peer_id.values() for matcher in matchers],
            client_name=[matcher for matchers in exceptions.client_name.values() for matcher in matchers],
        )


class Cause(Enum):
    """Why a client doesn't get a rule or an exception."""

    # It reads nothing of this kind, or fails on it.
    UNREAD = "unread"
    # It has no way to say this method or this expression.
    METHOD = "method"
    # It reads neither hit, miss nor if.
    CONDITIONS = "conditions"
    # In its category stands an exclusion, which it doesn't read.
    EXCLUSION = "exclusion"
    # Of this kind there is an exception that it can't be told, and whom that protects it must not ban.
    EXCEPTION = "exception"
    # It reads no exceptions by peer id or client name, and no exclusions.
    NO_EXCEPTIONS = "no_exceptions"


class Omission(NamedTuple):
    """A rule or an exception that a client doesn't get: `item` is a matcher, a port, or the source of a script.

    `category` is a script's name.
    """

    section: Literal["rules", "exceptions"]
    kind: Literal["port", "peer_id", "client_name", "script"]
    category: str
    item: Matcher | int | str
    cause: Cause


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

# For clients that need one address at least: this one (TEST-NET-1, RFC 5737) belongs to nobody.
_PLACEHOLDER = {"none": ("192.0.2.1",)}


def rules_json(kind: Kind, reads: Reading, content: Content, exempt: Exempt | None = None) -> Document:
    """A document of the kinds rules, rule_peer_identity (no addresses in it) or exception, for all who read so.

    All maps are there even when empty: PeerBanHelper fails on a missing one. `exempt` is worked into the rules as each
    client can understand it; give none for an exception document.
    """
    exempt = exempt or Exempt()
    maps: dict[str, Mapping[str, Any]] = {
        "peer_id": _texts(reads, "peer_id", content.peer_id, exempt.peer_id),
        "client_name": _texts(reads, "client_name", content.client_name, exempt.client_name),
        "ip": {} if kind == "rule_peer_identity" else _addresses(reads.addresses, content.ip),
        "port": _ports(reads.ports, content.port),
    }
    if kind != "exception":
        maps["script"] = content.script if reads.scripts else {}
    body = msgspec.json.encode(maps)
    tag = _tag(kind, reads.variant, body)
    return _finish(tag, b'{"version":"' + tag[:_VERSION].encode() + b'",' + body[1:])


def omissions(reads: Reading, rules: Content, exceptions: Content) -> tuple[Omission, ...]:
    """Which rules and exceptions the documents for all who read so leave out, and why.

    Addresses are never left out: exceptions are holes in them. Nor are exceptions of ports, which are taken out of the
    rules for everybody.
    """
    left_out: list[Omission] = []
    for category, ports in rules.port.items() if reads.ports is Ports.UNREAD else ():
        left_out += [Omission("rules", "port", category, port, Cause.UNREAD) for port in ports]
    if not reads.scripts:
        left_out += [Omission("rules", "script", name, source, Cause.UNREAD) for name, source in rules.script.items()]
    exempt = Exempt.of(exceptions)
    kinds: tuple[Identity, ...] = ("peer_id", "client_name")
    for kind in kinds:
        for category, matcher, spelled in _spell_all(reads, kind, getattr(rules, kind), getattr(exempt, kind)):
            if isinstance(spelled, Cause):
                left_out.append(Omission("rules", kind, category, matcher, spelled))
        for category, matchers in getattr(exceptions, kind).items():
            for matcher in matchers:
                if (cause := _untold(reads, kind, matcher)) is not None:
                    left_out.append(Omission("exceptions", kind, category, matcher, cause))
    return tuple(left_out)


def _texts(
    reads: Reading, kind: Identity, categories: Mapping[str, Sequence[Matcher]], exempt: Sequence[Matcher]
) -> dict[str, list[str]]:
    front = []
    if reads.exceptions is Exceptions.EXCLUSIONS:
        front = [matcher.negated().pbh(lower_case=reads.texts is RuleTexts.OBJECTS_LOWER) for matcher in exempt]
    texts: dict[str, list[str]] = {}
    for category, _, spelled in _spell_all(reads, kind, categories, exempt):
        if not isinstance(spelled, Cause):
            texts.setdefault(category, [*front]).append(spelled)
    return texts


def _spell_all(
    reads: Reading, kind: Identity, categories: Mapping[str, Sequence[Matcher]], exempt: Sequence[Matcher]
) -> Iterator[tuple[str, Matcher, str | Cause]]:
    """Every rule of a kind with its category: as this client reads it, or why it doesn't get it.

    For a client that knows no exclusions a category with one is left out whole, because a FALSE counts for all of it;
    otherwise this client would ban what the exclusion protects. A lone rule that says FALSE on a miss excludes nothing
    but itself.
    """
    is_emptied = any(_untold(reads, kind, matcher) is not None for matcher in exempt)
    for category, matchers in categories.items():
        knows_exclusions = reads.exceptions is Exceptions.EXCLUSIONS
        has_exclusion = not knows_exclusions and len(matchers) > 1 and any(matcher.excludes for matcher in matchers)
        for matcher in matchers:
            if _is_unread(reads, kind):
                yield category, matcher, Cause.UNREAD
            elif is_emptied:
                yield category, matcher, Cause.EXCEPTION
            elif has_exclusion:
                yield category, matcher, Cause.CONDITIONS if matcher.excludes else Cause.EXCLUSION
            else:
                yield category, matcher, _spell(reads.texts, matcher)


def _is_unread(reads: Reading, kind: Identity) -> bool:
    return reads.texts is RuleTexts.UNREAD or (kind == "peer_id" and not reads.peer_ids)


def _untold(reads: Reading, kind: Identity, exempt: Matcher) -> Cause | None:
    """Why a client can't be told an exception by name, None if it can."""
    if reads.exceptions is Exceptions.EXCLUSIONS:
        return None
    if _is_unread(reads, kind):
        return Cause.UNREAD
    if reads.exceptions is Exceptions.UNTOLD:
        return Cause.NO_EXCEPTIONS
    spelled = _spell(reads.texts, exempt)
    return spelled if isinstance(spelled, Cause) else None


def _spell(texts: RuleTexts, matcher: Matcher) -> str | Cause:
    """A rule as a client reads it, or why it can't be told."""
    match texts:
        case RuleTexts.OBJECTS | RuleTexts.OBJECTS_LOWER:
            return matcher.pbh(lower_case=texts is RuleTexts.OBJECTS_LOWER)
        case RuleTexts.EXPRESSIONS:
            spelled = matcher.expression()
        case RuleTexts.METHODS:
            spelled = matcher.method_alone()
        case RuleTexts.SUBSTRINGS:
            spelled = matcher.substring()
        case RuleTexts.UNREAD:
            return Cause.UNREAD
    if spelled is not None:
        return spelled
    return Cause.METHOD if matcher.is_unconditional else Cause.CONDITIONS


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
            return merged if any(merged.values()) else _PLACEHOLDER
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
    return _finish(_tag(kind, "", body), body)


def _one_line(text: str) -> str:
    """Without line breaks of any kind: the rest of a comment would be read as an address."""
    return text if text.isprintable() and "  " not in text else " ".join(text.split())


def listed_in(body: bytes, link: str = "") -> list[Listed]:
    """The entries of a text list of ours; `link` stands before the address at the end of each reason, and is left out.

    What of a comment is category and what reason can't be told for a category with "] " in it.
    """
    lines = body.decode().split("\n")
    entries = []
    for comment, line in zip(lines[::2], lines[1::2], strict=False):
        category, _, reason = comment.removeprefix("#[").partition("] ")
        if link:
            reason = reason.removesuffix(f" {link}{line.partition('/')[0]}")
        entries.append(Listed(AddressLine(line), category, reason))
    return entries


# --- Both -------------------------------------------------------------------------------------------------------------


# Digits of a version: BTNScriptBC takes every run of eight out of its saved file.
_VERSION = 8


def _tag(kind: Kind, variant: str, body: bytes) -> str:
    return hashlib.sha256(f"{kind}\n{variant}\n".encode() + body).hexdigest()[:32]


def _finish(tag: str, body: bytes) -> Document:
    # Level 4 takes a fifth of the time of level 6, for a tenth more bytes.
    return Document(tag[:_VERSION], tag, body, gzip.compress(body, compresslevel=4, mtime=0))
