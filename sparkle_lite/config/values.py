"""Kinds of values: spans of time, sizes and secrets; what bounds a value; how a value is written as TOML."""

import json
import re
import unicodedata
from collections.abc import Callable
from datetime import date, time
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from sparkle_lite.net import Network
from sparkle_lite.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

Check = Callable[[Any], Any]


class Refused(ValueError):
    """A value that can't be used: `message` says why, `hint` what to write. Neither holds a secret."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}; {hint}")
        self.message = message
        self.hint = hint


_DURATION = re.compile(r"\s*".join(rf"(?:([0-9]{{1,15}})\s*{unit})?" for unit in ("d", "h", "m(?!s)", "s", "ms")))
_DURATION_UNITS = {"d": DAY_MS, "h": HOUR_MS, "m": MINUTE_MS, "s": SECOND_MS, "ms": 1}
_LONGEST = 36_500 * DAY_MS
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
        hint = 'write "15m" (numbers with d, h, m, s or ms)'
        if match is None or not stripped:
            raise Refused(f"{quote(text)} is not a duration", hint)
        value = sum(int(n or 0) * unit for n, unit in zip(match.groups(), _DURATION_UNITS.values(), strict=True))
        if value > _LONGEST:
            raise Refused(f"{quote(text)} is longer than 100 years", hint)
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
        hint = 'write "32MiB" (a whole number with B, KiB, MiB, GiB, TiB or KB, MB, GB, TB)'
        if match is None or (match[2] is None and int(match[1])):
            raise Refused(f"{quote(text)} is not a size", hint)
        value = int(match[1]) * _SIZE_FACTORS[(match[2] or "B").upper()]
        if value > _LARGEST:
            raise Refused(f"{quote(text)} is larger than any disk", hint)
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


class ListURL(str):
    """Where a list is; what it asks for (`?key=`) may be a secret."""

    __slots__ = ()

    @property
    def origin(self) -> tuple[str, str]:
        """The scheme, and the host with its port as they are written."""
        parts = urlsplit(self)
        return parts.scheme, parts.netloc.lower()

    @property
    def shown(self) -> str:
        """The URL for people: without what it asks for."""
        path, query, _ = self.partition("?")
        return f"{path}?***" if query else str(self)

    def __repr__(self) -> str:
        return f"ListURL({self.shown!r})"


def quote(value: object) -> str:
    """A value as a message shows it: in quotes, cut after 64 characters."""
    text = str(value)
    return repr(text if len(text) <= 64 else text[:64] + "…")


# --- Checks: each takes a value of its key's type and gives it back, cleaned, or raises Refused -----------------------


class Bounds(NamedTuple):
    """From `low` to `high` (None: any), both allowed, or 0 if `or_zero`."""

    low: int
    high: int | None
    why: str
    or_zero: bool

    def __call__(self, value: int) -> int:
        """The value itself. Raises Refused."""
        is_within = value >= self.low and (self.high is None or value <= self.high)
        if is_within or (value == 0 and self.or_zero):
            return value
        is_small = self.high is None or value < self.low
        wrong, bound, side = ("small", self.low, "more") if is_small else ("large", self.high, "less")
        raise Refused(f"{toml(value)} is too {wrong}{self.why}", f"write {toml(bound)} or {side}")


def between(low: int, high: int | None = None, why: str = "", *, or_zero: bool = False) -> Bounds:
    """From `low` to `high`, both allowed, or 0 if `or_zero`; `why` follows "is too small" or "is too large"."""
    return Bounds(low, high, why, or_zero)


_HOST = re.compile(r"[0-9A-Za-z._:%-]+")


def host_name(value: str) -> str:
    """A name or an address to listen on."""
    if not _HOST.fullmatch(value):
        raise Refused(
            f"{quote(value)} is not a host name or address",
            'write an address to listen on without port or brackets, such as "127.0.0.1", "0.0.0.0" or "::"',
        )
    return value


_URL = re.compile(r"https?://[A-Za-z0-9\-._~:/\[\]@!$&'()*+,;=%]+", re.IGNORECASE)
_URL_HINT = 'write it like "https://btn.example.org" or "https://example.org/btn"'


def url(value: str) -> str:
    """An absolute http(s) URL without query, fragment and user; the slash at its end goes.

    The messages don't repeat the URL: people paste passwords into them.
    """
    if not _URL.fullmatch(value):
        raise Refused("must be an absolute http or https URL without query and fragment", _URL_HINT)
    try:
        parts = urlsplit(value)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise Refused("the URL's host or port can't be understood", _URL_HINT)
    if "@" in parts.netloc:
        raise Refused("the URL holds a user name", "leave out everything up to the @")
    return value.rstrip("/")


def url_or_empty(value: str) -> str:
    """A URL as `url` takes it, or nothing."""
    return url(value) if value else value


def file_name(value: str) -> str:
    """The path of a file, relative or absolute."""
    if not value.strip() or not _printable(value) or value == ":memory:" or value.endswith("/"):
        raise Refused(f"{quote(value)} is not the name of a file", 'write a path such as "data/sparkle.db"')
    return value


def folder_name(value: str) -> str:
    """The path of a folder, relative or absolute."""
    if not value.strip() or not _printable(value):
        raise Refused(f"{quote(value)} is not the name of a folder", 'write a path such as "data/backups"')
    return value


def key_length(value: str) -> str:
    """A key that signs, or nothing."""
    # RFC 7518 section 3.2: a key for HS256 has at least 256 bits.
    if 0 < len(value.encode()) < 32:
        raise Refused("is shorter than 32 bytes", "leave it out to have one made, or take 32 random bytes as text")
    return value


def _printable(value: str) -> bool:
    return not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in value)


def category_name(value: str) -> str:
    """The name of a category of rules: 1 to 64 characters that print."""
    if not 1 <= len(value) <= 64 or not value.strip() or not _printable(value):
        raise Refused(
            f"{quote(value)} is not a category", "write 1 to 64 characters, no line breaks or control characters"
        )
    return value


def category_or_empty(value: str) -> str:
    """The name of a category, or nothing."""
    return category_name(value) if value else value


def no_line_breaks(value: str) -> str:
    """At most 255 characters that print."""
    if len(value) > 255 or not _printable(value):
        raise Refused(f"{quote(value)} is no line of text", "write at most 255 characters without line breaks")
    return value


_LIST_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


def list_name(value: str) -> str:
    """The name of an imported list."""
    if not _LIST_NAME.fullmatch(value):
        raise Refused(f"{quote(value)} is no name of a list", "write 1 to 40 of the characters a-z, 0-9, ., _ and -")
    return value


def list_url(values: tuple[str, ...]) -> tuple[ListURL, ...]:
    """Where a list is: absolute http(s) URLs without user and fragment. What they ask for (`?key=`) isn't repeated."""
    for value in values:
        try:
            parts = urlsplit(value)
            is_whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_whole = False
        if len(value) > 2000:
            raise Refused("the URL is longer than 2,000 characters", "write a shorter one")
        if not is_whole or not _printable(value) or " " in value:
            raise Refused("must be an absolute http or https URL", 'write it like "https://example.org/list.txt"')
        if "@" in parts.netloc:
            raise Refused("the URL holds a user name", "leave out everything up to the @")
    return tuple(map(ListURL, values))


