"""The time of day, the days that it makes, and how far it is believed: a machine's clock may be wrong for a while.

Three times are told apart, and each use of a time is of one of them:

- `now_ms`, what the machine says. What is only shown goes by it, and commands.
- `Clock.settled`, what a server believes: the machine's time, but that it takes no jump over until 24 hours of running
  have passed, or an operator says that the new time is right. Whatever ends by time goes by it: sessions, login links,
  logins under way, decisions and the operator's rules, proofs of work, who counts as a member, how far evidence
  reaches, the daily quotas, which bodies came within 24 hours, when a hot segment is closed, the activity by the hour.
  What is given an end gets it by the same clock, so that a link lives its half hour whatever the machine says.
- `Clock.stamp`, what is written on an observation or a visit as its time of receipt: the later of the two. A stamp that
  is too early would be deleted too early; one that is too late is found and mended when the clock is believed again.

While there is a doubt, retention by age rests altogether; the limit of the size counts bytes, and does not. Token
buckets go by whatever they are given: a jump gives some tokens back, or holds one refill.

A simulation drives both clocks of the machine together, so that days pass in minutes and nothing sees a jump. What
waits for this machine (time limits, the time that work takes) is none of its business and asks `time` itself.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, NamedTuple

from sparkle_lite.units import DAY_MS, DAY_S, HOUR_MS

# The machine's time and the time that has passed agree this far, unless somebody set the clock.
JUMP_MS = HOUR_MS
# A server was off for so long at the most, unless the clock is ahead.
OFF_MS = 30 * DAY_MS
# For so long of running a clock that jumped is not believed.
REST_MS = DAY_MS

# On Linux it goes on while the machine sleeps: to wake it is no jump.
_ELAPSED = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> int:
    """The time in ms since the epoch, as the machine says."""
    return time.time_ns() // 1_000_000 if _driven is None else _driven.now_ms


def elapsed_ms() -> int:
    """The time in ms since some moment, whatever the clock is set to."""
    return time.clock_gettime_ns(_ELAPSED) // 1_000_000 if _driven is None else _driven.elapsed_ms


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


class Doubt(NamedTuple):
    """Why the machine's time isn't believed: a jump while running, or a start long after or before what is stored.

    `off_ms` is how far it is ahead of what is believed, `reference` the time (ms) that it doesn't go with. It is
    believed again where it comes to be ahead by `low` to `high`, or when it has run on for long enough since `began`
    (ms of elapsed time).
    """

    kind: Literal["jump", "late", "early"]
    off_ms: int
    reference: int
    low: int
    high: int
    began: int


class Clock:
    """The clock of one server, made of the machine's time and the elapsed time (functions that give ms).

    `doubts` counts how often it came to be doubted.
    """

    def __init__(self, wall: Callable[[], int] = now_ms, elapsed: Callable[[], int] = elapsed_ms) -> None:
        self._wall, self._elapsed = wall, elapsed
        self.doubts = 0
        self._ahead = wall() - elapsed()
        self._doubt: Doubt | None = None

    def start(self, *, known: int | None, newest: int | None, accepted: int | None) -> None:
        """Compare the machine's time with what an earlier run left behind (ms each, None where there is nothing).

        `known` is what was believed last, `newest` when the newest row was received, `accepted` a time that was taken
        as right: what is behind the clock since then is old, and no sign of a clock that is ahead.
        """
        wall, elapsed = self._wall(), self._elapsed()
        references = [each for each in (known, newest) if each is not None]
        if not references:
            return
        is_accepted = accepted is not None and -JUMP_MS <= wall - accepted <= OFF_MS
        believed = min(references) if known is None else known
        is_likely = -JUMP_MS <= wall - believed <= OFF_MS or (is_accepted and wall >= believed)
        # Of rows alone nobody can tell which is wrong, their time or the clock: the earlier ends nothing.
        if is_likely or (known is None and wall < believed):
            believed = wall
        low = max(references) - JUMP_MS - believed
        high = (wall if is_accepted else min(references) + OFF_MS) - believed
        if not low <= wall - believed <= high:
            self._ahead = believed - elapsed
            kind: Literal["late", "early"] = "late" if wall - believed > high else "early"
            reference = min(references) if kind == "late" else max(references)
            off = wall - believed
            self._doubt = Doubt(kind=kind, off_ms=off, reference=reference, low=low, high=high, began=elapsed)
            self.doubts += 1

    @property
    def doubt(self) -> Doubt | None:
        """Why the machine's time isn't believed now; None while it is."""
        self.settled()
        return self._doubt

    def settled(self) -> int:
        """The time that is believed, in ms since the epoch."""
        wall, elapsed = self._wall(), self._elapsed()
        off, doubt = wall - elapsed - self._ahead, self._doubt
        if doubt is None:
            if abs(off) <= JUMP_MS:
                # Slow corrections are followed.
                self._ahead = wall - elapsed
            else:
                self._doubt = Doubt(
                    kind="jump", off_ms=off, reference=wall - off, low=-JUMP_MS, high=JUMP_MS, began=elapsed
                )
                self.doubts += 1
        elif doubt.low <= off <= doubt.high or elapsed - doubt.began >= REST_MS:
            self._doubt = None
            self._ahead = wall - elapsed
        elif abs(off - doubt.off_ms) > JUMP_MS:
            self._doubt = doubt._replace(off_ms=off, began=elapsed)
        return elapsed + self._ahead

    def machine(self) -> int:
        """What the machine says, in ms since the epoch."""
        return self._wall()

    def left(self) -> int:
        """How long (ms of running) a doubt lasts yet, unless somebody ends it; 0 where there is none."""
        return max(0, self._doubt.began + REST_MS - self._elapsed()) if self._doubt else 0

    def stamp(self) -> int:
        """What is written as the time of a receipt, in ms since the epoch."""
        return max(self.settled(), self._wall())

    def accept(self) -> int:
        """Take the machine's time as right at once; what it is."""
        self._doubt = None
        self._ahead = (wall := self._wall()) - self._elapsed()
        return wall


def newest_of(times: Iterable[int | None]) -> int | None:
    """The latest of some times; None where there is none."""
    return max((at for at in times if at is not None), default=None)
