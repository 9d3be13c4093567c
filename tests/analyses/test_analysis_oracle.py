"""Each analysis against the same rule told naively in Python, on random rows in hot and closed segments."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import median_low
from typing import Any, NamedTuple

import pytest
from reports import BLOCKER, CHEAT, DAY, DIALING, GIB, HOUR, NOW, Reporter, World, settings_of

from sparkle_lite import net
from sparkle_lite.analyses.numbers import Numbers
from sparkle_lite.analyses.parameters import parameters
from sparkle_lite.net import Network, network_of

MIB = 1 << 20
OTHER = "com.ghostchu.peerbanhelper.module.impl.rule.PeerIdBlacklist"
PEERS = [f"203.0.113.{host}" for host in range(10)] + [
    f"2001:db8:0:{net:x}::{host}" for net in range(4) for host in (1, 2)
]
CLIENTS = [
    ("-qB4650-", "qBittorrent/4.6.5"),
    ("-XX0001-", "qBittorrent/4.6.5"),
    ("-XX0001-", "Rain 0.0.0"),
    ("-RN0000-", "Rain 0.0.0"),
    ("abcdefgh", "who knows"),
]


class Row(NamedTuple):
    """One report; `counts` tells whether its reporter's word does. Times in ms before NOW."""

    kind: str
    app: int
    user: int
    network: str
    counts: bool
    ip: str
    torrent: str
    ago: int
    said: int
    more: dict[str, Any]

    @property
    def subject(self) -> Network:
        address = net.address_bytes(self.ip)
        return network_of(address, 32 if len(address) == 4 else 64)

    @property
    def age(self) -> int:
        """The earlier of receipt and the client's own time."""
        return max(self.ago, self.said)

    @property
    def at(self) -> int:
        return NOW - self.age

    @property
    def title(self) -> tuple[str, int]:
        return self.torrent, self.more.get("big_endian", 0)


def is_private(torrent: str) -> bool:
    return torrent.startswith("private")


class Person(NamedTuple):
    """Somebody who reports, and whether their word counts."""

    user: int
    apps: list[Reporter]
    counts: bool

    def row(self, kind: str, reporter: Reporter, **about: Any) -> Row:
        """What one of their applications reported."""
        assert reporter.address is not None
        network = reporter.address.rsplit(".", 1)[0]
        return Row(kind=kind, app=reporter.app, user=self.user, network=network, counts=self.counts, **about)


