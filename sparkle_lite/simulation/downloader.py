"""What one installation sees and does: its peers, what passes, and whom its modules ban, as by default."""

import ipaddress
from collections.abc import Callable, Iterator
from functools import lru_cache
from random import Random

from sparkle_lite.simulation.peers import Honest, Way, WorldPeer, WorldTorrent
from sparkle_lite.simulation.rows import Ban, Transfer, Why
from sparkle_lite.simulation.world import Installation, Member, Sighting, World
from sparkle_lite.units import DAY_MS, MIB

# Honest connections that a torrent has at a time, and how often one ends within a turn.
_SLOTS = 4
_LEAVES = 0.25
# How often a bad peer that is in the swarm finds its way to a client within a turn: they ask everybody.
_EAGER = 0.12
_LONG_MS, _USUAL_MS, _BTN_MS = 30 * DAY_MS, 14 * DAY_MS, 3 * DAY_MS
# ProgressCheatBlocker: below this nothing is checked; shares of the torrent's size.
_LEAST = 50_000_000
_DIFFERENCE, _EXCESSIVE, _REWIND, _FAST = 0.10, 1.5, 0.07, 0.10
# MultiDialingBlocker: so many addresses of a network on one torrent within a day are no accident.
_DIALS = {4: 3, 6: 5}
_NAMES = ("-XL", "-HP", "-SD", "-DL")

Covers = Callable[[str], str | None]
Key = tuple[int, str, int]


