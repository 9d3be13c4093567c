"""What a list was worth: held against the truth of a world, hour by hour."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sparkle_lite.simulation.lists import ListedNetworks
from sparkle_lite.simulation.peers import BAD_KINDS, WorldPeer
from sparkle_lite.simulation.world import World
from sparkle_lite.units import HOUR_MS


class Caught(NamedTuple):
    """How a list did on one kind of bad peers; shares from 0 to 1, hours, None where there is nothing to say."""

    kind: str
    how_many: int
    ever: float
    time: float
    hours_to_listing: float | None
    hours_after_end: float | None


class Harm(NamedTuple):
    """Whom a list hit who had done nothing: addresses listed by themselves, and those under listed networks."""

    listed: int
    under_networks: int
    members: int
    attacked_listed: int


@dataclass(slots=True)
class _Record:
    """What became of one address of a bad peer, or of the place that a moving one has."""

    kind: str
    begins: int
    about: int = 0
    listed: int = 0
    first: int | None = None
    last_ip: str = ""
    ended_at: int | None = None
    unlisted_at: int | None = None
    was_listed_at_end: bool = field(default=False)


class Judge:
    """Looks at a list now and then; `caught` and `harm` say what came of it."""

    def __init__(self, world: World, victims: set[str]) -> None:
        self._world = world
        self._victims = victims
        self._records = {
            (number, place): _Record(peer.bad, peer.begins)
            for number, peer in enumerate(world.bad)
            for place in range(len(peer.lines))
        }
        self._honest: set[str] = set()
        self._near: set[str] = set()
        self._members: set[str] = set()

    def look(self, listed: ListedNetworks, now_ms: int) -> None:
        """The list as it is now."""
        for number, peer in enumerate(self._world.bad):
            self._look_at(number, peer, listed, now_ms)
        for peer in self._world.honest:
            if peer.is_about(now_ms):
                self._look_at_honest(peer.lines[0].address(now_ms), listed)
        for person in self._world.people:
            ip = person.line.address(now_ms)
            if listed.width(ip) is not None:
                self._members.add(ip)

    def _look_at(self, number: int, peer: WorldPeer, listed: ListedNetworks, now_ms: int) -> None:
        if peer.is_about(now_ms):
            for place, way in enumerate(peer.ways(now_ms)):
                record = self._records[number, place]
                record.about += 1
                record.last_ip = way.ip
                if listed.width(way.ip) is not None:
                    record.listed += 1
                    record.first = now_ms if record.first is None else record.first
            return
        for place in range(len(peer.lines)):
            record = self._records[number, place]
            is_listed = bool(record.last_ip) and listed.width(record.last_ip) is not None
            if record.ended_at is None:
                record.ended_at, record.was_listed_at_end = now_ms, is_listed
            elif record.was_listed_at_end and record.unlisted_at is None and not is_listed:
                record.unlisted_at = now_ms

    def _look_at_honest(self, ip: str, listed: ListedNetworks) -> None:
        width = listed.width(ip)
        if width is not None:
            (self._near if width else self._honest).add(_host(ip))

    def caught(self) -> list[Caught]:
        """The kinds of bad peers in their order."""
        kinds: dict[str, list[_Record]] = {kind: [] for kind in BAD_KINDS}
        for record in self._records.values():
            kinds[record.kind].append(record)
        return [self._caught(kind, records) for kind, records in kinds.items() if records]

    def _caught(self, kind: str, records: Sequence[_Record]) -> Caught:
        about = sum(record.about for record in records)
        hours = [(record.first - record.begins) / HOUR_MS for record in records if record.first is not None]
        after = [
            (record.unlisted_at - record.ended_at) / HOUR_MS
            for record in records
            if record.unlisted_at is not None and record.ended_at is not None
        ]
        return Caught(
            kind=kind,
            how_many=len(records),
            ever=round(len(hours) / len(records), 2),
            time=round(sum(record.listed for record in records) / about, 2) if about else 0.0,
            hours_to_listing=round(statistics.median(hours), 1) if hours else None,
            hours_after_end=round(statistics.median(after), 1) if after else None,
        )

    def harm(self) -> Harm:
        """Whom it hit wrongly."""
        attacked = {_host(ip) for ip in self._victims}
        return Harm(
            listed=len(self._honest - attacked),
            under_networks=len(self._near - self._honest - attacked),
            members=len(self._members),
            attacked_listed=len((self._honest | self._near) & attacked),
        )


def _host(ip: str) -> str:
    """An IPv6 machine is known by its /64."""
    return ":".join(ip.split(":")[:4]) if ":" in ip else ip


def truth(world: World, victims: set[str]) -> Mapping[str, object]:
    """Who was bad, of whom it was said falsely, and who is a member: as JSON."""

    def ways(peer: WorldPeer) -> list[str]:
        times = range(peer.begins, min(world.end_ms, peer.ends), HOUR_MS)
        return sorted({way.ip for at in times for way in peer.ways(at)})

    return {
        "bad": [
            {"kind": peer.bad, "addresses": ways(peer), "until": min(peer.ends, world.end_ms)} for peer in world.bad
        ],
        "attacked": sorted(victims),
        "people": [
            {
                "name": person.name,
                "lies": person.lies,
                "programs": [one.program.name for one in person.installations],
                "addresses": sorted({person.line.address(at) for at in range(world.start_ms, world.end_ms, HOUR_MS)}),
            }
            for person in world.people
        ],
    }
