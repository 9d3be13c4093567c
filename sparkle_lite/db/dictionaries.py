"""The dictionaries: torrents, client identities and labels, stored once and referred to by row id.

The row path asks the caches by what a client literally sent; only what is not in them is cleaned, looked up and, if it
is new, added, a group of submissions at a time. Nothing here knows about HTTP or JSON.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from sparkle_lite.db.connection import Connection, Row, fetch_all
from sparkle_lite.units import DAY_MS

# Two generations of this many entries: about 25 MB for torrents at the most, whatever is stored.
GENERATION = 131_072
# What one application may add to the dictionaries in a day. A first contact that uploads years of history brings some
# ten thousand torrents; nobody honest comes near these.
DAILY_QUOTA = 200_000
# Parameters in one look-up statement; SQLite's own limit is 32,766.
_LOOKUP_CHUNK = 500

K = TypeVar("K")
V = TypeVar("V")


class Generations(Generic[K, V]):
    """A bounded cache as two dicts: when the young one is full it becomes the old one, and the old one goes.

    `young` may be read directly by a hot loop; `find` also looks in the old generation and keeps what it finds.
    """

    def __init__(self, size: int = GENERATION) -> None:
        self.young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._size = size

    def find(self, key: K) -> V | None:
        """The value of a key in either generation."""
        value = self._old.get(key)
        if value is not None:
            self.young[key] = value
        return value

    def __contains__(self, key: K) -> bool:
        """Whether a key is in either generation."""
        return key in self.young or key in self._old

    def rotate(self) -> None:
        """Let the old generation go if the young one is full; called between groups, never within one."""
        if len(self.young) >= self._size:
            self._old = self.young
            self.young = {}

    def clear(self) -> None:
        """Forget everything."""
        self.young = {}
        self._old = {}


class TorrentKey(NamedTuple):
    """What identifies a torrent here: the identifier (32 bytes, or text as sent), size in bytes, 1/0/-1 private."""

    identifier: bytes | str
    size: int
    private: int
    big_endian: int


class ClientIdentity(NamedTuple):
    """What a peer says it is: the first 8 characters of its peer id, and its client name."""

    peer_id: str
    client_name: str


class Missing(NamedTuple):
    """An entry that a group needs and no cache has: who asked for it, and under which raw keys it was asked for."""

    userapp: int
    at: int
    raw: list[Any]


class Wants(Generic[K]):
    """The entries of one dictionary that a group needs and no cache has, each with a negative stand-in for its id."""

    def __init__(self) -> None:
        self.missing: dict[Any, tuple[int, Missing]] = {}
        self._raw: dict[K, int] = {}

    def find(self, raw: K) -> int | None:
        """The stand-in that a raw key already has in this group."""
        return self._raw.get(raw)

    def add(self, raw: K, entry: Any, userapp: int, at: int) -> int:
        """The stand-in of an entry, asked for under this raw key."""
        known = self.missing.get(entry)
        if known is None:
            known = self.missing[entry] = (-len(self.missing) - 1, Missing(userapp, at, []))
        known[1].raw.append(raw)
        self._raw[raw] = known[0]
        return known[0]


class Dictionary(Generic[K]):
    """One dictionary: its cache by raw key, and how missing entries are found or added.

    `resolve` (inside the writer's transaction) gives the real ids of a group's stand-ins; `keep` remembers them once
    that transaction is committed.
    """

    def __init__(self, table: str, key_columns: Sequence[str], insert: str, row: Callable[[Any, Missing], Row]) -> None:
        self.cache: Generations[K, int] = Generations()
        # Ids found or added since a collection of unreferenced entries began; None while there is none.
        self.touched: set[int] | None = None
        self.table = table
        self._key_columns = tuple(key_columns)
        self._insert = insert
        self._row = row

    async def resolve(self, main: Connection, wants: Wants[K], spend: Callable[[int, int], None]) -> dict[int, int]:
        """Find or add every missing entry; real ids by stand-in. `spend` is told who added one, and its bytes."""
        ids = await self._look_up(main, list(wants.missing))
        new = [(entry, missing) for entry, (_, missing) in wants.missing.items() if entry not in ids]
        if new:
            for entry, missing in new:
                spend(missing.userapp, sum(len(_bytes(part)) for part in entry if isinstance(part, str | bytes)))
            await main.executemany(self._insert, [self._row(entry, missing) for entry, missing in new])
            ids |= await self._look_up(main, [entry for entry, _ in new])
        return {stand_in: ids[entry] for entry, (stand_in, _) in wants.missing.items()}

    async def _look_up(self, main: Connection, entries: list[Any]) -> dict[Any, int]:
        found: dict[Any, int] = {}
        names = self._key_columns
        for start in range(0, len(entries), _LOOKUP_CHUNK):
            keys = [key[: len(names)] for key in entries[start : start + _LOOKUP_CHUNK]]
            one = f"({','.join('?' * len(names))})"
            same = " AND ".join(f"{name}=column{place}" for place, name in enumerate(names, 1))
            # Asked as a join: with IN and more than one row of values SQLite 3.40 reads the whole table.
            rows = await fetch_all(
                main,
                f"SELECT id, {', '.join(names)} FROM (VALUES {','.join([one] * len(keys))})"
                f" CROSS JOIN {self.table} ON {same}",
                [value for key in keys for value in key],
            )
            by_key = {row[1:]: row[0] for row in rows}
            found |= {
                entry: by_key[key]
                for entry, key in zip(entries[start : start + _LOOKUP_CHUNK], keys, strict=True)
                if key in by_key
            }
        return found

    def keep(self, wants: Wants[K], ids: dict[int, int]) -> None:
        """Remember what was resolved and committed."""
        cache = self.cache.young
        for stand_in, missing in wants.missing.values():
            number = ids[stand_in]
            if self.touched is not None:
                self.touched.add(number)
            for raw in missing.raw:
                cache[raw] = number
        self.cache.rotate()


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _torrent_row(entry: TorrentKey, _: Missing) -> Row:
    return tuple(entry)


def _client_row(entry: ClientIdentity, missing: Missing) -> Row:
    return (*entry, missing.at, missing.userapp, missing.at, missing.userapp)


def _label_row(entry: tuple[str], _: Missing) -> Row:
    return entry


class NeededEntries:
    """What one group needs of each dictionary."""

    def __init__(self) -> None:
        self.torrents: Wants[tuple[str, int, bool | None]] = Wants()
        self.clients: Wants[tuple[str | None, str | None]] = Wants()
        self.labels: Wants[str] = Wants()

    def __len__(self) -> int:
        return len(self.torrents.missing) + len(self.clients.missing) + len(self.labels.missing)


class Resolved(NamedTuple, Generic[V]):
    """Something for each dictionary, such as its real ids by stand-in."""

    torrents: V
    clients: V
    labels: V


class Dictionaries:
    """The three dictionaries, the daily quota of each application, and when identities were last seen."""

    def __init__(self) -> None:
        # Raw keys: (identifier, size, private) as sent; (peer_id, client_name) as sent; the label's text.
        self.torrents: Dictionary[tuple[str, int, bool | None]] = Dictionary(
            "torrent",
            ("identifier", "size", "private"),
            "INSERT OR IGNORE INTO torrent (identifier, size, private, big_endian) VALUES (?,?,?,?)",
            _torrent_row,
        )
        self.clients: Dictionary[tuple[str | None, str | None]] = Dictionary(
            "client_identity",
            ("peer_id", "client_name"),
            "INSERT OR IGNORE INTO client_identity"
            " (peer_id, client_name, found_at, found_by, last_seen_at, last_seen_by) VALUES (?,?,?,?,?,?)",
            _client_row,
        )
        self.labels: Dictionary[str] = Dictionary(
            "label", ("text",), "INSERT OR IGNORE INTO label (text) VALUES (?)", _label_row
        )
        self._all = (self.torrents, self.clients, self.labels)
        self._spent: dict[int, int] = {}
        self._spent_day = 0
        self._seen: dict[int, tuple[int, int]] = {}

    def may_add(self, userapp: int, at: int) -> bool:
        """Whether an application has entries left to add today."""
        day = at // DAY_MS
        if day != self._spent_day:
            self._spent, self._spent_day = {}, day
        return self._spent.get(userapp, 0) < DAILY_QUOTA

    async def resolve(self, main: Connection, wanted: NeededEntries, text: Counter[int]) -> Resolved[dict[int, int]]:
        """Find or add all missing entries of a group in the open transaction; counts bytes added by application."""

        def spend(userapp: int, size: int) -> None:
            self._spent[userapp] = self._spent.get(userapp, 0) + 1
            text[userapp] += size

        return Resolved(
            await self.torrents.resolve(main, wanted.torrents, spend),
            await self.clients.resolve(main, wanted.clients, spend),
            await self.labels.resolve(main, wanted.labels, spend),
        )

    def keep(self, wanted: NeededEntries, resolved: Resolved[dict[int, int]]) -> None:
        """Remember what was resolved, after its commit."""
        self.torrents.keep(wanted.torrents, resolved.torrents)
        self.clients.keep(wanted.clients, resolved.clients)
        self.labels.keep(wanted.labels, resolved.labels)

    def note_seen(self, clients: Iterable[int], userapp: int, at: int) -> None:
        """Remember that an application saw these identities; written by `write_seen`."""
        self._seen.update(dict.fromkeys(clients, (at, userapp)))

    async def write_seen(self, main: Connection) -> None:
        """Write when identities were last seen."""
        seen, self._seen = self._seen, {}
        if seen:
            await main.executemany(
                "UPDATE client_identity SET last_seen_at=max(last_seen_at, ?), last_seen_by=? WHERE id=?",
                [(at, userapp, number) for number, (at, userapp) in seen.items()],
            )

    def begin_collection(self) -> None:
        """From now on note every id that a group comes to use, so that none of them is collected."""
        for dictionary in self._all:
            dictionary.cache.clear()
            dictionary.touched = set()

    def collectable(self, table: str, ids: Iterable[int]) -> list[int]:
        """Those of some unreferenced ids that no group has come to use since."""
        touched = {dictionary.table: dictionary.touched for dictionary in self._all}[table] or set()
        return [number for number in ids if number not in touched]

    def end_collection(self) -> None:
        """The collection is over."""
        for dictionary in self._all:
            dictionary.touched = None
