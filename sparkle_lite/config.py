"""The configuration: a TOML file and environment variables, read into frozen structs.

`load` reads a file, `show` writes the effective configuration, `restart_needed` tells what a reload can't change.
Every mistake is collected and reported together, each as a line with its place, key, reason and mend. A field's name is
its key; its annotation carries the bounds; the struct's default is the key's default.

Every key can be set by an environment variable: SPARKLE_<SECTION>__<KEY>, nested tables joined by two underscores
(SPARKLE_AUTH__GITHUB__CLIENT_ID), lists of tables as SPARKLE_RULES and SPARKLE_EXCEPTIONS. The environment wins over
the file. An unknown SPARKLE_ name with two underscores is a mistake; one without (SPARKLE_HOME) is somebody else's and
ignored, so a variable misspelt with a single underscore goes unnoticed.
"""

import difflib
import functools
import json
import re
import tomllib
import typing
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from sparkle_lite.errors import ConfigError, Problem
from sparkle_lite.net import AddressError, Network, parse_network

RuleType = Literal["ip", "port", "peer_id", "client_name", "script"]
Key = tuple[str | int, ...]
Check = Callable[[Any], Any]


class Refused(ValueError):
    """A value that can't be used: `message` says why, `mend` what to write. Neither holds a secret."""

    def __init__(self, message: str, mend: str) -> None:
        super().__init__(f"{message}; {mend}")
        self.message = message
        self.mend = mend


# --- Values -----------------------------------------------------------------------------------------------------------

_DURATION = re.compile(r"\s*".join(rf"(?:([0-9]{{1,15}})\s*{unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms")))
_DURATION_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_LONGEST = 36_500 * 86_400_000
_SIZE = re.compile(r"([0-9]{1,19})\s*([KMGT]i?B|B)?", re.IGNORECASE)
_SIZE_UNITS = {
    **{unit: 1024**power for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB"))},
    **{unit: 1000**power for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "KB"))},
    "B": 1,
}
_SIZE_FACTORS = {unit.upper(): factor for unit, factor in _SIZE_UNITS.items()}
_LARGEST = 1 << 60


class Duration(int):
    """A span of time in milliseconds; as text "15m", "1h30m", "500ms"."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read numbers with their units (d, h, m, s, ms), largest first; "0" needs no unit. Raises Refused."""
        stripped = text.strip()
        match = _DURATION.fullmatch(stripped)
        if stripped == "0":
            return cls(0)
        mend = 'write "15m" (numbers with d, h, m, s or ms)'
        if match is None or not stripped:
            raise Refused(f"{_quote(text)} is not a duration", mend)
        value = sum(int(n or 0) * unit for n, unit in zip(match.groups(), _DURATION_UNITS.values(), strict=True))
        if value > _LONGEST:
            raise Refused(f"{_quote(text)} is longer than 100 years", mend)
        return cls(value)

    def __str__(self) -> str:
        parts = []
        rest = int(self)
        for unit, factor in _DURATION_UNITS.items():
            count, rest = divmod(rest, factor)
            parts.append(f"{count}{unit}" if count else "")
        return "".join(parts) or "0"


class Size(int):
    """A number of bytes; as text "32MiB" (1024 based) or "1GB" (1000 based)."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a whole number with its unit; "0" needs none. Raises Refused."""
        match = _SIZE.fullmatch(text.strip())
        mend = 'write "32MiB" (a whole number with B, KiB, MiB, GiB, TiB or KB, MB, GB, TB)'
        if match is None or (match[2] is None and int(match[1])):
            raise Refused(f"{_quote(text)} is not a size", mend)
        value = int(match[1]) * _SIZE_FACTORS[(match[2] or "B").upper()]
        if value > _LARGEST:
            raise Refused(f"{_quote(text)} is larger than any disk", mend)
        return cls(value)

    def __str__(self) -> str:
        if not self:
            return "0"
        fits = ((factor, unit) for unit, factor in _SIZE_UNITS.items() if int(self) % factor == 0)
        factor, unit = max(fits)
        return f"{int(self) // factor}{unit}"


