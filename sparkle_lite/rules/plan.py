"""What a run changes: the findings of one origin against what it decided before, kept in bounds.

`make` is a function of what it is given, so that a dry run and a run are the same thing up to the commit. The bounds:
guard.Guard judges each target; a run that adds too much, or that hangs too much on one person, adds nothing until an
administrator has looked. What is no longer found is withdrawn in any case: taking somebody off the list harms nobody.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from sparkle_lite.db.decisions import Decision, EndReason, Key, New, WeekOf
from sparkle_lite.net import Network
from sparkle_lite.rules.findings import Finding, Target
from sparkle_lite.rules.guard import ANALYSES_WIDEST, Guard
from sparkle_lite.units import DAY_MS
from sparkle_lite.wire.matchers import MatcherError, parse

Mode = Literal["on", "shadow", "off"]
Brake = Literal["growth", "decisive", "words"]

# A run that adds more than this share of the list and more than this number waits for review.
GROWTH_SHARE, GROWTH_FLOOR = 0.2, 200

# So does one in which one person alone decides more than this share and more than this number of the entries.
DECISIVE_SHARE, DECISIVE_FLOOR = 0.05, 20

# Within a week so many addresses may be listed that would not be without one person whom nobody vouches for.
WEEK_MS, WEEK_CAP = 7 * DAY_MS, 20

# Within a week so many addresses may be listed that nobody saw for whom an administrator vouches: a share of what those
# people confirmed in that time, and a few in any case. So words that were bought, however many and by whatever bait,
# list little. A network, or what peers say of themselves, counts as several addresses.
UNVOUCHED_SHARE, UNVOUCHED_FLOOR, NETWORK_COUNTS = 0.25, 10, 8

# Until so long after words began to count, a run that would withdraw more than a fifth of what it listed waits.
GRACE_MS = 7 * DAY_MS

# A target that comes back is listed twice as long for each earlier listing of the last 90 days, up to 60 days.
RECURRENCE_MS, LONGEST_MS = 90 * DAY_MS, 60 * DAY_MS

# What an administrator refused is not proposed again for so long.
REFUSAL_MS = 30 * DAY_MS

# The longest matcher that an analysis may publish.
_LONGEST_MATCHER = 512


class Situation(NamedTuple):
    """What a plan starts from. `revision` tells whether it still holds.

    `vouched` are the users whose word counts anyway, `rested` how much of the last week rested on each of the others,
    `week` how much of it somebody vouched for saw, and how much nobody of those.
    `words_began` is when words began to count on this database (ms). `listed` is the number of deny decisions in force,
    of all origins; `earlier` the days on which a listing of a target ended; `refused` what an administrator refused
    lately; `voter_count` how many people could have voted.
    """

    revision: int
    standing: Sequence[Decision]
    guard: Guard
    listed: int
    earlier: Mapping[Key, int]
    refused: Collection[Key]
    voter_count: int
    vouched: Collection[int] = frozenset()
    rested: Mapping[int, int] = MappingProxyType({})
    week: WeekOf = WeekOf()
    words_began: int = 0


class Plan(NamedTuple):
    """What a run changes, and why it leaves out what it leaves out.

    `begin` and `end` are the changes; `kept` decisions stay as they are; `dropped` counts by obstacle the findings that
    can't be listed. `brake` says why all that is new waits for review. `members` counts the addresses of members among
    what was found.
    """

    revision: int
    begin: tuple[New, ...]
    end: tuple[tuple[Decision, EndReason], ...]
    kept: int
    dropped: Mapping[str, int] = MappingProxyType({})
    brake: Brake | None = None
    members: int = 0

    @property
    def added(self) -> list[New]:
        """What will be listed that was not."""
        before = {key_of(old) for old, _ in self.end if old.state == "active"}
        return [new for new in self.begin if new.state == "active" and key_of(new) not in before]

    @property
    def removed(self) -> list[Decision]:
        """What will be listed no longer."""
        after = {key_of(new) for new in self.begin if new.state == "active"}
        return [old for old, _ in self.end if old.state == "active" and key_of(old) not in after]

    @property
    def held(self) -> list[New]:
        """What begins to wait for review."""
        return [new for new in self.begin if new.state == "held"]


class _Run(NamedTuple):
    """Which run a plan is for: its origin, what clients call it, whether it counts, which formula, and when (ms)."""

    origin: str
    category: str
    widest: tuple[int, int]
    mode: Mode
    formula: int
    now_ms: int


def key_of(decision: New | Decision) -> Key:
    """The target of a decision as the database keys it."""
    address, prefix = decision.network or (None, None)
    return decision.kind, address, prefix, decision.text


def make(
    origin: str,
    findings: Iterable[Finding],
    situation: Situation,
    now_ms: int,
    *,
    mode: Mode = "on",
    formula: int = 1,
    braked: bool = True,
    category: str = "",
    widest: tuple[int, int] = ANALYSES_WIDEST,
) -> Plan:
    """The plan of one run. Takes some 15 µs for each finding: call it off the event loop with many.

    `braked`: nobody stands behind this run who knows what it adds. `mode`: what is off finds nothing. `category` is
    what clients call its rules ("": its origin), `widest` the prefix lengths of the widest networks it may list.
    """
    dropped: Counter[str] = Counter()
    best = _by_target(findings, dropped, now_ms)
    run = _Run(origin=origin, category=category or origin, widest=widest, mode=mode, formula=formula, now_ms=now_ms)
    wanted = _judged(best, situation, run, dropped)
    active = {key_of(old): old for old in situation.standing if old.state == "active"}
    brake = _brake(wanted, active, best, situation) if mode == "on" and braked else None
    if brake is not None:
        wanted = {
            key: new._replace(state="held", held_for=brake) if new.state == "active" and key not in active else new
            for key, new in wanted.items()
        }
    elif mode == "on" and braked:
        wanted = _capped(wanted, active, situation)
    guard = situation.guard
    targets = (finding.target for finding in best.values())
    members = sum(guard.members_in(target) for target in targets if isinstance(target, Network))
    plan = _compared(wanted, situation, now_ms)
    # Who switches an analysis off, or replaces a list, knows what goes.
    is_new = mode == "on" and braked and now_ms < situation.words_began + GRACE_MS
    if is_new and len(plan.removed) > max(1, GROWTH_SHARE * len(active)):
        # Who decided them may be vouched for yet.
        plan = plan._replace(end=tuple(one for one in plan.end if one[1] != "withdrawn"), brake=brake or "words")
    return plan._replace(dropped=dict(dropped), brake=plan.brake or brake, members=members)


def _by_target(findings: Iterable[Finding], dropped: Counter[str], now_ms: int) -> dict[Key, Finding]:
    """The findings that say something, the one with most people for each target."""
    best: dict[Key, Finding] = {}
    for finding in findings:
        key = _key(finding.target)
        if key is None:
            dropped["unreadable"] += 1
        elif finding.is_over(now_ms):
            dropped["expired"] += 1
        elif key not in best or best[key].people < finding.people:
            best[key] = finding
    return best


def _key(target: Target) -> Key | None:
    """The canonical key of a target, None for a matcher that must not be published."""
    if isinstance(target, Network):
        return "ip", target.address, target.prefix, None
    try:
        text = parse(target.matcher).pbh()
    except MatcherError:
        return None
    return (target.kind, None, None, text) if text.isascii() and len(text) <= _LONGEST_MATCHER else None


def _judged(best: Mapping[Key, Finding], situation: Situation, run: _Run, dropped: Counter[str]) -> dict[Key, New]:
    """What the guard rails leave of the findings, as decisions."""
    wanted: dict[Key, New] = {}
    for key, finding in best.items():
        kind, _, _, text = key
        target = finding.target
        if isinstance(target, Network):
            obstacle = situation.guard.obstacle(target, run.widest)
        else:
            obstacle = "excepted" if situation.guard.is_exempt(kind, text or "") else None
        if key in situation.refused:
            dropped["refused"] += 1
        elif obstacle is not None and obstacle != "member":
            dropped[obstacle] += 1
        else:
            is_held = obstacle == "member" and run.mode == "on"
            earlier = situation.earlier.get(key, 0)
            wanted[key] = New(
                kind=kind,
                network=target if isinstance(target, Network) else None,
                text=text,
                action="deny",
                state="held" if is_held else "active" if run.mode == "on" else "shadow",
                origin=run.origin,
                category=run.category,
                code=finding.code,
                numbers={**finding.numbers, "earlier": earlier} if earlier else finding.numbers,
                evidence=_evidence(finding, run.formula),
                held_for="member" if is_held else None,
                note=finding.note,
                expires_at=_expiry(finding.expires, earlier, run.now_ms),
                decisive=finding.decisive,
                vouched=finding.vouched,
            )
    return wanted


def _evidence(finding: Finding, formula: int) -> dict[str, Any]:
    evidence = {
        "people": finding.people,
        "formula": formula,
        "first_seen": finding.first_seen,
        "last_seen": finding.last_seen,
    }
    return evidence if finding.neighbour is None else {**evidence, "neighbour": dict(finding.neighbour)}


def _expiry(expires: int | None, earlier: int, now_ms: int) -> int | None:
    if expires is None:
        return None
    usual = expires - now_ms
    return now_ms + max(usual, min(usual << min(earlier, 16), LONGEST_MS))


def _brake(
    wanted: Mapping[Key, New], active: Mapping[Key, Decision], best: Mapping[Key, Finding], situation: Situation
) -> Brake | None:
    """Why this run must not add anything by itself."""
    added = [key for key, new in wanted.items() if new.state == "active" and key not in active]
    if len(added) > max(GROWTH_FLOOR, GROWTH_SHARE * situation.listed):
        return "growth"
    decisive = Counter(person for key in wanted for person in set(best[key].decisive))
    if not added or not decisive:
        return None
    # In a small circle everybody has to decide a lot: of three friends, each decides everything that takes three.
    votes = [best[key].people for key in wanted if best[key].decisive]
    fair = sum(votes) / len(votes) / max(1, situation.voter_count)
    most = max(decisive.values())
    return "decisive" if most > DECISIVE_FLOOR and most / len(wanted) > max(DECISIVE_SHARE, 2 * fair) else None


def _capped(wanted: dict[Key, New], active: Mapping[Key, Decision], situation: Situation) -> dict[Key, New]:
    """The same, but that what rests on one person or on all for whom nobody vouches waits beyond a week's share."""
    added = {key for key, new in wanted.items() if new.state == "active" and key not in active}
    room = _unvouched_room(situation.week, [wanted[key] for key in added])
    rested, found = Counter(situation.rested), dict(wanted)
    for key, new in wanted.items():
        if key not in added:
            continue
        weight = _weight(new) if new.vouched is False else 0
        rests_on = [person for person in new.decisive if person not in situation.vouched]
        if any(rested[person] >= WEEK_CAP for person in rests_on):
            found[key] = new._replace(state="held", held_for="decisive")
        elif weight > room:
            found[key] = new._replace(state="held", held_for="unvouched")
        else:
            room -= weight
            rested.update(rests_on)
    return found


