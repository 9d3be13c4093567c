"""Prefixes that one cheater dials many addresses of: /24 and /56 with enough members that qualify each by itself."""

from sparkle_lite.analyses.analysis import Analysis, Examined, Need, network, told, words_needed
from sparkle_lite.analyses.evidence_table import MODULES
from sparkle_lite.analyses.numbers import Numbers, counts, modes, percents, spans
from sparkle_lite.analyses.untrusted_vote import fades, fresh_need
from sparkle_lite.db.evidence.multi_dial import Prefix, find_prefix_votes
from sparkle_lite.db.evidence.workspace import Evidence
from sparkle_lite.rules.address_sets import AddressSet, carve
from sparkle_lite.rules.findings import Finding
from sparkle_lite.units import DAY_MS

NAME = "multi_dial"

# Of so many members vouched people must have seen one cheat, so that the network rests on them, too.
_VOUCHED_PART = 4


def _examine(evidence: Evidence, numbers: Numbers, only: bytes | None) -> list[Examined]:
    # What a member needs is no matter of the module: several people saw it do something.
    prefixes = find_prefix_votes(evidence, MODULES, {**numbers, "min_people_any": numbers["min_people"]}, only)
    return [one for prefix in prefixes for one in _pieces(prefix, numbers, evidence.now)]


def _pieces(prefix: Prefix, numbers: Numbers, now_ms: int) -> list[Examined]:
    """The prefix, without those neighbours that gave."""
    whole = _examined(prefix, numbers, now_ms)
    target = network(prefix.votes.key)
    left = carve(target, AddressSet(map(network, prefix.givers)))
    return [whole._replace(finding=whole.finding._replace(target=piece)) for piece in left]


def _examined(prefix: Prefix, numbers: Numbers, now_ms: int) -> Examined:
    votes = prefix.votes
    which = "min_hosts" if len(votes.key) == 3 else "min_subnets"
    finding = Finding(
        target=network(votes.key),
        code="multi_dialer" if len(votes.key) == 3 else "multi_dialer_v6",
        numbers={
            **told(votes.voices, votes.words, votes.against),
            "members": votes.members,
            "met": prefix.met,
            "sharing": votes.sharing,
            "torrents": votes.torrents,
            "days": votes.days,
            "reports": votes.reports,
            "weight": round(votes.weight, 2),
            "window_days": numbers["window"] // DAY_MS,
        },
        people=votes.voices,
        decisive=votes.decisive,
        # One cheater in a network says little about its neighbours.
        vouched=votes.vouched_members * _VOUCHED_PART >= votes.members,
        first_seen=votes.first,
        last_seen=votes.last,
        expires=fades(votes, now_ms, numbers["half_life"], numbers["min_people"]),
    )
    needs = (
        words_needed(NAME, "min_people", votes.words, numbers["min_people"]),
        Need(NAME, which, votes.members, numbers[which]),
        # Where people met neighbours who don't cheat, it is no cheater's network.
        Need(NAME, "met_percent", votes.members * 100 // prefix.met, numbers["met_percent"]),
        # One cheater is on the same torrent with many of its addresses; neighbours of one bad peer aren't.
        Need(NAME, "sharing_percent", votes.sharing * 100 // max(votes.members, 1), numbers["sharing_percent"]),
        Need(NAME, "min_torrents", max(votes.torrents, votes.days), numbers["min_torrents"]),
        Need(NAME, "weight_percent", round(votes.weight * 100), fresh_need(numbers["min_people"])),
    )
    return Examined(finding, needs)


ANALYSIS = Analysis(
    name=NAME,
    version=3,
    mode=modes("shadow", "on", "on", "on"),
    numbers={
        "min_people": counts(1, 3, 4, 5),
        "member_people": counts(1, 2, 3, 3),
        "min_hosts": counts(8),
        "min_subnets": counts(3),
        "met_percent": percents(75),
        "sharing_percent": percents(50),
        "min_torrents": counts(2),
        "share_percent": percents(50),
        "window": spans("14d"),
        "half_life": spans("3d"),
    },
    codes=("multi_dialer", "multi_dialer_v6"),
    examine=_examine,
)
