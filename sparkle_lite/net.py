"""IP addresses and networks as the store and the rule documents need them.

An address is 4 or 16 bytes in network order; the text form is canonical (RFC 5952) and made by the C library.
The row path only calls `address_and_port`, about 1 µs for a text it has not seen before.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple

from sparkle_lite.errors import SaidError

NO_PORT = -1

_V4_MAPPED = bytes(10) + b"\xff\xff"
_BRACKETS = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?")
_IPV4_PORT = re.compile(r"([^\[\]%]*\.[0-9]{1,3}):([0-9]{1,5})")

# By first byte: addresses of these kinds may be non-public or IPv4 in IPv6; all others are public as they are.
UNUSUAL = bytes(first in (0, 10, 100, 127, 169, 172, 192) or first >= 224 for first in range(256))


class AddressError(SaidError, ValueError):
    """The text is no IP address or network; the message says which text and what was expected."""


class Network(NamedTuple):
    """A network with zero host bits, or a single address (prefix 32 or 128).

    Ordered by address bytes within a family, so that sorting puts neighbours and parents beside each other.
    """

    address: bytes
    prefix: int

    @property
    def bits(self) -> int:
        """32 or 128."""
        return len(self.address) * 8

    @property
    def first(self) -> int:
        """The lowest address as an integer."""
        return int.from_bytes(self.address, "big")

    @property
    def last(self) -> int:
        """The highest address as an integer."""
        return self.first | ((1 << (self.bits - self.prefix)) - 1)

    def contains(self, other: "Network") -> bool:
        """Whether `other` lies within this network; never across address families."""
        return (
            len(self.address) == len(other.address)
            and self.prefix <= other.prefix
            and self.first <= other.first <= self.last
        )

    def __str__(self) -> str:
        """The canonical text: a single address without its prefix length, anything wider with it."""
        text = address_text(self.address)
        return text if self.prefix == self.bits else f"{text}/{self.prefix}"


def address_text(address: bytes) -> str:
    """The canonical text of 4 or 16 bytes."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    # inet_ntop writes addresses below ::1:0:0 with a dotted tail; RFC 5952 leaves that to well-known prefixes.
    return (
        str(ipaddress.IPv6Address(address))
        if address[:4] == b"\0\0\0\0"
        else socket.inet_ntop(socket.AF_INET6, address)
    )


def address_bytes(text: str) -> bytes:
    """The 4 or 16 bytes of one address in any form that `address_and_port` reads. Raises AddressError."""
    return address_and_port(text)[0]


def address_and_port(text: str) -> tuple[bytes, int]:
    """The 4 or 16 bytes of one address as clients and people write it, and its port, NO_PORT where none is written.

    Read are `203.0.113.5:6881`, `[2001:db8::1]:6881`, `::ffff:203.0.113.5:6881`, all of it without the port or with
    brackets, and blanks around it. A zone (`fe80::1%3`) is dropped, an IPv4-mapped IPv6 address is its IPv4 address
    (design promise 4). Without brackets the last number of `2001:db8::1:6881` belongs to the address.
    Raises AddressError for anything else, also for octal or shortened IPv4.
    """
    try:
        if ":" not in text:
            return socket.inet_pton(socket.AF_INET, text), NO_PORT
        address = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError, UnicodeError):
        return _address_with_more(text)
    return address[12:] if address.startswith(_V4_MAPPED) else address, NO_PORT


def _address_with_more(text: str) -> tuple[bytes, int]:
    bare, digits = text.strip(), None
    if match := _BRACKETS.fullmatch(bare):
        bare, digits = match.groups()
    if digits is None and (match := _IPV4_PORT.fullmatch(bare)):
        bare, digits = match.groups()
    try:
        if ":" in bare:
            address = socket.inet_pton(socket.AF_INET6, bare.partition("%")[0])
        else:
            address = socket.inet_pton(socket.AF_INET, bare)
    except (OSError, ValueError, UnicodeError):
        raise AddressError("address.no_address", text=text[:64]) from None
    port = NO_PORT if digits is None else int(digits)
    if port > 65535:
        raise AddressError("address.bad_port", text=text[:64])
    return address[12:] if address.startswith(_V4_MAPPED) else address, port


