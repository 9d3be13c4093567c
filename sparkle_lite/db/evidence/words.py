"""What everybody's reports were worth, held against what people saw for whom an administrator vouches.

Of every address that a vouched person banned for cheating, got something back from, or lost a good deal to without
banning it, each other reporter agreed or disagreed. Agreement counts where it came before the address was listed here:
nobody earns by copying the list. When a report came is when it was received: a client's own time can be made up.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sparkle_lite.db.evidence.untrusted_vote import Module, make_modules
from sparkle_lite.db.evidence.workspace import GIVEN_FLOOR, MET_FLOOR, SILENT, Evidence, subject_of
from sparkle_lite.units import DAY_MS, HOUR_MS

# Whose reported addresses overlap by this share have one voice, however few they are: a single bait would else buy any
# number of accounts a word each.
OVERLAP_PERCENT = 50
# How long reports are looked at: what is older has faded.
WINDOW_MS = 30 * DAY_MS
HALF_LIFE_MS = 5 * DAY_MS
# To report an address of somebody whose word counts, used within the hour, is worth so many disagreements.
CANARY = 2
# How many addresses of each kind are kept to be shown.
_SHOWN = 10


class Standing(NamedTuple):
    """Somebody's word (0..1), what it is made of (faded sums), and with whom they share a voice (a user).

    `addresses` are by verdict ("agreed", "disagreed", "canary", "late") how many there are and the newest of them (4 or
    8 bytes).
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
    _judge(evidence)
    sums: dict[int, dict[str, tuple[int, float]]] = {
        user: {} for (user,) in evidence.do("SELECT DISTINCT user FROM person WHERE NOT vouched")
    }
    for user, verdict, count, weight in evidence.do(
        "SELECT user, verdict, count(*), total((2.0-(age%:half)*1.0/:half)/(2 << min(age/:half, 60))) FROM"
        " (SELECT user, verdict, max(:now-at, 0) AS age FROM judged) GROUP BY user, verdict",
        {"half": HALF_LIFE_MS, "now": evidence.now},
    ):
        sums[user][verdict] = count, weight
    newest: dict[tuple[int, str], list[bytes]] = defaultdict(list)
    for user, verdict, key in evidence.do(
        "SELECT user, verdict, key FROM (SELECT *, row_number() OVER (PARTITION BY user, verdict"
        " ORDER BY at DESC, key) AS place FROM judged) WHERE place<=? ORDER BY user, verdict, place",
        (_SHOWN,),
    ):
        newest[user, verdict].append(key)
    parts = {user: _parts(verdicts) for user, verdicts in sums.items()}
    voices = _voices(
        evidence, [user for user, (agreed, disagreed) in parts.items() if word(agreed, disagreed) >= SILENT]
    )
    return [
        Standing(
            user=user,
            value=word(agreed, disagreed),
            agreed=agreed,
            disagreed=disagreed,
            voice=voices.get(user, user),
            addresses={verdict: (count, newest[user, verdict]) for verdict, (count, _) in sums[user].items()},
        )
        for user, (agreed, disagreed) in parts.items()
    ]


def word(agreed: float, disagreed: float) -> float:
    """What a word is worth (0..1): one disagreement outweighs three agreements, and nobody begins with any."""
    return agreed / (agreed + 3 * disagreed + 1)


def _parts(verdicts: Mapping[str, tuple[int, float]]) -> tuple[float, float]:
    """What agreed and what disagreed."""
    none = (0, 0.0)
    disagreed = verdicts.get("disagreed", none)[1] + CANARY * verdicts.get("canary", none)[1]
    return verdicts.get("agreed", none)[1], disagreed


