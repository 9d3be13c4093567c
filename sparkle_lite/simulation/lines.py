"""Lines: how somebody is connected, and so which address they have at a time, and with whom they share it.

An address is a function of the time and of numbers that were drawn when the world was made; nothing is drawn later, so
that a world is the same however its days are cut into steps.
"""

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import NamedTuple

from sparkle_lite.units import DAY_MS, HOUR_MS

# Odd numbers without a pattern: neighbours in number and time get addresses far from each other.
_MIX, _MIX_TIME = 2_654_435_761, 40_503
# First octets without any range that is not for everyone.
_FIRST = [octet for octet in range(20, 220) if octet not in (100, 127, 169, 172, 192, 198, 203)]


class AccessLine(NamedTuple):
    """A line of some kind. Its address changes every `period_ms` (0: never) among `places` of them from `first` on."""

    kind: str
    is_v6: bool
    first: int
    places: int
    period_ms: int
    number: int
    spread: int = 1

    def address(self, now_ms: int) -> str:
        """The address at a time, as text in the usual short form."""
        return _text(self.is_v6, self.at(now_ms))

    def at(self, now_ms: int) -> int:
        """The same as a number."""
        turn = now_ms // self.period_ms if self.period_ms else 0
        place = (self.number * _MIX + turn * _MIX_TIME * (self.number * 2 + 1)) % self.places
        return self.first + place * self.spread

    @property
    def is_stable(self) -> bool:
        """Whether it keeps its address."""
        return self.period_ms == 0


@lru_cache(65_536)
def _text(is_v6: bool, value: int) -> str:
    return str(ipaddress.IPv6Address(value)) if is_v6 else str(ipaddress.IPv4Address(value))


class Lines:
    """The networks of a world; each asked-for line is a new one of its kind, or a place on a shared one."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._taken: set[int] = set()
        self._number = 0
        self._pools = [self._v4(12) for _ in range(6)]
        self._cgnat = [self._v4(4) for _ in range(4)]
        self._campus = [self._v4(8) for _ in range(3)]
        self._hosters = [self._v4(8) for _ in range(8)]
        self.exits = [self._v4(0) for _ in range(3)]
        self._household: AccessLine | None = None

    def _line(self, kind: str, is_v6: bool, first: int, places: int, period_ms: int) -> AccessLine:
        self._number += 1
        return AccessLine(kind=kind, is_v6=is_v6, first=first, places=places, period_ms=period_ms, number=self._number)

    def _v4(self, bits: int) -> int:
        """The first address of a new network of 2**bits; its /24 is nobody else's unless it is wider."""
        while True:
            first = self._random.choice(_FIRST) << 24 | self._random.randrange(1 << 24)
            first = first >> max(bits, 8) << max(bits, 8)
            blocks = range(first >> 8, (first >> 8) + max(1, 1 << bits >> 8))
            if self._taken.isdisjoint(blocks):
                self._taken.update(blocks)
                return first if bits >= 8 else first + self._random.randrange(1, 255 - (1 << bits))

    def _v6(self) -> int:
        """The first address of a new /56."""
        return 0x2A00 << 112 | self._random.randrange(1 << 40) << 72

    def static(self) -> AccessLine:
        """An address for good."""
        return self._line("static", False, self._v4(0), 1, 0)

    def dynamic(self) -> AccessLine:
        """Another address of the provider's pool every day."""
        return self._line("dynamic", False, self._random.choice(self._pools), 1 << 12, DAY_MS)

    def cgnat(self) -> AccessLine:
        """One of few addresses that a street shares, another every two hours."""
        return self._line("cgnat", False, self._random.choice(self._cgnat), 16, 2 * HOUR_MS)

    def campus(self) -> AccessLine:
        """A host of a /24 that many neighbours are in."""
        return self._line("campus", False, self._random.choice(self._campus) + 1, 250, 0)

    def seedbox(self) -> AccessLine:
        """A host at a hoster."""
        return self._line("seedbox", False, self._random.choice(self._hosters) + 1, 250, 0)

    def exit(self) -> AccessLine:
        """A VPN's exit, shared with whoever else uses it."""
        return self._line("exit", False, self._random.choice(self.exits), 1, 0)

    def household(self) -> AccessLine:
        """A house's one address; every second one asked for is in the house of the one before."""
        shared, self._household = self._household, None
        if shared is not None:
            return shared
        self._household = self._line("household", False, self._v4(0), 1, 0)
        return self._household

    def privacy(self) -> AccessLine:
        """A /64 in which a machine takes another address every day."""
        prefix = self._v6()
        return self._line("privacy", True, prefix + 2, 1 << 62, DAY_MS)

    def hosts(self, count: int) -> list[AccessLine]:
        """Addresses of one /24, for one who dials often."""
        first = self._v4(8)
        return [self._line("dialer", False, first + 3 + n * (250 // count), 1, 0) for n in range(count)]

    def subnets(self, count: int) -> list[AccessLine]:
        """A /64 each of one /56."""
        prefix = self._v6()
        return [self._line("dialer", True, prefix + (n << 64) + 9, 1, 0) for n in range(count)]

    def short_lived(self) -> AccessLine:
        """An address for four hours."""
        return self._line("bot", False, self._random.choice(self._pools), 1 << 12, 4 * HOUR_MS)

    def draw(self, shares: "Shares") -> AccessLine:
        """A line of a kind drawn by shares."""
        kinds = [kind for kind, _ in shares]
        (kind,) = self._random.choices(kinds, [share for _, share in shares])
        makers: dict[str, Callable[[], AccessLine]] = {
            "static": self.static,
            "dynamic": self.dynamic,
            "cgnat": self.cgnat,
            "campus": self.campus,
            "seedbox": self.seedbox,
            "exit": self.exit,
            "household": self.household,
            "privacy": self.privacy,
        }
        return makers[kind]()


Shares = tuple[tuple[str, int], ...]
PEOPLE: Shares = (
    *(("static", 25), ("dynamic", 30), ("household", 12), ("privacy", 15), ("cgnat", 6), ("campus", 6)),
    ("seedbox", 6),
)
PEERS: Shares = (
    *(("static", 20), ("dynamic", 30), ("household", 12), ("privacy", 15), ("cgnat", 8), ("campus", 5)),
    *(("seedbox", 5), ("exit", 14)),
)
