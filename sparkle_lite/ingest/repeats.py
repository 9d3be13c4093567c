"""What was told before: a body is stored once, and an unchanged row of a list that is never emptied is no sighting."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from sparkle_lite.db import segments
from sparkle_lite.units import HOUR_MS
from sparkle_lite.wire.bodies import PeerSnapshot

# Bodies whose digest is kept in memory: a day of 5,000 clients, about 40 MB.
DIGESTS = 500_000

# Peers of whom it is known what was last said, about twice as many at the most: 130 bytes each.
SIGHTINGS = 150_000

# The streams that a body's rows go to: segments by kind, and bans.
STREAMS = (*segments.KINDS, "ban")


class RecentDigests:
    """The bodies of the last 24 hours as 64-bit numbers in a set an hour; bounded, the oldest hour goes first."""

    def __init__(self, limit: int = DIGESTS) -> None:
        self._hours: dict[int, set[int]] = {}
        self._limit = limit
        self._count = 0

    def has(self, digest: bytes, at_ms: int) -> bool:
        """Whether this body was received within the 24 hours (by full hours) before that instant."""
        number, since = int.from_bytes(digest[:8], "big"), at_ms // HOUR_MS - 24
        return any(number in numbers for hour, numbers in self._hours.items() if hour >= since)

    def add(self, digest: bytes, at_ms: int) -> None:
        """Remember a body received at that instant."""
        hour = at_ms // HOUR_MS
        numbers = self._hours.get(hour)
        if numbers is None:
            numbers = self._hours[hour] = set()
            for old in [known for known in self._hours if known < hour - 24]:
                self._count -= len(self._hours.pop(old))
        numbers.add(int.from_bytes(digest[:8], "big"))
        self._count += 1
        while self._count > self._limit and len(self._hours) > 1:
            self._count -= len(self._hours.pop(min(self._hours)))


class LastSightings:
    """What was last said of each peer by clients whose list of peers is never emptied.

    Theirs holds all peers since the client's start, those that have left with the counters that they left with: a row
    that says the same as before is no sighting. A peer is an application's word for address, port, torrent and client
    identity, what is said of it are its traffic and progress, both as 64-bit numbers. Of more peers than there is room
    for, those that were not reported for longest are forgotten, and their next row is a sighting; so after a restart.
    """

    def __init__(self, limit: int = SIGHTINGS) -> None:
        self._limit = limit
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def __len__(self) -> int:
        """How many peers are remembered."""
        return len(self._young) + len(self._old)

    def changed(
        self,
        userapp: int,
        rows: Iterable[PeerSnapshot],
        rejected: Counter[str],
        uncommitted: Mapping[int, int],
        said: dict[int, int],
    ) -> Iterator[PeerSnapshot]:
        """The rows that say something new; whoever takes them counts in `rejected` those that can't be kept.

        `uncommitted` is what bodies of the same group said before; what this one says is put into `said`.
        """
        for row in rows:
            peer = hash(
                (userapp, row.peer_ip, row.peer_port, row.torrent_identifier, row.peer_id, row.peer_client_name)
            )
            now = hash((row.from_peer_traffic, row.to_peer_traffic, row.peer_progress))
            before = said.get(peer) or uncommitted.get(peer) or self._young.get(peer) or self._old.get(peer)
            if before != now:
                dropped = rejected.total()
                yield row
                # By now the row has been taken or counted.
                if rejected.total() != dropped:
                    continue
            said[peer] = now

    def keep(self, said: Mapping[int, int]) -> None:
        """Remember what was said in rows that are committed."""
        self._young.update(said)
        if len(self._young) > self._limit:
            self._old, self._young = self._young, {}