class Secret(str):
    """Text that must not be seen: its repr, and so the repr of the configuration, shows only whether it is set."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')" if self else "Secret('')"


def _quote(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 64 else text[:64] + "…")


# --- Checks: each takes a value of its key's type and gives it back, cleaned, or raises Refused -----------------------


def _between(low: int, high: int | None = None, why: str = "", *, or_zero: bool = False) -> Check:
    def check(value: int) -> int:
        if (value == 0 and or_zero) or (value >= low and (high is None or value <= high)):
            return value
        wrong, bound, side = ("small", low, "more") if value < low else ("large", high, "less")
        raise Refused(f"{_toml(value)} is too {wrong}{why}", f"write {_toml(bound)} or {side}")

    return check


_HOST = re.compile(r"[0-9A-Za-z._:%-]+")


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise Refused(
            f"{_quote(value)} is not a host name or address",
            'write an address to listen on without port or brackets, such as "127.0.0.1", "0.0.0.0" or "::"',
        )
    return value


_URL = re.compile(r"https?://[A-Za-z0-9\-._~:/\[\]@!$&'()*+,;=%]+", re.IGNORECASE)
_URL_MEND = 'write it like "https://btn.example.org" or "https://example.org/btn"'


def _url(value: str) -> str:
    """An absolute http(s) URL without query, fragment and user; the slash at its end goes.

    The messages don't repeat the URL: people paste passwords into them.
    """
    if not _URL.fullmatch(value):
        raise Refused("must be an absolute http or https URL without query and fragment", _URL_MEND)
    try:
        parts = urlsplit(value)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise Refused("the URL's host or port can't be understood", _URL_MEND)
    if "@" in parts.netloc:
        raise Refused("the URL holds a user name", "leave out everything up to the @")
    return value.rstrip("/")


def _url_or_empty(value: str) -> str:
    return _url(value) if value else value


def _file_name(value: str) -> str:
    if not value.strip() or not _printable(value) or value == ":memory:" or value.endswith("/"):
        raise Refused(f"{_quote(value)} is not the name of a file", 'write a path such as "data/sparkle.db"')
    return value


def _key_length(value: str) -> str:
    # RFC 7518 section 3.2: a key for HS256 has at least 256 bits.
    if 0 < len(value.encode()) < 32:
        raise Refused("is shorter than 32 bytes", "leave it out to have one made, or take 32 random bytes as text")
    return value


def _printable(value: str) -> bool:
    return not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value)


def _category(value: str) -> str:
    if not 1 <= len(value) <= 64 or not value.strip() or not _printable(value):
        raise Refused(
            f"{_quote(value)} is not a category", "write 1 to 64 characters, no line breaks or control characters"
        )
    return value


# --- The keys ---------------------------------------------------------------------------------------------------------

# qBittorrent-ClientBlocker reads both times of an ability as uint32 milliseconds and rejects the whole document beyond.
_UINT32 = Duration(0xFFFF_FFFF)
_NEVER_RUNS = ": clients never run such an ability"
_SECOND = Duration(1000)
_DAY = Duration(86_400_000)

Interval = Annotated[Duration, _between(_SECOND, _UINT32, _NEVER_RUNS)]
# PeerBanHelper draws a random number below it, which throws for 0.
InitialDelay = Annotated[Duration, _between(Duration(1), _UINT32, _NEVER_RUNS)]
Patience = Annotated[Duration, _between(Duration(1), Duration(3_600_000))]
Age = Annotated[Duration, _between(_SECOND)]
Bytes = Annotated[Size, _between(Size(1024))]


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server listens and how it is reached."""

    host: Annotated[str, _host] = "127.0.0.1"
    port: Annotated[int, _between(0, 65535)] = 7799
    public_url: Annotated[str, _url_or_empty] = ""
    trusted_proxies: tuple[Network, ...] = ()
    log_format: Literal["auto", "text", "json"] = "auto"


class Database(msgspec.Struct, frozen=True, kw_only=True):
    """The main database file; `folder` is no key but the folder that a relative `path` starts from."""

    path: Annotated[str, _file_name] = "data/sparkle.db"
    synchronous: Literal["full", "normal"] = "full"
    folder: Path = Path()

    @property
    def file(self) -> Path:
        """The absolute path of the main database."""
        return (self.folder / self.path).resolve()


