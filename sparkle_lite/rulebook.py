"""The rules of this server: read from the configuration, kept from harming anyone, published as ready documents.

`compile_rules` checks and understands what the operator wrote, `publish` puts the guard rails in and renders. Only what
the operator wrote goes into a document, never text that a client sent.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sparkle_lite.config import Config, RuleEntry
from sparkle_lite.errors import Problem
from sparkle_lite.net import AddressError, Network, collapse, parse_network
from sparkle_lite.wire import documents
from sparkle_lite.wire.dialect import Dialect
from sparkle_lite.wire.documents import AddressLine, Content, Document, Exempt, Kind, Listed, Variant, address_lines
from sparkle_lite.wire.matchers import Matcher, MatcherError, parse

# --- Understanding ----------------------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """One [[rules]] or [[exceptions]] table, understood; one of the four lists is filled, by its type.

    `expires` is in epoch ms, None for never.
    """

    type: str
    category: str
    expires: int | None
    networks: tuple[Network, ...] = ()
    ports: tuple[int, ...] = ()
    matchers: tuple[Matcher, ...] = ()
    scripts: tuple[str, ...] = ()

    def is_active(self, now_ms: int) -> bool:
        """Whether it has not expired yet."""
        return self.expires is None or now_ms < self.expires


class Rules(NamedTuple):
    """Everything that the operator wrote, in the order of the file, expired entries too."""

    rules: tuple[Rule, ...] = ()
    exceptions: tuple[Rule, ...] = ()


class BadRulesError(Exception):
    """Some rules can't be published: every mistake, each with its place in the configuration."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{p.path}: {p.message}" for p in problems))
        self.problems = tuple(problems)


def check(config: Config) -> tuple[Problem, ...]:
    """The mistakes in a configuration's rules and exceptions."""
    try:
        compile_rules(config.rules, config.exceptions)
    except BadRulesError as error:
        return error.problems
    return ()


def compile_rules(rules: Sequence[RuleEntry], exceptions: Sequence[RuleEntry]) -> Rules:
    """Read the operator's rules and exceptions. Raises BadRulesError with all mistakes."""
    problems: list[Problem] = []
    compiled = Rules(
        tuple(_compile(entry, ("rules", i), problems) for i, entry in enumerate(rules)),
        tuple(_compile(entry, ("exceptions", i), problems) for i, entry in enumerate(exceptions)),
    )
    if problems:
        raise BadRulesError(problems)
    return compiled


def _compile(entry: RuleEntry, path: tuple[str | int, ...], problems: list[Problem]) -> Rule:
    is_exception = path[0] == "exceptions"
    values: list[Any] = []
    for j, item in enumerate(entry.content):
        try:
            values.append(_value(entry.type, item, is_exception))
        except _MistakeError as mistake:
            problems.append(Problem((*path, "content", j), mistake.message, mistake.mend))
    read = tuple(dict.fromkeys(values))
    expires = None if entry.expires is None else int(entry.expires.timestamp() * 1000)
    rule = Rule(entry.type, entry.category, expires)
    if entry.type == "ip":
        return rule._replace(networks=read)
    if entry.type == "port":
        return rule._replace(ports=read)
    return rule._replace(scripts=read) if entry.type == "script" else rule._replace(matchers=read)


class _MistakeError(Exception):
    def __init__(self, message: str, mend: str) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend


def _value(kind: str, item: str | int | Mapping[str, Any], is_exception: bool) -> Network | int | Matcher | str:
    if kind == "ip":
        return _network(item, is_exception)
    if kind == "port":
        return _port(item)
    if kind == "script":
        return _script(item, is_exception)
    return _matcher(item, is_exception)


