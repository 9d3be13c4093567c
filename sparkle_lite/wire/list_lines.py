"""One line of somebody's list of addresses: what it names, whatever form it is written in.

The forms are those of the lists that are about: an address or network with or without text, a range, eMule's DAT
(`first - last , level , text`, numbers padded with zeros, from level 128 on not blocked), PeerGuardian's P2P text
(`text:first-last`, https://sourceforge.net/p/peerguardian/wiki/dev-blocklist-format-p2p/), cells of CSV with and
without a header, and the lines of a firewall that deny one address. Where a line could mean two things, it is refused.
"""

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal, NamedTuple

from sparkle_lite.net import AddressError, Network, address_and_port, address_text, parse_network

Format = Literal["auto", "cidr", "dat", "p2p", "csv"]
Form = Literal["address", "network", "range", "dat", "p2p", "csv", "firewall"]

COMMENT_MARKS = ("#", ";", "//", "!")

# eMule's level from which on a range is not blocked; without a level it is.
_NOT_BLOCKED = 128
# No address is longer, with brackets, zone, port and prefix.
_LONGEST_ADDRESS = 100
_DASHES = r"\-–—"
_RANGE = re.compile(rf'(?P<first>[^\s,;#|"{_DASHES}]+)\s*(?P<mark>[,{_DASHES}])\s*(?P<last>[^\s,;#|"{_DASHES}]+)')
_LEVEL = re.compile(r"\s*,\s*(?P<level>[0-9]{0,9})\s*(?:,(?P<text>.*))?")
_HALF_RANGE = re.compile(rf"\s*[{_DASHES}]\s*(?:[0-9][0-9A-Fa-f.:]*)?")
_PADDING = re.compile(r"(?<![0-9A-Fa-f:])0{1,2}(?=[0-9])")
_WORD = re.compile(r'[^\s,;#|"]+')
_V4_LIKE = re.compile(r"\[?[0-9]+(?:\.[0-9*]+){2,}\]?(?::[0-9]+)?(?:/\S*)?")
_V6_LIKE = re.compile(r"\[?[0-9A-Fa-f:.]+(?:%[^\s/\]]+)?\]?(?::[0-9]+)?(?:/\S*)?")
_V4_RANGE = re.compile(rf"\s*(?P<first>[0-9]+(?:\.[0-9]+){{2,}})\s*[{_DASHES}]\s*(?P<last>[0-9]+(?:\.[0-9]+){{2,}})\s*")
_MARKED = re.compile(r"\s*(?:#|//|!)|\s+;")
_HOST_NAME = re.compile(r"(?:[a-z]+://)?(?P<name>(?:[\w-]{1,63}\.)+[^\W\d_][\w-]{1,62})", re.IGNORECASE)
_FIREWALL = (
    re.compile(
        r"(?:ipset\s+)?add\s+\S+\s+(?P<target>\S+)(?:\s+timeout\s+[0-9]+)?"
        r"(?:\s+comment\s+\"(?P<text>[^\"]*)\")?(?:\s+-exist)?"
    ),
    re.compile(r"(?:ip6?tables\s+)?-[AI]\s+\S+(?:\s+[0-9]+)?\s+-s\s+(?P<target>\S+)\s+-j\s+(?:DROP|REJECT)(?P<text>)"),
    re.compile(r"deny\s+(?:from\s+)?(?P<target>[^\s;]+)\s*;?(?P<text>)", re.IGNORECASE),
)

_NETMASKS = frozenset((0xFFFFFFFF >> bits << bits).to_bytes(4, "big") for bits in range(25))

_DELIMITERS = (",", ";", "\t", "|")
_NOT_A_LETTER = re.compile(r"[^a-z0-9]+")
# What the columns are called, in small letters and without what is neither letter nor digit.
_TARGET, _FIRST, _LAST, _BITS, _TEXT = (
    frozenset(names.split())
    for names in (
        "ip ipaddress ipaddr address addr cidr ipcidr network net netblock subnet prefix range iprange ipv4 ipv6 srcip"
        " sourceip dstip peerip hostip remoteip remoteaddress",
        "first start from begin firstip startip ipstart ipfrom rangestart startaddress",
        "last end to lastip endip ipend ipto rangeend endaddress",
        "bits mask netmask masklen masklength prefixlen prefixlength",
        "comment comments reason description desc note notes remark text label name info",
    )
)


