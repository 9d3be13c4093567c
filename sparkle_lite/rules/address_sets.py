"""Sets of addresses: what of one lies in a network, and what is left of a network without it."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sparkle_lite.net import Network


class _Family(NamedTuple):
    """Networks of one address family that don't overlap, ascending, with the first and last address of each."""

    networks: list[Network]
    firsts: list[bytes]
    lasts: list[bytes]


class AddressSet:
    """A set of addresses that answers fast what of it lies in a network."""

    def __init__(self, networks: Iterable[Network]) -> None:
        parts: dict[int, list[Network]] = {4: [], 16: []}
        for network in networks:
            parts[len(network[0])].append(network)
        self.families = {size: _outermost(found) for size, found in parts.items()}

    def overlapping(self, network: Network) -> Sequence[Network]:
        """Its parts that share addresses with a network: the one around it, or those within, ascending."""
        networks, firsts, lasts = self.families[len(network.address)]
        start = bisect_left(lasts, network.address)
        return networks[start : bisect_right(firsts, _last(network), start)] if start < len(lasts) else ()

    def __iter__(self) -> Iterator[Network]:
        for family in self.families.values():
            yield from family.networks


def _outermost(networks: list[Network]) -> _Family:
    """Networks of one family without those that lie in another, ascending."""
    family = _Family([], [], [])
    keep, add_first, add_last = family.networks.append, family.firsts.append, family.lasts.append
    networks.sort()
    last = b""
    for network in networks:
        first = network[0]
        if first > last:
            last = _last(network)
            keep(network)
            add_first(first)
            add_last(last)
    return family


def _last(network: Network) -> bytes:
    address, prefix = network
    size = len(address)
    if prefix == size * 8:
        return address
    return (int.from_bytes(address, "big") | (1 << (size * 8 - prefix)) - 1).to_bytes(size, "big")


class PackedAddresses:
    """A set of addresses that only answers whether one is in it: packed, so that it is quick to hand over."""

    def __init__(self, networks: AddressSet) -> None:
        self._firsts = {size: b"".join(family.firsts) for size, family in networks.families.items()}
        self._lasts = {size: b"".join(family.lasts) for size, family in networks.families.items()}

    def __contains__(self, address: bytes) -> bool:
        size = len(address)
        lasts = self._lasts[size]
        count = len(lasts) // size
        place = size * bisect_left(range(count), address, key=lambda i: lasts[i * size : (i + 1) * size])
        return place < len(lasts) and self._firsts[size][place : place + size] <= address

    def networks(self) -> Iterator[Network]:
        """The networks that it was packed from."""
        for size, firsts in self._firsts.items():
            for place in range(0, len(firsts), size):
                first, last = firsts[place : place + size], self._lasts[size][place : place + size]
                free = int.from_bytes(first, "big") ^ int.from_bytes(last, "big")
                yield Network(first, size * 8 - free.bit_length())


def carve(network: Network, holes: AddressSet) -> Iterator[Network]:
    """What is left of a network without the holes, ascending."""
    hits = holes.overlapping(network)
    if not hits:
        yield network
    elif not hits[0].contains(network):
        half = 1 << (network.bits - network.prefix - 1)
        for first in (network.first, network.first + half):
            yield from carve(Network(first.to_bytes(len(network.address), "big"), network.prefix + 1), holes)


def single(address: bytes) -> Network:
    """One address as a network."""
    return Network(address, len(address) * 8)
