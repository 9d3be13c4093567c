"""The time of day, and the days that it makes."""

import time
from datetime import UTC, datetime
from functools import lru_cache

from sparkle_lite.units import DAY_MS, DAY_S


def now_ms() -> int:
    """The time in ms since the epoch."""
    return time.time_ns() // 1_000_000


def date(at_ms: int | None) -> str:
    """A day as documents and commands show it (UTC)."""
    return "never" if at_ms is None else _day(at_ms // DAY_MS)


@lru_cache(1024)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_S, UTC).strftime("%Y-%m-%d")
