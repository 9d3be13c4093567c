"""What the operator wrote: the rules and exceptions of the configuration, understood."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sparkle_lite.config import Config, RuleEntry
from sparkle_lite.errors import Problem, SparkleError
from sparkle_lite.net import AddressError, Network, parse_network
from sparkle_lite.wire.matchers import Matcher, MatcherError, parse


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
            problems.append(Problem((*path, "content", j), mistake.message, mistake.hint))
    read = tuple(dict.fromkeys(values))
    expires = None if entry.expires is None else int(entry.expires.timestamp() * 1000)
    rule = Rule(entry.type, entry.category, expires)
    if entry.type == "ip":
        return rule._replace(networks=read)
    if entry.type == "port":
        return rule._replace(ports=read)
    return rule._replace(scripts=read) if entry.type == "script" else rule._replace(matchers=read)


class _MistakeError(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def _value(kind: str, item: str | int | Mapping[str, Any], is_exception: bool) -> Network | int | Matcher | str:
    if kind == "ip":
        return _network(item, is_exception=is_exception)
    if kind == "port":
        return _port(item)
    if kind == "script":
        return _script(item, is_exception)
    return _matcher(item, is_exception)


# A rule over one of these is a slip (0.0.0.0/1, a mapped prefix): no peer has such an address.
_UNROUTABLE = tuple(
    parse_network(text) for text in ("0.0.0.0/32", "127.0.0.0/8", "224.0.0.0/4", "::", "::1", "ff00::/8")
)
_MAPPED = Network(bytes(10) + b"\xff\xff" + bytes(4), 96)


def _network(item: object, *, is_exception: bool, with_port: bool = False) -> Network:
    if not isinstance(item, str):
        raise _MistakeError(f"{_short(item)} is not an IP address", 'write "203.0.113.7" or "203.0.113.0/24"')
    try:
        network = parse_network(item, with_port=with_port)
    except AddressError as error:
        raise _MistakeError(str(error), 'an address is written "203.0.113.7", a network "203.0.113.0/24"') from None
    if network.prefix == 0:
        raise _MistakeError(f"{network} is everybody", "write a smaller network")
    for special in (_MAPPED,) if is_exception else (_MAPPED, *_UNROUTABLE):
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
        raise _MistakeError(error.message, error.hint) from None
    if is_exception and not matcher.is_plain:
        # Current clients read no list of exceptions: each becomes an exclusion in the rules, which is one matcher.
        raise _MistakeError('an exception can\'t have "hit", "miss" or "if"', "write one plain rule for each thing")
    return matcher


def target(kind: Literal["ip", "peer_id", "client_name"], text: str, *, is_exception: bool) -> Network | Matcher:
    """What an administrator names, checked like what the configuration says; an address may come with a port.

    Raises SparkleError: bad_request.
    """
    try:
        if kind == "ip":
            return _network(text, is_exception=is_exception, with_port=True)
        return _matcher(text, is_exception)
    except _MistakeError as mistake:
        message = f"{mistake.message}; {mistake.hint}"
        raise SparkleError("bad_request", "decision.bad_target", why=f"{message[:1].upper()}{message[1:]}") from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