class GitHub(msgspec.Struct, frozen=True, kw_only=True):
    """Login with GitHub; on when both credentials are set."""

    client_id: str = ""
    client_secret: Secret = Secret()
    authorize_url: Annotated[str, _url] = "https://github.com/login/oauth/authorize"
    token_url: Annotated[str, _url] = "https://github.com/login/oauth/access_token"  # noqa: S105 - a URL, no token
    api_url: Annotated[str, _url] = "https://api.github.com"


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions, applications and login; an empty `jwt_secret` is made on first start and kept in the database."""

    session_lifetime: Annotated[Duration, _between(Duration(60_000), Duration(3650 * _DAY))] = Duration.parse("30d")
    max_apps_per_user: Annotated[int, _between(0, 1_000_000)] = 10
    anonymous_apps: bool = False
    jwt_secret: Annotated[Secret, _key_length] = Secret()
    github: GitHub = GitHub()


class Ability(msgspec.Struct, frozen=True, kw_only=True):
    """When clients do one thing; the config document that they fetch is built from these."""

    enabled: bool = True
    interval: Interval = Duration.parse("15m")
    random_initial_delay: InitialDelay = Duration.parse("5m")


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """One Ability for each name of the protocol."""

    submit_peers: Ability = Ability()
    submit_bans: Ability = Ability()
    submit_histories: Ability = Ability()
    submit_swarm: Ability = Ability()
    rules: Ability = Ability()
    exception: Ability = Ability()
    reconfigure: Ability = Ability(interval=Duration.parse("3h"))
    rule_peer_identity: Ability = Ability()
    ip_denylist: Ability = Ability()
    ip_allowlist: Ability = Ability()
    heartbeat: Ability = Ability(interval=Duration.parse("1h"))
    ip_query: Ability = Ability()


class Btn(msgspec.Struct, frozen=True, kw_only=True):
    """What clients are offered; `prefer_legacy` keeps modern PeerBanHelper on the legacy shapes."""

    prefer_legacy: bool = False
    abilities: Abilities = Abilities()


class RuleEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One [[rules]] or [[exceptions]] table; the meaning of `content` (as written) is the rulebook's business.

    `expires` is in UTC. A time without an offset is taken as UTC, a date alone as its first moment in UTC.
    """

    type: RuleType
    category: Annotated[str, _category]
    content: tuple[str | int | dict[str, Any], ...]
    expires: datetime | None = None


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """Thresholds for the size of the circle."""

    preset: Literal["solo", "friends", "tracker", "public"] = "friends"


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How long things are kept after their receipt."""

    snapshots: Age = Duration.parse("7d")
    swarms: Age = Duration.parse("14d")
    bans: Age = Duration.parse("45d")
    audit: Age = Duration.parse("30d")
    max_database_size: Annotated[Size, _between(Size(1 << 20), or_zero=True)] = Size(0)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one request, one application and all of them together may cost."""

    max_body_size: Bytes = Size.parse("16MiB")
    max_inflated_size: Bytes = Size.parse("64MiB")
    max_rows_per_request: Annotated[int, _between(1, 10_000_000)] = 50_000
    requests_per_minute: Annotated[int, _between(0, 1_000_000_000)] = 600
    query_time: Patience = Duration.parse("3s")
    count_time: Patience = Duration.parse("1s")
    body_timeout: Patience = Duration.parse("60s")
    queue_size: Bytes = Size.parse("64MiB")


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Who may read /metrics; nobody when empty."""

    allow: tuple[Network, ...] = (parse_network("127.0.0.0/8"), parse_network("::1"))


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be configured."""

    server: Server = Server()
    database: Database = Database()
    auth: Auth = Auth()
    btn: Btn = Btn()
    rules: tuple[RuleEntry, ...] = ()
    exceptions: tuple[RuleEntry, ...] = ()
    analysis: Analysis = Analysis()
    retention: Retention = Retention()
    limits: Limits = Limits()
    metrics: Metrics = Metrics()


_RELOADABLE = (
    "btn",
    "rules",
    "exceptions",
    "analysis",
    "retention",
    "limits",
    "metrics.allow",
    "auth.max_apps_per_user",
    "auth.anonymous_apps",
    "auth.session_lifetime",
    "server.public_url",
    "server.trusted_proxies",
)
_FIXED = ("limits.queue_size",)

_RULE_NEEDS = {
    "type": 'write type = "ip" (or port, peer_id, client_name, script)',
    "category": 'write a name for the kind of peers, such as category = "PCDN"',
    "content": 'write a list, such as content = ["192.0.2.0/24"]',
}


