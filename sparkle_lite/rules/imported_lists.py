"""Other people's lists of addresses, read line by line: plain addresses and networks, and ranges of DAT files.

A line that can't be read, or that covers too much, is a line less, never a list less.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

from sparkle_lite.net import AddressError, Network, address_bytes, parse_network
from sparkle_lite.rules.guard import MAX_BREADTH_V4, MAX_BREADTH_V6

MAX_ENTRIES = 500_000
_LONGEST_LINE = 1024

# eMule's level from which on a range of a DAT file is not blocked.
_NOT_BLOCKED = 128
_RANGE = re.compile(r"(?P<first>[^\s,/-]+)\s*[-,]\s*(?P<last>[^\s,/-]+)\s*(?:,\s*(?P<level>[0-9]{1,4})\s*(?:,.*)?)?")
_PADDED = re.compile(r"[0-9]{3}(\.[0-9]{3}){3}")


class BadLine(NamedTuple):
    """A line that says nothing usable: its number (from 1) and why."""

    number: int
    why: str


class Read(NamedTuple):
    """The networks of a list, each once, in the order of the file, and the lines that were of no use."""

    networks: tuple[Network, ...]
    bad: tuple[BadLine, ...]


def read(lines: Iterable[str]) -> Read:
    """Read a list: one address or network a line, `#` comments, `first - last[, level, text]` ranges.

    Networks wider than imported lists may have are bad lines, as are those that aren't anybody's on the Internet.
    """
    networks: dict[Network, None] = {}
    bad: list[BadLine] = []
    for number, line in enumerate(lines, 1):
        text = line[:_LONGEST_LINE].removeprefix("\ufeff").partition("#")[0].strip()
        if not text:
            continue
        try:
            for network in _networks(text):
                networks[network] = None
        except ValueError as error:
            bad.append(BadLine(number, str(error)))
        if len(networks) > MAX_ENTRIES:
            bad.append(BadLine(number, f"more than {MAX_ENTRIES:,} networks; the rest is left out"))
            break
    return Read(tuple(networks)[:MAX_ENTRIES], tuple(bad))


def _networks(text: str) -> list[Network]:
    match = _RANGE.fullmatch(text)
    if match is None:
        return [_narrow(parse_network(text, with_port=True))]
    if match["level"] is not None and int(match["level"]) >= _NOT_BLOCKED:
        return []
    first, last = (_address(match[name]) for name in ("first", "last"))
    if len(first) != len(last) or first > last:
        raise AddressError("address.no_range", text=text[:64])
    parts = ipaddress.summarize_address_range(ipaddress.ip_address(first), ipaddress.ip_address(last))
    return [_narrow(Network(part.network_address.packed, part.prefixlen)) for part in parts]


def _address(text: str) -> bytes:
    # DAT files pad numbers with zeros, which elsewhere would make them octal.
    if _PADDED.fullmatch(text):
        text = ".".join(str(int(part)) for part in text.split("."))
    return address_bytes(text)


def _narrow(network: Network) -> Network:
    widest = MAX_BREADTH_V4 if network.bits == 32 else MAX_BREADTH_V6
    if network.prefix < widest:
        raise AddressError("address.too_wide", network=str(network), widest=widest)
    return network
