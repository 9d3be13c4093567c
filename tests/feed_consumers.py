"""What each consumer of a feed does with it, restated: what it reads of a line, and what makes it give up.

Every function takes the bytes of a feed and returns the first and last address of each range that the consumer would
then block, or raises ClientRejects where it would refuse the file, stop early, or pass over a line: nothing in a feed
may be lost on its way. Nothing here uses the package's code for the wire.
"""

import ipaddress
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from client_parsers import ClientRejects, need

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AnyNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Range(NamedTuple):
    """The first and the last address of what is blocked."""

    first: Address
    last: Address


def networks_of(ranges: Iterable[Range]) -> set[AnyNetwork]:
    """The same addresses as the fewest networks."""
    parts = [part for first, last in ranges for part in ipaddress.summarize_address_range(first, last)]
    return collapsed(parts)


def collapsed(networks: Iterable[AnyNetwork]) -> set[AnyNetwork]:
    """The same addresses as the fewest networks, of both families."""
    known = list(networks)
    v4 = [network for network in known if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in known if isinstance(network, ipaddress.IPv6Network)]
    return {*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6)}


def _lines(body: bytes) -> list[str]:
    text = body.decode("ascii")
    need("\r" not in text, "a carriage return is part of the last word for most of them")
    need(text.endswith("\n"), "the last line has no end")
    return text.split("\n")[:-1]


def _address(text: str) -> Address:
    # As inet_pton: no blanks, no zero in front of a number.
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise ClientRejects(str(error)) from error


def _range(first: str, last: str) -> Range:
    ends = Range(_address(first), _address(last))
    need(ends.first.version == ends.last.version and int(ends.first) <= int(ends.last), f"{ends} is no range")
    return ends


# --- Torrent clients --------------------------------------------------------------------------------------------------


def qbittorrent(body: bytes) -> list[Range]:
    """A .dat file: `a - b , level , text` of both families; a level above 127 is passed over, and so is any CIDR."""
    found = []
    for line in _lines(body):
        need(not line.startswith(("#", "//")), "a comment")
        ends, comma, rest = line.partition(",")
        level = re.match(r"\s*([+-]?\d+)", rest.partition(",")[0])
        need(comma and (level is None or int(level[1]) <= 127), f"{line!r} isn't blocked")
        first, dash, last = ends.partition("-")
        need(dash, f"{line!r} has no dash")
        found.append(_range(first.strip(), last.strip()))
    return found


def transmission(body: bytes) -> list[Range]:
    """PeerGuardian, DAT or CIDR, tried in this order for each line; a list without a range is refused."""
    found = [_peerguardian_line(line) or _dat_line(line) or _cidr_line(line) for line in _lines(body)]
    need(found, "an empty list is refused")
    # Version 3 takes the first bytes of an IPv6 address for IPv4.
    need(all(each.first.version == 4 for each in found), "IPv6")
    return found


def _peerguardian_line(line: str) -> Range | None:
    _, colon, ends = line.partition(":")
    first, dash, last = ends.partition("-")
    try:
        return Range(_address(first), _address(last)) if colon and dash else None
    except ClientRejects:
        return None


def _dat_line(line: str) -> Range | None:
    first, dash, rest = line.partition(" - ")
    last, comma, _ = rest.partition(" , ")
    return _range(first, last) if dash and comma else None


def _cidr_line(line: str) -> Range:
    match = re.fullmatch(r"(\d+\.\d+\.\d+\.\d+)/(\d+)", line)
    if match is None:
        raise ClientRejects(f"{line!r} can't be read")
    # A shift by 32 bits shifts nothing.
    need(1 <= int(match[2]) <= 32, f"{line!r}")
    network = ipaddress.IPv4Network(f"{_address(match[1])}/{match[2]}")
    return Range(network[0], network[-1])


