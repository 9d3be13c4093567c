"""Rate limits: a token bucket for each key, in bounded memory."""

import math
from collections.abc import Hashable

from sparkle_lite.net import AddressError, address_bytes
from sparkle_lite.units import MINUTE_MS


class Buckets:
    """A token bucket for each key; the ones unused for longest are forgotten, which only ever gives tokens back."""

    def __init__(self, *, burst: float, per_minute: float, keys: int = 10_000) -> None:
        self._burst = float(burst)
        self._per_ms = per_minute / MINUTE_MS
        self._keys = keys
        self._levels: dict[Hashable, tuple[float, int]] = {}

    def take(self, key: Hashable, now_ms: int) -> int:
        """Take a token: 0, or the seconds until there is one."""
        tokens, since = self._levels.pop(key, (self._burst, now_ms))
        tokens = min(self._burst, tokens + max(0, now_ms - since) * self._per_ms)
        taken = tokens >= 1
        self._levels[key] = (tokens - taken, now_ms)
        if len(self._levels) > self._keys:
            del self._levels[next(iter(self._levels))]
        return 0 if taken else math.ceil((1 - tokens) / self._per_ms / 1000)


def client_key(address: str) -> Hashable:
    """What a limit counts as one client: an IPv4 address, or an IPv6 /64, whose owner has all of it."""
    try:
        packed = address_bytes(address)
    except AddressError:
        return address
    return packed if len(packed) == 4 else packed[:8]
