"""The peers of a world: honest ones of every kind, and bad ones of whom it is known.

A peer answers three questions: where it is (`ways`), on which torrents (`torrents`), and what passes between it and a
client in a while (`trade`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from sparkle_lite.simulation.lines import AccessLine
from sparkle_lite.simulation.rows import Transfer
from sparkle_lite.units import DAY_MS, GIB, HOUR_MS, MIB

# What a bad peer is called in the report, in its order.
BAD_KINDS = (
    "progress cheater",
    "cheater that seeds a little",
    "burner, stable port",
    "burner, changing ports",
    "one copy each of hundreds",
    "multi-dialer /24",
    "multi-dialer /56",
    "scraper of hundreds of torrents",
    "random identity",
    "botnet, 4 h an address",
    "cheater on a shared exit",
)


class WorldTorrent(NamedTuple):
    """A torrent."""

    number: int
    info_hash: str
    size: int
    private: bool


class Way(NamedTuple):
    """Where a peer can be reached: its address as text, and its port."""

    ip: str
    port: int


class Trade(NamedTuple):
    """What passed in a while (bytes to the peer and from it), and what the peer then says of its progress."""

    up: int
    down: int
    progress: float


@dataclass(slots=True)
class Stay:
    """A peer on a torrent from `start` to `end`; it loads at `speed` (bytes/s) until `limit` of it (0..1)."""

    torrent: WorldTorrent
    start: int
    end: int
    speed: float
    limit: float

    def progress(self, now_ms: int) -> float:
        """How much of the torrent it has."""
        if self.speed == 0:
            return self.limit
        return min(self.limit, max(0.0, (now_ms - self.start) / 1000 * self.speed / self.torrent.size))


class WorldPeer:
    """What all peers have: lines, a port, a name, and the time in which they are about."""

    bad = ""

    def __init__(self, lines: Sequence[AccessLine], port: int, identity: tuple[str, str], random: Random) -> None:
        self.lines = lines
        self.port = port
        self.identity = identity
        self.begins, self.ends = 0, 1 << 62
        self._random = random
        self._key = random.randrange(1 << 30)

    def is_about(self, now_ms: int) -> bool:
        """Whether it is online."""
        return self.begins <= now_ms < self.ends

    def ways(self, now_ms: int) -> list[Way]:
        """Its addresses, all at once."""
        return [Way(line.address(now_ms), self.port) for line in self.lines]

    def identity_at(self, now_ms: int) -> tuple[str, str]:
        """Its peer_id and the name that clients make of it."""
        return self.identity

    def torrents(self, now_ms: int) -> list[WorldTorrent]:
        """Where it is."""
        raise NotImplementedError

    def trade(self, transfer: Transfer, torrent: WorldTorrent, now_ms: int, while_ms: int) -> Trade:
        """What passes between it and a client in a while; the client draws for it."""
        raise NotImplementedError


# --- Honest -----------------------------------------------------------------------------------------------------------


class Honest(WorldPeer):
    """Somebody who loads what they want and seeds it for a while, then wants something else.

    `quirk`: "" or "partial" (wants a part only), "again" (loads it once more), "stuck" (a program that always says 0),
    "seedbox" (has much, gives much).
    """

    def __init__(
        self, lines: Sequence[AccessLine], port: int, identity: tuple[str, str], random: Random, quirk: str = ""
    ) -> None:
        super().__init__(lines, port, identity, random)
        self.quirk = quirk
        self.visits: list[Stay] = []
        self._known: set[int] = set()
        # From this hour of the day on it is off for so many hours.
        self._off = (random.randrange(24), 0 if quirk == "seedbox" else random.choice((0, 8, 14)))
        self.speed = random.lognormvariate(0.3, 0.9) * MIB

    def is_about(self, now_ms: int) -> bool:
        begin, hours = self._off
        return (now_ms // HOUR_MS - begin) % 24 >= hours

    def torrents(self, now_ms: int) -> list[WorldTorrent]:
        return [visit.torrent for visit in self.visits if visit.start <= now_ms < visit.end]

    def wants(self, torrent: WorldTorrent) -> bool:
        """Whether it never had a torrent."""
        return torrent.number not in self._known

    def visit(self, torrent: WorldTorrent, now_ms: int, *, has_it: bool) -> None:
        """Begin with a torrent."""
        self._known.add(torrent.number)
        days = self._random.uniform(0.5, 4) if self.quirk != "seedbox" else 30.0
        limit = self._random.uniform(0.2, 0.8) if self.quirk == "partial" and not has_it else 1.0
        speed = 0.0 if has_it else self.speed
        loading = 0 if has_it else int(torrent.size / self.speed * 1000)
        self.visits.append(Stay(torrent, now_ms, now_ms + loading + int(days * DAY_MS), speed, limit))

    def finish(self, now_ms: int) -> int:
        """Leave what is over; how many were left."""
        over = [visit for visit in self.visits if visit.end <= now_ms]
        self.visits = [visit for visit in self.visits if visit.end > now_ms]
        if self.quirk == "again":
            for visit in over:
                if visit.speed:
                    self.visits.append(Stay(visit.torrent, now_ms, now_ms + DAY_MS, self.speed, 1.0))
        return len(over)

    def visit_of(self, torrent: WorldTorrent) -> Stay | None:
        """Its visit on a torrent."""
        return next((visit for visit in self.visits if visit.torrent is torrent), None)

    def trade(self, transfer: Transfer, torrent: WorldTorrent, now_ms: int, while_ms: int) -> Trade:
        visit = self.visit_of(torrent)
        if visit is None:
            return Trade(0, 0, transfer.progress)
        has, had = visit.progress(now_ms), visit.progress(now_ms - while_ms)
        share = self._random.random() * 0.35
        up = int((has - had) * torrent.size * share) if transfer.own_progress > 0.2 else 0
        down = 0
        if transfer.own_progress < 1 and has > 0.1:
            down = int(self._random.random() * 0.25 * while_ms / 1000 * self.speed)
        return Trade(up, down, 0.0 if self.quirk == "stuck" else round(has, 6))


# --- Bad --------------------------------------------------------------------------------------------------------------


class Cheater(WorldPeer):
    """Takes and says it has nothing. `gives`: the share of what it takes that it gives back."""

    def __init__(
        self,
        kind: str,
        lines: Sequence[AccessLine],
        port: int,
        identity: tuple[str, str],
        random: Random,
        where: list[WorldTorrent],
        *,
        gives: float = 0.0,
        greed: float = 1.0,
    ) -> None:
        super().__init__(lines, port, identity, random)
        self.bad = kind
        self.where = where
        self._gives = gives
        self._greed = greed

    def torrents(self, now_ms: int) -> list[WorldTorrent]:
        return self.where

    def trade(self, transfer: Transfer, torrent: WorldTorrent, now_ms: int, while_ms: int) -> Trade:
        if transfer.own_progress < 0.2:
            return Trade(0, 0, 0.0)
        up = int(self._random.uniform(40, 420) * self._greed * MIB)
        return Trade(up, int(up * self._gives), round(self._random.random() * 0.02, 4))


class Burner(WorldPeer):
    """Loads the whole of a torrent from everybody, again and again, and says that it has nearly all.

    `moves`: with another port every hour. `once`: one copy in all of each torrent, of hundreds.
    """

    def __init__(
        self,
        kind: str,
        lines: Sequence[AccessLine],
        port: int,
        identity: tuple[str, str],
        random: Random,
        where: list[WorldTorrent],
        *,
        moves: bool = False,
        once: bool = False,
    ) -> None:
        super().__init__(lines, port, identity, random)
        self.bad = kind
        self.where = where
        self._moves = moves
        self._once = once
        self._taken: dict[int, int] = {}

    def ways(self, now_ms: int) -> list[Way]:
        port = self.port + (now_ms // HOUR_MS * 7919 + self._key) % 20_000 if self._moves else self.port
        return [Way(line.address(now_ms), port) for line in self.lines]

    def torrents(self, now_ms: int) -> list[WorldTorrent]:
        return self.where

    def trade(self, transfer: Transfer, torrent: WorldTorrent, now_ms: int, while_ms: int) -> Trade:
        taken = self._taken.get(torrent.number, 0) if self._once else transfer.taken
        left = int(torrent.size * (1.0 if self._once else 1.06)) - taken
        wants = int(self._random.uniform(0.2, 1.2) * GIB)
        up = max(0, min(left, wants)) if transfer.own_progress > 0.2 else 0
        self._taken[torrent.number] = taken + up
        return Trade(up, 0, round(min(0.985, (taken + up) / torrent.size), 4))


class Scraper(WorldPeer):
    """On hundreds of torrents at once, takes little of each, gives nothing."""

    bad = "scraper of hundreds of torrents"

    def __init__(
        self,
        lines: Sequence[AccessLine],
        port: int,
        identity: tuple[str, str],
        random: Random,
        where: list[WorldTorrent],
    ) -> None:
        super().__init__(lines, port, identity, random)
        self.where = where

    def torrents(self, now_ms: int) -> list[WorldTorrent]:
        return self.where

    def trade(self, transfer: Transfer, torrent: WorldTorrent, now_ms: int, while_ms: int) -> Trade:
        up = self._random.randrange(4 * MIB) if transfer.own_progress > 0.2 and transfer.taken < 30 * MIB else 0
        return Trade(up, 0, round(min(0.9, (transfer.taken + up) / torrent.size), 4))


class RandomIdentity(Scraper):
    """Takes what it gets under a name of chance, another every day, and tells its progress truly."""

    bad = "random identity"

    def identity_at(self, now_ms: int) -> tuple[str, str]:
        letters = Random(self._key ^ now_ms // DAY_MS)
        text = "".join(letters.choices("abcdefghjkmnpqrstuvwxyz0123456789", k=8))
        return text, text

    def trade(self, transfer: Transfer, torrent: WorldTorrent, now_ms: int, while_ms: int) -> Trade:
        room = int(torrent.size * 0.95) - transfer.taken
        up = min(max(room, 0), self._random.randrange(150 * MIB)) if transfer.own_progress > 0.2 else 0
        return Trade(up, 0, round(min(1.0, (transfer.taken + up) / torrent.size + 0.02), 4))