def _unvouched_room(week: WeekOf, added: Iterable[New]) -> int:
    """How many more addresses may be listed that nobody saw for whom an administrator vouches."""
    confirmed = week.vouched + sum(_weight(new) for new in added if new.vouched)
    return max(UNVOUCHED_FLOOR, int(UNVOUCHED_SHARE * confirmed)) - week.unvouched


def _weight(new: New) -> int:
    """How many addresses an entry counts as, as `listed_since` counts them."""
    return 1 if new.network is not None and new.network.prefix in (32, 64) else NETWORK_COUNTS


def _compared(wanted: dict[Key, New], situation: Situation, now_ms: int) -> Plan:
    """The difference between what stands and what is wanted."""
    end: list[tuple[Decision, EndReason]] = []
    kept = 0
    for old in situation.standing:
        key = key_of(old)
        new = wanted.get(key)
        if new is None:
            end.append((old, "withdrawn"))
        elif _is_same(old, new, now_ms):
            kept += 1
            del wanted[key]
        else:
            end.append((old, "superseded"))
    return Plan(revision=situation.revision, begin=tuple(wanted.values()), end=tuple(end), kept=kept)


def _is_same(old: Decision, new: New, now_ms: int) -> bool:
    """Whether a decision stays: it says the same, less than half of its time is over, and about as many people vote."""
    what = attrgetter("state", "held_for", "code", "category", "note")
    if what(old) != what(new) or old.evidence.get("neighbour") != new.evidence.get("neighbour"):
        return False
    before, after = old.evidence.get("people", 0), new.evidence.get("people", 0)
    if before != after and (after >= 2 * before or before >= 2 * after):
        return False
    if old.expires_at is None or new.expires_at is None:
        return old.expires_at == new.expires_at
    return 2 * (old.expires_at - now_ms) >= new.expires_at - now_ms
