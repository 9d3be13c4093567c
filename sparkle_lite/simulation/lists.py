"""What a client makes of the lists that a server hands out: which address is on them, and for what reason."""

import ipaddress
import json
from collections.abc import Iterable
from functools import lru_cache


class ListedNetworks:
    """Networks with a reason each; `networks` as text."""

    def __init__(self, networks: Iterable[tuple[str, str]]) -> None:
        self.networks = dict(networks)
        self._by_size: dict[tuple[int, int], dict[int, str]] = {}
        for text, reason in self.networks.items():
            network = ipaddress.ip_network(text)
            shift = network.max_prefixlen - network.prefixlen
            places = self._by_size.setdefault((network.version, shift), {})
            places[int(network.network_address) >> shift] = reason
        self._known: dict[str, str | None] = {}

    def why(self, ip: str) -> str | None:
        """Why an address is on it, None if it isn't."""
        if ip not in self._known:
            self._known[ip] = next((reason for _, reason in self._covering(ip)), None)
        return self._known[ip]

    def width(self, ip: str) -> int | None:
        """How many bits of a network's addresses cover an address (0: it stands there by itself), None if none does.

        An IPv6 address stands there by itself as the /64 that it is in.
        """
        return min((max(shift - 64, 0) if ":" in ip else shift for shift, _ in self._covering(ip)), default=None)

    def _covering(self, ip: str) -> Iterable[tuple[int, str]]:
        version = 6 if ":" in ip else 4
        value = _number(ip)
        for (kind, shift), places in self._by_size.items():
            if kind == version and value >> shift in places:
                yield shift, places[value >> shift]


NOTHING = ListedNetworks(())


@lru_cache(200_000)
def _number(ip: str) -> int:
    return int(ipaddress.ip_address(ip))


@lru_cache(64)
def of_text(body: bytes) -> ListedNetworks:
    """A list of addresses as text: a reason behind "#" in a line of its own, then an address a line."""
    reason, networks = "", []
    for line in body.decode().splitlines():
        if line.startswith("#"):
            reason = line[1:].strip()
        elif network := line.partition("#")[0].strip():
            networks.append((network, reason))
    return ListedNetworks(networks)


@lru_cache(64)
def of_rules(body: bytes) -> ListedNetworks:
    """The addresses in a document of rules, by category."""
    by_category = json.loads(body).get("ip") or {}
    return ListedNetworks((network, category) for category, networks in by_category.items() for network in networks)