def deluge(body: bytes) -> list[Range]:
    """The first line that is no comment decides by which reader all are read; one that it can't read ends it."""
    lines = [line for line in _lines(body) if line.strip() and not line.strip().startswith("#")]
    need(lines, "nothing tells what it is")
    for reader in (_emule_ends, _last_part_ends):
        ends = reader(lines[0])
        if len(ends) == 2 and all(re.match(r"^(\d{1,3}\.){4}$", f"{end}.") for end in ends):
            break
    else:
        raise ClientRejects(f"{lines[0]!r} is of no known format")
    found = []
    for line in lines:
        ends = reader(line)
        need(len(ends) == 2, f"{line!r} ends the import")
        found.append(_range(ends[0], ends[1]))
        need(found[-1].first.version == 4, f"{line!r} is passed over")
    return found


def _emule_ends(line: str) -> list[str]:
    return line.strip().split(" , ")[0].split(" - ")


def _last_part_ends(line: str) -> list[str]:
    return line.strip().split(":")[-1].split("-")


_BIGLYBT_P2P = re.compile(r"^(.*):([0-9.]+)[^0-9]+([0-9.]+).*")


def biglybt(body: bytes) -> list[Range]:
    """The first line decides: one that has a colon before digits makes all PeerGuardian's, any other makes them DAT.

    A thousand lines in a row that are neither end the reading, and any IPv6 is such a line.
    """
    found = []
    is_p2p: bool | None = None
    unknown = 0
    for line in map(str.strip, _lines(body)):
        match = None if is_p2p is False else _BIGLYBT_P2P.search(line)
        if match:
            is_p2p = True
            found.append(_range(match[2], match[3]))
            continue
        need(not is_p2p, f"{line!r} is passed over")
        is_p2p = False
        parts = re.split(r" *[-,] *", line, maxsplit=3)
        if len(parts) < 2 or not all("." in part and 7 <= len(part) <= 15 for part in parts[:2]):
            unknown += 1
            if unknown == 1000:
                break
            continue
        unknown = 0
        if len(parts) < 4 or int(parts[2]) < 128:
            found.append(_range(parts[0], parts[1]))
    return found


def peerbanhelper(body: bytes) -> list[tuple[Range, str]]:
    """A subscription: comments are the reason of the entry below them; without an entry the old list goes on."""
    found, comments = [], []
    for line in body.decode("utf-8").split("\n"):
        if not line.strip():
            continue
        if line.startswith("#"):
            comments.append(line[1:])
            continue
        need("," not in line and "//" not in line and "#" not in line, f"{line!r} is read as something else")
        network = ipaddress.ip_network(line)
        found.append((Range(network[0], network[-1]), "\n".join(comments)))
        comments = []
    # Comments below the last entry are nobody's.
    need(found, "no update")
    return found


# --- Lists and firewalls ----------------------------------------------------------------------------------------------


def cidr_list(body: bytes) -> list[Range]:
    """A network a line, each with its prefix length, none twice."""
    lines = [line for line in _lines(body) if not line.startswith("#")] if body else []
    networks = [ipaddress.ip_network(line) for line in lines]
    need(all("/" in line for line in lines), "a line without its prefix length")
    return _ranges(networks)


def _ranges(networks: list[AnyNetwork]) -> list[Range]:
    need(all(network.prefixlen for network in networks), "/0 is refused")
    ordered = sorted(networks, key=lambda network: (network.version, int(network[0])))
    for one, other in itertools.pairwise(ordered):
        need(one.version != other.version or int(one[-1]) < int(other[0]), f"{one} and {other} overlap")
    return [Range(network[0], network[-1]) for network in networks]


_NFT_TOKEN = re.compile(r"[{},]|[^\s{},]+")


