"""Other people's lists of addresses: from the bytes of a file to networks, and what became of every line.

A line that can't be read is a line less, never a list less, and is told with its real cause; what is wider than wanted
is kept out and told. What is no list at all, an error page or half a download, is told as that. How one line is read is
in `list_lines`.
"""

import codecs
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from socket import AF_INET, AF_INET6, inet_pton
from typing import Literal, NamedTuple

from sparkle_lite.errors import SparkleError
from sparkle_lite.net import UNUSUAL, AddressError, Network, not_public_in
from sparkle_lite.texts import Phrase, phrase
from sparkle_lite.units import KIB, MIB
from sparkle_lite.wire.list_lines import COMMENT_MARKS, AddressRange, Columns, Format, read_header, read_line

MAX_LIST_BYTES = 64 * MIB
"""Of a file, inflated."""
MAX_ENTRIES = 500_000
"""Networks of a list, those among them that are too wide."""
MAX_LINES = 2_000_000
MAX_COMMENT = 120
"""Characters of a comment."""

Looks = Literal["list", "html", "json", "empty", "binary"]

# Lines that can't be read before the rest isn't tried any more.
_MAX_REFUSED = 100_000
_LONGEST_LINE = 1024
# What is shown of lines.
_SHOWN, _EXCERPT = 20, 80

_GZIP_MAGIC = b"\x1f\x8b"
# Programs that compress block by block write a member for each 64 KiB.
_MAX_GZIP_MEMBERS, _GZIP_WINDOW = 10_000, 16 * KIB

# Bytes that are looked at to tell an encoding, and what a file is.
_SAMPLE = 4 * KIB
# Archives and documents: zip, 7z, bzip2, xz, zstd, rar, PDF.
_PACKED = (b"PK\x03\x04", b"7z\xbc\xaf", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"Rar!", b"%PDF")
_HTML = re.compile(r"<[a-z!?/]", re.IGNORECASE)
_JSON = re.compile(r"""\{\s*["}]|\[\s*[\[{"\]]""")
# Control characters that are no blanks: a text may have a few, and one in so many of its characters.
_FEW_CONTROLS, _CONTROL_SHARE = 8, 20
_BLANKS = "\t\n\v\f\r\x1a\x1b"
# What stands around lines and isn't seen: DOS's end of file, marks of byte order, blanks of other kinds.
_INVISIBLE = " \t\v\f\x00\x1a\xa0\u200b\ufeff"
# A byte that is no UTF-8, as it was decoded -> the character of Windows-1252 that it most often is.
_OF_BYTES = {0xDC00 + byte: bytes([byte]).decode("cp1252", "replace") for byte in range(0x80, 0x100)}
# Causes that say nothing about how a line is written, so that a line cut off can't have them.
_WELL_WRITTEN = frozenset({"list.not_public", "list.too_many"})


class BadLine(NamedTuple):
    """A line, or the rest of a file from it on, that wasn't used: its number (from 1), why, and how it begins."""

    number: int
    why: Phrase
    text: str


class WideNetwork(NamedTuple):
    """A network that is kept out because it is too wide, and the first line (from 1) that it is of."""

    number: int
    network: Network


class ListRead(NamedTuple):
    """What a file says.

    `networks` are in the order of the file, each once with its comment ("" where there is none): one line of at most
    MAX_COMMENT characters without control characters. `wide` and `bad` are the first 20; `wide_count` is of networks,
    `refused` counts lines by cause (the key of its text), `skipped` those that are no entry ("blank", "comment",
    "header", "not_blocked"), `formats` those that are one by their form. A line of a range of which only a part belongs
    to nobody on the Internet counts as refused too. Of what looks like no list no line is read. `is_cut`: the file ends
    within a line, a character or a gzip stream.
    """

    lines: int
    networks: Mapping[Network, str]
    wide: tuple[WideNetwork, ...]
    wide_count: int
    bad: tuple[BadLine, ...]
    refused: Mapping[str, int]
    skipped: Mapping[str, int]
    formats: Mapping[str, int]
    looks_like: Looks
    is_cut: bool


def read_list(body: bytes, *, form: Format = "auto", widest: tuple[int, int] = (16, 48)) -> ListRead:
    """Read a list as it was downloaded: plain or gzip, in UTF-8 or UTF-16, with any ends of lines.

    `form` is the form of its lines; "auto" tells it line by line. Networks up to `widest` (the prefix lengths of IPv4
    and IPv6) are listed, wider ones kept out. A comment is what stands behind an address, else in the comment lines
    right above it. Raises SparkleError: too_large (over MAX_LIST_BYTES or MAX_LINES), bad_request (damaged gzip).
    """
    data, is_cut = _inflate(body)
    if max(data.count(b"\n"), data.count(b"\r")) > MAX_LINES:
        raise SparkleError("too_large", "list.too_many_lines", most=MAX_LINES)
    encoding = _encoding(data)
    looks_like = _looks(data, data[:_SAMPLE].decode(encoding, "replace"))
    reader = _ListReader(form, widest)
    if looks_like == "list":
        # Lines come one by one, so that a large file isn't held twice.
        errors = "surrogateescape" if encoding == "utf-8" else "replace"
        reader.read(io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline=None))
    is_half = encoding != "utf-8" and len(data) % 2 == 1
    return reader.result(looks_like, is_cut=is_cut or is_half)