@functools.cache
def _keys(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """Key -> annotation of one struct, in order; a Path is no key."""
    return {name: hint for name, hint in typing.get_type_hints(cls, include_extras=True).items() if hint is not Path}


def _split(hint: Any) -> tuple[Any, tuple[Check, ...]]:
    """The bare type of an annotation and its checks."""
    if typing.get_origin(hint) is Annotated:
        kind, *checks = typing.get_args(hint)
        return kind, tuple(checks)
    return hint, ()


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _leaves(cls: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key with its bare type, in order."""
    for name, hint in _keys(cls).items():
        kind = _split(hint)[0]
        if _is_struct(kind):
            yield from _leaves(kind, (*path, name))
        else:
            yield (*path, name), kind


# --- Where a value came from ------------------------------------------------------------------------------------------

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_NAME = re.compile(r"""[ \t]*("(?:\\.|[^"\\])*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
_STRING = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""",
    re.DOTALL,
)
_BARE = re.compile(r"[^,\]}\n#]*")


class _Lines:
    """Finds the line of each key and array element in TOML text that tomllib has accepted.

    What it doesn't understand ends the search: what was found until there is right, the rest has no line.
    """

    def __init__(self, text: str) -> None:
        self.found: dict[Key, int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0
        self._tables: dict[Key, int] = {}
        try:
            self._document()
        except (LookupError, ValueError, RecursionError):
            return

    def _document(self) -> None:
        table: Key = ()
        while self._next():
            table = self._header() if self._next() == "[" else self._pair(table)

    def _next(self) -> str:
        """The next character that is neither blank nor comment; "" at the end."""
        self._take(_SPACE)
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError
        self._at = match.end()
        return match

    def _note(self, path: Key) -> None:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        for end in range(1, len(path) + 1):
            self.found.setdefault(path[:end], self._line)

    def _names(self) -> list[str]:
        names = []
        while True:
            name = self._take(_NAME)[1]
            names.append(tomllib.loads(f"name = {name}")["name"] if name[0] in "\"'" else name)
            if self._text[self._at] != ".":
                return names
            self._at += 1

    def _header(self) -> Key:
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        names = self._names()
        path: Key = ()
        for place, name in enumerate(names, 1):
            path = (*path, name)
            if many and place == len(names):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        self._note(path)
        self._at += 2 if many else 1
        return path

    def _pair(self, table: Key) -> Key:
        start = self._at
        path = (*table, *self._names())
        end, self._at = self._at, start
        self._note(path)
        self._at = end + 1
        self._value(path)
        return table

    def _value(self, path: Key) -> None:
        first = self._next()
        if first == "[":
            self._items("]", lambda index: self._element((*path, index)))
        elif first == "{":
            self._items("}", lambda _: self._pair(path))
        else:
            self._take(_STRING if first in "\"'" else _BARE)

    def _element(self, path: Key) -> None:
        self._note(path)
        self._value(path)

    def _items(self, close: str, read: Callable[[int], object]) -> None:
        self._at += 1
        index = 0
        while self._next() != close:
            read(index)
            index += 1
            if self._next() == ",":
                self._at += 1
        self._at += 1


class Source:
    """Where values came from: the text of the file called `name`, and the variables that set a key (path -> name)."""

    def __init__(self, name: str = "", text: str = "", variables: Mapping[Key, str] | None = None) -> None:
        self.name = name
        self._text = text
        self._variables = dict(variables or {})

    @functools.cached_property
    def _lines(self) -> dict[Key, int]:
        return _Lines(self._text).found

    def locate(self, path: Key) -> tuple[str, int]:
        """The variable or file that holds a key, and its line: that of the nearest table around it, 0 if unknown."""
        around = [path[:end] for end in range(len(path), 0, -1)]
        for part in around:
            if part in self._variables:
                return self._variables[part], 0
        return self.name, next((self._lines[part] for part in around if part in self._lines), 0)


def explain(problems: Iterable[Problem], source: Source) -> list[str]:
    """Each problem as a line "config.toml:17: rules[1].content[0]: what is wrong; the mend", in the file's order."""
    placed = [(*source.locate(problem.path), problem) for problem in problems]
    placed.sort(key=lambda item: (item[0] != source.name, item[1]))
    return [_line(f"{name}:{line}" if line else name, problem) for name, line, problem in placed]


def _line(place: str, problem: Problem) -> str:
    return ": ".join(part for part in (place, _dotted(problem.path), f"{problem.message}; {problem.mend}") if part)


def _dotted(path: Key) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else "." + _toml_key(part) for part in path]
    return "".join(parts).removeprefix(".")