class Downloader:
    """The peers of an installation over time; `transfers` in the order in which they began, `bans` of all kinds."""

    def __init__(self, world: World, person: Member, installation: Installation) -> None:
        self.transfers: dict[Key, Transfer] = {}
        self.live: list[Transfer] = []
        self.bans: list[Ban] = []
        self._world = world
        self._person = person
        self._works = installation.works
        self._program = installation.program
        self._random: Random = installation.random
        self._connected: dict[int, dict[Way, WorldPeer]] = {}
        self._banned: dict[str, int] = {}
        self._tested: set[Key] = set()
        # Whom it has met: a module errs about a peer once, not anew on every torrent.
        self._met: set[str] = set()
        # What each network took of each torrent, which is what the modules go by: to change the port is no way out.
        self._taken: dict[tuple[int, str], int] = {}
        self._rewound = False
        self._dials: dict[tuple[int, str], dict[str, int]] = {}

    def turn(self, now_ms: int, while_ms: int, listed: Covers) -> bool:
        """A while has passed; whether the machine is on. `listed` gives the reason why an address is on the list."""
        self.live = []
        if not self._works.is_about(now_ms):
            self._connected.clear()
            return False
        here = self._person.line.address(now_ms)
        torrents = self._works.torrents(now_ms)
        for torrent in torrents:
            connected = self._connected.setdefault(torrent.number, {})
            for sighting in self._found(torrent, connected):
                way = sighting.way
                if way.ip != here and not self._is_refused(way, sighting.peer, torrent, now_ms, listed):
                    connected[way] = sighting.peer
            for way, peer in list(connected.items()):
                is_out = self._banned.get(way.ip, 0) > now_ms or listed(way.ip) is not None
                if is_out or not self._stays(way, peer, torrent):
                    del connected[way]
                    continue
                transfer = self._transfer(way, peer, torrent, now_ms)
                self._trade(transfer, peer, torrent, now_ms, while_ms)
                if self._check(transfer, peer, torrent, now_ms):
                    del connected[way]
        for number in self._connected.keys() - {torrent.number for torrent in torrents}:
            del self._connected[number]
        return True

    def _found(self, torrent: WorldTorrent, connected: dict[Way, WorldPeer]) -> Iterator[Sighting]:
        good, bad, _ = self._world.swarm(torrent)
        random = self._random
        wanted = _SLOTS - sum(not peer.bad for peer in connected.values())
        if good and wanted > 0:
            yield from random.choices(good, k=wanted)
        yield from (one for one in bad if one.way not in connected and random.random() < _EAGER)

    def _stays(self, way: Way, peer: WorldPeer, torrent: WorldTorrent) -> bool:
        is_there = way in self._world.swarm(torrent).ways
        return is_there and (bool(peer.bad) or self._random.random() > _LEAVES)

    def _is_refused(self, way: Way, peer: WorldPeer, torrent: WorldTorrent, now_ms: int, listed: Covers) -> bool:
        """Whether somebody is not let in: banned, or on the list, which is told as a ban every three days."""
        if self._banned.get(way.ip, 0) > now_ms:
            return True
        why = listed(way.ip)
        if why is None:
            return False
        self._ban(self._fresh(way, peer, torrent, now_ms), now_ms, "btn", _BTN_MS, why)
        return True

    def _fresh(self, way: Way, peer: WorldPeer, torrent: WorldTorrent, now_ms: int) -> Transfer:
        peer_id, name = peer.identity_at(now_ms)
        visit = self._works.visit_of(torrent)
        return Transfer(
            ip=way.ip,
            port=way.port,
            info_hash=torrent.info_hash,
            size=torrent.size,
            peer_id=peer_id,
            client_name=name,
            private=torrent.private,
            progress=0.0,
            own_progress=visit.progress(now_ms) if visit else 1.0,
            flags=self._world.flags(self._random),
            first=now_ms,
            last=now_ms,
        )

    def _transfer(self, way: Way, peer: WorldPeer, torrent: WorldTorrent, now_ms: int) -> Transfer:
        key = (torrent.number, way.ip, way.port)
        transfer = self.transfers.get(key)
        if transfer is None:
            transfer = self.transfers[key] = self._fresh(way, peer, torrent, now_ms)
        self.live.append(transfer)
        return transfer

    def _trade(self, transfer: Transfer, peer: WorldPeer, torrent: WorldTorrent, now_ms: int, while_ms: int) -> None:
        visit = self._works.visit_of(torrent)
        transfer.own_progress = round(visit.progress(now_ms), 6) if visit else 1.0
        place = (torrent.number, _range(transfer.ip))
        transfer.taken = self._taken.get(place, 0)
        trade = peer.trade(transfer, torrent, now_ms, while_ms)
        if transfer.last < now_ms - while_ms:
            transfer.earlier_up, transfer.earlier_down = transfer.up, transfer.down
        transfer.up += trade.up
        transfer.taken = self._taken[place] = transfer.taken + trade.up
        transfer.down += trade.down
        # What it said before is what a rewind is measured by.
        self._rewound = transfer.progress - trade.progress > _REWIND
        transfer.progress = trade.progress
        transfer.last = now_ms

    # --- Its modules --------------------------------------------------------------------------------------------------

    def _check(self, transfer: Transfer, peer: WorldPeer, torrent: WorldTorrent, now_ms: int) -> bool:
        """Let the modules look at a peer; whether it was banned."""
        if self._program.family == "bc":
            return False
        if transfer.peer_id.startswith(_NAMES):
            self._ban(transfer, now_ms, "identity", _USUAL_MS, transfer.peer_id[:3].lower())
            return True
        why = self._progress(transfer)
        hunts = self._person.hunts and self._program.family in ("pbh", "prs", "rust")
        if why is None and hunts and self._dials_often(transfer, torrent, now_ms):
            self._ban(transfer, now_ms, "dialing", _USUAL_MS)
            return True
        if transfer.ip not in self._met:
            self._met.add(transfer.ip)
            if why is None and isinstance(peer, Honest):
                why = "difference" if self._random.random() < self._person.blunders else None
        if why is not None:
            self._ban(transfer, now_ms, why, _LONG_MS)
        elif self._program.family == "rust" and transfer.up > _FAST * transfer.size:
            # It disconnects anybody once at a tenth of a torrent, and tells that as a ban.
            key = (torrent.number, transfer.ip, transfer.port)
            if key not in self._tested:
                self._tested.add(key)
                self._ban(transfer, now_ms, "fast", 15_000)
        return why is not None

    def _progress(self, transfer: Transfer) -> Why | None:
        if transfer.size < _LEAST or transfer.taken < _LEAST:
            return None
        if transfer.taken > transfer.size * _EXCESSIVE:
            return "excessive"
        if transfer.taken / transfer.size - transfer.progress > _DIFFERENCE:
            return "difference"
        return "rewind" if self._rewound else None

    def _dials_often(self, transfer: Transfer, torrent: WorldTorrent, now_ms: int) -> bool:
        is_v6 = ":" in transfer.ip
        network = network_text(transfer.ip)
        seen = self._dials.setdefault((torrent.number, network), {})
        seen[transfer.ip] = now_ms
        if len(seen) > _DIALS[6 if is_v6 else 4]:
            for ip in [ip for ip, at in seen.items() if at < now_ms - DAY_MS]:
                del seen[ip]
        return len(seen) > _DIALS[6 if is_v6 else 4]

    def _ban(self, transfer: Transfer, now_ms: int, why: Why, lasts_ms: int, detail: str = "") -> None:
        self._banned[transfer.ip] = now_ms + lasts_ms
        as_it_was = _copy(transfer)
        if why == "difference" and self._progress(transfer) is None:
            # A blunder is believed to have been measured: a piece counted twice, a check of the files.
            as_it_was.up = max(transfer.up, 60 * MIB, transfer.size // 5)
        self.bans.append(Ban(len(self.bans) + 1, now_ms, as_it_was, why, detail))


def _range(ip: str) -> str:
    """What PeerBanHelper takes for one peer, by default: an address, of IPv6 a /56."""
    return network_text(ip) if ":" in ip else ip


@lru_cache(100_000)
def network_text(ip: str) -> str:
    """What stands for the /24 or the /56 of an address, as a key."""
    return ipaddress.IPv6Address(ip).packed[:7].hex() if ":" in ip else ip.rpartition(".")[0]


def _copy(transfer: Transfer) -> Transfer:
    return Transfer(**{name: getattr(transfer, name) for name in Transfer.__slots__})