def cause(key: str) -> Phrase:
    """What all lines have in common that were refused by the text of this key."""
    return phrase(f"list_cause.{key.rpartition('.')[2]}")


class _ListReader:
    """The lines of one file, read one after the other."""

    def __init__(self, form: Format, widest: tuple[int, int]) -> None:
        self._form: Format = form
        self._widest_v4, self._widest_v6 = widest
        self._columns: Columns | None = None
        # The comment lines right above.
        self._above = ""
        self._lines = 0
        self._networks: dict[Network, str] = {}
        self._wide: dict[Network, int] = {}
        self._bad: list[BadLine] = []
        self._refused: Counter[str] = Counter()
        self._skipped: Counter[str] = Counter()
        self._formats: Counter[str] = Counter()
        # The last line that can't be read, why the rest isn't tried, and whether the last line is half a line.
        self._unreadable = 0
        self._full_by = ""
        self._is_cut = False

    def read(self, stream: Iterator[str]) -> None:
        """Read all lines."""
        may_be_plain = self._form in ("auto", "cidr")
        line = "\n"
        for line in stream:
            self._lines += 1
            text = line.strip()
            if not (may_be_plain and self._take_plain(text)):
                self._take(text.strip(_INVISIBLE))
            if self._full_by:
                break
        self._is_cut = not line.endswith("\n") and self._unreadable == self._lines
        if rest := sum(1 for _ in stream):
            self._lines += rest
            self._refused[self._full_by] += rest

    def result(self, looks_like: Looks, *, is_cut: bool) -> ListRead:
        """What was read."""
        first_wide = islice(self._wide.items(), _SHOWN)
        return ListRead(
            lines=self._lines,
            networks=self._networks,
            wide=tuple(WideNetwork(number, network) for network, number in first_wide),
            wide_count=len(self._wide),
            bad=tuple(self._bad),
            refused=dict(self._refused),
            skipped=dict(self._skipped),
            formats=dict(self._formats),
            looks_like=looks_like,
            is_cut=is_cut or self._is_cut,
        )

    def _take_plain(self, text: str) -> bool:
        """Take a line that is nothing but a public address or network that isn't too wide; False for any other."""
        address, slash, digits = text.partition("/")
        is_v4 = ":" not in address
        try:
            packed = inet_pton(AF_INET if is_v4 else AF_INET6, address)
        except (OSError, ValueError):
            return False
        prefix = bits = 32 if is_v4 else 128
        if slash:
            if not (len(digits) <= 3 and digits.isascii() and digits.isdecimal()):
                return False
            prefix = int(digits)
            widest = max(8, self._widest_v4 if is_v4 else self._widest_v6)
            if not widest <= prefix <= bits or int.from_bytes(packed, "big") & ((1 << bits - prefix) - 1):
                return False
        if UNUSUAL[packed[0]] or len(self._networks) + len(self._wide) >= MAX_ENTRIES:
            return False
        self._keep(Network(packed, prefix), self._comment("") if self._above else "")
        self._formats["network" if slash else "address"] += 1
        return True

    def _take(self, text: str) -> None:
        if not text:
            self._skipped["blank"] += 1
            self._above = ""
        elif text.startswith(COMMENT_MARKS):
            self._skipped["comment"] += 1
            if len(self._above) < MAX_COMMENT:
                self._above = f"{self._above} {_cleaned(text.lstrip('#;/!'), MAX_COMMENT)}".strip()
        else:
            self._take_entry(text)
            self._above = ""

    def _take_entry(self, text: str) -> None:
        if len(text) > _LONGEST_LINE:
            self._refuse(phrase("list.long_line", most=_LONGEST_LINE), text)
            return
        try:
            line = read_line(text, self._form, self._columns)
        except AddressError as error:
            columns = read_header(text) if self._form in ("auto", "csv") else None
            if columns is None:
                self._refuse(error.said, text)
            else:
                self._columns = columns
                self._skipped["header"] += 1
            return
        self._formats[line.form] += 1
        if line.target is None:
            self._skipped["not_blocked"] += 1
        elif wrong := self._add(line.target, self._comment(line.text)):
            self._refuse(wrong, text)

    def _add(self, target: Network | AddressRange, comment: str) -> Phrase | None:
        """Add what a line names; why a part of it, or all of it, isn't wanted."""
        if isinstance(target, Network):
            return self._place(target, comment)
        networks = target.networks(self._widest_v4 if target.bits == 32 else self._widest_v6)
        wrong = [said for network in networks if (said := self._place(network, comment))]
        return wrong[-1] if wrong else None

    def _place(self, network: Network, comment: str) -> Phrase | None:
        special = not_public_in(network)
        is_wide = network.prefix < (self._widest_v4 if network.bits == 32 else self._widest_v6)
        if any(each.contains(network) for each in special) or (special and not is_wide):
            return phrase("list.not_public", network=str(network))
        is_new = network not in self._networks and network not in self._wide
        if is_new and len(self._networks) + len(self._wide) >= MAX_ENTRIES:
            self._full_by = "list.too_many"
            return phrase("list.too_many", most=MAX_ENTRIES)
        if is_wide:
            self._wide.setdefault(network, self._lines)
        else:
            self._keep(network, comment)
        return None

    def _keep(self, network: Network, comment: str) -> None:
        # The first comment that says something stays.
        if comment or network not in self._networks:
            self._networks[network] = self._networks.get(network) or comment

    def _comment(self, text: str) -> str:
        """The comment of a line, which is what stands in it or else above; what stands above is used up."""
        above, self._above = self._above, ""
        return _cleaned(text, MAX_COMMENT) or above[:MAX_COMMENT].rstrip()

    def _refuse(self, why: Phrase, text: str) -> None:
        self._refused[why.key] += 1
        if why.key not in _WELL_WRITTEN:
            self._unreadable = self._lines
        if len(self._bad) < _SHOWN:
            self._bad.append(BadLine(self._lines, why, _cleaned(text, _EXCERPT)))
        if self._refused.total() >= _MAX_REFUSED and not self._full_by:
            self._full_by = "list.too_many_refused"


