"""What one application may have stored in a day: rows, and bytes of text.

A body that begins within the quota is stored whole, so that no client's page is torn; the next one is refused until the
day (UTC) is over, and is kept by a client that knows what 429 means. Kept in memory: a restart begins anew. What came
before costs nothing, so a client may tell its whole list again and again.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from sparkle_lite.config import LimitsSection
from sparkle_lite.errors import SparkleError
from sparkle_lite.units import DAY_MS, HOUR_MS, MIB

# The refusals, which are told on the application's page too.
REFUSALS = ("quota.rows", "quota.text")


class Kept(NamedTuple):
    """What was stored for an application: rows, and bytes of text."""

    rows: int = 0
    text: int = 0


class DailyQuotas:
    """What the applications of a server (by row id) had stored today."""

    def __init__(self, limits: Callable[[], LimitsSection], clock: Callable[[], int]) -> None:
        self._limits = limits
        self._clock = clock
        self._day = 0
        self._rows: Counter[int] = Counter()
        self._text: Counter[int] = Counter()

    def require(self, userapp: int, uncommitted: int = 0) -> None:
        """Raises SparkleError (too_many) where an application had its day's share stored.

        `uncommitted` are its rows that are about to be committed.
        """
        now, limits = self._today(), self._limits()
        left_ms = DAY_MS - now % DAY_MS
        if limits.rows_per_day and self._rows[userapp] + uncommitted >= limits.rows_per_day:
            raise _spent("quota.rows", f"{limits.rows_per_day:,}", left_ms)
        if limits.text_per_day and self._text[userapp] >= limits.text_per_day:
            raise _spent("quota.text", f"{limits.text_per_day / MIB:,.4g} MiB", left_ms)

    def spend(self, userapp: int, stored: Kept) -> None:
        """Count what was stored."""
        self._today()
        self._rows[userapp] += stored.rows
        self._text[userapp] += stored.text

    def _today(self) -> int:
        now = self._clock()
        if now // DAY_MS != self._day:
            self._day = now // DAY_MS
            self._rows.clear()
            self._text.clear()
        return now


def _spent(key: str, most: str, left_ms: int) -> SparkleError:
    return SparkleError(
        "too_many", key, most=most, hours=-(-left_ms // HOUR_MS), retry_after=max(1, -(-left_ms // 1000))
    )
