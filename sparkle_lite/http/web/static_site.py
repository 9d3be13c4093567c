"""The feeds and the pages of reasons as files for a static host: the same for everybody, and without the time.

What `/ip/<address>` tells anyone stands in pages by what an address begins with. One that gets too long is split by
the next number of its addresses, so that a change of the list changes few files.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sparkle_lite.http.web.render import environment, static_file
from sparkle_lite.net import Network
from sparkle_lite.texts import Phrase, languages
from sparkle_lite.wire.feeds import Feed

# Entries of a page beyond which it is split.
_LONGEST_PAGE = 1000
_STYLE, _ICON = "app.css", "icon.svg"


class SiteEntry(NamedTuple):
    """Why a network is listed, since when and until when (ms, None: for ever)."""

    network: Network
    category: str
    why: Phrase
    since: int
    until: int | None


class _ReasonPage(NamedTuple):
    """A page of reasons: the numbers that its addresses begin with, and its entries."""

    numbers: tuple[int, ...]
    bits: int
    entries: Sequence[SiteEntry]

    @property
    def name(self) -> str:
        """What it is called in its folder, without the ending."""
        if not self.numbers:
            return "ipv4" if self.bits == 32 else "ipv6"
        return ".".join(map(str, self.numbers)) if self.bits == 32 else "-".join(f"{each:x}" for each in self.numbers)

    @property
    def begins_with(self) -> str:
        """The beginning of its addresses, as they are written."""
        if not self.numbers:
            return "IPv4" if self.bits == 32 else "IPv6"
        if self.bits == 32:
            return "".join(f"{each}." for each in self.numbers)
        return "".join(f"{each:x}:" for each in self.numbers)


def files(feeds: Sequence[Feed], entries: Sequence[SiteEntry], url: str) -> Iterator[tuple[str, bytes]]:
    """Every file of the site by its path below the folder; `url` is where the folder will be found, without a slash."""
    for feed in feeds:
        yield f"feeds/{feed.name}", feed.body
    for name in (_STYLE, _ICON):
        yield name, static_file(name)
    ordered = sorted(entries, key=lambda entry: (entry.network.bits, entry.network, entry.since, entry.category))
    parts: list[_ReasonPage] = []
    for bits in (32, 128):
        parts += _split(_ReasonPage((), bits, [entry for entry in ordered if entry.network.bits == bits]))
    for language in languages():
        pages = environment(language)
        index, page = pages.get_template("site_index.html"), pages.get_template("site_part.html")
        yield f"{language}/index.html", index.render(feeds=feeds, parts=parts, url=url).encode()
        for part in parts:
            yield f"{language}/reasons/{part.name}.html", page.render(part=part).encode()
    yield "index.html", environment(languages()[0]).get_template("site_languages.html").render().encode()


def _split(part: _ReasonPage) -> Iterator[_ReasonPage]:
    """The page, or pages by the next number where it is too long; none without an entry."""
    size = 1 if part.bits == 32 else 2
    place = len(part.numbers) * size
    if len(part.entries) <= _LONGEST_PAGE or place == part.bits // 8:
        if part.entries:
            yield part
        return
    below: dict[int, list[SiteEntry]] = {}
    for entry in part.entries:
        below.setdefault(int.from_bytes(entry.network.address[place : place + size], "big"), []).append(entry)
    for number, entries in below.items():
        yield from _split(_ReasonPage((*part.numbers, number), part.bits, entries))