class AddressRange(NamedTuple):
    """The addresses from a first to a last one, both included, as integers of 32 or 128 bits."""

    first: int
    last: int
    bits: int

    def networks(self, widest: int) -> Iterator[Network]:
        """The same addresses as networks, ascending: the fewest, but where `widest` (a prefix length) divides them.

        A range says where it ends and not how it is aligned, so what of it is too wide must not hang on that. Of four
        times the widest network on, less one address, every range holds a wider one wherever it begins: those come as
        they are, for the caller to keep out. Every smaller range could be all narrow, so it is made narrow.
        """
        is_divided = self.last - self.first + 1 < 4 * (1 << self.bits - widest) - 1
        first = self.first
        while first <= self.last:
            room = (self.last - first + 1).bit_length() - 1
            if first:
                room = min(room, (first & -first).bit_length() - 1)
            if is_divided:
                room = min(room, self.bits - widest)
            yield Network(first.to_bytes(self.bits // 8, "big"), self.bits - room)
            first += 1 << room


class ListLine(NamedTuple):
    """What a line says: in which form, about which addresses (None: that they are not blocked), and the text with it.

    The text is as it stands there.
    """

    form: Form
    target: Network | AddressRange | None
    text: str


class Columns(NamedTuple):
    """Where the cells of a table stand, as its header says: what parts them, and the places of address and text.

    `delimiter` is "" where there is one column, which says nothing about commas in the lines below. `last` is the place
    of a range's end, `bits` that of a prefix length, None where the address cell says all; `text` is None where every
    other cell is text.
    """

    delimiter: str
    target: int
    last: int | None
    bits: int | None
    text: int | None


def read_line(text: str, form: Format, columns: Columns | None) -> ListLine:
    """What a line says that is neither empty nor a comment, without blanks around it.

    `columns` are those of the header above it, which says what the cells of a line are.
    Raises AddressError with the cause where it says nothing that is sure.
    """
    if columns is not None and columns.delimiter and (line := _row(text, columns)):
        return line
    for read in _READERS[form]:
        if line := read(text):
            return line
    raise _no_address(text)


def read_header(text: str) -> Columns | None:
    """The columns that a line names, if it is the header of a table."""
    delimiter = max(_DELIMITERS, key=text.count)
    names = [_NOT_A_LETTER.sub("", cell.lower()) for cell in _cells(text, delimiter)]
    target, first, last, bits, about = (
        next((place for place, name in enumerate(names) if name in known), None)
        for known in (_TARGET, _FIRST, _LAST, _BITS, _TEXT)
    )
    if first is not None and last is not None:
        target, bits = first, None
    else:
        last = None
    if target is None:
        return None
    return Columns(delimiter=delimiter if len(names) > 1 else "", target=target, last=last, bits=bits, text=about)


# --- Forms ------------------------------------------------------------------------------------------------------------


def _range(text: str) -> ListLine | None:
    """`first-last`, `first - last , level , text` and the like, with a comma in place of the dash too."""
    match = _RANGE.match(text)
    if match is None or not (_is_like_one(match["first"]) and _is_like_one(match["last"])):
        return None
    try:
        target = _between(match["first"], match["last"])
    except AddressError:
        if match["mark"] == "," and not (_is_surely_one(match["first"]) and _is_surely_one(match["last"])):
            return None
        if not _is_address(match["first"]) and (line := _p2p(text)):
            return line
        raise
    if target.bits == 128 and (shorter := _range_behind_text(text)) and shorter[0] > target:
        raise AddressError("list.ambiguous", text=text[:64])
    rest = text[match.end() :]
    if level := _LEVEL.fullmatch(rest):
        is_blocked = int(level["level"] or 0) < _NOT_BLOCKED
        return ListLine(form="dat", target=target if is_blocked else None, text=level["text"] or "")
    _check_rest(text, rest)
    return ListLine(form="range", target=target, text=_without_marks(rest))


def _dat(text: str) -> ListLine | None:
    line = _range(text)
    return line and line._replace(form="dat")


def _plain(text: str) -> ListLine | None:
    """An address or network, and maybe text behind a mark, a comma or a blank."""
    match = _WORD.match(text)
    if match is None:
        return None
    word, rest = match[0], text[match.end() :]
    if word.endswith(":") and not word.endswith("::"):
        word = word[:-1]
    if not _is_like_one(word) or (rest[:1] in _DELIMITERS and ('"' in rest or not _is_surely_one(word))):
        return None
    target = _network(word)
    if _HALF_RANGE.fullmatch(rest):
        raise AddressError("list.half_range", text=text[:64])
    _check_rest(text, rest)
    return ListLine(form="network" if "/" in word else "address", target=target, text=_without_marks(rest))


def _p2p(text: str) -> ListLine | None:
    """`text:first-last`; the text may hold colons."""
    found = _range_behind_text(text)
    return found and ListLine(form="p2p", target=found[0], text=found[1])


def _range_behind_text(text: str) -> tuple[AddressRange, str] | None:
    before, colon, after = text.rpartition(":")
    if colon and (match := _V4_RANGE.fullmatch(after)):
        return _between(match["first"], match["last"]), before
    before, dash, after = text.rpartition("-")
    last = after.strip()
    if not dash or not (":" in last and _is_address(last)):
        return None
    # An IPv6 address has colons as well, and so may have the text before it. Of the places where one can begin, that of
    # the shortest range is meant.
    pieces = before.split(":")
    found = []
    for count in range(2, min(len(pieces), 9)):
        first = ":".join(pieces[-count:]).strip()
        if _is_address(first) and address_and_port(first)[0] <= address_and_port(last)[0]:
            found.append((_between(first, last), ":".join(pieces[:-count])))
    return max(found, default=None)


def _firewall(text: str) -> ListLine | None:
    for form in _FIREWALL:
        if (match := form.fullmatch(text)) and (target := _target(match["target"])):
            return ListLine(form="firewall", target=target, text=match["text"] or "")
    return None


def _csv(text: str) -> ListLine | None:
    """Cells without a header: the one that holds an address or network, or the first two if these are a range."""
    broken = None
    for delimiter in [each for each in _DELIMITERS if each in text] or [","]:
        cells = _cells(text, delimiter)
        places = [place for place, cell in enumerate(cells) if _is_target(cell)]
        if places:
            return _of_cells(text, cells, places)
        broken = broken or next((cell for cell in cells if _is_like_one(cell)), None)
    if broken is not None:
        _target(broken)
    return None


def _of_cells(text: str, cells: list[str], places: list[int]) -> ListLine:
    target = _target(cells[places[0]])
    if places == [0, 1] and all(_is_address(cell) for cell in cells[:2]):
        target = _between(cells[0], cells[1])
    elif len(places) > 1:
        raise AddressError("list.two_addresses", text=text[:64])
    others = (cell for place, cell in enumerate(cells) if place not in places)
    return ListLine(form="csv", target=target, text=" ".join(others))


def _row(text: str, columns: Columns) -> ListLine | None:
    cells = _cells(text, columns.delimiter)
    named = {columns.target, columns.last, columns.bits} - {None}
    if any(place is not None and place >= len(cells) for place in named):
        return None
    if columns.text is None:
        comment = " ".join(cell for place, cell in enumerate(cells) if place not in named)
    else:
        comment = cells[columns.text] if columns.text < len(cells) else ""
    address = cells[columns.target]
    if columns.bits is not None and "/" not in address:
        address += f"/{cells[columns.bits]}"
    target = _target(address) if columns.last is None else _between(address, cells[columns.last])
    if target is None:
        raise _no_address(address)
    return ListLine(form="csv", target=target, text=comment)


_READERS: dict[Format, tuple[Callable[[str], ListLine | None], ...]] = {
    "auto": (_range, _plain, _p2p, _firewall, _csv),
    "cidr": (_range, _plain),
    # What eMule takes as its filter may be P2P text as well.
    "dat": (_dat, _plain, _p2p),
    "p2p": (_p2p,),
    "csv": (_csv,),
}


def _cells(text: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:
        return []


# --- Addresses --------------------------------------------------------------------------------------------------------


def _is_like_one(text: str) -> bool:
    """Whether a text is meant as an address or network, right or wrong."""
    if len(text) > _LONGEST_ADDRESS or not ("." in text or ":" in text) or not text.isascii():
        return False
    return bool(_V4_LIKE.fullmatch(text) or (text.count(":") > 1 and _V6_LIKE.fullmatch(text)))


def _is_surely_one(text: str) -> bool:
    """Whether what is like an address can't be a date, a time or a version."""
    return text.count(".") == 3 or text.count(":") > 2 or _is_address(text)


def _is_address(text: str) -> bool:
    try:
        _address(text, is_padded=True)
    except AddressError:
        return False
    return True


def _is_target(text: str) -> bool:
    try:
        return _target(text) is not None
    except AddressError:
        return False


def _target(text: str) -> Network | AddressRange | None:
    """An address, network or range that is the whole of a text; None where it isn't meant as one."""
    if (match := _RANGE.fullmatch(text)) and match["mark"] != "," and _is_like_one(match["first"]):
        return _between(match["first"], match["last"])
    return _network(text) if _is_like_one(text) else None


def _between(first: str, last: str) -> AddressRange:
    start, end = _address(first, is_padded=True), _address(last, is_padded=True)
    if len(start) != len(end):
        raise AddressError("list.mixed_families", first=first[:64], last=last[:64])
    # No range ends there; it is how a network is written without a prefix length.
    if 0 < start[0] < 224 and end in _NETMASKS:
        raise AddressError("list.netmask", first=first[:64], mask=last[:64])
    if start > end:
        raise AddressError("list.end_before_start", first=first[:64], last=last[:64])
    return AddressRange(int.from_bytes(start, "big"), int.from_bytes(end, "big"), len(start) * 8)


def _network(text: str) -> Network:
    address, slash, prefix = text.partition("/")
    plain = _address(address, is_padded=False)
    if not slash:
        return Network(plain, len(plain) * 8)
    bits = 128 if address.count(":") > 1 else 32
    if not (prefix.isascii() and prefix.isdecimal() and len(prefix) <= 3 and int(prefix) <= bits):
        raise AddressError("list.bad_prefix", prefix=prefix[:16], bits=bits)
    # Zeros that pad numbers are gone in the canonical text; a port stays, and is refused.
    return parse_network(f"{address if ':' in address else address_text(plain)}/{prefix}")


def _address(text: str, *, is_padded: bool) -> bytes:
    """An address, its port passed over; `is_padded`: zeros before its numbers only pad them, as they do in ranges."""
    try:
        return address_and_port(_unpadded(text) if is_padded else text)[0]
    except AddressError as error:
        if error.said.key == "address.bad_port":
            raise
    numbers = text.strip("[]").split(":")[0].split(".") if text.count(":") < 2 else []
    if len(numbers) > 2 and all(each == "*" or (each.isascii() and each.isdecimal()) for each in numbers):
        _check_numbers(text, numbers)
        with suppress(AddressError):
            return address_and_port(_unpadded(text))[0]
    if text.count(":") > 1:
        raise AddressError("list.bad_ipv6", text=text[:64])
    raise _no_address(text)


def _unpadded(text: str) -> str:
    return _PADDING.sub("", text) if text.startswith("0") or ".0" in text else text


def _check_numbers(text: str, numbers: list[str]) -> None:
    """Raise AddressError with what is wrong with the numbers of an IPv4 address."""
    if len(numbers) != 4:
        raise AddressError("list.not_four_numbers", text=text[:64], count=len(numbers))
    for number in numbers:
        if len(number) > 3 or number == "*" or int(number) > 255:
            raise AddressError("list.bad_octet", octet=number[:16])
    # Where each number has three digits, none of them is octal; and up to seven both are the same.
    if not all(len(number) == 3 for number in numbers):
        for number in numbers:
            if number.startswith("0") and (len(number.lstrip("0")) > 1 or number[-1] in "89"):
                raise AddressError("list.leading_zero", octet=number)


def _no_address(text: str) -> AddressError:
    if match := _HOST_NAME.match(text):
        return AddressError("list.host_name", name=match["name"][:64])
    return AddressError("list.no_address", text=text[:64])


# --- Text behind an address -------------------------------------------------------------------------------------------


def _check_rest(text: str, rest: str) -> None:
    """Raise AddressError where what follows an address names another one and isn't marked as a comment."""
    if not rest or _MARKED.match(rest):
        return
    by_blanks = rest[:1] not in _DELIMITERS
    others = re.split(r'[\s,;|"]+' if by_blanks else r"[,;|\t]", rest)
    if any(_is_target(other.strip('" ')) for other in others) or _p2p(text):
        raise AddressError("list.two_addresses", text=text[:64])


def _without_marks(rest: str) -> str:
    return rest.lstrip(" \t,;|#!/:-–—")