def breadths(value: tuple[int, ...]) -> tuple[int, ...]:
    """Two prefix lengths, of IPv4 and IPv6, that the widest networks of a list may have."""
    if len(value) != 2 or not 8 <= value[0] <= 32 or not 16 <= value[1] <= 128:
        raise Refused(
            f"{quote(', '.join(map(str, value)))} are no two prefix lengths",
            "write those of the widest networks, IPv4 (8 to 32) and IPv6 (16 to 128), such as [16, 48]",
        )
    return value


# --- As TOML ----------------------------------------------------------------------------------------------------------

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml_key(name: str) -> str:
    """One part of a dotted key; quoted where it must be, cut after 64 characters."""
    return name if _BARE_KEY.fullmatch(name) else _toml_text(name if len(name) <= 64 else name[:64] + "…")


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml(value: Any) -> str:
    """A value as TOML. Raises TypeError for what TOML can't say."""
    if isinstance(value, Secret):
        return '"***"' if value else '""'
    if isinstance(value, ListURL):
        return _toml_text(value.shown)
    if isinstance(value, str | Duration | Size | Network):
        return _toml_text(str(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, date | time):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{_toml_text(name)} = {toml(item)}" for name, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    raise TypeError(f"TOML has no {type(value).__name__}")


def is_writable(value: object) -> bool:
    """Whether a value can be written as TOML and UTF-8: null and lone surrogates come in with JSON."""
    try:
        toml(value).encode()
    except (TypeError, UnicodeEncodeError, RecursionError):
        return False
    return True
