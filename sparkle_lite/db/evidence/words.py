"""What everybody's reports were worth, held against what people saw for whom an administrator vouches.

Of every address that a vouched person banned for cheating, got something back from, or lost a good deal to without
banning it, each other reporter agreed or disagreed. Agreement counts where it came before the address was listed here:
nobody earns by copying the list.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sparkle_lite.db.evidence.untrusted_vote import Module, make_modules
from sparkle_lite.db.evidence.workspace import GIVEN_FLOOR, MET_FLOOR, SILENT, Evidence, subject_of
from sparkle_lite.units import DAY_MS, HOUR_MS

# Whose reported addresses overlap by this share, of at least so many each, have one voice.
OVERLAP_PERCENT, OVERLAP_FLOOR = 50, 8
# How long reports are looked at: what is older has faded.
WINDOW_MS = 30 * DAY_MS
HALF_LIFE_MS = 5 * DAY_MS
# To report an address of somebody whose word counts, used within the hour, is worth so many disagreements.
CANARY = 2
# How many addresses of each kind are kept to be shown.
_SHOWN = 10


class Judged(NamedTuple):
    """One person's report of an address (4 or 8 bytes) at a time (ms), and what became of it."""

    user: int
    key: bytes
    at: int
    verdict: str


class Standing(NamedTuple):
    """Somebody's word (0..1), what it is made of (faded sums), and with whom they share a voice (a user).

    `addresses` are by verdict ("agreed", "disagreed", "canary", "late") how many there are and the newest of them.
    """

    user: int
    value: float
    agreed: float
    disagreed: float
    voice: int
    addresses: Mapping[str, tuple[int, Sequence[bytes]]]


def weigh(evidence: Evidence, modules: Sequence[Module]) -> list[Standing]:
    """The words of everybody whom nobody vouches for and whose word may be weighed."""
    since = evidence.now - WINDOW_MS
    _collect_said(evidence, modules, since)
    _collect_known(evidence, since)
    judged = _judged(evidence)
    values: dict[int, tuple[float, float]] = {
        user: (0.0, 0.0) for (user,) in evidence.do("SELECT DISTINCT user FROM person WHERE NOT vouched")
    }
    seen: dict[int, dict[str, list[Judged]]] = defaultdict(lambda: defaultdict(list))
    for one in judged:
        agreed, disagreed = values[one.user]
        faded = 0.5 ** ((evidence.now - one.at) / HALF_LIFE_MS)
        weight = {"agreed": (faded, 0.0), "disagreed": (0.0, faded), "canary": (0.0, CANARY * faded)}
        more, less = weight.get(one.verdict, (0.0, 0.0))
        values[one.user] = agreed + more, disagreed + less
        seen[one.user][one.verdict].append(one)
    words = {user: word(agreed, disagreed) for user, (agreed, disagreed) in values.items()}
    voices = _voices(evidence, [user for user, value in words.items() if value >= SILENT])
    return [
        Standing(
            user=user,
            value=words[user],
            agreed=agreed,
            disagreed=disagreed,
            voice=voices.get(user, user),
            addresses={verdict: _newest(ones) for verdict, ones in seen[user].items()},
        )
        for user, (agreed, disagreed) in values.items()
    ]


def word(agreed: float, disagreed: float) -> float:
    """What a word is worth (0..1): one disagreement outweighs three agreements, and nobody begins with any."""
    return agreed / (agreed + 3 * disagreed + 1)


def _newest(ones: Sequence[Judged]) -> tuple[int, Sequence[bytes]]:
    newest = sorted(ones, key=lambda one: (-one.at, one.key))[:_SHOWN]
    return len(ones), [one.key for one in newest]


def _collect_said(evidence: Evidence, modules: Sequence[Module], since: int) -> None:
    """Make `said`: who banned an address for cheating, since when; and `vouched_said`, those vouched for."""
    make_modules(evidence, [module for module in modules if module.group == 0])
    at = "min(b.received_at, coalesce(b.ban_at, b.received_at))"
    evidence.do(
        "CREATE TEMP TABLE said AS SELECT key, user, max(vouched) AS vouched, min(at) AS at FROM"
        f" (SELECT {subject_of('b.peer_ip')} AS key, p.user, p.vouched, min({at}) AS at"
        " FROM m.ban b INDEXED BY ban_evidence JOIN module mo ON mo.id=b.module JOIN person p ON p.userapp=b.userapp"
        f" WHERE b.btn_ban=0 AND b.received_at BETWEEN :since AND :now AND {at}>=:since"
        " AND (mo.rule IS NULL OR b.rule=mo.rule) GROUP BY b.peer_ip, b.userapp) GROUP BY key, user",
        {"since": since, "now": evidence.now},
    )
    evidence.do("CREATE INDEX temp.said_key ON said (key, user)")
    evidence.do("CREATE TEMP TABLE bad AS SELECT DISTINCT key FROM said WHERE vouched")
    evidence.do("CREATE INDEX temp.bad_key ON bad (key)")


