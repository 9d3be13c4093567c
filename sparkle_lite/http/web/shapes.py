"""How numbers, sizes, instants and client programs look on a page."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

from markupsafe import Markup

from sparkle_lite.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, size_text

_SPANS = ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "min"), (SECOND_MS, "s"))
_PROGRAM = re.compile(r"([A-Za-z][A-Za-z0-9._ -]{0,39})/v?([0-9][0-9A-Za-z.+_-]{0,23})")


def number(value: float | None) -> str:
    """A number with its digits in groups; "–" for none."""
    return "–" if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Bytes in binary units; what clients send below zero stands for unknown."""
    return "–" if value is None or value < 0 else size_text(value)


def speed(value: int | None) -> str:
    """Bytes a second."""
    text = size(value)
    return text if text == "–" else f"{text}/s"


def percent(value: float | None) -> str:
    """A share from 0 to 1."""
    return "–" if value is None else f"{value * 100:.1f}".removesuffix(".0") + "%"


def duration(ms: int, texts: Callable[[str], str]) -> str:
    """A span of time in its largest unit, and the next one if that says more: 1 d 6 h."""
    if 0 < ms < SECOND_MS:
        return f"{ms / SECOND_MS:g} {texts('span.s')}"
    parts: list[str] = []
    for length, unit in _SPANS:
        count, ms = divmod(ms, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {texts(f'span.{unit}')}")
        elif parts:
            break
    return " ".join(parts[:2])


def time(ms: int | None) -> Markup:
    """An instant in UTC, which app.js turns into the browser's zone; UTC stays on hover."""
    return _time(ms, "")


def day(ms: int) -> str:
    """The day of an instant in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


def ago(ms: int | None) -> Markup:
    """An instant, which app.js turns into how long ago that was."""
    return _time(ms, " data-ago")


def _time(ms: int | None, attribute: str) -> Markup:
    if ms is None:
        return Markup("–")
    try:
        full = datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")[:19]
    except (OverflowError, ValueError, OSError):
        # Clients may send any number.
        return Markup.escape(str(ms))
    # Digits and signs alone. Pages hold thousands of these, and Markup.format is ten times as slow.
    day, clock = full[:10], full[11:]
    return Markup(  # noqa: S704
        f'<time datetime="{day}T{clock}Z" data-ms="{ms:d}"{attribute} title="{full} UTC">{full[:16]} UTC</time>'
    )


def program(user_agent: str | None) -> str:
    """The name and version of a client program as it calls itself, "" for none."""
    match = _PROGRAM.match(user_agent or "")
    return f"{match[1]} {match[2]}" if match else (user_agent or "")[:40]