# A rule over one of these is a slip (0.0.0.0/1, a mapped prefix): no peer has such an address.
_NOBODYS = tuple(parse_network(text) for text in ("0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "::", "::1", "ff00::/8"))
_MAPPED = Network(bytes(10) + b"\xff\xff" + bytes(4), 96)


def _network(item: object, is_exception: bool) -> Network:
    if not isinstance(item, str):
        raise _MistakeError(f"{_short(item)} is not an IP address", 'write "203.0.113.7" or "203.0.113.0/24"')
    try:
        network = parse_network(item)
    except AddressError as error:
        raise _MistakeError(str(error), 'an address is written "203.0.113.7", a network "203.0.113.0/24"') from None
    if network.prefix == 0:
        raise _MistakeError(f"{network} is everybody", "write a smaller network")
    for special in (_MAPPED,) if is_exception else (_MAPPED, *_NOBODYS):
        if network.contains(special) or special.contains(network):
            raise _MistakeError(f"{network} overlaps {special}, which no peer has", "leave it out of the network")
    return network


def _port(item: object) -> int:
    digits = item.strip() if isinstance(item, str) else item
    if isinstance(digits, str) and digits.isascii() and digits.isdigit() and len(digits) <= 6:
        digits = int(digits)
    if isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= 65535:
        raise _MistakeError(f"{_short(item)} is not a port", "write a number from 1 to 65535")
    return digits


def _script(item: object, is_exception: bool) -> str:
    if is_exception:
        raise _MistakeError("a script can't be an exception", "use ip, port, peer_id or client_name")
    if not isinstance(item, str) or not item.strip() or any("\ud800" <= sign <= "\udfff" for sign in item):
        raise _MistakeError(f"{_short(item)} is not a script", "write the source as text")
    return item


def _matcher(item: str | int | Mapping[str, Any], is_exception: bool) -> Matcher:
    if isinstance(item, int):
        raise _MistakeError(f"{_short(item)} alone is not a rule", f'write "{item}" for names that contain it')
    try:
        matcher = parse(item)
    except MatcherError as error:
        raise _MistakeError(error.message, error.mend) from None
    if is_exception and not matcher.is_plain:
        # Current clients read no list of exceptions: each becomes an exclusion in the rules, which is one matcher.
        raise _MistakeError('an exception can\'t have "hit", "miss" or "if"', "write one plain rule for each thing")
    return matcher


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


# --- Guard rails ------------------------------------------------------------------------------------------------------


class _Networks:
    """A set of addresses that answers fast what of it lies in a network."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self._all = collapse(networks)
        self._keys = [(network.bits, network.first) for network in self._all]

    def overlapping(self, network: Network) -> Sequence[Network]:
        """Its parts that share addresses with a network: the one around it, or those within, ascending."""
        after = bisect_right(self._keys, (network.bits, network.first))
        if after and self._all[after - 1].contains(network):
            return self._all[after - 1 : after]
        end = bisect_right(self._keys, (network.bits, network.last))
        return self._all[bisect_left(self._keys, (network.bits, network.first)) : end]


def _carve(network: Network, holes: _Networks) -> Iterator[Network]:
    """What is left of a network without the holes, ascending."""
    hits = holes.overlapping(network)
    if not hits:
        yield network
    elif not hits[0].contains(network):
        half = 1 << (network.bits - network.prefix - 1)
        for first in (network.first, network.first + half):
            yield from _carve(Network(first.to_bytes(len(network.address), "big"), network.prefix + 1), holes)


class Held(NamedTuple):
    """Addresses of a rule that aren't published because they are ours or a member's."""

    category: str
    network: Network


# --- Publishing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Published:
    """Every document, rendered; `held` is for review, `next_expiry_ms` is when to publish anew (None: never)."""

    documents: Mapping[tuple[Kind, Variant], Document]
    ip_denylist: Document
    ip_allowlist: Document
    held: tuple[Held, ...]
    next_expiry_ms: int | None
    _banned: _Networks

    def rules(self, dialect: Dialect) -> Document:
        """The rules as this client reads them."""
        return self.documents["rules", documents.variant_of(dialect)]

    def exception(self, dialect: Dialect) -> Document:
        """The exceptions as this client reads them."""
        return self.documents["exception", documents.variant_of(dialect)]

    def rule_peer_identity(self, dialect: Dialect) -> Document:
        """The rules without addresses as this client reads them: protocol 20 has lists of their own for those."""
        return self.documents["rule_peer_identity", documents.variant_of(dialect)]

    def touches(self, address: bytes) -> bool:
        """Whether an address (4 or 16 bytes) is banned by these documents; a member's address must not be."""
        return bool(self._banned.overlapping(Network(address, len(address) * 8)))


def publish(rules: Rules, protected: Collection[Network], now_ms: int) -> Published:
    """Render the rules that are in force at this time (epoch ms).

    `protected` are our own addresses and those of members' clients; they and the exceptions are cut out of every
    wider rule. Takes time with many addresses (some 30 µs each): call it off the event loop.
    """
    active = [rule for rule in rules.rules if rule.is_active(now_ms)]
    exceptions = [rule for rule in rules.exceptions if rule.is_active(now_ms)]
    banned, held = _guarded(_networks(active), _networks(exceptions), protected)
    content = _content(active, _lines(banned), {port for rule in exceptions for port in rule.ports})
    exempt = _content(exceptions, _lines(_networks(exceptions)), ())
    return Published(
        documents=_render(content, exempt),
        ip_denylist=documents.deny_text(_listed(content.ip)),
        ip_allowlist=documents.allow_text(_listed(exempt.ip)),
        held=held,
        next_expiry_ms=min((rule.expires for rule in (*active, *exceptions) if rule.expires is not None), default=None),
        _banned=_Networks(network for networks in banned.values() for network in networks),
    )


_Categories = Mapping[str, Sequence[Network]]


def _networks(rules: Iterable[Rule]) -> _Categories:
    found = _by_category(rules, "ip", lambda rule: rule.networks)
    return {category: collapse(networks) for category, networks in found.items()}


def _guarded(
    rules: _Categories, exceptions: _Categories, protected: Iterable[Network]
) -> tuple[_Categories, tuple[Held, ...]]:
    """The networks that may be published, and the addresses that are held back for `protected` alone."""
    excepted = _Networks(network for networks in exceptions.values() for network in networks)
    members = _Networks(protected)
    banned: dict[str, list[Network]] = {}
    held: list[Held] = []
    for category, networks in rules.items():
        allowed = [part for network in networks for part in _carve(network, excepted)]
        held += [Held(category, part) for network in allowed for part in _shared(network, members)]
        banned[category] = [part for network in allowed for part in _carve(network, members)]
    return banned, tuple(held)


def _shared(network: Network, protected: _Networks) -> Iterator[Network]:
    for hole in protected.overlapping(network):
        yield hole if network.contains(hole) else network


_T = TypeVar("_T")


def _by_category(rules: Iterable[Rule], kind: str, values: Callable[[Rule], Iterable[_T]]) -> dict[str, list[_T]]:
    """The values of all rules of a type, joined by category, each once, in the operator's order."""
    joined: dict[str, dict[_T, None]] = {}
    for rule in rules:
        if rule.type == kind and (found := dict.fromkeys(values(rule))):
            joined.setdefault(rule.category, {}).update(found)
    return {category: list(found) for category, found in joined.items()}


def _lines(categories: _Categories) -> dict[str, tuple[AddressLine, ...]]:
    return {category: address_lines(networks) for category, networks in categories.items() if networks}


def _content(rules: Sequence[Rule], ip: Mapping[str, Sequence[AddressLine]], without_ports: Container[int]) -> Content:
    ports = _by_category(rules, "port", lambda rule: [port for port in rule.ports if port not in without_ports])
    scripts = _by_category(rules, "script", lambda rule: rule.scripts)
    return Content(
        ip=ip,
        port={category: sorted(found) for category, found in ports.items()},
        peer_id=_by_category(rules, "peer_id", lambda rule: rule.matchers),
        client_name=_by_category(rules, "client_name", lambda rule: rule.matchers),
        script={
            f"{category} {i}" if i > 1 else category: source
            for category, sources in scripts.items()
            for i, source in enumerate(sources, 1)
        },
    )


def _render(rules: Content, exceptions: Content) -> dict[tuple[Kind, Variant], Document]:
    exempt = Exempt(
        peer_id=[matcher for matchers in exceptions.peer_id.values() for matcher in matchers],
        client_name=[matcher for matchers in exceptions.client_name.values() for matcher in matchers],
    )
    rendered: dict[tuple[Kind, Variant], Document] = {}
    for variant in Variant:
        rendered["rules", variant] = documents.rules_json("rules", variant, rules, exempt)
        rendered["exception", variant] = documents.rules_json("exception", variant, exceptions)
        rendered["rule_peer_identity", variant] = documents.rules_json("rule_peer_identity", variant, rules, exempt)
    return rendered


def _listed(categories: Mapping[str, Iterable[AddressLine]]) -> Iterator[Listed]:
    seen: set[AddressLine] = set()
    for category, lines in categories.items():
        for line in lines:
            if line not in seen:
                seen.add(line)
                yield Listed(line, category, "listed by the operator of this server")
