"""A world made of a seed: torrents, people with their client programs, honest peers around them, and bad ones."""

import gc
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import NamedTuple

from sparkle_lite.simulation import lines as networks
from sparkle_lite.simulation.lines import AccessLine, Lines
from sparkle_lite.simulation.peers import (
    Burner,
    Cheater,
    Honest,
    RandomIdentity,
    Scraper,
    Way,
    WorldPeer,
    WorldTorrent,
)
from sparkle_lite.simulation.programs import SHARES, Program
from sparkle_lite.units import DAY_MS, GIB, HOUR_MS, MIB

_TORRENTS = 420
# How fast popularity falls with the rank.
_ZIPF = 0.85
_PEERS_PER_PERSON = 34
# What programs call themselves, with the weight of each; the last are rare.
_IDENTITIES = (
    *((("-qB4650-", "qBittorrent/4.6.5"), 30), (("-qB5020-", "qBittorrent/5.0.2"), 20)),
    *((("-TR4060-", "Transmission 4.0.6"), 14), (("-UT3550-", "µTorrent 3.5.5"), 10)),
    *((("-BC0205-", "BitComet 2.5"), 8), (("-lt0D80-", "libTorrent (rakshasa) 0.13.8"), 6)),
    *((("-DE211s-", "Deluge 2.1.1"), 6), (("A2-1-37-", "aria2/1.37.0"), 3), (("-WW0102-", "WebTorrent 1.2"), 2)),
    ((("-KT2310-", "KTorrent/23.10"), 1)),
)
# Who cheats passes for somebody else.
_CHEATS = ((("-qB4650-", "qBittorrent/4.6.5"), 5), (("-TR3000-", "Transmission 3.00"), 3))
_ON_EXIT = "cheater on a shared exit"
_FLAGS = ("U I X P", "u E P", "D I H", None, "K ? E P")


class Installation(NamedTuple):
    """A client program on a person's machine."""

    program: Program
    works: Honest
    random: Random


class Member(NamedTuple):
    """Somebody of the circle; `blunders` is the share of honest peers that their clients ban without a reason.

    `hunts`: whether they switched on the module that looks for many addresses of one network.
    """

    name: str
    line: AccessLine
    installations: list[Installation]
    blunders: float
    hunts: bool
    lies: bool


class Sighting(NamedTuple):
    """A peer at one of its ways."""

    peer: WorldPeer
    way: Way


class Gathering(NamedTuple):
    """Who is on a torrent, and at which ways."""

    good: list[Sighting]
    bad: list[Sighting]
    ways: set[Way]


_NOBODY = Gathering([], [], set())


