"""What the server was told and took: the data on which the formulas of the originals are tried beside ours."""

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from sparkle_lite.simulation.lists import ListedNetworks
from sparkle_lite.simulation.programs import Program
from sparkle_lite.simulation.rows import PBH_MODULES, Ban, Transfer, said
from sparkle_lite.units import DAY_MS, HOUR_MS, MIB

_PCB = f"{PBH_MODULES}ProgressCheatBlocker"


class _Report(NamedTuple):
    app: str
    ip: str
    at: int
    module: str
    net_up: int
    client_name: str


class _Total(NamedTuple):
    up: int
    down: int
    size: int
    last: int
    progress: float
    peer_id: str
    client_name: str


class Ledger:
    """Accepted bans and the newest totals of each application, address and torrent."""

    def __init__(self) -> None:
        self._bans: list[_Report] = []
        self._totals: dict[tuple[str, str, str], _Total] = {}

    def note_bans(self, app: str, program: Program, bans: Sequence[Ban], now_ms: int) -> None:
        """These bans were taken."""
        for one in bans:
            module, _ = said(program, one)
            peer = one.peer
            self._bans.append(
                _Report(
                    app=app,
                    ip=peer.ip,
                    at=now_ms,
                    module=module,
                    net_up=peer.up - peer.down,
                    client_name=peer.client_name,
                )
            )

    def note_transfers(self, app: str, transfers: Sequence[Transfer], now_ms: int) -> None:
        """These totals were taken."""
        for one in transfers:
            key = (app, one.ip, one.info_hash)
            before = self._totals.get(key)
            up = one.up if before is None else max(one.up, before.up)
            self._totals[key] = _Total(
                up=up,
                down=one.down,
                size=one.size,
                last=now_ms,
                progress=one.progress,
                peer_id=one.peer_id,
                client_name=one.client_name,
            )

    def sparkle_1(self, now_ms: int) -> ListedNetworks:
        """Untrusted vote, over-download and aria2 of the first original: its analyses J1, J2 and J3."""
        apps: dict[str, set[str]] = defaultdict(set)
        found: set[str] = set()
        for ban in self._bans:
            if ban.module == _PCB and ban.at > now_ms - 45 * DAY_MS:
                apps[ban.ip].add(ban.app)
                if ban.client_name.startswith("aria2/"):
                    found.add(ban.ip)
        found.update(ip for ip, who in apps.items() if len(who) >= 2)
        sums: dict[tuple[str, str], int] = defaultdict(int)
        sizes: dict[str, int] = {}
        for (_, ip, torrent), total in self._since(now_ms - 7 * DAY_MS):
            sums[ip, torrent] += total.up
            sizes.setdefault(torrent, total.size)
        for (ip, torrent), taken in sums.items():
            size = sizes[torrent]
            if taken > size * 2.5 and not (size < 64 * MIB and taken < 128 * MIB):
                found.add(ip)
        return ListedNetworks((_within(ip, 60), "") for ip in found)

    def sparkle_3(self, now_ms: int) -> ListedNetworks:
        """Vote, over-download, concurrency and random identity of the second original: its analyses K1 to K4."""
        networks = set(self._voted())
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        together: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
        for (app, ip, torrent), total in self._since(now_ms - 7 * DAY_MS):
            if total.up > total.down and total.size > 0:
                before = sums.get((ip, torrent), (0, total.size))
                sums[ip, torrent] = (before[0] + total.up - total.down, total.size)
            if total.last > now_ms - HOUR_MS and total.progress < 1 and total.up > total.down:
                together[ip][0].add(torrent)
                together[ip][1].add(app)
            if _is_random(total.peer_id, total.client_name):
                networks.add(_within(ip, 60))
        for (ip, _), (taken, size) in sums.items():
            if taken > 15e9 and taken / size > 3.2:
                networks.add(_within(ip, 128))
        networks.update(
            _within(ip, 56) for ip, (torrents, apps) in together.items() if len(torrents) >= 150 and len(apps) >= 3
        )
        return ListedNetworks((network, "") for network in networks)

    def _since(self, since_ms: int) -> Iterator[tuple[tuple[str, str, str], _Total]]:
        return ((key, total) for key, total in self._totals.items() if total.last > since_ms)

    def _voted(self) -> Iterable[str]:
        """K1: bans with 256 MiB behind them, neighbours merged with their votes summed, and only then the thresholds.

        Its window begins in 1970, which is a mistake of the original's; it is kept.
        """
        apps: dict[str, set[str]] = defaultdict(set)
        counts: dict[str, int] = defaultdict(int)
        for ban in self._bans:
            if ban.module == _PCB and ban.net_up > 256 * MIB:
                network = _within(ban.ip, 56)
                apps[network].add(ban.app)
                counts[network] += 1
        votes = {_place(network): (len(who), counts[network]) for network, who in apps.items()}
        return [_text(place) for place, (people, bans) in _merged(votes).items() if people >= 3 and bans >= 5]


_Place = tuple[int, int, int]
_Votes = tuple[int, int]


def _merged(votes: Mapping[_Place, _Votes]) -> dict[_Place, _Votes]:
    """Networks with both halves there become one, with both halves' votes; again and again."""
    left = dict(votes)
    for length in range(128, 0, -1):
        for version, value, size in [place for place in left if place[2] == length]:
            bit = 1 << ((32 if version == 4 else 128) - size)
            twin = (version, value ^ bit, size)
            if not value & bit and twin in left:
                one, other = left.pop((version, value, size)), left.pop(twin)
                left[version, value, size - 1] = one[0] + other[0], one[1] + other[1]
    return left


def _is_random(peer_id: str, name: str) -> bool:
    return bool(peer_id) and name.startswith(peer_id) and not name.startswith(("-XL00", "FD", "MG"))


@lru_cache(100_000)
def _within(ip: str, v6_length: int) -> str:
    length = v6_length if ":" in ip else 32
    return str(ipaddress.ip_network((ip, length), strict=False))


def _place(network: str) -> _Place:
    parsed = ipaddress.ip_network(network)
    return parsed.version, int(parsed.network_address), parsed.prefixlen


def _text(place: _Place) -> str:
    kind = ipaddress.IPv4Network if place[0] == 4 else ipaddress.IPv6Network
    return str(kind((place[1], place[2])))
