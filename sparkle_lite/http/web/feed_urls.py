"""Where a program finds each feed, and the command that fetches it where that is how it gets there."""

from typing import NamedTuple

from sparkle_lite.rules.feed_rendering import NAMES

# In the words of shells and routers, which are the same in every language.
_COMMANDS = {
    "ipfilter.dat": "curl -fsS -o ipfilter.dat '{url}'",
    "nftables.conf": "curl -fsS -o sparkle.nft '{url}' && nft -f sparkle.nft",
    "ipset.txt": "curl -fsS -o sparkle.ipset '{url}' && ipset restore -f sparkle.ipset",
    "routeros.rsc": '/tool fetch url="{url}" dst-path=sparkle.rsc; /import sparkle.rsc',
}


class FeedUrl(NamedTuple):
    """A feed, where a program finds it, and the command that fetches it; "" where the program does that by itself."""

    name: str
    url: str
    command: str


def feed_urls(base: str, query: str = "") -> list[FeedUrl]:
    """Every feed, by the URL of the server or site, without a slash, and what follows the name of a feed."""
    found = []
    for name in NAMES:
        url = f"{base}/feeds/{name}{query}"
        found.append(FeedUrl(name, url, _COMMANDS.get(name, "").format(url=url)))
    return found
