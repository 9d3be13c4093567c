"""What the rules say of a peer's name or id: each is tried, as far as there is patience for its expression."""

from collections.abc import Sequence
from typing import NamedTuple

from sparkle_lite.db.decisions import Decision
from sparkle_lite.wire.matchers import Patience, PatternTimeout, category_verdict, parse


class Judged(NamedTuple):
    """The decisions that say anything, those that nobody knows of in time, and what follows from what is in force."""

    matching: Sequence[Decision]
    untried: Sequence[Decision]
    listed: bool
    excepted: bool


def judge(stored: Sequence[Decision], text: str, now_ms: int, patience: Patience) -> Judged:
    """Try every decision on a text. May take as long as there is patience: call it off the event loop."""
    verdicts: dict[int, bool | None] = {}
    untried: list[Decision] = []
    for decision in stored:
        try:
            verdicts[decision.id] = parse(decision.text or "").matches(text, patience)
        except PatternTimeout:
            untried.append(decision)
    matching = [decision for decision in stored if verdicts.get(decision.id) is not None]
    served = [decision for decision in matching if decision.state_at(now_ms) == "active"]
    excepted = any(decision.action == "allow" and verdicts[decision.id] for decision in served)
    categories: dict[str, list[bool | None]] = {}
    for decision in served:
        if decision.action == "deny":
            categories.setdefault(decision.category, []).append(verdicts[decision.id])
    listed = not excepted and any(category_verdict(said) for said in categories.values())
    return Judged(matching, untried, listed, excepted)