def _cleaned(text: str, most: int) -> str:
    """A foreign text on one line without control characters, at most so many characters of it."""
    text = " ".join(text[: 4 * most].split())
    if not text.isprintable():
        # Bytes that are no UTF-8 came as halves of characters.
        text = "".join(character for character in text.translate(_OF_BYTES) if character.isprintable())
    return text[:most].strip()


# --- What a file is ---------------------------------------------------------------------------------------------------


def _inflate(body: bytes) -> tuple[bytes, bool]:
    """The plain bytes of a file, and whether a gzip stream in it ends early. What follows gzip is passed over."""
    if len(body) > MAX_LIST_BYTES:
        raise _too_large()
    if not body.startswith(_GZIP_MAGIC):
        return body, False
    pieces: list[bytes] = []
    at, room = 0, MAX_LIST_BYTES + 1
    for _ in range(_MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(wbits=31)
        while not member.eof and at < len(body):
            try:
                pieces.append(member.decompress(memoryview(body)[at : at + _GZIP_WINDOW], room))
            except zlib.error:
                raise SparkleError("bad_request", "list.damaged_gzip") from None
            at += _GZIP_WINDOW
            room -= len(pieces[-1])
            if room <= 0:
                raise _too_large()
        at = min(at, len(body)) - len(member.unused_data)
        if not member.eof or not body.startswith(_GZIP_MAGIC, at):
            return b"".join(pieces), not member.eof
    raise SparkleError("too_large", "list.too_many_members", most=_MAX_GZIP_MEMBERS)


def _too_large() -> SparkleError:
    return SparkleError("too_large", "list.too_large", most=MAX_LIST_BYTES // MIB)


def _encoding(data: bytes) -> str:
    """UTF-16 by its byte order mark or by the zeros of its ASCII; anything else is taken for UTF-8."""
    if data.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le"
    if data.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be"
    even, odd = data[:_SAMPLE:2], data[1:_SAMPLE:2]
    few, many = len(odd) // 20, max(4, len(odd) // 3)
    if odd.count(0) >= many and even.count(0) <= few:
        return "utf-16-le"
    return "utf-16-be" if even.count(0) >= many and odd.count(0) <= few else "utf-8"


def _looks(data: bytes, head: str) -> Looks:
    """What a file is, by its magic bytes and the characters it begins with."""
    begin = head.strip(f"\r\n{_INVISIBLE}")
    if not begin and not data[_SAMPLE:].strip():
        return "empty"
    controls = sum(character < " " and character not in _BLANKS for character in head)
    if data.startswith(_PACKED) or controls > max(_FEW_CONTROLS, len(head) // _CONTROL_SHARE):
        return "binary"
    if _HTML.match(begin):
        return "html"
    return "json" if _JSON.match(begin) else "list"
