"""Where the page of an address, a client or a torrent is. Their names are whatever a client sent."""

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, urlencode

from sparkle_lite.net import Network, address_text

# Pages hold thousands of links, many of them to the same.
_KEPT = 4096


@lru_cache(_KEPT)
def address(text: str) -> str:
    """The page of an address."""
    return f"/ip/{quote(text, safe=':')}"


def network(target: Network) -> str:
    """The page of an address, or that of a network's first address, which says what is decided about all of it."""
    return address(address_text(target.address))


@lru_cache(_KEPT)
def client(name: str, peer_id: str = "") -> str:
    """The page of a client name, or of that name with one peer id."""
    return _page("/client", "name", name, {"peerId": peer_id} if peer_id else {})


@lru_cache(_KEPT)
def torrent(identifier: str) -> str:
    """The page of a torrent."""
    return _page("/torrent", "identifier", identifier, {})


def explore(view: str, **filters: str) -> str:
    """The explorer with some filters set."""
    return f"/explore/{view}?{urlencode(filters)}"


def _page(path: str, key: str, value: str, more: Mapping[str, str]) -> str:
    # A browser takes "." and ".." in a path for something else, however they are written.
    is_plain = all(part not in ("", ".", "..") for part in value.split("/")) and value.isprintable()
    parameters = dict(more) if is_plain else {key: value, **more}
    base = f"{path}/{quote(value)}" if is_plain else path
    return f"{base}?{urlencode(parameters)}" if parameters else base