def _collect_said(evidence: Evidence, modules: Sequence[Module], since: int) -> None:
    """Make `said`: who banned an address for cheating, since when; and `vouched_said`, those vouched for."""
    make_modules(evidence, [module for module in modules if module.group == 0])
    evidence.do(
        "CREATE TEMP TABLE said AS SELECT key, user, max(vouched) AS vouched, min(at) AS at FROM"
        f" (SELECT {subject_of('b.peer_ip')} AS key, p.user, p.vouched, min(b.received_at) AS at"
        " FROM m.ban b INDEXED BY ban_evidence JOIN module mo ON mo.id=b.module JOIN person p ON p.userapp=b.userapp"
        " WHERE b.btn_ban=0 AND b.received_at BETWEEN :since AND :now"
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


def _judge(evidence: Evidence) -> None:
    """Make `judged`: every report of somebody whom nobody vouches for that can be judged, and what became of it."""
    listings = evidence.listings(evidence.now - WINDOW_MS)
    evidence.do("CREATE TEMP TABLE listed (key BLOB PRIMARY KEY, at INTEGER) WITHOUT ROWID")
    for (key,) in evidence.do("SELECT DISTINCT key FROM said WHERE NOT vouched AND key IN (SELECT key FROM bad)"):
        if (at := listings.since(key)) is not None:
            evidence.do("INSERT INTO listed VALUES (?,?)", (key, at))
    evidence.do(
        "CREATE TEMP TABLE judged AS SELECT s.user, s.key, s.at, iif(l.at<=s.at, 'late', 'agreed') AS verdict"
        " FROM said s LEFT JOIN listed l ON l.key=s.key WHERE NOT s.vouched AND s.key IN (SELECT key FROM bad)"
    )
    evidence.do(
        "INSERT INTO judged SELECT user, key, at, 'disagreed' FROM said WHERE NOT vouched"
        " AND key IN (SELECT key FROM good)"
    )
    _collect_canaries(evidence)
    evidence.do(
        # One member is worth one canary: many addresses of one who cheats silence nobody.
        "INSERT INTO judged SELECT s.user, s.key, max(s.at), 'canary' FROM said s CROSS JOIN canary c"
        " ON c.key=s.key AND c.user<>s.user WHERE NOT s.vouched AND s.key NOT IN (SELECT key FROM bad)"
        " AND s.at BETWEEN c.first AND c.last+? GROUP BY s.user, c.user",
        (HOUR_MS,),
    )


def _collect_canaries(evidence: Evidence) -> None:
    """Make `canary`: the addresses of those whose words count, while they use them; shared ones are none."""
    evidence.do(
        f"CREATE TEMP TABLE canary AS SELECT {subject_of('a.address')} AS key, min(r.user) AS user,"
        " min(a.first_seen_at) AS first, max(a.last_seen_at) AS last FROM m.userapp_address a"
        " JOIN m.userapp p ON p.id=a.userapp LEFT JOIN reporter r ON r.userapp=a.userapp"
        " GROUP BY 1 HAVING count(DISTINCT p.user)=1 AND min(r.user) IS NOT NULL"
    )
    evidence.do("CREATE INDEX temp.canary_key ON canary (key)")


def _voices(evidence: Evidence, users: Iterable[int]) -> dict[int, int]:
    """Who stands for whom: people who keep reporting the same addresses have one voice."""
    evidence.do("CREATE INDEX temp.said_user ON said (user, key)")
    evidence.do("CREATE TEMP TABLE speaking (user INTEGER PRIMARY KEY, said INTEGER)")
    for user in users:
        evidence.do("INSERT INTO speaking SELECT user, count(*) FROM said WHERE user=? GROUP BY user", (user,))
    counts = dict(evidence.do("SELECT user, said FROM speaking ORDER BY user"))
    sets = _sets(evidence, counts)
    overlaps: dict[tuple[int, int], float] = {}
    for one, other in itertools.combinations(counts, 2):
        common = (sets[one] & sets[other]).bit_count()
        union = counts[one] + counts[other] - common
        if common * 100 >= union * OVERLAP_PERCENT:
            overlaps[one, other] = common / union
    groups = {user: [user] for user in counts}
    # The most alike first, and each with each: who copies two people must not make these two one.
    for one, other in sorted(overlaps, key=lambda pair: (-overlaps[pair], pair)):
        first, second = groups[one], groups[other]
        if first is not second and all((min(a, b), max(a, b)) in overlaps for a in first for b in second):
            first += second
            groups.update(dict.fromkeys(second, first))
    return {user: min(group) for user, group in groups.items()}


def _sets(evidence: Evidence, users: Iterable[int]) -> dict[int, int]:
    """What each of them reported that somebody else did too, a bit for each address.

    A join of everybody with everybody would take minutes where many report the same.
    """
    evidence.do("CREATE TEMP TABLE place (id INTEGER PRIMARY KEY, key BLOB UNIQUE)")
    evidence.do(
        "INSERT INTO place (key) SELECT s.key FROM said s JOIN speaking p ON p.user=s.user GROUP BY s.key"
        " HAVING count(*)>1"
    )
    size = int(evidence.do("SELECT count(*) FROM place")[0][0]) // 8 + 1
    found = {}
    for user in users:
        bits = bytearray(size)
        for (place,) in evidence.do("SELECT p.id FROM said s JOIN place p ON p.key=s.key WHERE s.user=?", (user,)):
            bits[place >> 3] |= 1 << (place & 7)
        found[user] = int.from_bytes(bits, "little")
    return found
