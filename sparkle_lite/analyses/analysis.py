"""What an analysis is made of, and what it makes: subjects that were examined, with findings and needs.

What a new one touches is said in the manual ("Work on the code", where new things go).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sparkle_lite.analyses.numbers import Number, Numbers
from sparkle_lite.db.evidence.workspace import LONGEST_RECURRENCE, SLACK, WORD, Evidence
from sparkle_lite.net import Network
from sparkle_lite.rules.findings import Finding
from sparkle_lite.units import DAY_MS

# No evidence counts longer, however often it recurred.
HARD_EXPIRY_MS = 14 * DAY_MS


class Need(NamedTuple):
    """One threshold: the number's name, what there is, and what is needed (counts, words, percents or bytes).

    `slack`: so much may be missing.
    """

    analysis: str
    number: str
    have: float
    need: float
    slack: float = 0

    @property
    def is_met(self) -> bool:
        """Whether there is enough."""
        return self.have + self.slack >= self.need


def words_needed(analysis: str, number: str, words: int, people: int) -> Need:
    """That people's words (hundredths) come to as much as so many people's."""
    return Need(analysis, number, words / WORD, people, SLACK / WORD)


def told(voices: int, words: int, against: int) -> dict[str, int | float]:
    """How many people a finding rests on, and what their words come to, in whole ones, less those against it."""
    return {"people": voices, "words": words / WORD, "against": against / WORD}


class Examined(NamedTuple):
    """A subject that was looked at; it is listed when every need is met and the finding hasn't expired."""

    finding: Finding
    needs: tuple[Need, ...]

    def is_listed(self, now_ms: int) -> bool:
        """Whether this is a finding."""
        return not self.finding.is_over(now_ms) and all(need.is_met for need in self.needs)


# (evidence, numbers, the first bytes of the one address to look at or None for all)
Examine = Callable[[Evidence, Numbers, bytes | None], list[Examined]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One analysis, as its file declares it; analyses/registry.py puts all together.

    `version` changes with its formula. `mode` and `numbers` are the keys of its table in the configuration, `codes`
    those of its findings (catalogues: reason.<code>). `of_addresses`: its targets are addresses, not identities.
    """

    name: str
    version: int
    mode: Number
    numbers: Mapping[str, Number]
    codes: tuple[str, ...]
    examine: Examine
    of_addresses: bool = True

    @property
    def keys(self) -> Mapping[str, Number]:
        """The mode and the numbers by their names in the configuration, in order."""
        return {"mode": self.mode, **self.numbers}


def network(key: bytes) -> Network:
    """The network that a subject of the evidence stands for."""
    prefix = {3: 24, 4: 32, 7: 56, 8: 64}[len(key)]
    return Network(key.ljust(4 if len(key) < 5 else 16, b"\0"), prefix)


def lasts(last_seen: int, lifetime: int, days: int) -> int:
    """When a finding expires: longer the more days it recurred on, but never later than the hard expiry."""
    return last_seen + min(lifetime * min(max(days, 1), LONGEST_RECURRENCE), HARD_EXPIRY_MS)