def nftables(body: bytes) -> dict[str, list[Range]]:
    """The sets after one transaction; elements that overlap or are of the other family fail all of it."""
    words = iter(_NFT_TOKEN.findall(re.sub("#.*", "", body.decode("ascii"))))
    sets: dict[str, list[Range]] = {}
    kinds: dict[str, str] = {}
    for word in words:
        if word == "table":
            _expect(words, "inet", "sparkle", "{")
            while (word := next(words)) != "}":
                need(word == "set", word)
                name = next(words)
                _expect(words, "{", "type")
                kinds[name] = next(words)
                _expect(words, "flags", "interval", "}")
                # What stood before.
                sets[name] = [Range(_address("198.51.100.1"), _address("198.51.100.1"))]
        elif word == "flush":
            _expect(words, "set", "inet", "sparkle")
            sets[next(words)].clear()
        else:
            need(word == "add", word)
            _expect(words, "element", "inet", "sparkle")
            name = next(words)
            _expect(words, "{")
            networks = [ipaddress.ip_network(each) for each in _until_brace(words)]
            version = {"ipv4_addr": 4, "ipv6_addr": 6}[kinds[name]]
            need(networks and all(network.version == version for network in networks), f"{name} can't hold it")
            sets[name] += _ranges(networks)
    return sets


def _expect(words: Iterator[str], *expected: str) -> None:
    for each in expected:
        need(next(words, None) == each, f"no {each}")


def _until_brace(words: Iterator[str]) -> Iterator[str]:
    while True:
        yield next(words)
        if (word := next(words)) == "}":
            return
        need(word == ",", f"{word} instead of a comma")


class IpSet(NamedTuple):
    """A set: how it was created, and what is in it."""

    options: tuple[str, ...]
    members: list[AnyNetwork]


def ipset(body: bytes, before: Mapping[str, IpSet] | None = None) -> dict[str, IpSet]:
    """The sets after `ipset restore`, from those that stood before; `create -exist` needs the same options."""
    sets = dict(before or {})
    for line in _lines(body):
        if line.startswith("#"):
            continue
        verb, name, *rest = line.split(" ")
        match verb:
            case "create":
                need(rest[-1] == "-exist" and rest[0] == "hash:net" and rest[1] == "family", line)
                made = sets.setdefault(name, IpSet(tuple(rest), []))
                need(made.options == tuple(rest), "a set of this name stands with other options")
                need(len(name) < 32, "the name is too long")
            case "flush":
                sets[name].members.clear()
            case "add":
                network = ipaddress.ip_network(rest[0])
                need(network.version == (4 if sets[name].options[2] == "inet" else 6), "the other family")
                need(network.prefixlen > 0 and network not in sets[name].members[-1:], line)
                sets[name].members.append(network)
                need(len(sets[name].members) <= int(sets[name].options[4]), "the set is full")
            case "swap":
                sets[name], sets[rest[0]] = sets[rest[0]], sets[name]
            case "destroy":
                del sets[name]
            case _:
                raise ClientRejects(line)
    return sets


_ROS_LIST = {"/ip firewall address-list": 4, "/ipv6 firewall address-list": 6}


def routeros(body: bytes, before: Iterable[tuple[str, AnyNetwork]] = ()) -> list[tuple[str, AnyNetwork]]:
    """The entries (list, network) after /import, which stops at the first line that fails: an entry that is there."""
    entries = list(before)
    family = 0
    for line in _lines(body):
        # A comment goes on in the next line after a backslash.
        if line.startswith("#") and not line.endswith("\\"):
            continue
        if line in _ROS_LIST:
            family = _ROS_LIST[line]
        elif match := re.fullmatch(r'remove \[find where list="(\w+)"\]', line):
            entries = [each for each in entries if each[0] != match[1] or each[1].version != family]
        elif match := re.fullmatch(r"add list=(\w+) address=(\S+)", line):
            entry = match[1], ipaddress.ip_network(match[2])
            need(entry[1].version == family and entry not in entries[-1:], f"{line!r} fails")
            entries.append(entry)
        else:
            match = re.fullmatch(r'set \[find where list="(\w+)"\] list=(\w+)', line)
            need(match is not None, f"{line!r} can't be read")
            assert match
            moved = [(match[2], each) for name, each in entries if name == match[1] and each.version == family]
            need(not any(each in entries for each in moved), "such an entry is there")
            entries = [each for each in entries if each[0] != match[1] or each[1].version != family] + moved
    return entries
