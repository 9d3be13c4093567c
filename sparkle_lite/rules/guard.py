"""Whether a target may be listed: one judge for every origin.

What is private, too wide, ours or excepted may not; what is a member's is held for review.
"""

from collections.abc import Collection, Iterable
from typing import Literal

from sparkle_lite.net import NOT_PUBLIC, Network
from sparkle_lite.rules.address_sets import AddressSet, carve, single

# Analyses list no network wider than these prefix lengths (IPv4, IPv6); a list that is imported has its own.
ANALYSES_WIDEST = (24, 56)

# One subscriber: an address, or the smallest network that a provider hands out.
SUBSCRIBER_V4, SUBSCRIBER_V6 = 32, 64

Obstacle = Literal["special", "wide", "own", "excepted", "member"]


class Guard:
    """What must never be listed: one judge for every origin. `exempt` are matchers in their canonical text, by kind."""

    def __init__(
        self,
        own: Iterable[bytes],
        members: Iterable[bytes],
        excepted: Iterable[Network],
        exempt: Collection[tuple[str, str]] = (),
    ) -> None:
        self._special = AddressSet(NOT_PUBLIC)
        self._own = AddressSet(single(address) for address in own)
        self._members = AddressSet(single(address) for address in members)
        self._excepted = AddressSet(excepted)
        self._cut_out = AddressSet((*self._own, *self._members, *self._excepted))
        self._exempt = exempt

    def obstacle(self, network: Network, widest: tuple[int, int] | None) -> Obstacle | None:
        """Why a network can't be listed, None if it can; "member" is for review, the others are final.

        `widest` are the prefix lengths (IPv4, IPv6) of the widest networks that its origin may list, None: any. A wide
        network around a protected address can be listed: publishing cuts the address out. One subscriber's can't,
        because its other addresses are theirs too.
        """
        is_v4 = network.bits == 32
        if self._special.overlapping(network):
            return "special"
        if widest is not None and network.prefix < widest[0 if is_v4 else 1]:
            return "wide"
        if not any(carve(network, self._excepted)):
            return "excepted"
        is_subscriber = network.prefix >= (SUBSCRIBER_V4 if is_v4 else SUBSCRIBER_V6)
        for holes, name in ((self._own, "own"), (self._members, "member")):
            if holes.overlapping(network) and (is_subscriber or not any(carve(network, holes))):
                return "own" if name == "own" else "member"
        return None

    def is_exempt(self, kind: str, matcher: str) -> bool:
        """Whether an identity rule is just what an exception names."""
        return (kind, matcher) in self._exempt

    def protection(self, network: Network) -> tuple[Obstacle, ...]:
        """Everything that keeps an address, or the whole of a network, from being listed."""
        holes: dict[Obstacle, AddressSet] = {
            "special": self._special, "own": self._own, "excepted": self._excepted, "member": self._members,
        }  # fmt: skip
        return tuple(name for name, networks in holes.items() if not any(carve(network, networks)))

    def withheld(self, kind: str, target: Network | str) -> Obstacle | None:
        """Why nothing at all of a listing in force is published, None where some of it is.

        `target` is a network, or a matcher in its canonical text.
        """
        if isinstance(target, str):
            return "excepted" if self.is_exempt(kind, target) else None
        if any(carve(target, self._cut_out)):
            return None
        holes: dict[Obstacle, AddressSet] = {"own": self._own, "excepted": self._excepted, "member": self._members}
        alone = (name for name, networks in holes.items() if not any(carve(target, networks)))
        # Where several share it, the strongest of them.
        return next(alone, None) or next(name for name, networks in holes.items() if networks.overlapping(target))

    def members_in(self, network: Network) -> int:
        """How many members' addresses lie in a network."""
        return len(self._members.overlapping(network))
