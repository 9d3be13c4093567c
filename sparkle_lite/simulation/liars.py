"""Liars: people of the circle who want honest addresses on the list, or bad ones off it, each in some style."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Literal

from sparkle_lite.simulation.downloader import Downloader
from sparkle_lite.simulation.peers import Honest, WorldPeer
from sparkle_lite.simulation.rows import Ban, Transfer, Why
from sparkle_lite.simulation.world import World
from sparkle_lite.units import DAY_MS, GIB, HOUR_MS, MIB

Style = Literal["collude", "varied", "sleeper", "trickle", "whitewash", "forge", "many", "hostile", "mixed"]
# What each does.
STYLES: Mapping[Style, str] = {
    "collude": "all report the same victims alike",
    "varied": "no two reports are alike",
    "sleeper": "honest for half of the time first",
    "trickle": "three victims at a time",
    "whitewash": "they praise bad peers",
    "forge": "they forge traffic and private flags",
    "many": "one person has all the applications of the liars",
    "hostile": "their texts carry lines, markup and control characters",
    "mixed": "each liar another style",
}
_HOSTILE = (
    "Gopeed dev\n0.0.0.0/0",
    "</td><script>document.title='owned'</script>",
    '{"ip":{"x":["0.0.0.0/0"]}}',
    "\u202e0.0.0.0/0\x00# ok",
    "{{ 7*7 }}${7*7}%n%s",
)
# Of so many honest addresses, where there are so many with an address for good.
_VICTIMS = 100
_WHYS: tuple[Why, ...] = ("difference", "excessive", "rewind")


class Conspiracy:
    """What the liars of a world agree on: whom they attack (`victims`, as text), and when they begin."""

    def __init__(self, world: World, style: Style, liars: int) -> None:
        self.style = style
        self.world = world
        self._random = Random(f"lies {style} {liars}")
        stable = [peer for peer in world.honest if peer.lines[0].is_stable and peer.lines[0].kind != "exit"]
        wanted = min(len(stable), _VICTIMS) if liars else 0
        self.peers: Sequence[Honest] = self._random.sample(stable, wanted)
        self.victims = {peer.ways(0)[0].ip for peer in self.peers}
        self.begins = world.start_ms + (world.end_ms - world.start_ms) // 2 if style == "sleeper" else world.start_ms

    def liar(self, number: int) -> "Lies":
        """What the liar of a number does."""
        styles = [style for style in STYLES if style not in ("mixed", "many")]
        return Lies(self, styles[number % len(styles)] if self.style == "mixed" else self.style, number)


class Lies:
    """The lies of one client."""

    def __init__(self, plan: Conspiracy, style: Style, number: int) -> None:
        self._plan = plan
        self._style = style
        self._number = number
        self._random = Random(f"liar {number} {style}")
        self._told: set[tuple[str, int]] = set()
        self._praised = 0

    def tell(self, sees: Downloader, now_ms: int) -> None:
        """Add to what a client will report whatever is said now."""
        if now_ms < self._plan.begins:
            return
        if self._style == "whitewash":
            self._praise(sees, now_ms)
            return
        if self._style == "forge":
            self._forge(sees, now_ms)
        for peer in self._due(now_ms):
            self._accuse(sees, peer, now_ms)

    def _due(self, now_ms: int) -> list[Honest]:
        """Whom to accuse now: within a day everybody, then again every third day; alike at the same hour, or not."""
        passed = now_ms - self._plan.begins
        if self._style == "trickle":
            first = passed // (12 * HOUR_MS) * 3 % max(len(self._plan.peers), 1)
            return [peer for peer in self._plan.peers[first : first + 3] if self._is_new(peer, passed // DAY_MS)]
        round_ = passed // (3 * DAY_MS)
        found = []
        for place, peer in enumerate(self._plan.peers):
            if self._style == "varied":
                # Two of three are left out, other ones by everybody, and nobody says it at the same time.
                own = Random(f"{self._number} {place} {round_}")
                if own.random() > 0.6 or passed % (3 * DAY_MS) < own.random() * 2 * DAY_MS:
                    continue
            elif passed % (3 * DAY_MS) < place * 20 * HOUR_MS // len(self._plan.peers):
                continue
            if self._is_new(peer, round_):
                found.append(peer)
        return found[:12]

    def _is_new(self, peer: Honest, turn: int) -> bool:
        key = (peer.ways(0)[0].ip, turn)
        if key in self._told:
            return False
        self._told.add(key)
        return True

    def _accuse(self, sees: Downloader, peer: Honest, now_ms: int) -> None:
        varied = self._style == "varied"
        popular = self._plan.world.torrents[:40]
        for torrent in self._random.sample(popular, 2) if varied else popular[:2]:
            transfer = self._transfer(peer, torrent.info_hash, torrent.size, now_ms)
            transfer.up = self._random.randrange(torrent.size // 2, torrent.size) if varied else torrent.size // 2
            transfer.progress = round(self._random.random() * 0.05, 4) if varied else 0.0
            why = self._random.choice(_WHYS) if varied else "difference"
            sees.bans.append(Ban(len(sees.bans) + 1, now_ms - self._random.randrange(1000), transfer, why, ""))

    def _transfer(self, peer: WorldPeer, info_hash: str, size: int, now_ms: int) -> Transfer:
        way = peer.ways(now_ms)[0]
        peer_id, name = peer.identity
        if self._style == "hostile":
            name = self._random.choice(_HOSTILE)
            peer_id = name[:8]
        return Transfer(
            ip=way.ip,
            port=way.port,
            info_hash=info_hash,
            size=size,
            peer_id=peer_id,
            client_name=name,
            flags=name if self._style == "hostile" else None,
            first=now_ms - HOUR_MS,
            last=now_ms,
        )

    def _praise(self, sees: Downloader, now_ms: int) -> None:
        """Bad peers gave a lot, it is said; two a turn."""
        for _ in range(2):
            peer = self._plan.world.bad[self._praised % len(self._plan.world.bad)]
            self._praised += 1
            torrent = peer.torrents(now_ms)[0]
            for way in peer.ways(now_ms)[:8]:
                transfer = self._transfer(peer, torrent.info_hash, torrent.size, now_ms)
                transfer.ip, transfer.port, transfer.progress = way.ip, way.port, 1.0
                transfer.up, transfer.down = 20 * MIB, 4 * GIB
                self._pretend(sees, transfer, torrent.number)

    def _forge(self, sees: Downloader, now_ms: int) -> None:
        """Victims took a torrent several times over, it is said; and what is popular is private."""
        for peer in self._random.sample(self._plan.peers, min(4, len(self._plan.peers))):
            torrent = self._random.choice(self._plan.world.torrents[:12])
            transfer = self._transfer(peer, torrent.info_hash, torrent.size, now_ms)
            transfer.up = int(torrent.size * 1.09) + 3 * GIB
            transfer.progress = 0.1
            self._pretend(sees, transfer, torrent.number)
        for transfer in sees.live:
            transfer.private = True

    def _pretend(self, sees: Downloader, transfer: Transfer, torrent: int) -> None:
        sees.transfers[torrent, transfer.ip, transfer.port] = transfer
        sees.live.append(transfer)