# --- Reading ----------------------------------------------------------------------------------------------------------


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    check: Callable[[Config], Iterable[Problem]] | None = None,
) -> Config:
    """The configuration of a file (None: the defaults) with the environment's variables over it.

    `check` looks at the whole configuration afterwards, and its problems are reported together with the others; a rule
    that is already known to be wrong has an empty `content` there. Raises ConfigError with all problems.
    """
    text = "" if path is None else _text(path)
    name = "" if path is None else str(path)
    tree = _parse(text, name)
    folder = Path.cwd() if path is None else path.absolute().parent
    variables, lines = _overlay(tree, environ)
    reader = _Reader(tree, folder)
    config = reader.read()
    if check is not None:
        reader.add(check(config))
    lines = explain(reader.problems, Source(name, text, variables)) + lines
    if lines:
        raise ConfigError(lines)
    return config


def _text(path: Path) -> str:
    mend = "name another file with --config"
    try:
        # A byte order mark is what some Windows editors begin UTF-8 with.
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file; create it or {mend}"]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: the file is not UTF-8; save it as UTF-8"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise ConfigError([f"{path}: can't be read ({reason}); mend that or {mend}"]) from None


_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", re.DOTALL)


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        match = _TOML_PLACE.fullmatch(str(error))
        line = int(match[2]) if match and match[2] else text.count("\n") + 1 if match else 0
        reason = match[1] if match else "something here is too large"
    place = f"{name}:{line}" if line else name
    mend = "write key = value, with text in quotes and tables as [name]"
    raise ConfigError([f"{place}: not valid TOML: {reason}; {mend}"])