class World:
    """Everything that there is. The same seed makes the same world, with whatever is asked of it in the same order."""

    def __init__(self, *, people: int, days: float, seed: int, poison: float, start_ms: int) -> None:
        self.random = Random(seed)
        self.start_ms = start_ms
        self.end_ms = start_ms + int(days * DAY_MS)
        self._seed = seed
        self.lines = Lines(self._own("lines"))
        self.torrents = [self._torrent(number) for number in range(_TORRENTS)]
        self._weights = [1 / (number + 2) ** _ZIPF for number in range(_TORRENTS)]
        self.people = [self._person(number) for number in range(people)]
        self._mark_liars(round(people * poison))
        self.honest = [self._honest(number) for number in range(people * _PEERS_PER_PERSON)]
        self.bad = self._bad(max(1.0, people / 30))
        self.members = [one.works for person in self.people for one in person.installations]
        self._swarms: dict[int, Gathering] = {}
        self._looked_at = -1

    def _own(self, *name: object) -> Random:
        """A source of chance of its own: what one draws changes nothing for another."""
        return Random(f"{self._seed} {name}")

    # --- Making it ----------------------------------------------------------------------------------------------------

    def _torrent(self, number: int) -> WorldTorrent:
        random = self._own("torrent", number)
        size = int(min(80 * GIB, max(150 * MIB, random.lognormvariate(1.1, 1.2) * GIB)))
        info_hash = hashlib.sha1(f"{self._seed} {number}".encode(), usedforsecurity=False).hexdigest()
        return WorldTorrent(number, info_hash, size, number > 20 and random.random() < 0.12)

    def any_torrent(self, random: Random) -> WorldTorrent:
        """A torrent, popular ones more often."""
        return random.choices(self.torrents, self._weights)[0]

    def _person(self, number: int) -> Member:
        random = self._own("person", number)
        line = self.lines.draw(networks.PEOPLE)
        programs = random.choices(list(SHARES), list(SHARES.values()), k=1 if random.random() < 0.7 else 2)
        installations = []
        for place, program in enumerate(programs):
            own = self._own("installation", number, place)
            identity = _IDENTITIES[own.randrange(3)][0]
            works = Honest([line], own.randrange(10_000, 60_000), identity, own)
            for _ in range(own.randrange(6, 11)):
                self._begin(works, own, self.start_ms, has_it=own.random() < 0.65)
            installations.append(Installation(program, works, own))
        return Member(
            name=f"person-{number + 1:03}",
            line=line,
            installations=installations,
            blunders=random.uniform(0.005, 0.02),
            hunts=random.random() < 0.4,
            lies=False,
        )

    def _mark_liars(self, count: int) -> None:
        liars = set(self._own("liars").sample(range(len(self.people)), min(count, len(self.people))))
        self.people = [one._replace(lies=number in liars) for number, one in enumerate(self.people)]

    def _honest(self, number: int) -> Honest:
        random = self._own("honest", number)
        line = self.lines.draw(networks.PEERS)
        ((quirk,),) = (random.choices(("", "partial", "again", "stuck"), (925, 40, 30, 5)),)
        if line.kind == "seedbox":
            quirk = "seedbox"
        (identity,) = random.choices([one for one, _ in _IDENTITIES], [weight for _, weight in _IDENTITIES])
        if random.random() < 0.01:
            # A client that nobody knows.
            identity = (f"-{''.join(random.choices('ABCDEFGHIJ', k=2))}0100-", "Unknown")
        peer = Honest([line], random.randrange(1024, 65_000), identity, random, quirk)
        for _ in range(random.randrange(20, 50) if quirk == "seedbox" else random.randrange(1, 4)):
            self._begin(peer, random, self.start_ms - random.randrange(DAY_MS), has_it=random.random() < 0.4)
        return peer

    def _begin(self, peer: Honest, random: Random, now_ms: int, *, has_it: bool) -> None:
        torrent = self.any_torrent(random)
        if peer.wants(torrent):
            peer.visit(torrent, now_ms, has_it=has_it or peer.quirk == "seedbox")

    def _bad(self, scale: float) -> list[WorldPeer]:
        """The bad peers, about as many of each kind as their figures need to mean anything."""
        found: list[WorldPeer] = []

        def each(kind: str, count: float) -> list[Random]:
            return [self._own("bad", kind, number) for number in range(max(1, round(count * scale)))]

        popular = self.torrents[:70]
        small = [torrent for torrent in self.torrents[:60] if torrent.size < 4 * GIB]
        for kind, gives in (("progress cheater", 0.0), ("cheater that seeds a little", 0.04)):
            for random in each(kind, 10):
                where = random.sample(popular, 6)
                line = self.lines.static()
                found.append(Cheater(kind, [line], *self._named(random), random, where, gives=gives))
        for kind, moves in (("burner, stable port", False), ("burner, changing ports", True)):
            for random in each(kind, 6):
                where = random.sample(small, min(6, len(small)))
                found.append(Burner(kind, [self.lines.static()], *self._named(random), random, where, moves=moves))
        kind = "one copy each of hundreds"
        for random in each(kind, 2):
            where = random.sample(self.torrents, 200)
            found.append(Burner(kind, [self.lines.static()], *self._named(random), random, where, once=True))
        for kind, hosts in (("multi-dialer /24", 24), ("multi-dialer /56", 12)):
            for random in each(kind, 2):
                several = self.lines.hosts(hosts) if kind.endswith("/24") else self.lines.subnets(hosts)
                where = random.sample(popular[:24], 4)
                found.append(Cheater(kind, several, *self._named(random), random, where, greed=0.5))
        for random in each("scraper", 3):
            where = random.sample(self.torrents, 280)
            found.append(Scraper([self.lines.static()], *self._named(random), random, where))
        for random in each("random", 5):
            where = random.sample(popular, 8)
            found.append(RandomIdentity([self.lines.dynamic()], *self._named(random), random, where))
        kind = "botnet, 4 h an address"
        for random in each(kind, 10):
            where = random.sample(popular, 3)
            found.append(Cheater(kind, [self.lines.short_lived()], *self._named(random), random, where, greed=0.3))
        for number, random in enumerate(each(_ON_EXIT, 3)):
            line = self.lines.exit()._replace(first=self.lines.exits[number % len(self.lines.exits)])
            found.append(Cheater(_ON_EXIT, [line], *self._named(random), random, random.sample(popular, 5)))
        self._begin_and_end(found)
        return found

    def _begin_and_end(self, found: list[WorldPeer]) -> None:
        """They come one by one in the first quarter of the time; every third stops after two thirds of it.

        To a shared exit they come when half of it is over: people know it by then for what the honest gave.
        """
        whole, random = self.end_ms - self.start_ms, self._own("beginnings")
        for peer in found:
            late = whole // 2 if peer.bad == _ON_EXIT else 0
            peer.begins = self.start_ms + late + random.randrange(max(1, whole // 4))
        for peer in found[::3]:
            peer.ends = self.start_ms + whole * 2 // 3

    def _named(self, random: Random) -> tuple[int, tuple[str, str]]:
        (identity,) = random.choices([one for one, _ in _CHEATS], [weight for _, weight in _CHEATS])
        return random.randrange(10_000, 40_000), identity

    # --- Asking it ----------------------------------------------------------------------------------------------------

    def look(self, now_ms: int) -> None:
        """Another hour: who is where now. Call it at least once an hour."""
        if now_ms // HOUR_MS == self._looked_at:
            return
        self._looked_at = now_ms // HOUR_MS
        swarms: dict[int, Gathering] = {}
        for honest in (*self.honest, *self.members):
            for _ in range(honest.finish(now_ms)):
                self._begin(honest, self.random, now_ms, has_it=False)
        for peer in (*self.honest, *self.members, *self.bad):
            if peer.is_about(now_ms):
                ways = peer.ways(now_ms)
                for torrent in peer.torrents(now_ms):
                    swarm = swarms.setdefault(torrent.number, Gathering([], [], set()))
                    (swarm.bad if peer.bad else swarm.good).extend(Sighting(peer, way) for way in ways)
                    swarm.ways.update(ways)
        self._swarms = swarms

    def swarm(self, torrent: WorldTorrent) -> Gathering:
        """Who is on a torrent in this hour."""
        return self._swarms.get(torrent.number, _NOBODY)

    def flags(self, random: Random) -> str | None:
        """What a downloader notes of a connection."""
        return random.choice(_FLAGS)


@contextmanager
def few_collections() -> Iterator[None]:
    """A world is millions of objects that stay: to look through them again and again takes a third of the time."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
