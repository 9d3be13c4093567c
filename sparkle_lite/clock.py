"""The time of day, the days that it makes, and the one place where both clocks are taken from.

`now_ms` is the wall's time, `elapsed_ms` what has passed; who compares the two takes both from here. A simulation
drives them together, so that days pass in minutes and nothing sees a jump. What waits for this machine (time limits,
the time that work takes) is none of a simulation's business and asks `time` itself.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache

from sparkle_lite.units import DAY_MS, DAY_S


def now_ms() -> int:
    """The time in ms since the epoch."""
    return time.time_ns() // 1_000_000 if _driven is None else _driven.now_ms


def elapsed_ms() -> int:
    """The time in ms since some moment, whatever the clock is set to."""
    return time.monotonic_ns() // 1_000_000 if _driven is None else _driven.elapsed_ms


class DrivenClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.elapsed_ms = 0

    def go_on(self, milliseconds: int) -> None:
        """So much time passes, on the wall and otherwise."""
        self.now_ms += milliseconds
        self.elapsed_ms += milliseconds


_driven: DrivenClock | None = None


@contextmanager
def driven_by(clock: DrivenClock) -> Iterator[None]:
    """Have everything in this process take its time from a clock, for as long as the block lasts."""
    global _driven
    before, _driven = _driven, clock
    try:
        yield
    finally:
        _driven = before


def date(at_ms: int | None) -> str:
    """A day as documents and commands show it (UTC)."""
    return "never" if at_ms is None else _day(at_ms // DAY_MS)


@lru_cache(1024)
def _day(number: int) -> str:
    return datetime.fromtimestamp(number * DAY_S, UTC).strftime("%Y-%m-%d")