def _guess(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


@functools.cache
def _variables() -> dict[str, tuple[tuple[str, ...], Any]]:
    """Environment variable -> the key's path and type."""
    found = {}
    for path, kind in _leaves(Config):
        found["SPARKLE_" + "__".join(path).upper()] = (path, kind)
        if kind is Secret:
            found["SPARKLE_" + "__".join(path).upper() + "_FILE"] = ((*path[:-1], path[-1] + "_file"), str)
    return found


def _overlay(tree: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[Key, str], list[str]]:
    """Put the environment's values into the tree; gives the variables that were used and lines about wrong ones."""
    known = _variables()
    used: dict[Key, str] = {}
    lines = []
    values: dict[tuple[str, ...], object] = {}
    for name in sorted(environ):
        if name in known:
            path, kind = known[name]
            used[path] = name
            values[path] = _from_text(kind, environ[name])
        elif name.startswith("SPARKLE_") and "__" in name:
            near = _guess(name.upper(), known)
            mend = f"did you mean {near}?" if near else "remove it, or see config.example.toml for the keys"
            lines.append(f"{name}: there is no such setting; {mend}")
    # The environment replaces a secret of the file whichever way each is given, so the old ones go before any is set.
    for path, kind in _leaves(Config):
        pair = (path, (*path[:-1], path[-1] + "_file"))
        if kind is Secret and not values.keys().isdisjoint(pair):
            for key in pair:
                _table(tree, key).pop(key[-1], None)
    for path, value in values.items():
        _table(tree, path)[path[-1]] = value
    return used, lines


def _table(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The table that holds a key, made if it is missing; a loose one where the file has something else in its place."""
    for name in path[:-1]:
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            return {}
        tree = below
    return tree


_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _from_text(kind: Any, text: str) -> object:
    """A variable's text as the value that TOML would have given; text that doesn't fit stays text and is refused."""
    if kind is bool:
        return _TRUTH.get(text.strip().lower(), text)
    if kind is int:
        return int(text) if re.fullmatch(r"\s*-?[0-9]{1,18}\s*", text) else text
    if typing.get_origin(kind) is tuple:
        return _list_from_text(text, commas=kind == tuple[Network, ...])
    return text


def _list_from_text(text: str, *, commas: bool) -> object:
    for parse in (json.loads, lambda text: tomllib.loads(f"list = {text.strip()}")["list"]):
        try:
            value = parse(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list):
            return value
    return [part.strip() for part in text.split(",") if part.strip()] if commas or not text.strip() else text


class _Conflict(NamedTuple):
    paths: tuple[Key, ...]
    message: str
    mend: str


def _conflicts(config: Config) -> Iterator[_Conflict]:
    """Values that are right alone but not together."""
    limits, github = config.limits, config.auth.github
    body = limits.max_body_size
    for name, why in (
        ("max_inflated_size", f"is smaller than max_body_size, {body}"),
        ("queue_size", f"never has room for a body of max_body_size, {body}"),
    ):
        if getattr(limits, name) < body:
            mend = f'write {name} = "{body}" or more, or a smaller max_body_size'
            yield _Conflict((("limits", name), ("limits", "max_body_size")), f"{getattr(limits, name)} {why}", mend)
    if bool(github.client_id) != bool(github.client_secret):
        given, missing = ("client_id", "client_secret") if github.client_id else ("client_secret", "client_id")
        yield _Conflict(
            (("auth", "github", given), ("auth", "github", missing), ("auth", "github", "client_secret_file")),
            f"{given} is set without {missing}",
            f"set {missing} too, or remove both to switch login with GitHub off",
        )


class _Reader:
    """Turns the tree of raw values into structs and collects what is wrong with it; a wrong value gets its default."""

    def __init__(self, tree: dict[str, Any], folder: Path) -> None:
        self.problems: list[Problem] = []
        self._tree = tree
        self._folder = folder

    def read(self) -> Config:
        config: Config = self._struct(Config, Config(), self._tree, ())
        database = msgspec.structs.replace(config.database, folder=self._folder)
        config = msgspec.structs.replace(config, database=database)
        wrong = {problem.path for problem in self.problems}
        for conflict in _conflicts(config):
            if wrong.isdisjoint(conflict.paths):
                path = next((path for path in conflict.paths if self._given(path)), conflict.paths[0])
                self._note(path, conflict.message, conflict.mend)
        return config

    def add(self, problems: Iterable[Problem]) -> None:
        """Take somebody else's problems, but not about rules that are known to be wrong."""
        wrong = {problem.path[:2] for problem in self.problems if problem.path[0] in ("rules", "exceptions")}
        self.problems += [problem for problem in problems if problem.path[:2] not in wrong]

    def _note(self, path: Key, message: str, mend: str) -> None:
        self.problems.append(Problem(path, message, mend))

    def _given(self, path: Key) -> bool:
        value: Any = self._tree
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True

    def _struct(self, cls: Any, default: Any, raw: object, path: Key) -> Any:
        if not isinstance(raw, dict):
            self._note(path, f"must be a table, not {_type_of(raw)}", f"write [{_dotted(path)}] and its keys below")
            return default
        keys = _keys(cls)
        secrets = {name + "_file": name for name, hint in keys.items() if _split(hint)[0] is Secret}
        self._unknown(raw, [*keys, *secrets], path)
        raw = dict(raw)
        for file_key, name in secrets.items():
            self._secret_file(raw, name, file_key, path)
        values = {
            name: self._value(hint, getattr(default, name), raw[name], (*path, name))
            for name, hint in keys.items()
            if name in raw
        }
        return msgspec.structs.replace(default, **values)

    def _unknown(self, raw: dict[str, object], known: list[str], path: Key) -> None:
        for name in raw:
            if name in known:
                continue
            near = _guess(name, known)
            elsewhere = next((_dotted(key) for key, _ in _leaves(Config) if key[-1] == name), None)
            mend = f'did you mean "{near}"?' if near else f"known here: {', '.join(known)}"
            if elsewhere and not near:
                mend = f'did you mean "{elsewhere}"?'
            what = "ability" if path == ("btn", "abilities") else "key" if path else "section"
            self._note((*path, name), f"there is no such {what}", mend)

    def _secret_file(self, raw: dict[str, Any], name: str, file_key: str, path: Key) -> None:
        """Put the content of `<name>_file` in the place of the secret."""
        if file_key not in raw:
            return
        file = raw.pop(file_key)
        place = (*path, file_key)
        if raw.get(name):
            self._note(place, f"{name} and {file_key} are both set", "remove one of them")
            return
        try:
            raw[name] = _secret_of(self._folder, file)
        except Refused as refused:
            self._note(place, refused.message, refused.mend)

    def _value(self, hint: Any, default: Any, raw: object, path: Key) -> Any:
        kind, checks = _split(hint)
        if _is_struct(kind):
            return self._struct(kind, default, raw, path)
        if kind == tuple[Network, ...]:
            return self._list(raw, path, self._network, "networks", f'write {path[-1]} = ["192.168.0.0/16", "::1"]')
        if kind == tuple[RuleEntry, ...]:
            mend = f"begin each with [[{path[-1]}]], or give the variable an array of tables as JSON or TOML"
            return self._list(raw, path, self._entry, "tables", mend)
        try:
            value = _convert(kind, raw)
            for check in checks:
                value = check(value)
        except Refused as refused:
            self._note(path, refused.message, refused.mend)
            return default
        return value

    def _list(self, raw: object, path: Key, read: Callable[[Any, Key], Any], of: str, mend: str) -> Any:
        if not isinstance(raw, list):
            self._note(path, f"must be a list of {of}, not {_type_of(raw)}", mend)
            return ()
        items = (read(item, (*path, index)) for index, item in enumerate(raw))
        return tuple(item for item in items if item is not None)

    def _network(self, raw: object, path: Key) -> Network | None:
        try:
            return parse_network(_convert(str, raw))
        except Refused as refused:
            self._note(path, refused.message, refused.mend)
        except AddressError as error:
            message, _, mend = str(error).partition("; ")
            self._note(path, message, mend or 'write an address or a network, such as "10.0.0.0/8" or "::1"')
        return None

    def _entry(self, raw: object, path: Key) -> RuleEntry:
        before = len(self.problems)
        placeholder = RuleEntry(type="ip", category="?", content=())
        if not isinstance(raw, dict):
            mend = (
                'write type, category and content, such as { type = "ip", category = "PCDN", content = ["192.0.2.1"] }'
            )
            self._note(path, f"must be a table, not {_type_of(raw)}", mend)
            return placeholder
        keys = _keys(RuleEntry)
        self._unknown(raw, list(keys), path)
        for name, mend in _RULE_NEEDS.items():
            if name not in raw:
                self._note((*path, name), "is missing", mend)
        values = {
            name: self._value(hint, None, raw[name], (*path, name))
            for name, hint in keys.items()
            if name in raw and name != "content"
        }
        content = self._content(raw["content"], (*path, "content")) if "content" in raw else ()
        return placeholder if len(self.problems) > before else RuleEntry(**values, content=content)

    def _content(self, raw: object, path: Key) -> tuple[Any, ...]:
        if not isinstance(raw, list) or not raw:
            found = "it is empty" if isinstance(raw, list) else f"it is {_type_of(raw)}"
            self._note(path, f"must be a list of at least one item, but {found}", _RULE_NEEDS["content"])
            return ()
        for index, item in enumerate(raw):
            if isinstance(item, bool) or not isinstance(item, str | int | dict) or not _writable(item):
                mend = (
                    'write text in quotes, a port number, or a matcher such as { method = "CONTAINS", content = "x" }'
                )
                self._note((*path, index), f"{_type_of(item)} can't be a rule", mend)
        return tuple(raw)


_TYPE_NAMES = {
    bool: "true or false",
    int: "a number",
    float: "a number with a point",
    str: "text",
    list: "a list",
    dict: "a table",
    datetime: "a time",
    date: "a date",
    time: "a time of day",
    type(None): "null",
}


def _type_of(raw: object) -> str:
    return _TYPE_NAMES.get(type(raw), "something else")


def _convert(kind: Any, raw: object) -> Any:
    """A raw value as the type of its key; Refused, without the value of what may be a secret."""
    if kind is bool:
        return _expect(raw, bool, "true or false", "write true or false, without quotes")
    if kind is int:
        return _expect(raw, int, "a whole number", "write a whole number without quotes, such as 10")
    if kind is Duration:
        return Duration.parse(_expect(raw, str, "text", 'write "15m" (numbers with d, h, m, s or ms)'))
    if kind is Size:
        return Size.parse(_expect(raw, str, "text", 'write "32MiB" (a whole number with its unit)'))
    if kind == datetime | None:
        return _moment(raw)
    text: str = _expect(raw, str, "text", "write it in quotes")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise Refused("is not valid UTF-8", "write it in UTF-8")
    if typing.get_origin(kind) is Literal:
        return _choice(text, typing.get_args(kind))
    return kind(text)


def _expect(raw: object, kind: type, name: str, mend: str) -> Any:
    if type(raw) is not kind:
        raise Refused(f"must be {name}, not {_type_of(raw)}", mend)
    return raw


def _choice(text: str, choices: tuple[str, ...]) -> str:
    if text in choices:
        return text
    near = _guess(text.lower(), choices)
    raise Refused(
        f"{_quote(text)} is not one of {', '.join(choices)}",
        f'did you mean "{near}"?' if near else f'write "{choices[0]}"',
    )


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)?)?", re.ASCII)