class Told:
    """A world full of random reports, and the rows that it is made of."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.rows: list[Row] = []
        self.people: list[Person] = []
        for number in range(7):
            grown = number < 5
            user = world.person(f"p{number}", by="admin" if number % 2 else "self", age=99 * DAY if grown else DAY,
                                active_days=5)  # fmt: skip
            counts = grown or number % 2 == 1
            # Some have several applications, and some share networks.
            apps = [
                Reporter(world, world.app(user), f"82.1.{self.rng.randrange(6)}.{k}") for k in range(1 + number % 3)
            ]
            self.people.append(Person(user, apps, counts))

    def ago(self) -> int:
        return self.rng.choice((0, HOUR, DAY, self.rng.randrange(16 * DAY), self.rng.randrange(DAY)))

    def add(self, kind: str, make: Callable[[Reporter], dict[str, Any]]) -> None:
        person = self.rng.choice(self.people)
        reporter = self.rng.choice(person.apps)
        row = {
            "ip": self.rng.choice(PEERS),
            "torrent": self.rng.choice(("a", "b", "c", "private d")),
            "ago": self.ago(),
        }
        row |= make(reporter)
        if is_private(row["torrent"]):
            row["private"] = 1
        getattr(reporter, kind)(**row)
        known = {name: row.pop(name) for name in ("ip", "torrent", "ago")}
        said = row.pop("said", known["ago"])
        said = known["ago"] if said is None else said
        self.rows.append(person.row(kind, reporter, said=said, more=row, **known))

    def bans(self, count: int) -> None:
        for _ in range(count):
            self.add("ban", lambda _: {
                "module": self.rng.choice((CHEAT, CHEAT, DIALING, OTHER)),
                "btn_ban": int(self.rng.random() < 0.1),
                "big_endian": int(self.rng.random() < 0.2),
                "said": self.rng.choice((None, self.ago())),
            })  # fmt: skip

    async def sightings(self, bans: int) -> None:
        """Bans that their reporter tells of for days: the time says when the peer was last seen."""
        for _ in range(bans):
            person = self.rng.choice(self.people)
            reporter, ip = self.rng.choice(person.apps), self.rng.choice(PEERS)
            # A torrent of nobody else's, so that no other report is of the same ban.
            torrent, ago = f"{ip} {len(self.rows)}", self.rng.randrange(16 * DAY)
            times: list[tuple[int, int]] = []
            while ago >= 0:
                times.append((ago, ago + self.rng.choice((0, HOUR, 5 * HOUR))))
                ago -= self.rng.choice((HOUR, 12 * HOUR, DAY - 5 * HOUR, 3 * DAY))
            await reporter.sightings(ip, torrent, times)
            first = last = None
            for ago, said in times:
                if first is None or last - said > DAY:
                    first, last = (ago, said), said
                    more = {"module": BLOCKER, "btn_ban": 0, "big_endian": 1}
                    about = {"ip": ip, "torrent": torrent, "ago": ago, "said": said, "more": more}
                    self.rows.append(person.row("ban", reporter, **about))
                last = min(last, said)

    def traffic(self, count: int, giving: float = 0.3) -> None:
        for _ in range(count):
            self._one_of_traffic(giving)

    def _one_of_traffic(self, giving: float) -> None:
        ago = self.ago()
        common = {
            "to": self.rng.choice((0, MIB - 1, MIB, 8 * MIB, GIB // 3, GIB, 9 * GIB)),
            "got": self.rng.choice((MIB, GIB // 2)) if self.rng.random() < giving else self.rng.choice((0, -1)),
            "port": self.rng.choice((6881, 6881, 6881, 7000)),
            "client": self.rng.choice(CLIENTS),
            "ago": ago,
            "peer_progress": self.rng.choice((0.0, 0.5, 1.0, None)),
            "big_endian": int(self.rng.random() < 0.08),
        }
        if self.rng.random() < 0.5:
            self.add("snapshot", lambda _: common)
            return
        common |= {
            "said": self.rng.choice((ago, self.ago())),
            "began": ago + self.rng.choice((0, HOUR, 9 * DAY)),
            "size": self.rng.choice((GIB, GIB, GIB, GIB // 4, 0)),
        }
        if self.rng.random() < 0.5:
            self.add("swarm", lambda _: common)
            return
        # One of several versions of the same row.
        ip, torrent = self.rng.choice(PEERS), self.rng.choice(("a", "b", "c", "private d"))
        common |= {"ip": ip, "torrent": torrent, "port": 6881, "client": CLIENTS[0], "size": GIB}
        common |= {"big_endian": int(torrent == "b" and PEERS.index(ip) % 2)}
        same = PEERS.index(ip) * 10 + "abcp".index(torrent[0])
        self.add("swarm", lambda reporter: common | {"version": reporter.app * 1000 + same})


def people_of(rows: Iterable[Row]) -> int:
    """People collapsed by their networks."""
    some = list(rows)
    return min(len({row.user for row in some}), len({row.network for row in some}))


def torrents_of(rows: Iterable[Row]) -> int:
    titles = {row.title for row in rows}
    return max(sum(1 for _, order in titles if order == wanted) for wanted in (0, 1))


def days_of(rows: Iterable[Row]) -> int:
    return len({row.at // DAY for row in rows})


def by_subject(rows: Iterable[Row]) -> dict[Network, list[Row]]:
    found = defaultdict(list)
    for row in rows:
        found[row.subject].append(row)
    return found


def givers(told: Told, subject: Network, window: int, share: int) -> list[Row]:
    """One row for each person and network to whom a peer gave that share of what it took."""
    largest: dict[Any, tuple[int, int]] = defaultdict(lambda: (0, 0))
    example: dict[tuple[int, str], Row] = {}
    for row in told.rows:
        if row.kind != "ban" and row.counts and row.subject == subject and row.ago <= window:
            key = (row.user, row.network, row.title, row.more["port"], row.kind)
            gave, took = largest[key]
            # Sizes and privacy make other rows of the dictionary of the same torrent.
            largest[*key, row.more.get("size"), is_private(row.torrent)] = (
                max(largest[*key, row.more.get("size"), is_private(row.torrent)][0], row.more["got"]),
                max(largest[*key, row.more.get("size"), is_private(row.torrent)][1], row.more["to"]),
            )
            example[row.user, row.network] = row
    result = []
    for (user, network), row in example.items():
        mine = [value for key, value in largest.items() if key[:2] == (user, network)]
        gave, took = sum(g for g, _ in mine), sum(t for _, t in mine)
        if gave >= MIB and gave * 100 >= took * share:
            result.append(row)
    return result


def weight_of(rows: list[Row], half_life: int) -> float:
    half = half_life * min(days_of(rows), 4)

    def total(who: Callable[[Row], Any]) -> float:
        ages: dict[Any, int] = {}
        for row in rows:
            ages[who(row)] = min(ages.get(who(row), row.age), row.age)
        return sum((2 - age % half / half) / (2 << age // half) for age in ages.values())

    return min(total(lambda row: row.user), total(lambda row: row.network))


def reports(told: Told, window: int) -> list[Row]:
    return [
        row
        for row in told.rows
        if row.kind == "ban" and row.counts and not row.more["btn_ban"] and row.more["module"] != OTHER
        and row.age <= window and not is_private(row.torrent)
    ]  # fmt: skip


def naive_votes(told: Told, numbers: Numbers) -> dict[str, tuple[int, ...]]:
    found = {}
    for subject, rows in by_subject(reports(told, numbers["window"])).items():
        against = people_of(givers(told, subject, numbers["window"], numbers["share_percent"]))
        cheats = people_of(row for row in rows if row.more["module"] in (CHEAT, BLOCKER)) - against
        everybody = people_of(rows) - against
        if cheats >= numbers["min_people"]:
            people, need = cheats, numbers["min_people"]
        elif everybody >= numbers["min_people_any"]:
            people, need = everybody, numbers["min_people_any"]
        else:
            continue
        weight = weight_of(rows, numbers["half_life"])
        left = weight / (need / 2)
        half = numbers["half_life"] * min(days_of(rows), 4)
        expires = min(max(row.at for row in rows) + 14 * DAY, NOW + int(half * math.log2(max(left, 1e-4))))
        groups = len({row.more["module"] == DIALING for row in rows})
        if (
            max(torrents_of(rows), days_of(rows)) >= numbers["min_torrents"]
            and max(days_of(rows), groups) >= numbers["min_days"]
            and round(weight * 100) >= need * 50
            and expires > NOW
        ):
            found[str(subject)] = (people, torrents_of(rows), days_of(rows), len(rows), against)
    return found


def naive_prefixes(told: Told, numbers: Numbers) -> dict[str, tuple[int, ...]]:
    members = {
        subject: rows
        for subject, rows in by_subject(reports(told, numbers["window"])).items()
        if people_of(rows) - people_of(givers(told, subject, numbers["window"], numbers["share_percent"]))
        >= numbers["member_people"]
    }
    prefixes: dict[Network, list[Network]] = defaultdict(list)
    for member in members:
        prefixes[network_of(member.address, 24 if member.bits == 32 else 56)].append(member)
    found = {}
    for prefix, inside in prefixes.items():
        rows = [row for member in inside for row in members[member]]
        # Whoever somebody in the prefix gave to speaks for it, if that was looked at: with enough reports.
        looked = [
            subject for subject, some in by_subject(reports(told, numbers["window"])).items()
            if prefix.contains(subject) and people_of(some) >= numbers["member_people"]
        ]  # fmt: skip
        against = people_of(
            row for one in looked for row in givers(told, one, numbers["window"], numbers["share_percent"])
        )
        sharing = max(len({row.subject for row in rows if row.title == title}) for title in {row.title for row in rows})
        people = people_of(rows) - against
        if (
            people >= numbers["min_people"]
            and len(inside) >= numbers["min_hosts" if prefix.bits == 32 else "min_subnets"]
            and sharing * 100 // len(inside) >= numbers["sharing_percent"]
            and max(torrents_of(rows), days_of(rows)) >= numbers["min_torrents"]
            and round(weight_of(rows, numbers["half_life"]) * 100) >= numbers["min_people"] * 50
        ):
            found[str(prefix)] = (people, len(inside), sharing, torrents_of(rows), against)
    return found


def taken_of(row: Row) -> int:
    taken: int = row.more["to"] - max(row.more["got"], 0)
    return taken


def naive_flows(told: Told, numbers: Numbers) -> dict[str, tuple[int, ...]]:
    window = numbers["window"]
    versions: dict[Any, list[Row]] = defaultdict(list)
    for number, row in enumerate(told.rows):
        if row.kind == "swarm" and row.counts and row.age <= window and taken_of(row) >= 4 * MIB:
            versions[row.more.get("version", -number)].append(row)
    flows: dict[tuple[Network, tuple[str, int]], list[tuple[Row, int]]] = defaultdict(list)
    for rows in versions.values():
        old = rows[0].more["big_endian"] or any(row.more["began"] > window for row in rows)
        taken = max(map(taken_of, rows)) - (min(map(taken_of, rows)) if old else 0)
        if taken > 0 and not is_private(rows[0].torrent):
            flows[rows[0].subject, rows[0].title].append((max(rows, key=lambda row: row.at), taken))
    over: dict[Network, list[tuple[int, int, int, list[Row]]]] = defaultdict(list)
    for (subject, _), parts in flows.items():
        sizes: dict[int, int] = defaultdict(int)
        for row, _ in parts:
            sizes[row.user] = max(sizes[row.user], row.more["size"])
        known = [size for size in sizes.values() if size]
        rows = [row for row, _ in parts]
        if min(people_of(rows), len(known)) < numbers["min_people"]:
            continue
        size = median_low(known)
        cap = -(-numbers["person_percent"] * size // 100)

        def total(who: Callable[[Row], Any], parts: Any = parts, cap: int = cap) -> int:
            sums: dict[Any, int] = defaultdict(int)
            for row, taken in parts:
                sums[who(row)] += taken
            return sum(min(taken, cap) for taken in sums.values())

        taken = min(total(lambda row: row.user), total(lambda row: row.network))
        pairs = len({(row.more["client"], row.more["port"]) for row in rows})
        percent = taken * 100 // size // pairs
        if percent >= numbers["min_percent"] and taken >= numbers["min_traffic"]:
            over[subject].append((percent, people_of(rows), pairs, rows))
    found = {}
    for subject, some in over.items():
        against = people_of(givers(told, subject, window, numbers["share_percent"]))
        percent, people, pairs, _ = max(some, key=lambda one: one[0])
        rows = [row for one in some for row in one[3]]
        lasts = max(row.at for row in rows) + min(numbers["lifetime"] * min(days_of(rows), 4), 14 * DAY)
        if (
            people - against >= numbers["min_people"]
            and max(days_of(rows), len(some)) >= numbers["min_days"]
            and lasts > NOW
        ):
            found[str(subject)] = (people - against, percent, pairs, len(some), days_of(rows))
    return found


def naive_crowds(told: Told, numbers: Numbers) -> dict[str, tuple[int, ...]]:
    buckets: dict[tuple[Network, int], list[Row]] = defaultdict(list)
    before: dict[Any, int] = {}
    for row in sorted(told.rows, key=lambda row: (row.at, row.more.get("to", 0))):
        if (
            row.kind != "ban" and row.counts and row.age <= numbers["window"] and not is_private(row.torrent)
            and row.more["to"] >= MIB and row.more["got"] <= 0 and (row.more["peer_progress"] or 0) < 1
        ):  # fmt: skip
            if row.more["big_endian"]:
                # Its reporter goes on telling of whom it saw once: only what has grown since the row before says more.
                key = (row.kind, row.app, row.ip, row.more["port"], row.torrent, row.more.get("size"))
                grown = row.more["to"] > before.get(key, 1 << 60)
                before[key] = row.more["to"]
                if not grown:
                    continue
            buckets[row.subject, row.at // 600_000].append(row)
    found: dict[str, tuple[int, ...]] = {}
    for (subject, _), rows in sorted(buckets.items()):
        enough = people_of(rows) >= numbers["min_people"] and torrents_of(rows) >= numbers["min_torrents"]
        if enough and not givers(told, subject, numbers["window"], 0):
            torrents, count = found.get(str(subject), (0, 0))
            found[str(subject)] = (max(torrents, torrents_of(rows)), count + 1)
    return found


def naive_identities(told: Told, numbers: Numbers) -> dict[str, tuple[int, ...]]:
    found = {}
    for code, hides, owns in (
        ("Rain 0.0.0", lambda p, n: n == "Rain 0.0.0" and not p.startswith("-RN"), lambda p, n: n == "Rain 0.0.0"),
        ("qBittorrent/", lambda p, n: n.startswith("qB") and p[:3] != "-qB", lambda p, n: n.startswith("qB")),
        ("[^-]", lambda p, n: "-" not in p, lambda p, n: False),
    ):
        rows = [
            row
            for row in told.rows
            if row.kind != "ban" and row.counts and row.ago <= numbers["window"] and not is_private(row.torrent)
            and row.more["to"] > max(row.more["got"], 0) and hides(*row.more["client"])
        ]  # fmt: skip
        owners = {
            row.subject
            for row in told.rows
            if row.kind != "ban" and owns(*row.more["client"]) and not hides(*row.more["client"])
        }
        hidden = {row.subject for row in rows}
        days = len({(NOW - row.ago) // DAY for row in rows})
        if not hidden:
            continue
        percent = len(hidden) * 100 // len(hidden | owners)
        if (
            people_of(rows) >= numbers["min_people"]
            and len(hidden) >= numbers["min_addresses"]
            and percent >= numbers["min_percent"]
            and max(torrents_of(rows), days) >= numbers["min_torrents"]
        ):
            found[code] = (people_of(rows), len(hidden), percent, days)
    return found


# Weak thresholds, so that about half of the subjects qualify; the names of the numbers that must agree too.
ORACLES: dict[str, tuple[Callable[..., dict[str, tuple[int, ...]]], tuple[str, ...], dict[str, int]]] = {
    "untrusted_vote": (naive_votes, ("people", "torrents", "days", "reports", "against"), {"min_days": 2}),
    "multi_dial": (
        naive_prefixes,
        ("people", "members", "sharing", "torrents", "against"),
        {"min_hosts": 4, "min_subnets": 2, "min_people": 2},
    ),
    "over_download": (
        naive_flows,
        ("people", "percent", "peers", "torrents", "days"),
        {"min_people": 2, "min_percent": 60, "min_traffic": 1},
    ),
    "concurrent_download": (naive_crowds, ("torrents", "buckets"), {"min_people": 2, "min_torrents": 2}),
    "client_identity": (
        naive_identities,
        ("people", "addresses", "percent", "days"),
        {"min_people": 2, "min_percent": 40, "min_addresses": 2},
    ),
}
SEEDS = range(3)
TELLING = {
    "untrusted_vote": tuple(SEEDS),
    "multi_dial": tuple(range(12)),
    "over_download": (1, 2, 3, 4, 5, 6, 9, 11),
    "concurrent_download": tuple(SEEDS),
    "client_identity": tuple(SEEDS),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("seed", SEEDS)
async def test_an_analysis_finds_what_the_naive_rule_finds(world: World, name: str, seed: int) -> None:
    naive, shown, weak = ORACLES[name]
    told, votes = Told(world, seed), name in ("untrusted_vote", "multi_dial")
    for _ in range(3):
        told.bans(60 if votes else 5)
        await told.sightings(4 if votes else 0)
        # Who gives to anybody isn't one of those who download very much at once.
        told.traffic(40 if votes else 170, giving=0.01 if name == "concurrent_download" else 0.3)
        if seed % 2:
            await world.close_segments()
    numbers = parameters(name, settings_of("friends"), weak).numbers
    found = await world.find(name, **weak)
    expected = naive(told, numbers)
    short = {
        next((code for code in expected if code in target), target): tuple(int(finding.numbers[n]) for n in shown)
        for target, finding in found.items()
    }
    assert short == expected
    # A seed that finds nothing says little; these are known to find something.
    assert expected or seed not in TELLING[name]