def is_loopback(text: str) -> bool:
    """Whether a text is an address by which a machine reaches itself, and nobody else reaches it."""
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def is_public(address: bytes) -> bool:
    """Whether an address may belong to a peer on the Internet.

    Not public are: unspecified, loopback, private (RFC 1918, fc00::/7), link-local, shared (100.64.0.0/10), multicast
    and broadcast. Everything else is, reserved and documentation ranges too (design promise 4).
    """
    first = address[0]
    if len(address) == 4:
        if first in (10, 127) or (first >= 224 and (first < 240 or address == b"\xff\xff\xff\xff")):
            return False
        second = address[1]
        return not (
            (first == 192 and second == 168)
            or (first == 172 and 16 <= second < 32)
            or (first == 169 and second == 254)
            or (first == 100 and 64 <= second < 128)
            or address == bytes(4)
        )
    if first == 0xFE:
        return address[1] & 0xC0 != 0x80
    return first != 0xFF and first & 0xFE != 0xFC and not (first == 0 and address[:15] == bytes(15) and address[15] < 2)


_NETWORK = re.compile(r"\s*([^/\s]+)(?:/(\d{1,3}))?\s*")


def parse_network(text: str, *, with_port: bool = False) -> Network:
    """A single address or CIDR as a Network; `with_port` passes over the port that people copy along with an address.

    Host bits must be zero: PeerBanHelper takes a prefix over set host bits as that one address, so such an entry would
    not mean what it says. Raises AddressError with the mend.
    """
    match = _NETWORK.fullmatch(text)
    if match is None:
        raise AddressError("address.no_network", text=text[:64])
    address, port = address_and_port(match[1])
    if port != NO_PORT and (match[2] or not with_port):
        raise AddressError("address.has_port", text=text[:64], address=address_text(address))
    bits = len(address) * 8
    prefix = int(match[2]) if match[2] else bits
    if match[2] and ":" in match[1] and bits == 32:
        prefix -= 96
    if not 0 <= prefix <= bits:
        raise AddressError("address.bad_prefix", text=text[:64], bits=bits)
    if int.from_bytes(address, "big") & ((1 << bits - prefix) - 1):
        network = network_of(address, prefix)
        raise AddressError("address.host_bits", text=text[:64], network=str(network))
    return Network(address, prefix)


# Where no peer of the Internet lives: what is_public denies, as networks. IPv4-mapped IPv6 is IPv4, so a network around
# that would name everybody.
NOT_PUBLIC = (
    *map(
        parse_network,
        (
            "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.168.0.0/16", "224.0.0.0/4", "255.255.255.255", "::", "::1", "fc00::/7", "fe80::/10", "ff00::/8",
        ),
    ),
    Network(_V4_MAPPED + bytes(4), 96),
)  # fmt: skip


def not_public_in(network: Network) -> list[Network]:
    """Which of NOT_PUBLIC a network lies in or holds."""
    if network.prefix >= 8 and not UNUSUAL[network.address[0]]:
        return []
    return [each for each in NOT_PUBLIC if each.contains(network) or network.contains(each)]


def network_of(address: bytes, prefix: int) -> Network:
    """The network of this prefix length that an address lies in."""
    bits = len(address) * 8
    masked = int.from_bytes(address, "big") >> (bits - prefix) << (bits - prefix)
    return Network(masked.to_bytes(len(address), "big"), prefix)


def collapse(networks: Iterable[Network]) -> list[Network]:
    """The same addresses as the fewest networks, IPv4 before IPv6, ascending."""
    result: list[Network] = []
    for network in sorted(networks, key=lambda n: (len(n.address), n.address, n.prefix)):
        if result and result[-1].contains(network):
            continue
        result.append(network)
        while len(result) > 1:
            left, right = result[-2], result[-1]
            if left.prefix != right.prefix or len(left.address) != len(right.address):
                break
            parent = network_of(left.address, left.prefix - 1)
            if parent.address != left.address or not parent.contains(right):
                break
            result[-2:] = [parent]
    return result