def _moment(raw: object) -> datetime:
    value = raw
    try:
        if isinstance(value, str) and _RFC3339.fullmatch(value):
            value = datetime.fromisoformat(value.upper())
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        pass
    found = _quote(raw) if isinstance(raw, str) else _type_of(raw)
    raise Refused(f"must be a moment, not {found}", "write 2027-01-01T00:00:00Z")


def _secret_of(folder: Path, raw: object) -> str:
    """The text of a secret's file; relative paths start at the folder of the config file."""
    name: str = _expect(raw, str, "text", 'write a path, such as "secrets/github"')
    file = folder / name
    mend = "name a readable text file that holds only the secret"
    try:
        with file.open("rb") as stream:
            content = stream.read(65_537)
        text: str = content.decode("utf-8-sig").strip()
    except FileNotFoundError:
        raise Refused(f"there is no file {_quote(file)}", mend) from None
    except UnicodeDecodeError:
        raise Refused(f"the file {_quote(file)} is not UTF-8", mend) from None
    except (OSError, ValueError):
        raise Refused(f"the file {_quote(file)} can't be read", mend) from None
    if not text or len(content) > 65_536:
        raise Refused(f"the file {_quote(file)} is {'larger than 64 KiB' if text else 'empty'}", mend)
    return text


# --- Writing ----------------------------------------------------------------------------------------------------------