def _collect_known(evidence: Evidence, since: int) -> None:
    """Make `good`: reported addresses that nobody vouched for banned, and that some of those know for better."""
    evidence.make_candidates("SELECT DISTINCT key FROM said WHERE key NOT IN (SELECT key FROM bad)", {}, None)
    evidence.make_met(since, of="(SELECT userapp, user AS voter FROM person WHERE vouched)")
    evidence.do(
        "CREATE TEMP TABLE good AS SELECT DISTINCT key FROM met WHERE gave>=? OR judged>=?", (GIVEN_FLOOR, MET_FLOOR)
    )


def _judged(evidence: Evidence) -> list[Judged]:
    """Every report of somebody whom nobody vouches for that can be judged."""
    listings = _Listings(evidence)
    rows = evidence.do("SELECT user, key, at FROM said WHERE NOT vouched AND key IN (SELECT key FROM bad)")
    judged = [Judged(user, key, at, "late" if listings.before(key, at) else "agreed") for user, key, at in rows]
    rows = evidence.do("SELECT user, key, at FROM said WHERE NOT vouched AND key IN (SELECT key FROM good)")
    judged += [Judged(user, key, at, "disagreed") for user, key, at in rows]
    _collect_canaries(evidence)
    rows = evidence.do(
        "SELECT DISTINCT s.user, s.key, s.at FROM said s CROSS JOIN canary c ON c.key=s.key AND c.user<>s.user"
        " WHERE NOT s.vouched AND s.key NOT IN (SELECT key FROM bad) AND s.at BETWEEN c.first AND c.last+?",
        (HOUR_MS,),
    )
    return judged + [Judged(user, key, at, "canary") for user, key, at in rows]


def _collect_canaries(evidence: Evidence) -> None:
    """Make `canary`: the addresses of those whose words count, while they use them; shared ones are none."""
    evidence.do(
        f"CREATE TEMP TABLE canary AS SELECT {subject_of('a.address')} AS key, min(r.user) AS user,"
        " min(a.first_seen_at) AS first, max(a.last_seen_at) AS last FROM m.userapp_address a"
        " JOIN m.userapp p ON p.id=a.userapp LEFT JOIN reporter r ON r.userapp=a.userapp"
        " GROUP BY 1 HAVING count(DISTINCT p.user)=1 AND min(r.user) IS NOT NULL"
    )
    evidence.do("CREATE INDEX temp.canary_key ON canary (key)")


class _Listings:
    """Since when each network was listed, of the time that is looked at."""

    def __init__(self, evidence: Evidence) -> None:
        self._since: dict[tuple[int, int], dict[int, int]] = {}
        rows = evidence.do(
            "SELECT address, prefix, min(created_at) FROM m.decision WHERE kind='ip' AND action='deny'"
            " AND state='active' AND ends_at>? GROUP BY address, prefix",
            (evidence.now - WINDOW_MS,),
        )
        for address, prefix, at in rows:
            shift = len(address) * 8 - prefix
            networks = self._since.setdefault((len(address), shift), {})
            networks[int.from_bytes(address, "big") >> shift] = at

    def before(self, key: bytes, at: int) -> bool:
        """Whether an address (its first 4 or 8 bytes) had been listed by then."""
        size = 4 if len(key) == 4 else 16
        value = int.from_bytes(key.ljust(size, b"\0"), "big")
        return any(
            length == size and networks.get(value >> shift, at + 1) <= at
            for (length, shift), networks in self._since.items()
        )


def _voices(evidence: Evidence, users: Iterable[int]) -> dict[int, int]:
    """Who stands for whom: people who keep reporting the same addresses have one voice."""
    evidence.do("CREATE TEMP TABLE speaking (user INTEGER PRIMARY KEY)")
    for user in users:
        evidence.do("INSERT INTO speaking VALUES (?)", (user,))
    counts: Counter[int] = Counter()
    counts.update(dict(evidence.do("SELECT user, count(*) FROM said JOIN speaking USING (user) GROUP BY user")))
    pairs = evidence.do(
        "SELECT a.user, b.user, count(*) FROM said a CROSS JOIN said b ON b.key=a.key AND b.user>a.user"
        " WHERE a.user IN (SELECT user FROM speaking) AND b.user IN (SELECT user FROM speaking) GROUP BY 1, 2"
    )
    head: dict[int, int] = {}

    def of(user: int) -> int:
        while head.get(user, user) != user:
            user = head[user]
        return user

    for one, other, common in pairs:
        union = counts[one] + counts[other] - common
        if min(counts[one], counts[other]) >= OVERLAP_FLOOR and common * 100 >= union * OVERLAP_PERCENT:
            first, second = sorted((of(one), of(other)))
            head[second] = first
    return {user: of(user) for user in counts}
