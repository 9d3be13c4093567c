"""The feeds and the pages of reasons as files for a static host: the same for everybody, and without the time.

What `/ip/<address>` tells anyone stands in pages by what an address begins with. One that gets too long is split by
the next number of its addresses, so that a change of the list changes few files.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sparkle_lite.http.web.feed_urls import feed_urls
from sparkle_lite.http.web.render import environment, static_file
from sparkle_lite.net import Network
from sparkle_lite.texts import Phrase, languages
from sparkle_lite.wire.feeds import Credit, Feed

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


class SiteContent(NamedTuple):
    """What the site is made of; `credits` are shown on every page with reasons."""

    feeds: Sequence[Feed]
    entries: Sequence[SiteEntry]
    credits: Sequence[Credit]


class _ReasonPage(NamedTuple):
    """A page of reasons: the bytes that its addresses (of 32 or 128 bits) begin with, and its entries."""

    beginning: bytes
    bits: int
    entries: Sequence[SiteEntry]

    @property
    def begins_with(self) -> str:
        """The beginning of its addresses, as people know it."""
        if not self.beginning:
            return "IPv4" if self.bits == 32 else "IPv6"
        if self.bits == 32:
            return "".join(f"{number}." for number in self.beginning)
        digits = self.beginning.hex()
        return ":".join(digits[at : at + 4] for at in range(0, len(digits), 4))

    @property
    def name(self) -> str:
        """What it is called in its folder, without the ending."""
        return self.begins_with.strip(".").replace(":", "-").lower()


def files(content: SiteContent, url: str) -> Iterator[tuple[str, bytes]]:
    """Every file of the site by its path below the folder; `url` is where the folder will be found, without a slash."""
    for feed in content.feeds:
        yield f"feeds/{feed.name}", feed.body
    for name in (_STYLE, _ICON):
        yield name, static_file(name)
    ordered = sorted(
        content.entries, key=lambda entry: (entry.network.bits, entry.network, entry.since, entry.category)
    )
    parts: list[_ReasonPage] = []
    for bits in (32, 128):
        parts += _split(_ReasonPage(b"", bits, [entry for entry in ordered if entry.network.bits == bits]))
    urls = {feed.name: feed for feed in feed_urls(url)}
    for language in languages():
        pages = environment(language)
        index, page = pages.get_template("site_index.html"), pages.get_template("site_part.html")
        yield f"{language}/index.html", index.render(content._asdict(), parts=parts, urls=urls).encode()
        for part in parts:
            yield f"{language}/reasons/{part.name}.html", page.render(part=part, credits=content.credits).encode()
    yield "index.html", environment(languages()[0]).get_template("site_languages.html").render().encode()


def _split(page: _ReasonPage) -> Iterator[_ReasonPage]:
    """The page, or pages by the next byte where it is too long; none without an entry."""
    place = len(page.beginning)
    if len(page.entries) <= _LONGEST_PAGE or place == page.bits // 8:
        if page.entries:
            yield page
        return
    below: dict[bytes, list[SiteEntry]] = {}
    for entry in page.entries:
        below.setdefault(entry.network.address[: place + 1], []).append(entry)
    for beginning, entries in below.items():
        yield from _split(_ReasonPage(beginning, page.bits, entries))