def show(config: Config) -> str:
    """The effective configuration as TOML; a secret that is set is shown as "***"."""
    return "\n".join(_table_text(config, ())).lstrip("\n") + "\n"


def _table_text(struct: msgspec.Struct, path: tuple[str, ...]) -> Iterator[str]:
    below = []
    pairs = []
    for name in _keys(type(struct)):
        value = getattr(struct, name)
        if isinstance(value, msgspec.Struct):
            below.append(_table_text(value, (*path, name)))
        elif name in ("rules", "exceptions") and not path:
            below.append(iter([line for entry in value for line in ("", f"[[{name}]]", *_pairs(entry))]))
        else:
            pairs.append(name)
    if pairs:
        yield from ("", f"[{_dotted(path)}]", *_pairs(struct, pairs))
    for lines in below:
        yield from lines


def _pairs(struct: msgspec.Struct, names: Iterable[str] | None = None) -> Iterator[str]:
    for name in _keys(type(struct)) if names is None else names:
        value = getattr(struct, name)
        if value is not None:
            yield f"{name} = {_toml(value)}"


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def _toml_key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _toml_text(name if len(name) <= 64 else name[:64] + "…")


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(value: Any) -> str:
    """A value as TOML. Raises TypeError for what TOML can't say."""
    if isinstance(value, Secret):
        return '"***"' if value else '""'
    if isinstance(value, str | Duration | Size | Network):
        return _toml_text(str(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, date | time):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{_toml_text(name)} = {_toml(item)}" for name, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    raise TypeError(f"TOML has no {type(value).__name__}")


def _writable(value: object) -> bool:
    """Whether a value can be written as TOML and UTF-8: null and lone surrogates come in with JSON."""
    try:
        _toml(value).encode()
    except (TypeError, UnicodeEncodeError, RecursionError):
        return False
    return True


# --- Reloading --------------------------------------------------------------------------------------------------------


def restart_needed(old: Config, new: Config) -> list[str]:
    """The dotted keys that differ and that a running server can't take over."""
    return [_dotted(path) for path, _ in _leaves(Config) if not _reloadable(path) and _at(old, path) != _at(new, path)]


def _reloadable(path: tuple[str, ...]) -> bool:
    starts = {".".join(path[:end]) for end in range(1, len(path) + 1)}
    return not starts.isdisjoint(_RELOADABLE) and starts.isdisjoint(_FIXED)


def _at(config: Config, path: tuple[str, ...]) -> Any:
    return functools.reduce(getattr, path, config)
